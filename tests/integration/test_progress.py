"""How far a room has come, on both transports: what waits, since when, what fails, what jobs do."""

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from shared.api import create_app
from shared.bus import Effects
from shared.progress import ProgressMeter
from shared.topics import Room, Topic
from tests.contract.records import run_outcome
from tests.unit.shared.rooms import Counting, House

pytestmark = pytest.mark.timeout(180)

TOKEN = "t" * 43
INPUTS = (Topic.RUNS, Topic.RAW_EVENTS)


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"room": "task-learner", **labels})


async def test_what_waits_is_counted_from_what_is_committed(house: House):
    """A consumer that reads nothing says nothing of it: the positions do."""
    port = await house.bus.open_port(Room.TASK_LEARNER, INPUTS, Counting.tables, "")
    meter = ProgressMeter(Room.TASK_LEARNER, INPUTS, house.clock)
    empty = await meter.measure(port)
    assert [one.num_unhandled for one in empty.inputs] == [0, 0]
    assert [one.oldest_ms for one in empty.inputs] == [None, None]
    await house.send("good", "good", "good")
    [runs, events] = (await meter.measure(port)).inputs
    assert (runs.num_unhandled, events.num_unhandled) == (0, 3)
    [first, *_] = await port.read(Topic.RAW_EVENTS, 0, 0, 1)
    assert events.oldest_ms == first.time_ms
    assert metric("wat_lag_records", topic="raw-events") == 3
    await port.commit(Effects(Room.TASK_LEARNER), {("raw-events", 0): 2})
    [_, events] = (await meter.measure(port)).inputs
    assert events.num_unhandled == 1
    await port.close()


async def test_a_room_that_does_nothing_although_records_wait_is_told_from_an_idle_one(
    house: House,
):
    port = await house.bus.open_port(Room.TASK_LEARNER, INPUTS, Counting.tables, "")
    meter = ProgressMeter(Room.TASK_LEARNER, INPUTS, house.clock)
    await asyncio.sleep(0.05)
    assert (await meter.measure(port)).stalled_ms == 0
    await house.send("good")
    assert (await meter.measure(port)).stalled_ms == 0  # it may have come just now
    await asyncio.sleep(0.05)
    assert (await meter.measure(port)).stalled_ms >= 50
    assert (metric("wat_stalled_seconds") or 0) >= 0.05
    await port.commit(Effects(Room.TASK_LEARNER), {("raw-events", 0): 1})
    meter.moved()
    assert (await meter.measure(port)).stalled_ms == 0
    await port.close()


async def test_failures_letters_and_jobs_are_counted_and_shown_over_rest(house: House):
    house.logic.away = 10**6
    await house.start()
    await house.send("fails", "good", "away")
    await house.until("SELECT next FROM positions WHERE topic = 'raw-events'", [(2,)])
    await house.ask_work(run_outcome(0))
    await house.until("SELECT state FROM jobs", [("running",)])
    await house.service.progress.measure(house.service.port)
    app = create_app([house.service], house.common, TOKEN)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1:8760",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as client:
        shown = (await client.get("/v1/task-learner/progress")).json()
        metrics = (await client.get("/metrics")).text
    assert shown["num_dead_letters"] == 1
    assert shown["jobs"] == {"asked": 0, "running": 1, "done": 0, "failed": 0, "cancelled": 0}
    [events] = [one for one in shown["inputs"] if one["topic"] == "raw-events"]
    assert events["num_unhandled"] == 1
    for line in (
        'wat_dead_letters{room="task-learner"} 1.0',
        'wat_jobs{room="task-learner",state="running"} 1.0',
        'wat_lag_records{room="task-learner",topic="raw-events"} 1.0',
        'wat_handler_seconds_count{room="task-learner",topic="raw-events"}',
        'wat_oldest_unhandled_seconds{room="task-learner",topic="raw-events"}',
    ):
        assert line in metrics
    house.logic.work_may_end.set()
    await house.until("SELECT state FROM jobs", [("done",)])


async def test_records_taken_off_the_end_of_a_topic_do_not_wait(tmp_path: Path):
    house = House(tmp_path)
    await house.send("good", "good")
    monitor = await house.bus.open_port(Room.USER_MONITOR, (), "", "")
    port = await house.bus.open_port(Room.TASK_LEARNER, INPUTS, Counting.tables, "")
    await port.commit(Effects(Room.TASK_LEARNER), {("raw-events", 0): 1})
    await monitor.erase(Topic.RAW_EVENTS, lambda message: message.offset == 1)
    meter = ProgressMeter(Room.TASK_LEARNER, INPUTS, house.clock)
    assert [one.num_unhandled for one in (await meter.measure(port)).inputs] == [0, 0]
    await house.bus.close()
