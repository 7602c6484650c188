"""What a room may rely on, stated once, for the embedded log (one and three partitions) and Kafka.

A new `Stage.bus()` on the same folder is what a restart of the process finds.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shared import tracing
from shared.bus import Bus, Effects, Message, Place, Port, Subscription, open_bus
from shared.clock import FakeClock
from shared.errors import BusUnavailable, ConfigError, ContractError, OffsetOutOfRange, TopicLocked
from shared.schemas import ForgetRange, UiEvent, decode
from shared.topics import Room, Topic
from tests.contract.records import run_outcome, ui_event
from tests.kafka.broker import Broker

pytestmark = pytest.mark.timeout(180)

DAY_MS = 24 * 3600 * 1000
WAIT_S = 300


class Stage:
    """One data folder and one transport, and every bus that was opened on them."""

    def __init__(self, url: str, folder: Path, broker: Broker | None) -> None:
        self.url = url
        self.folder = folder
        self.broker = broker
        self.clock = FakeClock()
        self._buses: list[Bus] = []

    def bus(self, folder: Path | None = None) -> Bus:
        bus = open_bus(self.url, folder or self.folder, self.clock)
        self._buses.append(bus)
        return bus

    async def monitor(self, bus: Bus | None = None) -> Port:
        return await (bus or self.bus()).open_port(Room.USER_MONITOR, (), "", "http://here:1")

    async def learner(self, bus: Bus | None = None, *inputs: Topic) -> Port:
        inputs = inputs or (Topic.FORGETS, Topic.RUNS, Topic.RAW_EVENTS)
        tables = "CREATE TABLE IF NOT EXISTS seen(seq INTEGER PRIMARY KEY);"
        return await (bus or self.bus()).open_port(Room.TASK_LEARNER, inputs, tables, "")

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


@pytest.fixture(
    params=["log-1", "log-3", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])]
)
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    if request.param == "kafka":
        broker: Broker = request.getfixturevalue("kafka")
        stage = Stage(f"kafka://{broker.address}?partitions=3", tmp_path, broker)
    else:
        num_partitions = request.param.removeprefix("log-")
        stage = Stage(f"log:{tmp_path}/log?partitions={num_partitions}", tmp_path, None)
    yield stage
    await stage.close()


@pytest.fixture
async def log_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(f"log:{tmp_path}/log", tmp_path, None)
    yield stage
    await stage.close()


@pytest.fixture
async def kafka_stage(kafka: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(f"kafka://{kafka.address}", tmp_path, kafka)
    yield stage
    await stage.close()


def publishing(room: Room, *records: object) -> Effects:
    effects = Effects(room)
    for record in records:
        effects.publish(record)
    return effects


async def publish_events(port: Port, seqs: range, users: tuple[str, ...] = ("ann",)) -> None:
    events = [ui_event(seq, user) for seq in seqs for user in users]
    await port.commit(publishing(Room.USER_MONITOR, *events))


async def read_on(reader: Port | Subscription, count: int) -> list[Message]:
    """Poll until `count` messages are there."""
    found: list[Message] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await reader.poll(500, 1.0)
    return found


def ends(messages: list[Message]) -> Mapping[Place, int]:
    """Return the positions after `messages`."""
    return {(m.topic, m.partition): m.offset + 1 for m in messages}


def seqs_by_user(messages: list[Message]) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for message in messages:
        record = decode(message.value, message.headers)
        assert isinstance(record, UiEvent)
        result.setdefault(record.user_id, []).append(record.seq)
    return result


class TestAppending:
    async def test_what_commit_returned_for_is_there_after_a_restart(self, stage: Stage):
        bus = stage.bus()
        await publish_events(await stage.monitor(bus), range(3))
        await bus.close()
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 3)
        assert seqs_by_user(found) == {"ann": [0, 1, 2]}

    async def test_key_headers_and_bytes_arrive_as_they_were(self, stage: Stage):
        effects = publishing(Room.USER_MONITOR, ui_event(0, "zoë", text="naïve — 北京\u0000"))
        await (await stage.monitor()).commit(effects)
        [found] = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 1)
        sent = effects.outgoing[0]
        assert (found.key, found.value, found.headers) == (sent.key, sent.value, sent.headers)

    async def test_a_record_carries_the_trace_it_was_published_in(self, stage: Stage):
        bus = stage.bus()
        monitor = await stage.monitor(bus)
        with tracing.span(Room.USER_MONITOR, "publish", None):
            context = tracing.current()
            await publish_events(monitor, range(2))
        await publish_events(monitor, range(2, 3))
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 3)
        assert [tracing.context_of(m.headers) for m in found] == [context, context, None]

    async def test_order_holds_per_key_across_many_commits(self, stage: Stage):
        port = await stage.monitor()
        users = ("ann", "bob", "cy")
        for start in range(0, 100, 10):
            await publish_events(port, range(start, start + 10), users)
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 300)
        assert seqs_by_user(found) == {user: list(range(100)) for user in users}

    async def test_order_holds_when_commits_are_under_way_together(self, stage: Stage):
        port = await stage.monitor()
        await asyncio.gather(*(publish_events(port, range(s, s + 5)) for s in range(0, 50, 5)))
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 50)
        assert seqs_by_user(found) == {"ann": list(range(50))}

    async def test_a_key_stays_in_its_partition(self, stage: Stage):
        users = tuple(f"user-{n}" for n in range(20))
        await publish_events(await stage.monitor(), range(3), users)
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 60)
        partitions = {(m.key, m.partition) for m in found}
        assert len(partitions) == len(users)

    async def test_a_room_writes_only_its_own_topics(self):
        with pytest.raises(ContractError, match="task-learner may not write raw-events"):
            Effects(Room.TASK_LEARNER).publish(ui_event(0))


class TestReading:
    async def test_a_new_group_starts_at_the_oldest_record(self, stage: Stage):
        port = await stage.monitor()
        await publish_events(port, range(3))
        assert len(await read_on(await stage.bus().subscribe("first", ["raw-events"]), 3)) == 3
        assert len(await read_on(await stage.bus().subscribe("second", ["raw-events"]), 3)) == 3

    async def test_reading_resumes_after_the_last_commit(self, stage: Stage):
        await publish_events(await stage.monitor(), range(5))
        bus = stage.bus()
        learner = await stage.learner(bus)
        found = await read_on(learner, 5)
        await learner.commit(Effects(Room.TASK_LEARNER), ends(found[:2]))
        await bus.close()
        found = await read_on(await stage.learner(), 3)
        assert seqs_by_user(found) == {"ann": [2, 3, 4]}

    async def test_what_was_not_committed_is_read_again(self, stage: Stage):
        await publish_events(await stage.monitor(), range(5))
        learner = await stage.learner()
        await read_on(learner, 5)
        await learner.rewind()
        found = await read_on(learner, 5)
        await learner.commit(Effects(Room.TASK_LEARNER), ends(found[:3]))
        await learner.rewind()
        assert seqs_by_user(await read_on(learner, 2)) == {"ann": [3, 4]}

    async def test_a_group_without_topics_of_its_own_keeps_its_place(self, stage: Stage):
        port = await stage.monitor()
        await publish_events(port, range(4))
        bus = stage.bus()
        tail = await bus.subscribe("tail", ["raw-events"])
        await tail.commit(ends((await read_on(tail, 4))[:3]))
        await bus.close()
        found = await read_on(await stage.bus().subscribe("tail", ["raw-events"]), 1)
        assert seqs_by_user(found) == {"ann": [3]}

    async def test_leading_inputs_are_read_to_their_end_first(self, stage: Stage):
        forget = ForgetRange(id="f1", time_ms=1, user_id="ann")
        monitor, bus = await stage.monitor(), stage.bus()
        runner = await bus.open_port(Room.AGENT_RUNNER, (), "", "")
        learner = await stage.learner()
        await publish_events(monitor, range(3))
        await runner.commit(publishing(Room.AGENT_RUNNER, *map(run_outcome, range(600))))
        await monitor.commit(publishing(Room.USER_MONITOR, forget))
        found = await read_on(learner, 604)
        topics = [m.topic for m in found]
        assert topics.index("raw-events") == 601
        assert set(topics[:601]) == {"forgets", "runs"}

    async def test_a_mark_that_stands_before_an_event_is_read_before_it(self, stage: Stage):
        monitor, bus = await stage.monitor(), stage.bus()
        runner = await bus.open_port(Room.AGENT_RUNNER, (), "", "")
        learner = await stage.learner()
        seen: list[str] = []

        async def write() -> None:
            for index in range(40):
                await runner.commit(publishing(Room.AGENT_RUNNER, run_outcome(index)))
                await publish_events(monitor, range(index, index + 1))

        writing = asyncio.create_task(write())
        async with asyncio.timeout(WAIT_S):
            while len(seen) < 80:
                seen += [m.topic for m in await learner.poll(500, 0.5)]
        await writing
        for place in range(80):
            before = seen[: place + 1]
            assert before.count("raw-events") <= before.count("runs")

    async def test_a_waiting_reader_sees_an_append_at_once(self, stage: Stage):
        port = await stage.monitor()
        tail = await stage.bus().subscribe("tail", ["raw-events"])
        await publish_events(port, range(1))
        await read_on(tail, 1)
        waiting = asyncio.create_task(tail.poll(10, 30.0))
        await asyncio.sleep(0.3)
        await publish_events(port, range(1, 2))
        async with asyncio.timeout(300):
            assert len(await waiting) == 1

    async def test_an_empty_poll_ends_with_its_timeout(self, stage: Stage):
        await stage.monitor()
        tail = await stage.bus().subscribe("tail", ["raw-events"])
        async with asyncio.timeout(WAIT_S):
            assert list(await tail.poll(10, 0.1)) == []

    async def test_bounds_and_pages_need_no_group(self, stage: Stage):
        port = await stage.monitor()
        await publish_events(port, range(5))
        bounds = {p: b for p, b in (await port.bounds("raw-events")).items() if b != (0, 0)}
        assert list(bounds.values()) == [(0, 5)]
        [partition] = bounds
        page = await port.read("raw-events", partition, 2, 2)
        assert seqs_by_user(list(page)) == {"ann": [2, 3]}
        assert list(await port.read("raw-events", partition, 5, 10)) == []

    async def test_a_topic_nobody_wrote_yet_is_empty(self, stage: Stage):
        learner = await stage.learner()
        assert not any(end for _, end in (await learner.bounds("raw-events")).values())


class TestTogether:
    async def test_effect_and_position_are_committed_together(self, stage: Stage):
        await publish_events(await stage.monitor(), range(2))
        bus = stage.bus()
        learner = await stage.learner(bus)
        found = await read_on(learner, 2)
        effects = Effects(Room.TASK_LEARNER)
        effects.write("INSERT INTO seen VALUES (?)", (7,))
        await learner.commit(effects, ends(found))
        await bus.close()
        again = await stage.learner()
        assert again.store.query("SELECT seq FROM seen") == [(7,)]
        assert list(await again.poll(10, 1.0)) == []

    async def test_effects_that_cannot_be_committed_leave_nothing(self, stage: Stage):
        await publish_events(await stage.monitor(), range(2))
        learner = await stage.learner()
        found = await read_on(learner, 2)
        effects = Effects(Room.TASK_LEARNER)
        effects.write("INSERT INTO seen VALUES (1)")
        effects.write("INSERT INTO no_such_table VALUES (1)")
        with pytest.raises(Exception, match="no_such_table"):
            await learner.commit(effects, ends(found))
        assert learner.store.query("SELECT seq FROM seen") == []
        await learner.rewind()
        assert len(await read_on(learner, 2)) == 2

    async def test_a_second_process_of_a_room_is_refused(self, stage: Stage):
        await stage.monitor()
        with pytest.raises(TopicLocked, match=rf"process {os.getpid()} \(http://here:1\)"):
            await stage.monitor()

    async def test_a_closed_room_can_be_taken(self, stage: Stage):
        await (await stage.monitor()).close()
        again = await stage.monitor()
        await publish_events(again, range(1))
        assert sum(end for _, end in (await again.bounds("raw-events")).values()) == 1


class TestRetention:
    async def test_an_overtaken_reader_is_told_and_goes_on(self, log_stage: Stage):
        stage = log_stage
        monitor = await stage.monitor()
        await publish_events(monitor, range(10))
        learner = await stage.learner()
        await learner.commit(Effects(Room.TASK_LEARNER), ends((await read_on(learner, 10))[:4]))
        await learner.rewind()
        stage.clock.advance(15 * DAY_MS)
        await publish_events(monitor, range(10, 13))
        await monitor.maintain(stage.clock.time_ms())
        with pytest.raises(OffsetOutOfRange, match="records 4 to 9 were removed"):
            await learner.poll(10, 1.0)
        assert seqs_by_user(await read_on(learner, 3)) == {"ann": [10, 11, 12]}

    async def test_a_reader_of_a_topic_emptied_by_retention_is_told(self, log_stage: Stage):
        stage = log_stage
        monitor = await stage.monitor()
        await publish_events(monitor, range(3))
        learner = await stage.learner()
        await learner.commit(Effects(Room.TASK_LEARNER), ends((await read_on(learner, 3))[:1]))
        await learner.rewind()
        stage.clock.advance(15 * DAY_MS)
        await monitor.maintain(stage.clock.time_ms())
        with pytest.raises(OffsetOutOfRange, match="records 1 to 2 were removed"):
            await learner.poll(10, 1.0)
        assert await learner.poll(10, 0.0) == []

    async def test_young_records_stay(self, log_stage: Stage):
        monitor = await log_stage.monitor()
        await publish_events(monitor, range(3))
        log_stage.clock.advance(13 * DAY_MS)
        await monitor.maintain(log_stage.clock.time_ms())
        assert (await monitor.bounds("raw-events"))[0] == (0, 3)

    async def test_a_replayed_log_of_long_ago_is_not_old_at_once(self, log_stage: Stage):
        monitor = await log_stage.monitor()
        await publish_events(monitor, range(3))  # events of 2023 by their own time
        log_stage.clock.advance(1)
        await monitor.maintain(log_stage.clock.time_ms())
        assert (await monitor.bounds("raw-events"))[0] == (0, 3)

    async def test_the_oldest_go_where_there_is_too_much(
        self, log_stage: Stage, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("shared.bus.log._RETAIN_CHUNK", 50)
        from dataclasses import replace

        from shared.topics import TOPICS

        small = replace(TOPICS[Topic.RAW_EVENTS], retention_bytes=200_000)
        monkeypatch.setitem(TOPICS, Topic.RAW_EVENTS, small)
        monitor = await log_stage.monitor()
        for start in range(0, 1000, 100):
            await publish_events(monitor, range(start, start + 100))
        await monitor.maintain(log_stage.clock.time_ms())
        oldest, end = (await monitor.bounds("raw-events"))[0]
        assert end == 1000
        assert 0 < oldest < 900

    @pytest.mark.kafka
    @pytest.mark.slow
    async def test_a_reader_overtaken_on_the_broker_is_told_and_goes_on(self, kafka_stage: Stage):
        from aiokafka import TopicPartition
        from aiokafka.admin import AIOKafkaAdminClient

        monitor, learner = await kafka_stage.monitor(), await kafka_stage.learner()
        await publish_events(monitor, range(10))
        await learner.commit(Effects(Room.TASK_LEARNER), ends((await read_on(learner, 10))[:4]))
        assert kafka_stage.broker is not None
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_stage.broker.address)
        await admin.start()
        try:
            from aiokafka.admin.records_to_delete import RecordsToDelete

            await admin.delete_records({TopicPartition("raw-events", 0): RecordsToDelete(8)})
        finally:
            await admin.close()
        await learner.rewind()
        with pytest.raises(OffsetOutOfRange, match="records raw-events/0: 4-7 were removed"):
            await read_on(learner, 1)
        assert seqs_by_user(await read_on(learner, 2)) == {"ann": [8, 9]}

    @pytest.mark.kafka
    @pytest.mark.slow
    async def test_a_rebalance_between_finding_the_place_and_reading_skips_nothing(
        self, kafka_stage: Stage
    ):
        monitor, learner = await kafka_stage.monitor(), await kafka_stage.learner()
        await publish_events(monitor, range(20))
        await learner.commit(Effects(Room.TASK_LEARNER), ends((await read_on(learner, 20))[:10]))
        await learner.close()
        for path in (kafka_stage.folder / "kafka").glob("task-learner.sqlite3*"):
            path.unlink()  # the store is behind the group now
        learner = await kafka_stage.learner()
        consumer = learner._subscription._consumer  # type: ignore[attr-defined]
        read = consumer.getmany

        async def disturbed(*places: object, **options: object) -> object:
            consumer.getmany = read
            await rebalance(kafka_stage, consumer)
            return await read(*places, **options)

        consumer.getmany = disturbed
        found = await read_on(learner, 20)
        assert consumer.getmany is read
        assert seqs_by_user(found) == {"ann": list(range(20))}


async def rebalance(stage: Stage, consumer: Any) -> None:
    """Have another member join the consumer's group and leave it again."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

    assert stage.broker is not None
    before = consumer._subscription.subscription.assignment
    other = AIOKafkaConsumer(
        *consumer.subscription(),
        bootstrap_servers=stage.broker.address,
        group_id="task-learner",
        partition_assignment_strategy=(RoundRobinPartitionAssignor,),
    )
    await other.start()
    await other.stop()
    async with asyncio.timeout(WAIT_S):
        while len(consumer.assignment()) < 3 or not (
            consumer._subscription.subscription.assignment.active
            and consumer._subscription.subscription.assignment is not before
        ):
            await asyncio.sleep(0.05)


