"""The services as shipped, in processes of their own, started again whenever they die.

`wat up`, or four times `wat serve ROOM`. A death by SIGKILL is one that was asked for here or at a
failpoint; any other end is an error of the product.
"""

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from shared.topics import Room

__all__ = ["Fleet", "FleetError", "Unit"]

_ANSWER_S, _ASK_S = 30.0, 240.0
_ARMED_S = 30.0  # so long a failpoint is waited for
_POINTS = {
    Room.USER_MONITOR: (("handled", 60), ("written", 60)),
    Room.TASK_LEARNER: (("handled", 40), ("written", 40)),
    Room.AGENT_TRAINER: (("handled", 6), ("written", 6)),
    Room.AGENT_RUNNER: (("handled", 6), ("written", 6), ("acted", 4)),
}
"""Failpoints of each room, and how many passages may go by."""

_BUSY = (Room.USER_MONITOR, Room.TASK_LEARNER)
"""They always have something to do: in one process with them another's failpoint would be waited
for in vain, and nothing be killed meanwhile."""


class FleetError(Exception):
    """A service did not do what was asked, or ended by itself."""


class Unit:
    """One process that is kept running."""

    def __init__(self, rooms: Sequence[Room], folder: Path, environment: Mapping[str, str]) -> None:
        self.rooms = tuple(rooms)
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.failpoint = ""  # for the next start
        self.armed = ""
        self.started_s = 0.0
        self.num_starts = 0
        self.by_failpoint: list[str] = []
        self.num_killed = 0
        self.log = folder / f"{'up' if len(rooms) > 1 else rooms[0]}.log"
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._asked = False
        self._ending = False
        self._task = asyncio.create_task(self._keep())

    @property
    def failed(self) -> BaseException | None:
        """Return why this is no longer kept running."""
        if self._task.done() and not self._task.cancelled():
            return self._task.exception()
        return None

    @property
    def pid(self) -> int | None:
        """Return the process, where there is one."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    @property
    def waits_for_failpoint(self) -> bool:
        """Tell whether it is to be killed by itself shortly."""
        return bool(self.armed) and time.monotonic() - self.started_s < _ARMED_S

    def kill(self) -> bool:
        """Kill -9; tell whether there was something to kill."""
        if self.pid is None or self._asked:
            return False
        self._asked = True
        assert self._process is not None
        self._process.kill()
        return True

    async def stop(self) -> None:
        """End by SIGTERM."""
        self._ending = True
        if self.pid is not None and self._process is not None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 30)
            except TimeoutError:
                self._process.kill()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        what = ["up"] if len(self.rooms) > 1 else ["serve", str(self.rooms[0])]
        while not self._ending:
            self.armed, self.failpoint, self._asked = self.failpoint, "", False
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "services", *what, "--port", str(self.port),
                    env={**self._environment, "WAT_FAILPOINT": self.armed},
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            self.started_s, self.num_starts = time.monotonic(), self.num_starts + 1
            code = await self._process.wait()
            if self._ending:
                return
            if code != -9:
                tail = self.log.read_text(errors="replace")[-1500:]
                raise FleetError(f"{what} ended by itself with {code}:\n{tail}")
            if self._asked:
                self.num_killed += 1
            else:
                self.by_failpoint.append(self.armed.partition(":")[0])


class Fleet:
    """The four services on folders of their own."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.units: list[Unit] = []
        self.gone: list[Unit] = []
        self.environment = {
            # What is shipped is compiled: a start must not compile a thousand files again.
            **{k: v for k, v in os.environ.items()
               if not k.startswith("WAT_") and k != "PYTHONDONTWRITEBYTECODE"},
            "WAT_DATA_DIR": str(folder / "data"),
            "WAT_CONFIG_DIR": str(folder / "config"),
            **settings,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._http = httpx.AsyncClient(timeout=_ANSWER_S)

    @property
    def num_kills(self) -> int:
        """Return how often a process was killed."""
        return sum(u.num_killed + len(u.by_failpoint) for u in (*self.units, *self.gone))

    @property
    def by_failpoint(self) -> list[str]:
        """Return the failpoints that killed."""
        return [p for u in (*self.units, *self.gone) for p in u.by_failpoint]

    async def start(self, *, one_process: bool, rooms: Sequence[Room] = tuple(Room)) -> None:
        """Start, and wait until all rooms are ready."""
        groups = [tuple(rooms)] if one_process else [(room,) for room in rooms]
        self.units = [Unit(rooms, self.folder, self.environment) for rooms in groups]
        for unit in self.units:
            await self.ready(unit)

    async def stop(self) -> None:
        """End all by SIGTERM."""
        await asyncio.gather(*(unit.stop() for unit in self.units))
        self.gone += self.units
        self.units = []

    async def close(self) -> None:
        """Stop, and let go of connections."""
        await self.stop()
        await self._http.aclose()

    def check(self) -> None:
        """Raise FleetError where a process ended by itself."""
        for unit in self.units:
            if unit.failed is not None:
                raise unit.failed

    def of(self, room: Room) -> Unit:
        """Return the unit that runs `room`."""
        for unit in self.units:
            if room in unit.rooms:
                return unit
        raise OSError(f"{room} is not running")

    def arm(self, unit: Unit, rng: random.Random) -> None:
        """Have the next process of `unit` killed at one of its failpoints."""
        kafka = self.environment.get("WAT_BUS_URL", "").startswith("kafka:")
        room = rng.choice([room for room in unit.rooms if room in _BUSY] or unit.rooms)
        points = _POINTS[room] + ((("sent", 6),) if kafka else ())
        name, most = rng.choice(points)
        unit.failpoint = f"{name}:{rng.randint(1, most)}"

    async def ready(self, unit: Unit) -> None:
        """Wait until the unit's rooms are ready."""
        deadline = time.monotonic() + _ASK_S
        while time.monotonic() < deadline:
            if await self.is_ready(unit):
                return
            await asyncio.sleep(0.05)
        raise FleetError(f"{unit.log}: not ready within {_ASK_S:.0f} s")

    async def is_ready(self, unit: Unit) -> bool:
        """Tell whether the unit's rooms are ready now."""
        self.check()
        try:
            answer = await self._http.get(f"{unit.address}/readyz", headers=self._token())
        except (httpx.TransportError, OSError):
            return False
        return answer.status_code == 200

    async def ask(self, method: str, room: Room, path: str, body: object = None) -> Any:
        """Ask a room, again and again while it is being killed. Raises FleetError."""
        deadline = time.monotonic() + _ASK_S
        while True:
            self.check()
            try:
                answer = await self._http.request(
                    method, f"{self.of(room).address}/v1/{room}/{path}", json=body,
                    headers=self._token(),
                )  # fmt: skip
                if answer.status_code < 500:
                    break
            except (httpx.TransportError, OSError):
                pass
            if time.monotonic() > deadline:
                raise FleetError(f"{room} does not answer {method} {path}")
            await asyncio.sleep(0.1)
        if answer.is_error:
            raise FleetError(f"{method} {room}/{path}: {answer.text}")
        if answer.headers.get("content-type") == "application/wasm":
            return answer.content
        return answer.json() if answer.content else None

    async def once(self, method: str, room: Room, path: str, body: object) -> Any:
        """Ask a room once. Raises OSError where the answer is lost, FleetError where it refuses."""
        try:
            answer = await self._http.request(
                method, f"{self.of(room).address}/v1/{room}/{path}", json=body,
                headers=self._token(),
            )  # fmt: skip
        except httpx.TransportError as error:
            raise OSError(str(error)) from error
        if answer.status_code >= 500:
            raise OSError(answer.text)
        if answer.is_error:
            raise FleetError(f"{method} {room}/{path}: {answer.text}")
        return answer.json()

    async def all(self, room: Room, path: str) -> list[dict[str, Any]]:
        """Return every item of a paged list."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = await self.ask("GET", room, f"{path}?limit=500{cursor}")
            items += page["items"]
            if page.get("next") is None:
                return items
            cursor = f"&cursor={page['next']}"

    def _token(self) -> dict[str, str]:
        token = (Path(self.environment["WAT_CONFIG_DIR"]) / "token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
