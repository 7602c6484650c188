"""REST as every room has it: health, metrics, dead letters, token, Host check, errors, paging.

Source: RFC 9457 (problem details), RFC 6750 (bearer token).
"""

import base64
import binascii
import json
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.bus import Place
from shared.errors import ConfigError, ContractError, NotFound, WatError
from shared.forget import Receipt
from shared.progress import Progress
from shared.secret_files import keep_secret
from shared.service import Service
from shared.settings import CommonSettings

__all__ = ["Cursor", "Limit", "Page", "create_app", "decode_cursor", "page", "read_token"]

MAX_BODY_BYTES = 32 * 1024 * 1024
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_LETTER = "id, topic, partition, offset, length(value), error, time_ms, replayed_ms"

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=500, description="items per page")]
Cursor = Annotated[str | None, Query(max_length=512, description="`next` of the page before")]


class Page(BaseModel, Generic[T]):
    """Some items, and the cursor of those that follow."""

    items: list[T]
    next: str | None = None


class DeadLetterView(BaseModel):
    """A record a room could not handle; its content is not shown."""

    id: str
    topic: str
    partition: int
    offset: int
    num_bytes: int
    error: str
    time_ms: int
    replayed_ms: int | None


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str = Field(description="kind of error, as shared/errors.py names it")
    status: int
    detail: str = Field(description="what, which, and what to do")
    retryable: bool | None = Field(None, description="whether the same may work later")
    errors: list[dict[str, str]] | None = Field(None, description="places that are not valid")


def page(items: Sequence[T], limit: int, cursor_of: Callable[[T], Any]) -> Page[T]:
    """Return the first `limit` of `items`, with a cursor where there are more.

    Ask the store for `limit + 1`; `cursor_of` names the last item's place as JSON.
    """
    shown = list(items[:limit])
    following = None
    if len(items) > limit:
        raw = json.dumps(cursor_of(shown[-1]), separators=(",", ":")).encode()
        check = zlib.crc32(raw).to_bytes(4, "big")
        following = base64.urlsafe_b64encode(check + raw).decode().rstrip("=")
    return Page(items=shown, next=following)


def decode_cursor(cursor: str | None) -> Any:
    """Return what `cursor_of` gave, or None. Raises ContractError."""
    if cursor is None:
        return None
    try:
        checked = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if zlib.crc32(checked[4:]).to_bytes(4, "big") != checked[:4]:
            raise ValueError("check")
        return json.loads(checked[4:])
    except (binascii.Error, ValueError) as error:
        raise ContractError("the cursor is not one that a page gave as `next`") from error


def read_token(path: Path) -> str:
    """Return the REST token, making it (mode 0600) where there is none. Raises ConfigError."""
    try:
        if not path.exists():
            keep_secret(path, f"{secrets.token_urlsafe(32)}\n".encode())
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others: chmod 600 it")
        token = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be made or read: {error}") from error
    if len(token) < 32:
        raise ConfigError(f"{path} holds no token: delete it, a new one is made")
    return token


def create_app(services: Sequence[Service], common: CommonSettings, token: str) -> FastAPI:
    """Return the REST application of these rooms, each under `/v1/<room>/`."""
    app = _App(
        title="WasmAgentTrainer",
        version=version("wasmagenttrainer"),
        # Their pages load scripts from elsewhere, which would then run beside our own address.
        docs_url=None,
        redoc_url=None,
        # Its own spans and logs would hold addresses with their queries, and messages of errors.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses={"default": _PROBLEM},
    )

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> JSONResponse:
        """Say which rooms are ready."""
        rooms = {service.room: service.ready for service in services}
        return JSONResponse({"rooms": rooms}, 200 if all(rooms.values()) else 503)

    @app.get("/version")
    def show_version() -> dict[str, str]:
        """Return the product's version."""
        return {"version": app.version}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Return Prometheus metrics; none carries content."""
        return PlainTextResponse(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    for service in services:
        prefix = f"/v1/{service.room}"
        ready = [Depends(_must_be_ready(service))]
        app.include_router(service.router, prefix=prefix, tags=[service.room], dependencies=ready)
        for more in (_progress(service), _dead_letters(service), _forgets(service)):
            app.include_router(more, prefix=prefix, tags=[service.room], dependencies=ready)
    app.add_exception_handler(WatError, _wat_problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    app.add_exception_handler(Exception, _unexpected_problem)
    # The last added is the outermost: Host, then token, then size.
    app.add_middleware(_BodyLimit)
    app.add_middleware(_Token, token=token)
    app.add_middleware(_Host, allowed=common.allowed_hosts)
    return app


_PROBLEM: dict[str, Any] = {
    "description": "Anything else",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


class _App(FastAPI):
    """FastAPI, whose OpenAPI document knows what a problem is."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        return document


def _must_be_ready(service: Service) -> Callable[[], None]:
    def check() -> None:
        if not service.ready:
            raise HTTPException(
                503,
                f"{service.room} is starting or stopping: try again; if it stays so, see its log",
            )

    return check


