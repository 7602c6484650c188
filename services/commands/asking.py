"""`wat ask`: a question to the code assistant, as a plain client of its HTTP protocol.

The assistant is a program of its own (finetune/README.md) and need not run on this machine: only
its address is known here. Its answer is written as it comes.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.terminal import write_line
from shared.errors import AssistantError, ConfigError

if TYPE_CHECKING:
    import httpx

__all__ = ["ask"]

_CONNECT_S = 5.0
_ANSWER_S = 600.0
"""A model on a processor reads a long prompt for minutes before its first word."""


def ask(
    question: Annotated[list[str], typer.Argument(help="What you want to know.")],
    url: Annotated[
        str, typer.Option(envvar="WAT_ASSISTANT_URL", help="Where the assistant listens.")
    ] = "http://127.0.0.1:8765",
    token_file: Annotated[
        Path | None,
        typer.Option(envvar="WAT_ASSISTANT_TOKEN_FILE", help="The file that holds its token."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    passages: Annotated[
        int | None, typer.Option(min=0, help="Passages of the code base shown to it.")
    ] = None,
) -> None:
    """Ask the code assistant about its code base."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": " ".join(question)}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    if passages is not None:
        body["context_passages"] = passages
    for piece in _answer(url, _token(token_file), body):
        typer.echo(piece, nl=False)
    write_line("")


def _token(file: Path | None) -> str:
    """Return the token a file holds, else the environment's, else none.

    Raises ConfigError where the file cannot be read.
    """
    if file is None:
        return os.environ.get("WAT_ASSISTANT_TOKEN", "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"--token-file {file}: {error.strerror}") from error


def _answer(url: str, token: str, body: dict[str, Any]) -> Iterator[str]:
    """Yield the pieces of an answer as server-sent events bring them.

    Raises AssistantError where nobody answers, the request is refused, or the answer breaks off.
    """
    import httpx

    address = f"{url.rstrip('/')}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    patience = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    try:
        with httpx.stream("POST", address, json=body, headers=headers, timeout=patience) as reply:
            if reply.is_error:
                raise AssistantError(_refusal(address, reply))
            ended = False
            for line in reply.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                ended = ended or data == "[DONE]"
                if data and not ended:
                    yield _piece(data)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AssistantError(
            f"{address}: {error}; start the assistant with `make finetune-serve` or give --url"
        ) from error
    if not ended:
        raise AssistantError(f"{address}: the answer broke off")


def _refusal(address: str, reply: "httpx.Response") -> str:
    reply.read()
    if reply.status_code in (401, 403):
        return f"{address} wants its token: give --token-file, or WAT_ASSISTANT_TOKEN"
    return f"{address} answered {reply.status_code}: {reply.text[:300]}"


def _piece(data: str) -> str:
    """Return the text of one event.

    Raises AssistantError where it is an error, or no event of a chat.
    """
    try:
        event = json.loads(data)
        if "error" in event:
            raise AssistantError(f"the assistant failed: {event['error']}")
        choices = event["choices"]
        return str(choices[0]["delta"].get("content") or "") if choices else ""
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise AssistantError(f"the assistant sent {data[:80]!r}, which is no answer") from error
