"""30 days pass: what is kept ends within what may be kept, on disk and in every table."""

import asyncio
import subprocess
import time

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from services.task_learner.main import Settings as LearnerSettings
from services.task_learner.main import build as build_learner
from shared.artifacts import Artifacts
from shared.bus import Effects, Message, open_bus
from shared.clock import FakeClock, SystemClock
from shared.schemas import UiEvent, decode
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import TOPICS, Room, Topic
from tests.contract.records import run_outcome, ui_event
from tests.unit.task_learner import ui_logs

pytestmark = pytest.mark.timeout(300)

DAY_MS = 24 * 3600 * 1000
DAYS = 30


def disk_bytes(folder) -> int:
    """Return what a folder takes; asked of another process, as SQLite's locks demand."""
    said = subprocess.run(["du", "-sb", str(folder)], capture_output=True, text=True, check=True)
    return int(said.stdout.split()[0])


async def test_thirty_days_end_within_the_cap(tmp_path):
    """A day is a session of chores; retention runs each day, as it does each minute in earnest."""
    clock = FakeClock()
    common = CommonSettings(data_dir=tmp_path / "data", config_dir=tmp_path / "config")
    common.make_folders()
    bus = open_bus(common.bus, common.data_dir, clock)
    monitor = await bus.open_port(Room.USER_MONITOR, (), "", "")
    runner = await bus.open_port(Room.AGENT_RUNNER, (), "", "")
    logic, router = build_learner(LearnerSettings(window_actions=200), common, clock)
    service = Service(logic, router, common, clock)
    await service.open(bus, "")
    sizes, num_per_day = [], []
    for day in range(DAYS):
        log = ui_logs.person(day, claims=6, session=f"day-{day}", now_ms=clock.time_ms())
        effects = Effects(Room.USER_MONITOR)
        for event in log.events:
            effects.publish(event.model_copy(update={"snapshot": None}))
        await monitor.commit(effects)
        num_per_day.append(len(log.events))
        effects = Effects(Room.AGENT_RUNNER)
        for n in range(50):
            effects.publish(run_outcome(day * 50 + n))
        await runner.commit(effects)
        while messages := await service.port.poll(500, 0.05):
            effects = Effects(Room.TASK_LEARNER)
            for message in messages:
                logic.handle(decode(message.value, message.headers), message, effects)
            ends = {(m.topic, m.partition): m.offset + 1 for m in messages}
            await service.port.commit(effects, ends)
        clock.advance(DAY_MS)
        for port in (monitor, runner, service.port):
            await port.maintain(clock.time_ms())
            await port.scrub()
        files = Artifacts(common.data_dir / "artifacts", Room.TASK_LEARNER)
        while await files.sweep(service.port.store):
            continue
        sizes.append(disk_bytes(common.data_dir / "log"))
    kept_days = (TOPICS[Topic.RAW_EVENTS].retention_ms or 0) // DAY_MS
    for topic, per_day in ((Topic.RAW_EVENTS, num_per_day), (Topic.RUNS, [50] * DAYS)):
        messages = [
            m
            for partition, (oldest, end) in (await bus.bounds(topic)).items()
            for m in await bus.read(topic, partition, oldest, end - oldest)
        ]
        assert len(messages) == sum(per_day[-kept_days:])
        assert min(m.time_ms for m in messages) >= clock.time_ms() - kept_days * DAY_MS
    events = [m for m in await bus.read(Topic.RAW_EVENTS, 0, 0, 10**6)]
    assert all(isinstance(decode(m.value, m.headers), UiEvent) for m in events)
    # What is compact grows with what was learned, not with time: the files stop growing.
    assert max(sizes[kept_days + 6 :]) <= 1.35 * sizes[kept_days + 5]
    assert service.port.store.query("SELECT count(*) FROM actions")[0][0] <= 220
    [routine] = [k for k in logic.routines.values() if k.is_live and k.support > DAYS]
    assert len(routine.traces) <= 200
    for port in (service.port, monitor, runner):
        await port.close()
    await bus.close()


