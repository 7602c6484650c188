"""The processes of the bus benchmark: `python -m tests.bench.rooms ROLE '{"url": …}'`.

Each prints one JSON object when it is done. A relay reads UiEvents, keeps a high-water mark per
session in its read model and publishes one RunOutcome for each; a sink reads those. `plain-…` do
the same work on bare SQLite or aiokafka, without frame, schema or read model's frame tables.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import apsw
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fastapi import APIRouter

from services.serve import spare_collector
from shared.bus import Effects, Message, Port, open_bus
from shared.bus.base import Outgoing
from shared.clock import SystemClock
from shared.schemas import (
    Action,
    Box,
    Element,
    Level,
    Record,
    RunOutcome,
    RunState,
    Source,
    Target,
    Text,
    UiEvent,
    encode,
    event_id,
    headers_of,
)
from shared.service import Job, Service
from shared.settings import CommonSettings
from shared.topics import Room, Topic

BATCH = 100
SESSION = "5f2c9a34d1e84b7f"


def ui_event(seq: int, sent_ns: int) -> UiEvent:
    """Return an event as the browser source sends it; `boottime_ms` carries when it was sent."""
    return UiEvent(
        id=event_id("ann", Source.BROWSER, SESSION, seq),
        time_ms=1_700_000_000_000 + seq,
        user_id="ann",
        source=Source.BROWSER,
        session=SESSION,
        seq=seq,
        boottime_ms=sent_ns,
        action=Action.EDIT,
        application="orders.example",
        level=Level.VALUES,
        document="https://orders.example/new",
        target=Target(endpoint="browser-1", surface="9C1B7A5E33D2"),
        element=Element(
            role="textbox",
            element_id="customer-name",
            label="Customer",
            name=Text(clear="Customer"),
            box=Box(x_px=120, y_px=340.5, width_px=280, height_px=32),
        ),
        value=Text(cls="text", clear=f"Customer {seq}"),
    )


def outgoing(record: Record, topic: Topic, key: str, room: Room) -> Outgoing:
    """Return an encoded record."""
    return Outgoing(topic, key.encode(), encode(record), headers_of(record, room))


def outcome(event: UiEvent) -> RunOutcome:
    """Return what the relay makes of an event; it hands on when the event was sent."""
    assert event.boottime_ms is not None
    return RunOutcome(
        id=f"outcome-{event.id}",
        time_ms=event.time_ms,
        user_id=event.user_id,
        run_id=event.session,
        record_index=event.seq,
        routine_id=event.id,
        model_id=event.id,
        state=RunState.DONE,
        reason=f"{event.action} {event.application} {event.document}",
        started_ms=event.boottime_ms,
        ended_ms=event.time_ms,
        evidence=event.id * 2,
    )


_MARK = (
    "INSERT INTO marks VALUES (?, ?) "
    "ON CONFLICT(session) DO UPDATE SET seq = max(seq, excluded.seq)"
)


class Relay:
    """raw-events → runs."""

    room: ClassVar[Room] = Room.AGENT_RUNNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.RAW_EVENTS,)
    tables: ClassVar[str] = "CREATE TABLE IF NOT EXISTS marks(session TEXT PRIMARY KEY, seq INT);"

    def __init__(self) -> None:
        self.num_handled = 0

    async def start(self, port: Port) -> None:
        self.num_handled = (port.store.query("SELECT seq FROM marks") or [(-1,)])[0][0] + 1

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        assert isinstance(record, UiEvent)
        effects.write(_MARK, (record.session, record.seq))
        effects.publish(outcome(record))
        self.num_handled += 1

    async def work(self, job: Job, port: Port) -> Effects:
        return Effects(self.room)

    async def background(self, stop: asyncio.Event) -> None:
        await stop.wait()

    async def close(self) -> None:
        return


class Sink(Relay):
    """runs → read model; notes how long each event took since it was sent."""

    room: ClassVar[Room] = Room.TASK_LEARNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.RUNS,)

    def __init__(self) -> None:
        super().__init__()
        self.took_ms: list[float] = []

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        assert isinstance(record, RunOutcome)
        effects.write(_MARK, (record.run_id, record.record_index))
        self.num_handled += 1
        self.took_ms.append((time.monotonic_ns() - record.started_ms) / 1e6)


async def serve(logic: Relay, options: dict[str, Any]) -> dict[str, Any]:
    """Run a room in the frame until it has handled and committed `num` records."""
    folder = Path(options["dir"])
    common = CommonSettings(data_dir=folder, config_dir=folder, bus_url=options["url"])
    service = Service(logic, APIRouter(), common, SystemClock())
    bus = open_bus(common.bus, folder, SystemClock())
    await service.open(bus, "")
    spare_collector()
    print("ready", flush=True)
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    began_cpu_s, began_s = time.process_time(), time.monotonic()
    num = options["num"]
    while (service.port.store.query("SELECT seq FROM marks") or [(-1,)])[0][0] + 1 < num:
        await asyncio.sleep(0.005)
    ended_s, cpu_s = time.monotonic(), time.process_time() - began_cpu_s
    stop.set()
    await running
    await bus.close()
    return {
        "began_s": began_s,
        "ended_s": ended_s,
        "cpu_s": cpu_s,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "took_ms": sorted(getattr(logic, "took_ms", [])),
    }


async def append(options: dict[str, Any]) -> dict[str, Any]:
    """Own user-monitor and append `num` encoded events, at `rate` a second or flat out."""
    num, rate = options["num"], options.get("rate")
    bus = open_bus(options["url"], Path(options["dir"]), SystemClock())
    port = await bus.open_port(Room.USER_MONITOR, (), "", "")
    rows = []
    if rate is None:
        rows = [outgoing(ui_event(i, 0), Topic.RAW_EVENTS, "ann", port.room) for i in range(num)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    if rate is None:
        for start in range(0, num, BATCH):
            effects = Effects(port.room)
            effects.outgoing = rows[start : start + BATCH]
            await port.commit(effects)
    else:
        pending: set[asyncio.Task[None]] = set()
        for seq in range(num):  # an open loop: a slow commit does not hold back the next event
            await asyncio.sleep(max(0.0, began_s + seq / rate - time.monotonic()))
            event = ui_event(seq, time.monotonic_ns())
            effects = Effects(port.room)
            effects.outgoing = [outgoing(event, Topic.RAW_EVENTS, "ann", port.room)]
            task = asyncio.create_task(port.commit(effects))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
    ended_s, cpu_s = time.monotonic(), time.process_time() - began_cpu_s
    await bus.close()
    return {"began_s": began_s, "ended_s": ended_s, "cpu_s": cpu_s}


_PLAIN_TABLES = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS records(id INTEGER PRIMARY KEY, key, time_ms, headers, value);
CREATE TABLE IF NOT EXISTS marks(session TEXT PRIMARY KEY, seq INT);
"""


