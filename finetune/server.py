"""Ask the tuned model over HTTP, in the protocol editors and the `openai` client speak.

Serves /v1/completions (with `suffix`: infilling by sentinels), /v1/chat/completions, both with
streaming, /v1/models, /healthz and /readyz. One answer is generated at a time. Chat is given
passages of the repository, found by BM25; completions too where a request asks for some with
`context_passages`. Listens on the loopback by default; elsewhere it wants a token file.

Past 400 lines because prompt, generation and protocol share one model and one turn.
Not covered: several choices (`n`), log probabilities, tool calls, batching of requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import queue
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import infer
from protocol import Chat, Common, Completion
from retrieve import QUERY_CHARS, Index, as_text

log = logging.getLogger("finetune.server")

OPEN_PATHS = {"/healthz", "/readyz"}
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True)
class Options:
    """What is served, and where."""

    run: str = "var/finetune/run"  # a run of main.py; empty: the base alone
    base: str = "smollm2"  # used where `run` is empty
    source: str = ""  # repository to take passages from; empty: none
    host: str = "127.0.0.1"
    port: int = 8765
    token_file: str = ""
    allowed_hosts: str = "localhost,127.0.0.1,[::1]"
    context_tokens: int = 4096
    chat_passages: int = 3
    device: str = "auto"
    dtype: str = "auto"
    name: str = "wat-code"


class Streamer(BaseStreamer):
    """Hands each new token to a queue, the prompt left out."""

    def __init__(self) -> None:
        """Start empty."""
        self.tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        """Take what generate() made."""
        if self.prompt_seen:
            self.tokens.put(int(value.reshape(-1)[0]))
        self.prompt_seen = True

    def end(self) -> None:
        """Say that no more will come."""
        self.tokens.put(None)


class Cancelled(StoppingCriteria):
    """Stop when nobody wants the rest."""

    def __init__(self, event: threading.Event) -> None:
        """Watch an event."""
        self.event = event

    def __call__(self, ids: torch.LongTensor, scores: Any, **unused: Any) -> torch.Tensor:
        """Return whether to stop (B,)."""
        return torch.full((ids.shape[0],), self.event.is_set(), device=ids.device)


@dataclass
class Usage:
    """What an answer cost and how it ended."""

    prompt_tokens: int
    completion_tokens: int = 0
    finish_reason: str = "stop"


@dataclass
class Assistant:
    """A loaded model; answers one request at a time."""

    options: Options
    ready: threading.Event = field(default_factory=threading.Event)
    failure: str = ""
    model: Any = None
    tokenizer: Any = None
    order: str = "psm"  # of infilling; a base that knows it without us learned this one
    index: Index | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def load(self) -> None:
        """Load model and index; readiness, or the reason there is none, is noted."""
        options = self.options
        cuda = torch.cuda.is_available()
        device = options.device if options.device != "auto" else "cuda" if cuda else "cpu"
        dtype = options.dtype
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        try:
            base, adapter = (
                infer.find_run(Path(options.run)) if options.run else (options.base, None)
            )
            self.model, self.tokenizer = infer.load(
                base, adapter, torch.device(device), getattr(torch, dtype)
            )
            if options.run:
                self.order = infer.fim_order(Path(options.run))
            self.index = Index.of_tree(Path(options.source)) if options.source else None
        except (OSError, ValueError, RuntimeError) as error:
            self.failure = f"{type(error).__name__}: {error}"
            log.error("not ready: %s", self.failure)
            return
        self.ready.set()
        log.info("ready: %s on %s", options.name, device)

    def passages(self, query: str, num: int) -> str:
        """Return the best passages for a query as one text."""
        found = self.index.search(query[-2000:], num) if self.index and num else []
        return as_text(found)

    def room(self, max_tokens: int) -> int:
        """Return how many tokens a prompt may have.

        Raises ValueError where the answer asked for leaves none.
        """
        most = min(self.options.context_tokens, self.model.config.max_position_embeddings)
        if most - max_tokens < 32:
            raise ValueError(f"max_tokens is too large: prompt and answer share {most} tokens")
        return most - max_tokens - 8

    def completion_prompt(self, request: Completion) -> list[int]:
        """Return the ids of a completion request."""
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        room = self.room(request.max_tokens or 64)
        around = prompt[-QUERY_CHARS:] + (request.suffix or "")[: QUERY_CHARS // 2]
        shown = self.passages(around, request.context_passages or 0)
        if request.suffix:
            return infer.fim_prompt(self.tokenizer, prompt, request.suffix, room, self.order, shown)
        if shown:
            prompt = f"{shown}\n\n{prompt}"
        return infer.plain_prompt(self.tokenizer, prompt, room)

    def chat_prompt(self, request: Chat) -> list[int]:
        """Return the ids of a conversation, passages of the repository in front of it."""
        turns = [{"role": m.role, "content": m.text} for m in request.messages]
        for turn in turns:
            turn["role"] = "system" if turn["role"] == "developer" else turn["role"]
        num = request.context_passages
        num = self.options.chat_passages if num is None else num
        shown = self.passages(turns[-1]["content"], num)
        room = self.room(request.max_completion_tokens or request.max_tokens or 256)
        while True:
            given = list(turns)
            if shown:
                told = f"You know this repository. Passages that may help:\n\n{shown}"
                given.insert(0, {"role": "system", "content": told})
            if self.tokenizer.chat_template:
                ids = self.tokenizer.apply_chat_template(
                    given, add_generation_prompt=True, tokenize=True, return_dict=True
                )["input_ids"]
            else:
                text = "".join(f"{t['role']}: {t['content']}\n" for t in given)
                ids = infer.plain_prompt(self.tokenizer, text + "assistant:", 1 << 30)
            if len(ids) <= room:
                return ids
            if shown:
                shown = shown[: len(shown) // 2] if len(shown) > 400 else ""
            elif len(turns) > 1:
                turns = turns[1:]
            else:
                return ids[-room:]

    def answer(
        self, ids: list[int], request: Common, max_tokens: int, usage: Usage
    ) -> Iterator[str]:
        """Yield the answer's text piece by piece; `usage` is filled on the way."""
        with self.turn:
            cancelled, streamer = threading.Event(), Streamer()
            problems: list[RuntimeError] = []

            def work() -> None:
                try:
                    self.generate(ids, request, max_tokens, streamer, cancelled)
                except RuntimeError as error:  # such as a GPU out of memory
                    problems.append(error)
                finally:
                    streamer.end()

            worker = threading.Thread(target=work)
            worker.start()
            try:
                yield from self.text_of(streamer, request.stops, max_tokens, usage)
            finally:
                cancelled.set()
                worker.join()
            if problems:
                raise problems[0]

    def generate(
        self,
        ids: list[int],
        request: Common,
        max_tokens: int,
        streamer: Streamer,
        cancelled: threading.Event,
    ) -> None:
        """Run the model into a streamer."""
        if request.seed is not None:
            torch.manual_seed(request.seed)
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {"do_sample": True, "temperature": request.temperature, "top_k": 0}
            sampling["top_p"] = request.top_p
        prompt = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([Cancelled(cancelled)]),
                **sampling,
            )

    def text_of(
        self, streamer: Streamer, stops: list[str], max_tokens: int, usage: Usage
    ) -> Iterator[str]:
        """Yield text as tokens come, never part of a stop string nor half a character."""
        tokens: list[int] = []
        sent, held = 0, max((len(stop) for stop in stops), default=1) - 1
        text = ""
        while (token := streamer.tokens.get()) is not None:
            usage.completion_tokens += 1
            if token == self.tokenizer.eos_token_id:
                break
            tokens.append(token)
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            ends = [at for stop in stops if (at := text.find(stop)) >= 0]
            if ends:
                if min(ends) > sent:
                    yield text[sent : min(ends)]
                return
            safe = len(text) - held
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and safe > sent:
                yield text[sent:safe]
                sent = safe
        else:
            usage.finish_reason = "length" if len(tokens) >= max_tokens else "stop"
        if text[sent:]:
            yield text[sent:]


