"""The product as a person runs it: `wat up` as a process of its own, asked over REST.

Reads and writes its folders alone. Knows no application.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

_START_S, _STOP_S = 30.0, 20.0
_ENDED = frozenset({"done", "stopped", "failed", "cancelled", "in-doubt"})


class StackError(Exception):
    """The product did not do what was asked; the message says what, and where to look."""


class Stack:
    """A running `wat up` on folders of its own."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        """Keep everything below `folder`; `settings` are further WAT_* variables."""
        self.folder = folder
        self.log = folder / "wat.log"
        self.address = ""
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
            "WAT_DATA_DIR": str(folder / "data"),
            "WAT_CONFIG_DIR": str(folder / "config"),
            **(settings or {}),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        """Start, and wait until all rooms are ready. Raises StackError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services", "up", "--port", "0",
                env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            await self._wait_until_ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it as a person would, by SIGTERM."""
        await self._client.aclose()
        await self._stop()

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask a room; return the answer's JSON. Raises StackError with the product's own words."""
        answer = await self._client.request(method, f"/v1/{path}", json=body)
        if answer.is_error:
            raise StackError(f"{method} {path}: {answer.json().get('detail', answer.text)}")
        return answer.json() if answer.content else None

    async def send(self, path: str, content: bytes) -> None:
        """Post a file. Raises StackError with the product's own words."""
        answer = await self._client.post(f"/v1/{path}", content=content)
        if answer.is_error:
            raise StackError(f"POST {path}: {answer.json().get('detail', answer.text)}")

    async def all(self, path: str) -> list[dict[str, Any]]:
        """Return every item of a paged list."""
        items: list[dict[str, Any]] = []
        params: dict[str, str] = {"limit": "500"}
        while True:
            answer = await self._client.get(f"/v1/{path}", params=params)
            page = answer.raise_for_status().json()
            items += page["items"]
            if page.get("next") is None:
                return items
            params["cursor"] = page["next"]

    async def events(self, seen: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the events after the first `seen`, once."""
        for event in (await self.all("user-monitor/events"))[seen:]:
            yield event

    async def follow(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Yield what a stream of server-sent events says, until it ends."""
        async with self._client.stream("GET", f"/v1/{path}", timeout=None) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def until(
        self, what: str, found: Callable[[], Any], timeout_s: float, every_s: float = 0.3
    ) -> Any:
        """Call the coroutine function `found` until it gives something. Raises StackError."""
        deadline = time.monotonic() + timeout_s
        while True:
            if (value := await found()) is not None:
                return value
            if time.monotonic() > deadline:
                raise StackError(f"{what}: not within {timeout_s:.0f} s; see {self.log}")
            if not self._runs():
                raise StackError(f"{what}: the services ended; see {self.log}")
            await asyncio.sleep(every_s)

    async def routine(self, min_support: int, timeout_s: float) -> dict[str, Any]:
        """Wait for a proposed or approved routine with this support; return the best ranked."""

        async def found() -> dict[str, Any] | None:
            for line in await self.all("task-learner/routines"):
                if line["status"] in ("proposed", "approved") and line["support"] >= min_support:
                    shown = await self.ask("GET", f"task-learner/routines/{line['routine_id']}")
                    return dict(shown)
            return None

        return dict(await self.until("no routine was proposed", found, timeout_s))

    async def agent(
        self,
        routine_id: str,
        timeout_s: float,
        show: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Wait for the routine's last training and the runner's verdict; return the card.

        `show` is given each training under way, and returns when that has ended.
        """

        async def trained() -> dict[str, Any] | None:
            trainings = [
                t for t in await self.all("agent-trainer/trainings")
                if t["routine_id"] == routine_id
            ]  # fmt: skip
            under_way = [t for t in trainings if t["state"] in ("asked", "running")]
            for training in under_way:
                if show is not None:
                    await show(training)
            if under_way or not trainings:
                return None
            cards = await self.all("agent-trainer/models")
            return next((c for c in cards if c["subject_id"] == routine_id), None)

        card: dict[str, Any] = dict(await self.until("no agent was trained", trained, timeout_s))
        if card["status"] != "ready":
            raise StackError(f"training ended {card['status']}: {card.get('reason')}")

        async def accepted() -> bool | None:
            for agent in await self.all("agent-runner/models"):
                if agent["card"]["id"] == card["id"]:
                    if agent["verdict"] != "ok":
                        raise StackError(f"the runner refuses the agent: {agent['reason']}")
                    return True
            return None

        await self.until("the runner did not take the agent", accepted, 30)
        return card

    async def run(self, asked: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask for a run, approve it, and wait for its end; return it with its records."""
        run = await self.ask("POST", "agent-runner/runs", asked)
        if run["state"] == "waiting":
            await self.ask("POST", f"agent-runner/runs/{run['run_id']}/approve", {"scope": "once"})

        async def ended() -> dict[str, Any] | None:
            shown = await self.ask("GET", f"agent-runner/runs/{run['run_id']}?limit=500")
            return shown if shown["state"] in _ENDED else None

        return dict(await self.until(f"run {run['run_id']} did not end", ended, timeout_s))

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        lock = Path(self._environment["WAT_DATA_DIR"]) / "log" / "runs.lock"
        token = Path(self._environment["WAT_CONFIG_DIR"]) / "token"
        while time.monotonic() < deadline and self._runs():
            try:
                self.address = json.loads(lock.read_text())["address"]
                headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
                self._client = httpx.AsyncClient(base_url=self.address, headers=headers, timeout=30)
                if (await self._client.get("/readyz")).status_code == 200:
                    return
            except (OSError, ValueError, KeyError, httpx.TransportError):
                pass  # not written or not listening yet
            await asyncio.sleep(0.05)
        raise StackError(f"the services did not start; see {self.log}")

    def _runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _stop(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def parameter_name(label: str) -> str:
    """Return the name the product gives a parameter that is typed into a field with `label`."""
    return re.sub(r"\W+", "_", label.lower()).strip("_")


def values_of(routine: dict[str, Any], record: dict[str, str]) -> dict[str, str]:
    """Return the routine's parameters with the record's values. Raises StackError."""
    named = {parameter_name(label): value for label, value in record.items()}
    wanted = [parameter["name"] for parameter in routine["parameters"]]
    missing = [name for name in wanted if name not in named]
    if missing:
        raise StackError(f"the routine has parameters no record has: {', '.join(missing)}")
    return {name: named[name] for name in wanted}
