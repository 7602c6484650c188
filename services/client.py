"""Ask running rooms over REST; a room that no process runs is run for as long as it is asked.

Reads the token file and who owns a room's topic. Raises what the room raised, by name. A room that
is run for one command reads its inputs to their end first, and works on no job unless told to:
listing runs must not take one up.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from services.listener import other_account_at
from shared import errors
from shared.bus import find_owner
from shared.errors import ConfigError, TopicLocked, WatError
from shared.settings import CommonSettings, default_port, load, refuse_unknown
from shared.topics import Room

if TYPE_CHECKING:
    import httpx

__all__ = ["TAKEN", "RoomClient", "Rooms"]

_ROOT = Path(__file__).resolve().parents[1]
TAKEN = os.EX_TEMPFAIL
"""Exit code of a room that was started for a command while another process runs it."""

_START_S = 60.0
"""A room that is run for one command may have much to read first."""

_END_S = 20.0
_ANSWER_S = 120.0
"""Longest wait for an answer: checking a large module on a loaded machine takes seconds."""

_RETRY_S = 0.1
_PAGE = 200
_LINES = '{"'  # how a line of the log begins, which is not for a person


class RoomClient:
    """One room's REST, below `/v1/<room>/`."""

    def __init__(self, room: Room, token: str, find: Callable[[], str]) -> None:
        self.room = room
        self._token = token
        self._find = find
        self._http: httpx.Client | None = None

    def get(self, path: str, **query: Any) -> Any:
        """Return what stands at `path`."""
        return _json(self._send("GET", path, params=query))

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Ask for something to be done; return the answer."""
        return _json(self._send("POST", path, json=body, params=query))

    def delete(self, path: str) -> Any:
        """Delete what stands at `path`; return the answer, if there is one."""
        return _json(self._send("DELETE", path))

    def all(self, path: str, limit: int | None = None, **query: Any) -> list[dict[str, Any]]:
        """Return the items of a paged list, the first `limit` at most."""
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while limit is None or len(items) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(items))
            more = {"cursor": cursor} if cursor else {}
            page = self.get(path, limit=size, **more, **query)
            items += page["items"]
            cursor = page.get("next")
            if cursor is None:
                break
        return items

    def download(self, path: str) -> bytes:
        """Return the bytes at `path`."""
        return self._send("GET", path).content

    def upload(self, path: str, data: bytes, **query: Any) -> Any:
        """Send bytes; return the answer."""
        return _json(self._send("POST", path, content=data, params=query))

    def follow(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield what the server-sent events at `path` carry, until they end."""
        import json

        import httpx

        try:
            with self._client().stream("GET", path, timeout=None) as answer:
                if answer.is_error:
                    answer.read()
                    raise _problem(self.room, answer)
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line[5:])
        except httpx.HTTPError as error:
            raise WatError(f"{self.room} ended while it was asked: {_said(error)}") from error

    def close(self) -> None:
        """Let go of the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _send(self, method: str, path: str, **request: Any) -> "httpx.Response":
        """Return the room's answer. Raises what it refuses with, WatError where it is away.

        A room that ends while it is asked (another command may have run it) is looked for again,
        as long as it cannot have begun with what was asked.
        """
        import httpx

        deadline = time.monotonic() + _START_S
        while True:
            try:
                answer = self._client().request(method, path, **request)
            except httpx.HTTPError as error:
                untouched = isinstance(error, httpx.ConnectError) or (
                    method == "GET" and isinstance(error, httpx.NetworkError | httpx.ProtocolError)
                )
                if not untouched or time.monotonic() > deadline:
                    raise WatError(
                        f"{self.room} does not answer ({_said(error)}): see `wat doctor`"
                    ) from error
            else:
                if not answer.is_error:
                    return answer
                if not _is_not_ready(answer) or time.monotonic() > deadline:
                    raise _problem(self.room, answer)
            self.close()
            time.sleep(_RETRY_S)

    def _client(self) -> "httpx.Client":
        import httpx

        if self._http is None:
            self._http = httpx.Client(
                base_url=f"{self._find()}/v1/{self.room}",
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=_ANSWER_S,
                trust_env=False,  # a proxy has no business between us and this machine
            )
        return self._http


class Rooms(AbstractContextManager["Rooms"]):
    """Clients of rooms, wherever they run; rooms that this started end with it."""

    def __init__(self, common: CommonSettings | None = None) -> None:
        """Raise ConfigError for settings that are wrong."""
        if common is None:
            refuse_unknown([CommonSettings])
            common = load(CommonSettings)
        self.common = common
        self.started: set[Room] = set()
        self._stack = ExitStack()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what was started here."""
        self._stack.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def ask(self, room: Room, *, works: bool = False) -> RoomClient:
        """Return a client of `room`; with `works` one that is started here also does its jobs."""
        self.common.make_folders()
        address = self._find(room, works=works)
        places = iter([address])
        client = RoomClient(
            room,
            self._token(),
            # The first time it is known already; afterwards it is looked for again.
            lambda: next(places, None) or self._find(room, works=works),
        )
        self._stack.callback(client.close)
        return client

    def address(self, room: Room) -> str | None:
        """Return where `room` answers, or None where no process runs it."""
        if owner := find_owner(self.common.bus, room, self.common.data_dir):
            return owner
        if self.common.bus.startswith("log:"):
            return None
        host = "127.0.0.1" if self.common.host == "0.0.0.0" else self.common.host  # noqa: S104
        for port in (default_port(room), self.common.port):
            if room in _rooms_at(f"http://{host}:{port}"):
                return f"http://{host}:{port}"
        return None

    def is_ready(self, room: Room) -> bool:
        """Tell whether a process runs `room` and has taken it up."""
        address = self.address(room)
        return address is not None and _rooms_at(address).get(room, False)

    def _find(self, room: Room, *, works: bool) -> str:
        """Return where `room` answers once it is ready; start it where nobody runs it."""
        deadline = time.monotonic() + _START_S
        while True:
            address = self.address(room)
            if address is not None and _rooms_at(address).get(room):
                _refuse_others(room, address)
                return address
            if address is None:
                with suppress(TopicLocked):  # another process was faster
                    return self._start(room, works=works)
            if time.monotonic() > deadline:
                raise WatError(f"{room} at {address} is not ready: see its log, or `wat doctor`")
            time.sleep(0.05)

    def _start(self, room: Room, *, works: bool) -> str:
        command = [sys.executable, "-m", "services", "serve", room, "--port", "0", "--for-command"]
        log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        child = subprocess.Popen(  # noqa: S603
            [*command, "--works"] if works else command,
            stdin=subprocess.PIPE,  # it ends when this closes, which it does with us too
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=_ROOT,
            env={**os.environ, **_environment(self.common)},
            start_new_session=True,  # Ctrl-C is for us; the room then ends in order
        )
        self._stack.callback(_end, child)
        assert child.stdout is not None
        with _limit(child, _START_S):
            line = child.stdout.readline().decode().strip()
        if not line:
            if child.wait() == TAKEN:
                raise TopicLocked(f"{room} was started by another process: ask that")
            raise WatError(_complaint(log) or f"{room} did not start: try `wat serve {room}`")
        self.started.add(room)
        return line.rpartition(" ")[2]

    def _token(self) -> str:
        path = self.common.token_file
        try:
            return path.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}): it holds the token of the services; "
                "set WAT_CONFIG_DIR as they have it"
            ) from error


