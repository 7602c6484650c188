"""What clients may ask: the part of the OpenAI protocol this server understands.

Unknown fields are ignored, as clients send more than a small model can honour.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Text = Annotated[str, Field(max_length=400_000)]


class Common(BaseModel):
    """What both kinds of request may say."""

    model: str = ""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    seed: int | None = None
    n: Literal[1] = 1
    context_passages: Annotated[int, Field(ge=0, le=10)] | None = None

    @property
    def stops(self) -> list[str]:
        """Return the strings an answer ends before."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]


class Completion(Common):
    """Continue a text, or fill the gap before `suffix`."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    suffix: Text | None = None
    echo: Literal[False] = False


class Part(BaseModel):
    """One part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    @property
    def text(self) -> str:
        """Return the message as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Chat(Common):
    """Answer the last message of a conversation."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
