"""The frame every room runs in: poll, decode, handle, commit; retry, dead-letter, jobs, drain.

The effect and the position are committed together, never the position first. After any failure the
room's memory is rebuilt from its store and reading goes back to the last commit, so a handler need
not undo anything. Attempts at one record are counted in the store: the fifth failure, or a record
that does not decode, goes to the dead letters and the loop goes on.

Does not cover: what the records mean (rooms), and where they stand (the bus).
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import ClassVar, Protocol

from fastapi import APIRouter
from prometheus_client import Counter, Histogram

from shared import tracing
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Bus, Effects, Message, Port
from shared.clock import Clock
from shared.errors import BusUnavailable, ContractError, NotFound, OffsetOutOfRange, WatError
from shared.forget import FORGET_TABLES, Forgetting
from shared.jobs import Job, JobWorker
from shared.progress import ProgressMeter
from shared.schemas import ForgetRange, Record, decode
from shared.settings import CommonSettings
from shared.topics import Room, Topic

__all__ = ["Job", "RoomLogic", "Service"]

MAX_ATTEMPTS = 5
_BATCH = 500
_POLL_S = 1.0
_BACKOFF_S, _BACKOFF_MAX_S = 0.05, 5.0
_MAINTAIN_EVERY_S = 60.0
_MEASURE_EVERY_S = 10.0
_LETTERS_MS = 14 * 24 * 3600 * 1000
_DRAIN_S = 10.0
"""How long a room may take to finish what is under way; a broker that is away must not hold it."""

_HANDLED = Counter("wat_records_total", "records by outcome", ["room", "topic", "outcome"])
_HANDLE_S = Histogram(
    "wat_handler_seconds", "time to handle one record, without its commit", ["room", "topic"],
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)  # fmt: skip
_BATCH_S = Histogram(
    "wat_batch_seconds", "time from poll to commit of one batch", ["room"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)  # fmt: skip
_LOST = Counter("wat_overtaken_total", "times retention overtook the reader", ["room"])

_log = logging.getLogger(__name__)


class RoomLogic(Protocol):
    """What a room adds to the frame."""

    room: ClassVar[Room]
    inputs: ClassVar[tuple[Topic, ...]]
    tables: ClassVar[str]

    async def start(self, port: Port) -> None:
        """Load memory from `port.store`: at start, and after a failed handler or commit."""
        ...

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Handle one record within 10 s, in memory and `effects` alone; raise to fail."""
        ...

    async def work(self, job: Job, port: Port) -> Effects:
        """Do long work; its effects are committed together with the job's end."""
        ...

    async def background(self, stop: asyncio.Event) -> None:
        """Do what is not caused by a record (capture, say) until `stop`."""
        ...

    async def close(self) -> None:
        """Let go of what `start` took."""
        ...