def _refuse_others(room: Room, address: str) -> None:
    """Raise WatError where another account of this machine would get our token."""
    parts = urlsplit(address)
    uid = other_account_at(parts.hostname or "", parts.port or 80)
    if uid is not None:
        raise WatError(
            f"what answers for {room} at {address} belongs to another account (uid {uid}): it gets "
            "no token; start the room, or set WAT_CONFIG_DIR and WAT_DATA_DIR as it has them"
        )


@contextmanager
def _limit(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kill a child that takes longer than this."""
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _environment(common: CommonSettings) -> dict[str, str]:
    """Return the variables that give another process the same settings."""
    return {f"WAT_{name.upper()}": str(value) for name, value in common if value != ""}


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a room as a person would, and wait for it."""
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _complaint(log: IO[bytes]) -> str:
    """Return what a room that did not start said to a person."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    said = [line for line in lines if line.strip() and not line.startswith(_LINES)]
    return said[-1].removeprefix("wat: ") if said else ""


def _rooms_at(address: str) -> dict[str, bool]:
    """Return the rooms that answer at `address` and whether each is ready."""
    import httpx

    try:
        answer = httpx.get(f"{address}/readyz", timeout=5, trust_env=False)
        return dict(answer.json()["rooms"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return {}


def _json(answer: "httpx.Response") -> Any:
    return answer.json() if answer.content else None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_not_ready(answer: "httpx.Response") -> bool:
    """Tell whether a room refused because it starts or ends: then it has not begun."""
    try:
        return answer.status_code == 503 and answer.json()["title"] == "HTTP error"
    except (ValueError, KeyError, TypeError):
        return False


def _problem(room: Room, answer: "httpx.Response") -> WatError:
    """Return the error that a room answered with, by its own name where it is one of ours."""
    try:
        told = answer.json()
        title, detail = str(told["title"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return WatError(f"{room} answers {answer.status_code}: see its log")
    if answer.status_code == 401:
        return ConfigError(f"{room} does not take our token: set WAT_CONFIG_DIR as it has it")
    kind = getattr(errors, title, WatError) if title in errors.__all__ else WatError
    return kind(detail)