class TestCompaction:
    async def test_the_newest_record_of_a_key_stays_and_a_tombstone_removes_it(
        self, log_stage: Stage
    ):
        monitor = await log_stage.monitor()
        ranges = [ForgetRange(id=i, time_ms=t, user_id="ann") for i, t in (("a", 1), ("b", 2))]
        await monitor.commit(publishing(Room.USER_MONITOR, *ranges))
        newer = ForgetRange(id="a", time_ms=3, user_id="ann")
        await monitor.commit(publishing(Room.USER_MONITOR, newer))
        found = await read_on(await log_stage.bus().subscribe("tail", ["forgets"]), 2)
        assert [decode(m.value, m.headers).time_ms for m in found] == [2, 3]
        effects = Effects(Room.USER_MONITOR)
        effects.tombstone(Topic.FORGETS, "a")
        await monitor.commit(effects)
        found = await read_on(await log_stage.bus().subscribe("tail2", ["forgets"]), 2)
        assert [(m.key, bool(m.value)) for m in found] == [(b"b", True), (b"a", False)]

    async def test_gaps_of_compaction_are_no_loss(self, stage: Stage):
        monitor = await stage.monitor()
        learner = await stage.learner()
        for time_ms in range(5):
            record = ForgetRange(id="a", time_ms=time_ms, user_id="ann")
            await monitor.commit(publishing(Room.USER_MONITOR, record))
            if time_ms == 0:
                found = await read_on(learner, 1)
                await learner.commit(Effects(Room.TASK_LEARNER), ends(found))
        times: list[int] = []
        while not times or times[-1] < 4:
            [found] = await learner.poll(1, 1.0) or [None]
            if found is not None:
                times.append(decode(found.value, found.headers).time_ms)
        assert times == sorted(set(times))
        assert 0 not in times  # that was committed

    async def test_a_tombstone_reaches_a_reader(self, stage: Stage):
        monitor = await stage.monitor()
        effects = publishing(Room.USER_MONITOR, ForgetRange(id="a", time_ms=1, user_id="ann"))
        effects.tombstone(Topic.FORGETS, "a")
        await monitor.commit(effects)
        tail = await stage.bus().subscribe("tail", ["forgets"])
        found = await read_on(tail, 1)
        while found[-1].value:
            found += await read_on(tail, 1)
        assert (found[-1].key, found[-1].value) == (b"a", b"")

    async def test_only_compact_topics_have_tombstones(self):
        with pytest.raises(ContractError, match="not compact"):
            Effects(Room.USER_MONITOR).tombstone(Topic.RAW_EVENTS, "ann")