async def plain_append(options: dict[str, Any]) -> dict[str, Any]:
    """Append the same rows with bare SQLite."""
    writer = apsw.Connection(f"{options['dir']}/plain-1.sqlite3")
    writer.execute(_PLAIN_TABLES).fetchall()
    made = (
        outgoing(ui_event(i, 0), Topic.RAW_EVENTS, "ann", Room.USER_MONITOR)
        for i in range(options["num"])
    )
    rows = [
        (i, o.key, 0, json.dumps([n for n, _ in o.headers]), o.value) for i, o in enumerate(made)
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    for start in range(0, len(rows), BATCH):
        with writer:
            writer.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows[start : start + BATCH]
            )
    ended_s, cpu_s = time.monotonic(), time.process_time() - began_cpu_s
    writer.close()
    return {"began_s": began_s, "ended_s": ended_s, "cpu_s": cpu_s}


async def plain_relay(options: dict[str, Any]) -> dict[str, Any]:
    """Read `in`, parse, mark, append to `out`, with bare SQLite."""
    source = f"{options['dir']}/{options['in']}.sqlite3"
    while not Path(source).exists():
        await asyncio.sleep(0.01)
    reader = apsw.Connection(source)
    reader.set_busy_timeout(5000)
    writer = apsw.Connection(f"{options['dir']}/{options['out']}.sqlite3")
    writer.execute(_PLAIN_TABLES).fetchall()
    print("ready", flush=True)
    began_cpu_s, began_s, position = time.process_time(), time.monotonic(), 0
    while position < options["num"]:
        found = reader.execute(
            "SELECT id, key, headers, value FROM records WHERE id >= ? ORDER BY id LIMIT 500",
            (position,),
        ).fetchall()
        if not found:
            time.sleep(0.001)
            continue
        rows = [(i, k, 0, h, json.dumps(json.loads(v)).encode()) for i, k, h, v in found]
        with writer:
            writer.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
            writer.execute(_MARK, (SESSION, found[-1][0]))
        position = found[-1][0] + 1
    cpu_s = time.process_time() - began_cpu_s
    return {"began_s": began_s, "ended_s": time.monotonic(), "cpu_s": cpu_s, "took_ms": []}


async def plain_kafka(options: dict[str, Any]) -> dict[str, Any]:
    """Consume, parse, produce, commit, with bare aiokafka."""
    address = options["url"].removeprefix("kafka://")
    consumer = AIOKafkaConsumer(
        "raw-events", bootstrap_servers=address, group_id="plain", enable_auto_commit=False,
        auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 1024 * 1024,
    )  # fmt: skip
    producer = AIOKafkaProducer(
        bootstrap_servers=address, acks="all", enable_idempotence=True, compression_type="zstd",
        max_batch_size=512 * 1024,
    )  # fmt: skip
    await consumer.start()
    await producer.start()
    print("ready", flush=True)
    began_cpu_s, began_s, num_done = time.process_time(), time.monotonic(), 0
    place = TopicPartition("raw-events", 0)
    while num_done < options["num"]:
        found = (await consumer.getmany(place, timeout_ms=1000, max_records=500)).get(place, [])
        if not found:
            continue
        batch = producer.create_batch()
        for record in found:
            value = json.dumps(json.loads(record.value)).encode()
            headers = list(record.headers)
            assert batch.append(timestamp=None, key=record.key, value=value, headers=headers)
        await (await producer.send_batch(batch, "runs", partition=0))
        await consumer.commit({place: found[-1].offset + 1})
        num_done += len(found)
    cpu_s, ended_s = time.process_time() - began_cpu_s, time.monotonic()
    await consumer.stop()
    await producer.stop()
    return {"began_s": began_s, "ended_s": ended_s, "cpu_s": cpu_s}


ROLES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "append": append,
    "relay": lambda options: serve(Relay(), options),
    "sink": lambda options: serve(Sink(), options),
    "plain-append": plain_append,
    "plain-relay": plain_relay,
    "plain-kafka": plain_kafka,
}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(ROLES[sys.argv[1]](json.loads(sys.argv[2])))))