# --- HTTP -----------------------------------------------------------------------------------------


def refused(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    """Return an error in the protocol's shape."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": error}, status_code=status)


def create_app(options: Options, wait: bool = False) -> FastAPI:
    """Return the application; the model is loaded in the background unless `wait` is set."""
    token = Path(options.token_file).read_text().strip() if options.token_file else ""
    assistant = Assistant(options)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loader = threading.Thread(target=assistant.load, daemon=True)
        loader.start()
        if wait:
            loader.join()
        yield

    app = FastAPI(title="code assistant", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=options.allowed_hosts.split(","))

    @app.middleware("http")
    async def guarded(request: Request, call_next: Any) -> Any:
        if request.url.path in OPEN_PATHS:
            return await call_next(request)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and not secrets.compare_digest(given.encode(), token.encode()):
            return refused(401, "a valid bearer token is needed", "authentication_error")
        if request.url.path.startswith("/v1/") and not assistant.ready.is_set():
            return refused(503, assistant.failure or "the model is loading", "server_error")
        return await call_next(request)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        return refused(400, told)

    @app.exception_handler(ValueError)
    async def unsuitable(_request: Request, error: ValueError) -> JSONResponse:
        return refused(400, str(error))

    @app.exception_handler(RuntimeError)
    async def failed(_request: Request, error: RuntimeError) -> JSONResponse:
        log.error("generation failed: %s", type(error).__name__)
        return refused(500, "generation failed; see the server's log", "server_error")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        if assistant.ready.is_set():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": assistant.failure or "loading"}, status_code=503)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        one = {"id": options.name, "object": "model", "created": 0, "owned_by": "wasmagenttrainer"}
        return {"object": "list", "data": [one]}

    @app.post("/v1/completions")
    def completions(request: Completion) -> Any:
        max_tokens = request.max_tokens or 64
        ids = assistant.completion_prompt(request)
        return reply(assistant, "text_completion", "cmpl", ids, request, max_tokens)

    @app.post("/v1/chat/completions")
    def chat(request: Chat) -> Any:
        max_tokens = request.max_completion_tokens or request.max_tokens or 256
        ids = assistant.chat_prompt(request)
        return reply(assistant, "chat.completion", "chatcmpl", ids, request, max_tokens)

    return app


def reply(
    assistant: Assistant, kind: str, prefix: str, ids: list[int], request: Common, max_tokens: int
) -> Any:
    """Answer whole, or as server-sent events."""
    usage = Usage(len(ids))
    head = {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": assistant.options.name,
    }
    pieces = assistant.answer(ids, request, max_tokens, usage)
    if request.stream:
        events = streamed(pieces, kind, head, usage, request)
        return StreamingResponse(events, media_type="text/event-stream")
    text = "".join(pieces)
    choice: dict[str, Any] = {"index": 0, "finish_reason": usage.finish_reason, "logprobs": None}
    if kind == "chat.completion":
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    return head | {"object": kind, "choices": [choice], "usage": counted(usage)}


def counted(usage: Usage) -> dict[str, int]:
    """Return the token counts of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def streamed(
    pieces: Iterator[str], kind: str, head: dict[str, Any], usage: Usage, request: Common
) -> Iterator[str]:
    """Yield an answer as server-sent events."""
    chat = kind == "chat.completion"
    head = head | {"object": f"{kind}.chunk" if chat else kind}

    def event(text: str | None, reason: str | None, first: bool = False) -> str:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | (
                {} if text is None else {"content": text}
            )
        else:
            choice["text"] = text or ""
        return f"data: {json.dumps(head | {'choices': [choice]})}\n\n"

    with contextlib.closing(pieces):
        if chat:
            yield event("", None, first=True)
        for piece in pieces:
            yield event(piece, None)
        yield event(None, usage.finish_reason)
    if (request.stream_options or {}).get("include_usage"):
        yield f"data: {json.dumps(head | {'choices': [], 'usage': counted(usage)})}\n\n"
    yield "data: [DONE]\n\n"


def main(options: Options) -> None:
    """Serve until stopped.

    Raises SystemExit where others could reach the server without a token.
    """
    import uvicorn

    if options.host not in LOOPBACK and not options.token_file:
        raise SystemExit("serving beyond this machine needs --token_file")
    uvicorn.run(create_app(options), host=options.host, port=options.port, log_level="warning")


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; one flag per field of Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Options()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    main(parse())