class TestBreaking:
    async def test_a_kill_in_mid_append_loses_nothing_acknowledged(self, log_stage: Stage):
        acknowledged = -1
        for _ in range(5):
            with appender(log_stage) as child:
                assert child.stdout is not None
                for _ in range(30):  # it is killed somewhere in its next appends
                    acknowledged = int(child.stdout.readline())
                child.kill()
                for line in child.stdout:
                    if line.endswith("\n"):
                        acknowledged = int(line)
        tail = await log_stage.bus().subscribe("tail", ["raw-events"])
        [seqs] = seqs_by_user(await read_on(tail, acknowledged + 1)).values()
        assert seqs == sorted(set(seqs))
        assert set(seqs) >= set(range(acknowledged + 1))

    async def test_another_process_sees_appends_and_is_seen(self, stage: Stage):
        tail = await stage.bus().subscribe("tail", ["raw-events"])
        with appender(stage):
            found = await read_on(tail, 50)
        assert seqs_by_user(found)["ann"] == list(range(len(found)))

    async def test_the_lock_of_a_killed_owner_is_free(self, stage: Stage):
        with appender(stage) as child:
            assert child.stdout is not None
            await asyncio.to_thread(child.stdout.readline)
            with pytest.raises(TopicLocked, match=str(child.pid)):
                await stage.monitor()
        await stage.monitor()

    async def test_a_full_disk_is_said_and_loses_nothing(self, log_stage: Stage):
        child = subprocess.run(
            [sys.executable, "-m", "tests.contract.full_disk", log_stage.url, log_stage.folder],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        acknowledged, message = child.stdout.strip().split("\n")
        assert "raw-events.sqlite3 refuses to write" in message
        assert "free disk space" in message
        tail = await log_stage.bus().subscribe("tail", ["raw-events"])
        found = await read_on(tail, int(acknowledged))
        assert seqs_by_user(found) == {"ann": list(range(int(acknowledged)))}

    @pytest.mark.kafka
    @pytest.mark.slow
    async def test_a_broker_that_is_away_loses_nothing(self, kafka_stage: Stage):
        broker = kafka_stage.broker
        assert broker is not None
        monitor, learner = await kafka_stage.monitor(), await kafka_stage.learner()
        await publish_events(monitor, range(5))
        await learner.commit(Effects(Room.TASK_LEARNER), ends(await read_on(learner, 5)))
        await asyncio.to_thread(broker.stop, by=signal.SIGKILL)
        with pytest.raises(BusUnavailable):
            await publish_events(monitor, range(5, 10))
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(300):
            while True:
                with contextlib.suppress(BusUnavailable):
                    await publish_events(monitor, range(5, 10))
                    break
        found: list[Message] = []
        async with asyncio.timeout(300):
            while not found or seqs_by_user(found)["ann"][-1] < 9:
                with contextlib.suppress(BusUnavailable):
                    found += await learner.poll(100, 1.0)
        assert sorted(set(seqs_by_user(found)["ann"])) == [5, 6, 7, 8, 9]

    async def test_a_folder_that_cannot_be_made_is_said(self, tmp_path: Path):
        (tmp_path / "file").touch()
        with pytest.raises(BusUnavailable, match="cannot be made"):
            open_bus(f"log:{tmp_path}/file/log", tmp_path, FakeClock())


@pytest.mark.parametrize(
    "url",
    ["log:relative", "log:/x?partitions=0", "log:/x?size=1", "kafka://", "redis://x", "", "/x",
     "kafka://h:1?user=me", "kafka://h:1?partitions=no"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="WAT_BUS_URL"):
        open_bus(url, tmp_path, FakeClock())


@contextlib.contextmanager
def appender(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """Run a process that owns user-monitor and appends for ever, printing what is durable."""
    command = [sys.executable, "-m", "tests.contract.appender", stage.url, stage.folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()