class Service:
    """One room on one bus."""

    def __init__(
        self,
        logic: RoomLogic,
        router: APIRouter,
        common: CommonSettings,
        clock: Clock,
        *,
        works: bool = True,
    ) -> None:
        """Serve `logic`; without `works` jobs wait as they are, for a room that is only asked."""
        self.logic = logic
        self._works = works
        self.router = router
        self.ready = False
        self.progress = ProgressMeter(logic.room, logic.inputs, clock)
        self._common = common
        self._clock = clock
        self._handling = asyncio.Lock()
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._num_singly = 0  # so many messages are handled one by one, to find one that fails
        self.port: Port
        self.jobs: JobWorker
        self.forgetting: Forgetting

    @property
    def room(self) -> Room:
        """Return the room's name."""
        return self.logic.room

    async def open(self, bus: Bus, address: str) -> None:
        """Take the room's topics and load its memory. Raises TopicLocked, BusUnavailable."""
        tables = ARTIFACT_TABLE + FORGET_TABLES + self.logic.tables
        self.port = await bus.open_port(self.room, self.logic.inputs, tables, address)
        self.jobs = JobWorker(self.port, self._clock, self.logic.work)
        files = Artifacts(self._common.data_dir / "artifacts", self.room)
        self.forgetting = Forgetting(self.room, self.port, self.logic, files, self._clock)
        self._load_attempts()
        await self.logic.start(self.port)
        self.ready = True

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then drain; raises what ended this room early, and ends no other."""
        ending = asyncio.Event()
        tasks = [
            asyncio.create_task(self._consume(ending)),
            asyncio.create_task(self.jobs.run(ending) if self._works else ending.wait()),
            asyncio.create_task(self.logic.background(ending)),
            asyncio.create_task(self._maintain(ending)),
            asyncio.create_task(self.forgetting.run(ending)),
        ]
        asked = asyncio.create_task(stop.wait())
        asked.add_done_callback(lambda _: ending.set())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            ending.set()
            await asyncio.wait(tasks, timeout=_DRAIN_S)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self.ready = False
            for task in (*tasks, asked):
                task.cancel()
            await asyncio.gather(*tasks, asked, return_exceptions=True)
            await self.logic.close()
            await self.port.close()

    async def replay(self, letter_id: str) -> None:
        """Handle a dead letter once more. Raises NotFound, and what handling it raises."""
        sql = (
            "SELECT topic, partition, offset, key, headers, value, time_ms FROM dead_letters "
            "WHERE id = ?"
        )
        rows = self.port.store.query(sql, (letter_id,))
        if not rows:
            raise NotFound(f"{self.room} has no dead letter {letter_id}")
        topic, partition, offset, key, headers, value, time_ms = rows[0]
        named = tuple((name, text.encode("latin-1")) for name, text in json.loads(headers))
        message = Message(topic, partition, offset, key, value, named, time_ms)
        async with self._handling:
            effects = Effects(self.room)
            effects.write(
                "UPDATE dead_letters SET replayed_ms = ? WHERE id = ?",
                (self._clock.time_ms(), letter_id),
            )
            try:
                with self._span(message.topic, tracing.context_of(message.headers), 1):
                    self._handle(decode(message.value, message.headers), message, effects)
                await self.port.commit(effects)
            except Exception:
                await self.logic.start(self.port)
                raise
            self._wake_jobs(effects)

    async def _consume(self, stop: asyncio.Event) -> None:
        """Poll and handle until `stop`; a bus that is away is waited for."""
        if not self.logic.inputs:
            await stop.wait()
            return
        failures = 0
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    messages = await self._poll(stopping)
                    if messages:
                        async with self._handling:
                            await self._handle_batch(messages, stop)
                    failures = 0
                except OffsetOutOfRange as error:
                    _LOST.labels(self.room).inc()
                    _log.warning(str(error), extra={"room": self.room})
                except WatError as error:
                    if not error.retryable:
                        raise
                    failures += 1
                    _log.warning(str(error), extra={"room": self.room, "outcome": "waiting"})
                    await _pause(min(_BACKOFF_S * 2**failures, _BACKOFF_MAX_S), stop)
                    await self._go_back(stop)
        finally:
            stopping.cancel()

    async def _poll(self, stopping: asyncio.Task[bool]) -> Sequence[Message]:
        """Return the next messages; none as soon as the room is asked to stop."""
        limit = 1 if self._num_singly else _BATCH
        poll = asyncio.ensure_future(self.port.poll(limit, _POLL_S))
        try:
            await asyncio.wait({poll, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not poll.done():
                poll.cancel()
                await asyncio.wait({poll})
        return () if poll.cancelled() else poll.result()

    async def _handle_batch(self, messages: Sequence[Message], stop: asyncio.Event) -> None:
        """Handle a batch and commit it, up to the first record that fails."""
        started = time.perf_counter()
        effects, positions = Effects(self.room), {}
        failed: tuple[Message, Exception] | None = None
        num_handled = 0
        for context, group in groupby(messages, lambda m: tracing.context_of(m.headers)):
            together = list(group)
            with self._span(messages[0].topic, context, len(together)):
                num_good, failed = self._handle_group(together, effects)
            for message in together[:num_good]:
                positions[message.topic, message.partition] = message.offset + 1
            num_handled += num_good
            if failed is not None:
                break
        if positions:
            try:
                await self.port.commit(effects, positions)
            except Exception as error:
                if isinstance(error, WatError) and error.retryable:
                    raise
                await self._refused(messages[:num_handled], error, stop)
                return
            self._wake_jobs(effects)
        self._num_singly = max(0, self._num_singly - num_handled)
        if positions:
            self.progress.moved()
        _BATCH_S.labels(self.room).observe(time.perf_counter() - started)
        self._log_batch(messages, num_handled)
        if failed is not None:
            await self._failed(*failed, stop)

    def _handle_group(
        self, messages: Sequence[Message], effects: Effects
    ) -> tuple[int, tuple[Message, Exception] | None]:
        """Handle messages of one trace up to the first that fails; return how many did not."""
        seconds = _HANDLE_S.labels(self.room, messages[0].topic)
        for num_good, message in enumerate(messages):
            before, started = effects.mark(), time.perf_counter()
            try:
                self._handle_one(message, effects)
            except Exception as error:
                effects.back_to(before)
                return num_good, (message, error)
            seconds.observe(time.perf_counter() - started)
        return len(messages), None

    def _span(self, topic: str, context: str | None, num: int) -> AbstractContextManager[None]:
        return tracing.span(
            self.room, f"process {topic}", context, "consumer",
            messaging__operation__type="process", messaging__destination__name=topic,
            messaging__consumer__group__name=str(self.room),
            messaging__batch__message_count=num,
        )  # fmt: skip

    async def _refused(
        self, messages: Sequence[Message], error: Exception, stop: asyncio.Event
    ) -> None:
        """Find the record whose effects cannot be committed: alone, it is the one that fails."""
        if len(messages) == 1:
            await self._failed(messages[0], error, stop)
        else:
            self._num_singly = len(messages)
            await self._go_back(stop)

    def _handle_one(self, message: Message, effects: Effects) -> None:
        place = (message.topic, message.partition, message.offset)
        if place in self._attempts:
            effects.write(
                "DELETE FROM attempts WHERE topic = ? AND partition = ? AND offset = ?", place
            )
        if not message.value:
            return  # a tombstone: the record before it said `deleted`
        try:
            record = decode(message.value, message.headers)
        except ContractError as error:
            effects.dead_letter(message, str(error), self._clock.time_ms())
            _HANDLED.labels(self.room, message.topic, "undecodable").inc()
            return
        self._handle(record, message, effects)

    def _handle(self, record: Record, message: Message, effects: Effects) -> None:
        if isinstance(record, ForgetRange):
            self.forgetting.take_in(record, message, effects)
        self.logic.handle(record, message, effects)

    async def _failed(self, message: Message, error: Exception, stop: asyncio.Event) -> None:
        """Count the attempt; the fifth puts the record aside. Then go back to the last commit."""
        place = (message.topic, message.partition, message.offset)
        retryable = isinstance(error, WatError) and error.retryable
        count = self._attempts.get(place, 0) + (0 if retryable else 1)
        effects, positions = Effects(self.room), None
        if count >= MAX_ATTEMPTS:
            reason = str(error) if isinstance(error, WatError) else type(error).__name__
            effects.dead_letter(message, reason, self._clock.time_ms())
            effects.write(
                "DELETE FROM attempts WHERE topic = ? AND partition = ? AND offset = ?", place
            )
            positions = {(message.topic, message.partition): message.offset + 1}
            self._attempts.pop(place, None)
        else:
            effects.write("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?)", (*place, count))
            self._attempts[place] = count
        _HANDLED.labels(self.room, message.topic, "dead" if positions else "retried").inc()
        where = {"room": self.room, "topic": message.topic, "offset": message.offset}
        _log.warning("handler failed", exc_info=error, extra=where)
        await self.port.commit(effects, positions)
        await self._go_back(stop)
        if positions is None:
            await _pause(min(_BACKOFF_S * 2**count, _BACKOFF_MAX_S), stop)

    async def _go_back(self, stop: asyncio.Event) -> None:
        """Return to the last commit, in reading and in memory; wait for a bus that is away."""
        delay_s = _BACKOFF_S
        while not stop.is_set():
            try:
                await self.port.rewind()
                await self.logic.start(self.port)
            except WatError as error:
                if not error.retryable:
                    raise
                delay_s = min(delay_s * 2, _BACKOFF_MAX_S)
                await _pause(delay_s, stop)
            else:
                return

    def _wake_jobs(self, effects: Effects) -> None:
        if effects.asks_work:
            self.jobs.wake()

    def _load_attempts(self) -> None:
        rows = self.port.store.query("SELECT topic, partition, offset, count FROM attempts")
        self._attempts = {(t, p, o): count for t, p, o, count in rows}

    def _log_batch(self, messages: Sequence[Message], num_handled: int) -> None:
        topic = messages[0].topic
        _HANDLED.labels(self.room, topic, "handled").inc(num_handled)
        for message in messages[:num_handled]:
            self._attempts.pop((message.topic, message.partition, message.offset), None)
        where = {"room": self.room, "topic": topic, "offset": messages[0].offset}
        _log.debug("handled", extra={**where, "count": num_handled})

    async def _maintain(self, stop: asyncio.Event) -> None:
        """Measure how far it is, apply retention and collect orphans, until `stop`."""
        artifacts = Artifacts(self._common.data_dir / "artifacts", self.room)
        next_round_s = 0.0
        while not stop.is_set():
            with contextlib.suppress(BusUnavailable):  # the loop that reads says so already
                await self.progress.measure(self.port)
            if time.monotonic() >= next_round_s:
                next_round_s = time.monotonic() + _MAINTAIN_EVERY_S
                try:
                    await self.port.maintain(self._clock.time_ms())
                    await self._drop_old_letters()
                    artifacts.collect(self.port.store, self._clock.time_ms() / 1000)
                except (BusUnavailable, OSError) as error:
                    _log.warning("maintenance waits: %s", type(error).__name__)
            await _pause(_MEASURE_EVERY_S, stop)

    async def _drop_old_letters(self) -> None:
        """Keep dead letters no longer than the events that they may hold."""
        before_ms = self._clock.time_ms() - _LETTERS_MS
        if self.port.store.query("SELECT 1 FROM dead_letters WHERE time_ms < ?", (before_ms,)):
            effects = Effects(self.room)
            effects.write("DELETE FROM dead_letters WHERE time_ms < ?", (before_ms,))
            await self.port.commit(effects)


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait, but not past `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
