"""The trainer as a process of its own, and what it needs of the rooms beside it."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from shared.artifacts import Artifacts
from shared.bus import Bus, Effects
from shared.schemas import ModelCard, Routine, decode
from shared.topics import Room, Topic
from tests.unit.agent_trainer.club import demonstrations, routine

T = TypeVar("T")


def shown(artifacts: Path, num: int, effects: Effects | None = None) -> Routine:
    """Keep the club's demonstrations as the learner does; return their routine's record."""
    traces, snapshots = demonstrations(num)
    effects = effects or Effects(Room.TASK_LEARNER)
    files = Artifacts(artifacts, Room.TASK_LEARNER)
    for snapshot in snapshots.values():
        files.put(snapshot.model_dump_json().encode(), effects)
    return routine(traces, [files.put(t.model_dump_json().encode(), effects) for t in traces])


async def cards(bus: Bus) -> list[ModelCard]:
    """Return every card that was ever published."""
    found = []
    for partition, (at, end) in (await bus.bounds(Topic.MODELS)).items():
        for message in await bus.read(Topic.MODELS, partition, at, end - at):
            found.append(decode(message.value, message.headers))
    return found


class TrainerProcess:
    """`wat serve agent-trainer` on a folder; use as a context manager."""

    def __init__(self, folder: Path, bus_url: str, **settings: str) -> None:
        self.data = folder / "data"
        self.data.mkdir(mode=0o700, exist_ok=True)  # a room opens no folder open to others
        self._log = folder / "trainer.log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
            "WAT_DATA_DIR": str(self.data), "WAT_CONFIG_DIR": str(folder / "config"),
            "WAT_BUS_URL": bus_url, **settings,
        }  # fmt: skip
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> "TrainerProcess":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def start(self) -> None:
        """Start it, again after a kill."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services", "serve", "agent-trainer", "--port", "0",
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        await self._process.wait()

    async def until(self, what: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """Wait for something that is not false, while the process lives."""
        async with asyncio.timeout(timeout_s):
            while not (found := await what()):
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)
        return found

    async def has_kept(self, pattern: str) -> bool:
        """Tell whether a training's folder holds such a file."""
        return any(self.data.glob(f"trainings/*/{pattern}"))
