"""Rooms on Kafka as they must be used: take-over, a second store refused, a lost one filled again.

Real `wat serve` processes and a real broker.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.serve import build_service
from shared.bus import Bus, Effects, open_bus
from shared.clock import SystemClock
from shared.schemas import UiEvent
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.kafka.broker import Broker, _free_port

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(420)]

LOG = Path(__file__).parents[1] / "data" / "desk_log.jsonl"
SESSION_MS = 6_000
WAIT_S = 120.0


def events() -> list[UiEvent]:
    return [UiEvent.model_validate_json(line) for line in LOG.read_text().splitlines()]


class Replica:
    """One `wat serve task-learner`."""

    def __init__(self, broker: Broker, folder: Path, *, standby: bool) -> None:
        self.port = _free_port()
        self._folder = folder
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
            "WAT_DATA_DIR": str(folder / "data"),
            "WAT_CONFIG_DIR": str(folder / "config"),
            "WAT_BUS_URL": f"kafka://{broker.address}?session_timeout_ms={SESSION_MS}"
            + ("&standby=yes" if standby else ""),
        }

    async def start(self) -> "Replica":
        self.log = self._folder / f"{self.port}.log"
        self._folder.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services", "serve", "task-learner", "--port", str(self.port),
                env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        token = (self._folder / "config" / "token").read_text().strip()
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
            answer = await http.request(method, f"http://127.0.0.1:{self.port}{path}", json=body)
        assert not answer.is_error, answer.text
        return answer.json() if answer.content else None

    async def until_ready(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                assert self.process.returncode is None, self.log.read_text()
                try:
                    await self.ask("GET", "/readyz")
                except (OSError, AssertionError, httpx.TransportError):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def routines(self) -> dict[str, tuple[str, str, int]]:
        """Return id -> (name, status, support)."""
        items = (await self.ask("GET", "/v1/task-learner/routines?limit=500"))["items"]
        return {r["routine_id"]: (r["name"], r["status"], r["support"]) for r in items}

    async def until_supports(self, wanted: list[int]) -> dict[str, tuple[str, str, int]]:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await self.routines()
                if sorted(support for _, _, support in found.values()) == wanted:
                    return found
                await asyncio.sleep(0.1)

    async def end(self, *, kill: bool = False) -> None:
        if self.process.returncode is None:
            self.process.kill() if kill else self.process.terminate()
            await self.process.wait()


@pytest.fixture
async def bus(kafka: Broker, tmp_path: Path) -> AsyncIterator[Bus]:
    bus = open_bus(f"kafka://{kafka.address}", tmp_path / "monitor", SystemClock())
    yield bus
    await bus.close()


async def publish(bus: Bus, found: list[UiEvent]) -> None:
    port = await bus.open_port(Room.USER_MONITOR, (), "", "")
    effects = Effects(Room.USER_MONITOR)
    for event in found:
        effects.publish(event)
    await port.commit(effects)
    await port.close()


def streams(path: Path) -> list[tuple[str, bytes]]:
    """Return each person's model and labels, as a learner's store keeps them."""
    with contextlib.closing(sqlite3.connect(path)) as store:
        return list(store.execute("SELECT user_id, state FROM streams"))


async def undisturbed(folder: Path) -> dict[str, int]:
    """Return what a learner that nobody disturbs finds: routine -> support."""
    common = CommonSettings(data_dir=folder, config_dir=folder / "config")
    clock = SystemClock()
    calm = open_bus(common.bus, folder, clock)
    service = build_service(Room.TASK_LEARNER, common, clock)
    await service.open(calm, "")
    await publish(calm, events())
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(WAIT_S):
        while any(
            one.num_unhandled for one in (await service.progress.measure(service.port)).inputs
        ):
            await asyncio.sleep(0.05)
    stop.set()
    await running
    supports = {k.routine_id: k.support for k in service.logic.routines.values()}
    await calm.close()
    return supports


async def test_a_standby_takes_over_and_a_lost_store_is_filled_again(
    kafka: Broker, bus: Bus, tmp_path: Path, record_property
):
    wanted = await undisturbed(tmp_path / "calm")
    shared = tmp_path / "shared"
    first = await Replica(kafka, shared, standby=True).start()
    await first.until_ready()
    second = await Replica(kafka, shared, standby=True).start()
    third = Replica(kafka, tmp_path / "late", standby=True)
    try:
        half = len(events()) // 2
        await publish(bus, events()[:half])
        async with asyncio.timeout(WAIT_S):
            while not (before := await first.routines()):
                await asyncio.sleep(0.1)
        chosen = min(before)
        await first.ask("POST", f"/v1/task-learner/routines/{chosen}/approve")
        name = {"name": "My chore"}
        await first.ask("POST", f"/v1/task-learner/routines/{chosen}/rename", name)
        # A store elsewhere is refused while the room runs.
        await third.start()
        assert await asyncio.wait_for(third.process.wait(), WAIT_S) != 0
        assert "another process runs task-learner" in third.log.read_text()

        killed_s = time.monotonic()
        await first.end(kill=True)
        await second.until_ready()
        record_property("take_over_s", round(time.monotonic() - killed_s, 2))
        await publish(bus, events()[half:])
        after = await second.until_supports(sorted(wanted.values()))
        assert {r: support for r, (_, _, support) in after.items()} == wanted
        assert after[chosen][:2] == ("My chore", "approved")

        await second.end()
        calm = next((tmp_path / "calm").rglob("tasks.sqlite3"))
        assert streams(shared / "data" / "kafka" / "task-learner.sqlite3") == streams(calm)
        num_published = await published(bus)
        for path in (shared / "data" / "kafka").glob("task-learner.sqlite3*"):
            path.unlink()
        fourth = second = await Replica(kafka, shared, standby=False).start()
        await fourth.until_ready()
        assert await fourth.until_supports(sorted(wanted.values())) == after
        assert await published(bus) == num_published
    finally:
        for replica in (first, second, third):
            if hasattr(replica, "process"):
                await replica.end(kill=True)


async def published(bus: Bus) -> int:
    """Return how many routine records were ever published."""
    return sum(end for _, end in (await bus.bounds(Topic.TASKS)).values())


async def test_a_consumer_that_goes_silent_is_replaced(kafka: Broker, bus: Bus, tmp_path: Path):
    watched = open_bus(
        f"kafka://{kafka.address}?silence_ms=1500", tmp_path / "shared" / "data", SystemClock()
    )
    port = await watched.open_port(Room.TASK_LEARNER, (Topic.RUNS, Topic.RAW_EVENTS), "", "")
    await publish(bus, events()[:1])
    async with asyncio.timeout(60):
        while not await port.poll(10, 0.5):
            pass
    consumer = port._subscription._consumer
    consumer.pause(*consumer.assignment())  # from here on it says nothing
    await publish(bus, events()[1:3])
    found = 0
    async with asyncio.timeout(60):
        while found < 3:  # nothing was committed: it begins at the oldest again
            found += len(await port.poll(10, 0.5))
    assert port.num_revived == 1
    await watched.close()