async def test_dead_letters_are_kept_no_longer_than_events(tmp_path):
    clock = FakeClock()
    common = CommonSettings(data_dir=tmp_path / "data", config_dir=tmp_path / "config")
    common.make_folders()
    bus = open_bus(common.bus, common.data_dir, clock)
    service = Service(*build_learner(LearnerSettings(), common, clock), common, clock)
    await service.open(bus, "")
    for text in ("old", "new"):
        effects = Effects(Room.TASK_LEARNER)
        message = Message(Topic.RAW_EVENTS, 0, len(text), b"ada", text.encode(), (), 1)
        effects.dead_letter(message._replace(offset=clock.time_ms()), "torn", clock.time_ms())
        await service.port.commit(effects)
        clock.advance(13 * DAY_MS)
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    letters = "SELECT value FROM dead_letters"
    async with asyncio.timeout(300):
        while service.port.store.query(letters) != [(b"new",)]:
            await asyncio.sleep(0.02)
    stop.set()
    await running
    await bus.close()


DAY_S = 1.0
"""A simulated day on a broker, whose clock cannot be set: its limits are scaled instead."""

SCALED = ("retention.ms", "segment.ms")
SIZES = ("retention.bytes", "segment.bytes")


@pytest.mark.kafka
@pytest.mark.slow
async def test_thirty_days_on_a_broker_end_within_the_cap(tmp_path, kafka):
    bus = open_bus(f"kafka://{kafka.address}", tmp_path, SystemClock())
    monitor = await bus.open_port(Room.USER_MONITOR, (), "", "")
    runner = await bus.open_port(Room.AGENT_RUNNER, (), "", "")
    topics = (Topic.RAW_EVENTS, Topic.RUNS)
    await _scale(kafka.address, topics)
    end, day = asyncio.get_running_loop().time(), 0
    while day < DAYS or not await _within_the_cap(bus, topics):
        for port, record in ((monitor, ui_event), (runner, run_outcome)):
            effects = Effects(port.room)
            for n in range(50):
                effects.publish(record(day * 50 + n))
            await port.commit(effects)
        day += 1
        end += DAY_S
        await asyncio.sleep(end - asyncio.get_running_loop().time())
    for topic in topics:  # and not one that retention had no reason to take
        [(oldest, following)] = (await bus.bounds(topic)).values()
        assert following == day * 50
        assert oldest <= following - 50
    for port in (monitor, runner):
        await port.close()
    await bus.close()


async def _scale(address, topics):
    """Let the topics' own limits pass as fast as the days here do."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    names = [ConfigResource(ConfigResourceType.TOPIC, str(topic)) for topic in topics]
    [answer] = await admin.describe_configs(names)
    for topic, (*_, rows) in zip(topics, answer.resources, strict=True):
        limits = {name: int(value) for name, value, *_ in rows if name in SCALED}
        assert limits["retention.ms"] == TOPICS[topic].retention_ms
        sizes = {name: int(value) for name, value, *_ in rows if name in SIZES}
        assert sum(sizes.values()) <= TOPICS[topic].retention_bytes
        scaled = {k: str(int(v * DAY_S * 1000 / DAY_MS)) for k, v in limits.items()}
        config = {"message.timestamp.type": "LogAppendTime", **scaled}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
    await admin.close()


async def _within_the_cap(bus, topics):
    """Tell whether all that is left is young enough: a file goes as a whole, once it is looked at.

    Source: a file holds a day; the tests' broker looks each second.
    """
    for topic in topics:
        kept_days = (TOPICS[topic].retention_ms or 0) / DAY_MS + 1 + 2 / DAY_S
        [(oldest, _)] = (await bus.bounds(topic)).values()
        [message] = await bus.read(topic, 0, oldest, 1)
        if message.time_ms < time.time() * 1000 - kept_days * DAY_S * 1000:
            return False
    return True
