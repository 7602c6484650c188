"""A room's end on a broker: outputs acknowledged, then the store, then the group's offset.

Does not cover: reading (`subscription`).
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from shared import failpoints
from shared.bus.base import Effects, Erased, Message, Outgoing, Place
from shared.bus.kafka.client import REQUEST_MS, asked, cut_off, stopped
from shared.bus.kafka.subscription import KafkaSubscription
from shared.bus.kafka.topics import DEAD_KEPT_MS, SEGMENT_MS
from shared.errors import BusUnavailable, WatError
from shared.store import Store, execute_all
from shared.topics import TOPICS, Room, dead_letters

if TYPE_CHECKING:
    from shared.bus.kafka.bus import KafkaBus

__all__ = ["KafkaPort"]

_FILE_DELAY_MS = 10 * 60 * 1000
"""The broker looks every 5 min for files to delete, and deletes them a minute later."""

_ERASE_CHUNK = 500


class KafkaPort:
    """A room's end on a broker."""

    lingers_ms = 2 * SEGMENT_MS

    def __init__(
        self,
        bus: "KafkaBus",
        room: Room,
        subscription: KafkaSubscription | None,
        store: Store,
        lock: int,
    ) -> None:
        self.room = room
        self.store = store
        self._bus = bus
        self._subscription = subscription
        self._locks = [lock]
        self._producing = asyncio.Lock()
        self._waiting: list[tuple[Sequence[Outgoing], asyncio.Future[None]]] = []
        self._producer: AIOKafkaProducer | None = None

    @property
    def num_revived(self) -> int:
        """See Port.num_revived."""
        return self._subscription.num_revived if self._subscription is not None else 0

    async def poll(self, max_records: int, timeout_s: float) -> list[Message]:
        """See Subscription.poll."""
        assert self._subscription is not None
        return await self._subscription.poll(max_records, timeout_s)

    async def rewind(self) -> None:
        """See Subscription.rewind."""
        if self._subscription is not None:
            await self._subscription.rewind()

    async def commit(self, effects: Effects, positions: Mapping[Place, int] | None = None) -> None:
        """See Port.commit: outputs acknowledged, then the store, then the group's offset."""
        outgoing = effects.outgoing + [_dead(self.room, letter) for letter in effects.dead]
        again = False
        if positions and self._subscription is not None:
            again = self._subscription.reapplies(positions)
        if again:
            outgoing = []
        failpoints.reach("handled")
        if outgoing:
            await self._send(outgoing)
            failpoints.reach("sent")
        if effects.writes or positions:

            def change(writer: Any) -> None:
                execute_all(writer, effects.writes)
                writer.executemany(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)",
                    [(*place, following) for place, following in (positions or {}).items()],
                )

            await self.store.write(change)
            failpoints.reach("written")
        if positions and not again:
            assert self._subscription is not None
            await self._subscription.commit(positions)

    async def reach(self) -> None:
        """See Port.reach."""
        async with self._producing:
            await self._ready_producer()

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """See Bus.bounds."""
        return await self._bus.bounds(topic)

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """See Bus.read."""
        return await self._bus.read(topic, partition, offset, limit)

    async def erase(self, topic: str, covers: Callable[[Message], bool]) -> Erased:
        """See Port.erase: what a partition begins with goes at once, the rest by retention.

        Gone is what can be read no more; the broker's file follows once it is no longer written.
        """
        num_records, gone_by_ms = 0, None
        kept_ms = next((s.retention_ms for t, s in TOPICS.items() if t == topic), DEAD_KEPT_MS)
        for partition, (oldest, end) in (await self.bounds(topic)).items():
            start = at = oldest
            while at < end and (found := await self.read(topic, partition, at, _ERASE_CHUNK)):
                for message in found:
                    if not covers(message):
                        continue
                    num_records += 1
                    stays_ms = SEGMENT_MS + _FILE_DELAY_MS
                    if start == message.offset:
                        start += 1
                    else:
                        stays_ms += kept_ms or 0
                    gone_by_ms = max(gone_by_ms or 0, message.time_ms + stays_ms)
                at = found[-1].offset + 1
            if start > oldest:
                await self._bus.delete_records(topic, partition, start)
        return Erased(num_records, gone_by_ms)

    async def scrub(self) -> bool:
        """See Port.scrub; the broker's own files are not ours to overwrite."""
        return await self.store.checkpoint()

    async def maintain(self, now_ms: int) -> None:
        """Do nothing: the broker applies retention and compaction."""

    async def close(self) -> None:
        """See Port.close."""
        if self._subscription is not None:
            await self._subscription.close()
        if self._producer is not None:
            await stopped(self._producer)
            self._producer = None
        self.store.close()
        while self._locks:
            os.close(self._locks.pop())

    async def _send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send and wait for the acknowledgement.

        One sending at a time, which keeps order per key; what came meanwhile goes together with
        the next, so that many small commits do not wait for a round trip each.
        """
        acknowledged = asyncio.get_running_loop().create_future()
        self._waiting.append((outgoing, acknowledged))
        async with self._producing:
            if not acknowledged.done():  # nobody has taken it along
                taken, self._waiting = self._waiting, []
                failure: BaseException | None = None
                try:
                    await self._send_now([out for rows, _ in taken for out in rows])
                except BaseException as error:
                    failure = error
                    raise
                finally:
                    for _, other in taken:
                        _answer(other, failure, own=other is acknowledged)
        await acknowledged

    async def _send_now(self, outgoing: Sequence[Outgoing]) -> None:
        """Send; a producer that failed is not used again: what it holds must not arrive later."""
        producer = await self._ready_producer()
        try:
            await self._produce(producer, outgoing)
        except BaseException:
            self._producer = None
            await cut_off(producer)
            raise

    async def _ready_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            self._producer = await self._bus.producer()
        return self._producer

    async def _produce(self, producer: AIOKafkaProducer, outgoing: Sequence[Outgoing]) -> None:
        """Send in whole batches per partition, in order; return once all are acknowledged."""
        topics = {out.topic for out in outgoing}
        partitions = {t: sorted(await asked(producer.partitions_for(t))) for t in topics}
        by_place: dict[tuple[str, int], list[Outgoing]] = {}
        for out in outgoing:
            choice = partitions[out.topic]
            # As Kafka's own clients choose it.
            index = (murmur2(out.key) & 0x7FFFFFFF) % len(choice) if len(choice) > 1 else 0
            by_place.setdefault((out.topic, choice[index]), []).append(out)
        waiting = []
        for (topic, partition), rows in by_place.items():
            batch = producer.create_batch()
            for out in rows:
                value, headers = out.value or None, list(out.headers)
                if batch.append(timestamp=None, key=out.key, value=value, headers=headers) is None:
                    waiting.append(
                        await asked(producer.send_batch(batch, topic, partition=partition))
                    )
                    batch = producer.create_batch()
                    added = batch.append(timestamp=None, key=out.key, value=value, headers=headers)
                    assert added is not None, "a record is smaller than an empty batch"
            waiting.append(await asked(producer.send_batch(batch, topic, partition=partition)))
        try:
            async with asyncio.timeout(REQUEST_MS / 1000):
                for sent in waiting:
                    await asked(sent)
        except TimeoutError as error:  # an idempotent producer itself would wait for ever
            raise BusUnavailable("the broker does not acknowledge: is it running?") from error


def _answer(sent: asyncio.Future[None], failure: BaseException | None, *, own: bool) -> None:
    """Tell one of several whose records went together how that ended."""
    if sent.done():
        return
    if failure is None:
        sent.set_result(None)
    elif own:  # it raises by itself
        sent.cancel()
    elif isinstance(failure, WatError):
        sent.set_exception(type(failure)(str(failure)))
    else:
        sent.set_exception(BusUnavailable("sending was interrupted: try again"))


def _dead(room: Room, letter: Any) -> Outgoing:
    where = json.dumps(
        [letter.message.topic, letter.message.partition, letter.message.offset]
    ).encode()
    headers = (
        *letter.message.headers,
        ("wat_origin", where),
        ("wat_error", letter.error.encode()),
    )
    return Outgoing(dead_letters(room), letter.id.encode(), letter.message.value, headers)