def _progress(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/progress")
    def show_progress() -> Progress:
        """Say how far this room has read, what failed, and what its jobs do."""
        if service.progress.latest is None:
            raise HTTPException(503, f"{service.room} has not looked yet: try again")
        return service.progress.latest

    return router


def _dead_letters(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/dead-letters")
    def list_dead_letters(limit: Limit = 50, cursor: Cursor = None) -> Page[DeadLetterView]:
        """List the records this room could not handle, newest first."""
        rows = service.port.store.query(
            f"SELECT {_LETTER} FROM dead_letters WHERE (time_ms, id) < (?, ?) "  # noqa: S608
            "ORDER BY time_ms DESC, id DESC LIMIT ?",
            (*_before(cursor), limit + 1),
        )
        return page(list(map(_letter, rows)), limit, lambda letter: [letter.time_ms, letter.id])

    @router.get("/dead-letters/{letter_id}")
    def show_dead_letter(letter_id: str) -> DeadLetterView:
        """Show a dead letter: where it stood and why it was put aside."""
        rows = service.port.store.query(
            f"SELECT {_LETTER} FROM dead_letters WHERE id = ?",  # noqa: S608
            (letter_id,),
        )
        if not rows:
            raise NotFound(f"{service.room} has no dead letter {letter_id}")
        return _letter(rows[0])

    @router.post("/dead-letters/{letter_id}/replay", status_code=204)
    async def replay(letter_id: str) -> None:
        """Handle a dead letter once more."""
        await service.replay(letter_id)

    return router


def _letter(row: tuple[Any, ...]) -> DeadLetterView:
    return DeadLetterView(**dict(zip(DeadLetterView.model_fields, row, strict=True)))


def _before(cursor: str | None) -> tuple[int, str]:
    """Return the place of a list by time and id, newest first. Raises ContractError."""
    place = decode_cursor(cursor)
    if place is None:
        return 2**62, ""
    if not isinstance(place, list) or [type(part) for part in place] != [int, str]:
        raise ContractError("the cursor is not one that this list gave as `next`")
    return place[0], place[1]


def _forgets(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/forgets")
    async def list_forgets(limit: Limit = 50, cursor: Cursor = None) -> Page[Receipt]:
        """List what was asked to be forgotten, newest first, with this room's receipts."""
        rows = service.forgetting.requests(_before(cursor), limit + 1)
        shown = page(rows, limit, list)
        receipts = [await service.forgetting.receipt(name, {}) for _, name in shown.items]
        return Page(items=receipts, next=shown.next)

    @router.get("/forgets/{request}")
    async def show_forget(
        request: str,
        after: Annotated[
            list[str] | None, Query(description="TOPIC:PARTITION:OFFSET that must be read too")
        ] = None,
    ) -> Receipt:
        """Show this room's receipt; `after` names what the rooms before it wrote by then."""
        return await service.forgetting.receipt(request, dict(map(_place, after or ())))

    return router


def _place(text: str) -> tuple[Place, int]:
    topic, _, rest = text.partition(":")
    partition, _, offset = rest.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise ContractError(f"after={text[:80]}: write TOPIC:PARTITION:OFFSET")
    return (topic, int(partition)), int(offset)


class _Host:
    """Refuse what was sent to another name: a page whose name was bound anew to this machine."""

    def __init__(self, app: ASGIApp, allowed: str) -> None:
        self._app = app
        self._allowed = {name.strip().lower() for name in allowed.split(",")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else re.sub(r":\d*\Z", "", host)
            if name not in self._allowed:
                answer = _problem(
                    400, "Foreign host", "this Host header is not one of WAT_ALLOWED_HOSTS"
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Token:
    """Refuse what carries no valid bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._wanted = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._wanted):
                answer = _problem(
                    401, "Unauthorized", "send the token of the token file as a bearer token"
                )
                answer.headers["WWW-Authenticate"] = "Bearer"
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _BodyLimit:
    """Refuse a body of more than MAX_BODY_BYTES, declared or not, before it is in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = _problem(
            413, "Content Too Large", f"a body may have {MAX_BODY_BYTES} bytes: send it in parts"
        )
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            await too_large(scope, receive, send)
            return
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, f"a body may have {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counted, send)


def _problem(status: int, title: str, detail: str, **more: object) -> JSONResponse:
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more},
        status,
        media_type="application/problem+json",
    )


async def _wat_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, WatError)
    return _problem(error.status, type(error).__name__, str(error), retryable=error.retryable)


async def _http_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = _problem(error.status_code, "HTTP error", str(error.detail))
    if error.status_code == 405:
        answer.headers["Allow"] = ", ".join(_allowed(request))
    return answer


def _allowed(request: Request) -> list[str]:
    """Return the methods there are at a path; the framework names those of one route alone."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _validation_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    places = [
        {"at": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()[:10]
    ]
    first = places[0] if places else {"at": "request", "problem": "is not valid"}
    return _problem(422, "Not valid", f"{first['at']}: {first['problem']}", errors=places)


async def _unexpected_problem(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, "Unexpected error", f"{type(error).__name__}; see the service's log")
