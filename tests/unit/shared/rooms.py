"""A small room, real in all it does, for tests of the frame."""

import asyncio
from pathlib import Path
from typing import ClassVar

from fastapi import APIRouter

from shared.bus import Bus, Effects, Message, Port, open_bus
from shared.clock import FakeClock
from shared.errors import BusUnavailable, MiningError
from shared.schemas import Record, RunOutcome, UiEvent
from shared.service import Job, Service
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.contract.records import ui_event


class Counting:
    """Counts events in memory and in its table; texts of events say what goes wrong."""

    room: ClassVar[Room] = Room.TASK_LEARNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.RUNS, Topic.RAW_EVENTS)
    tables: ClassVar[str] = (
        "CREATE TABLE IF NOT EXISTS seen(id TEXT PRIMARY KEY, seq INTEGER UNIQUE) STRICT;"
    )

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.calls: list[int] = []  # of handle, failed ones too
        self.away = 0  # so many times the next "away" finds the bus away
        self.healed = False
        self.closed = False
        self.work_began = asyncio.Event()
        self.work_may_end = asyncio.Event()
        self.works: list[str] = []
        self.failures: list[Exception] = []  # what work raises, call by call

    async def start(self, port: Port) -> None:
        self.seqs = [seq for (seq,) in port.store.query("SELECT seq FROM seen ORDER BY seq")]

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        if isinstance(record, RunOutcome):
            effects.job(record.id, "count", {"index": record.record_index}, 0)
            return
        assert isinstance(record, UiEvent)
        assert record.value is not None
        self.calls.append(record.seq)
        self.seqs.append(record.seq)
        effects.write("INSERT INTO seen VALUES (?, ?)", (record.id, record.seq))
        text = record.value.clear or ""
        if text == "fails" and not self.healed:
            raise MiningError("this one cannot be counted")
        if text == "breaks" and not self.healed:
            raise ZeroDivisionError(f"of {text}")
        if text == "away" and self.away:
            self.away -= 1
            raise BusUnavailable("away for a while")
        if text == "no-row":
            effects.write("INSERT INTO seen VALUES (?, 'not a number')", (f"bad-{record.id}",))

    async def work(self, job: Job, port: Port) -> Effects:
        self.works.append(job.id)
        self.work_began.set()
        if self.failures:
            raise self.failures.pop(0)
        await self.work_may_end.wait()
        effects = Effects(self.room)
        effects.write("INSERT INTO seen VALUES (?, ?)", (job.id, 1000 + job.payload["index"]))
        return effects

    async def background(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def erase(self, ranges: object) -> None:
        return

    async def close(self) -> None:
        self.closed = True


class House:
    """A log in a folder, its monitor, and one Counting room that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.common = CommonSettings(
            data_dir=folder / "data", config_dir=folder / "config", bus_url=f"log:{folder}/log"
        )
        self.bus: Bus = open_bus(self.common.bus, folder, self.clock)
        self.logic = Counting()
        self.service: Service
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.service = Service(self.logic, APIRouter(), self.common, self.clock)
        await self.service.open(self.bus, "http://here:1")
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(self.service.run(self._stop))

    async def stop(self) -> None:
        """Stop as SIGTERM does."""
        running, self._running = self._running, None
        self._stop.set()
        if running is not None:
            await running

    async def crash(self) -> None:
        """End without draining, as far as one process can."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._running = None

    async def restart(self) -> None:
        self.logic = Counting()
        await self.start()

    async def send(self, *texts: str, first_seq: int = 0) -> None:
        port = await self.bus.open_port(Room.USER_MONITOR, (), "", "")
        effects = Effects(Room.USER_MONITOR)
        for seq, text in enumerate(texts, first_seq):
            effects.publish(ui_event(seq, text=text))
        await port.commit(effects)
        await port.close()

    async def ask_work(self, *outcomes: RunOutcome) -> None:
        """Publish outcomes, each of which makes the room ask for a job of its id."""
        port = await self.bus.open_port(Room.AGENT_RUNNER, (), "", "")
        effects = Effects(Room.AGENT_RUNNER)
        for outcome in outcomes:
            effects.publish(outcome)
        await port.commit(effects)
        await port.close()

    async def until(self, sql: str, wanted: object, limit_s: float = 300) -> None:
        """Wait until the room's store answers `wanted`."""
        found: object = None
        try:
            async with asyncio.timeout(limit_s):
                while (found := self.service.port.store.query(sql)) != wanted:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{sql}: {found} and not {wanted}") from None

    def query(self, sql: str) -> list[tuple[object, ...]]:
        return self.service.port.store.query(sql)

    async def close(self) -> None:
        await self.stop()
        await self.bus.close()
