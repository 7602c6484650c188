"""Reading from the broker as a member of a group.

A rebalance gives every partition a new state that begins at the group's offset, at any moment at
which this waits for the broker. So what was found out holds for one assignment only: after each
wait the assignment is compared, and in a new one everything is looked up again.

Does not cover: who may be a member (`bus`), and making effects durable (`port`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError

from shared.bus.base import Message, Place
from shared.bus.kafka.client import Asker, asked, message_of, stopped
from shared.errors import OffsetOutOfRange
from shared.store import Store
from shared.topics import TOPICS

__all__ = ["KafkaSubscription"]

_LEADING_WAIT_MS = 200
"""How long a wait for the last topic may hold back news of the leading ones."""

_NO_ASSIGNMENT_S = 0.05

_log = logging.getLogger(__name__)


class KafkaSubscription:
    """A group member."""

    def __init__(
        self,
        join: Callable[[], Awaitable[AIOKafkaConsumer]],
        topics: Sequence[str],
        asker: Asker,
        store: Store | None,
        silence_s: float,
    ) -> None:
        """Read for the room whose `store` this is, if it is a room that reads."""
        self.num_revived = 0
        self._join = join
        self._consumer: AIOKafkaConsumer
        *self._leading, self._last = topics
        self._asker = asker
        self._store = store
        self._silence_s = silence_s
        self._heard_s = time.monotonic()
        self._settled: Any = None  # the assignment for which the following holds
        self._held: list[Message] = []
        self._next: dict[TopicPartition, int | None] = {}  # None: a new group
        self._reapply: dict[TopicPartition, int] = {}  # up to where others know the outputs

    async def join(self) -> None:
        """Become a member. Raises BusUnavailable."""
        self._consumer = await self._join()

    def reapplies(self, positions: Mapping[Place, int]) -> bool:
        """Tell whether what leads to these positions was handled, and published, before."""
        return bool(self._reapply) and all(
            following <= self._reapply.get(TopicPartition(*place), 0)
            for place, following in positions.items()
        )

    async def poll(self, max_records: int, timeout_s: float) -> list[Message]:
        """See Subscription.poll.

        Messages of the last topic are held until the leading ones are read to the end that they
        had after those messages were fetched.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            await self._settle()
            if not self._held:
                left_ms = max(0, int((deadline - time.monotonic()) * 1000))
                wait_ms = min(left_ms, _LEADING_WAIT_MS) if self._leading else left_ms
                self._held = await self._fetch([self._last], wait_ms, max_records)
            found: list[Message] = []
            if behind := await self._behind(self._places(self._leading)):
                topics = {place.topic for place in behind}
                found = await self._fetch(topics, _LEADING_WAIT_MS, max_records)
            elif self._is_settled:
                found, self._held = self._held, []
            if found:
                self._heard_s = time.monotonic()
                return found
            if time.monotonic() >= deadline:
                await self._revive()
                return []

    async def commit(self, positions: Mapping[Place, int]) -> None:
        """See Subscription.commit."""
        offsets = {TopicPartition(*place): following for place, following in positions.items()}
        await asked(self._consumer.commit(offsets))

    async def rewind(self) -> None:
        """See Subscription.rewind: the next poll settles where to go on."""
        self._settled = None

    async def close(self) -> None:
        """See Subscription.close."""
        await stopped(self._consumer)

    @property
    def _assignment(self) -> Any:
        """The assignment as it is now; None before the first, and where all is taken away."""
        subscription = self._consumer._subscription.subscription
        return subscription.assignment if subscription is not None else None

    @property
    def _is_settled(self) -> bool:
        return self._settled is not None and self._settled is self._assignment

    def _places(self, topics: Collection[str] | None = None) -> list[TopicPartition]:
        """Return the partitions that are ours, of some topics."""
        places = self._settled.tps if self._settled is not None else ()
        return [p for p in places if topics is None or p.topic in topics]

    def _position(self, place: TopicPartition) -> int:
        """Return the next offset to read; -1 while the client looks for the oldest there is."""
        state = self._settled.state_value(place)
        return int(state.position) if state.has_valid_position else -1

    async def _settle(self) -> None:
        """Go on where the room's store stands; a group that has none, at its commit.

        The store is written before the group's offset, so it is ahead of it or equal. One that is
        behind was lost, or put back from a copy: what it lacks is handled again, unpublished. An
        offset that the partition does not have yet is of another topic of that name.
        """
        while (assignment := self._assignment) is not None and self._settled is not assignment:
            self._held = []
            places = list(assignment.tps)
            committed = {p: await asked(self._consumer.committed(p)) for p in places}
            bounds = await self._asker.bounds(places) if places else {}
            stands = committed if self._store is None else _stands(self._store)
            if self._assignment is not assignment:
                continue
            self._next, self._reapply = {}, {}
            for place, (oldest, end) in bounds.items():
                start = self._next[place] = stands.get(place)
                self._consumer.seek(place, oldest if start is None else start)
                known = committed[place] or 0
                if (start or 0) < known <= end and self._store is not None:
                    _log.warning("the store is behind the group: handling again what it lacks")
                    self._reapply[place] = known
            self._settled = assignment
            self._heard_s = time.monotonic()

    async def _fetch(self, topics: Collection[str], wait_ms: int, limit: int) -> list[Message]:
        """Return messages of one of `topics`."""
        places = self._places(topics)
        if not places:  # getmany without partitions would read them all
            await asyncio.sleep(min(wait_ms / 1000, _NO_ASSIGNMENT_S))
            return []
        again = next((place for place in places if place in self._reapply), None)
        if again is not None:
            places = [again]
        try:
            got = await asked(
                self._consumer.getmany(*places, timeout_ms=wait_ms, max_records=limit)
            )
        except IllegalStateError:  # a rebalance took a partition
            await asyncio.sleep(_NO_ASSIGNMENT_S)
            return []
        if not self._is_settled:  # these begin where the group stands
            return []
        self._check_not_overtaken(got)
        if again is not None:
            return self._known(again, got.get(again, []))
        return [message_of(record) for found in got.values() for record in found]

    def _known(self, place: TopicPartition, records: Sequence[Any]) -> list[Message]:
        """Return what was handled before; once that is all read again, the rest is new."""
        end = self._reapply[place]
        known = [message_of(record) for record in records if record.offset < end]
        if len(known) < len(records):
            self._consumer.seek(place, end)
            self._next[place] = end
        if not known and self._position(place) >= end:
            del self._reapply[place]
        return known

    def _check_not_overtaken(self, got: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Raise OffsetOutOfRange where records are missing that no compaction has taken.

        The client itself goes on at the oldest record there is, and says nothing.
        """
        lost = []
        for place, records in got.items():
            expected, self._next[place] = self._next[place], records[-1].offset + 1
            if expected is not None and expected < records[0].offset and not _compact(place.topic):
                lost.append(f"{place.topic}/{place.partition}: {expected}-{records[0].offset - 1}")
        if lost:
            for place, records in got.items():  # they are polled next
                self._consumer.seek(place, records[0].offset)
                self._next[place] = records[0].offset
            raise OffsetOutOfRange(
                f"records {', '.join(lost)} were removed by retention before they were read; "
                "reading goes on after them"
            )

    async def _behind(self, places: Collection[TopicPartition]) -> list[TopicPartition]:
        """Return which partitions hold records that were not read."""
        ends = await self._asker.ends(places) if places else {}
        return [p for p, end in ends.items() if self._position(p) < end] if self._is_settled else []

    async def _revive(self) -> None:
        """Replace a consumer that hands over nothing though there is something to read."""
        if self._store is None or time.monotonic() - self._heard_s < self._silence_s:
            return
        places = self._places()
        is_silent = not places or bool(await self._behind(places))
        if is_silent:
            self.num_revived += 1
            _log.warning("the consumer has gone silent: it is replaced")
            self._settled = None
            await stopped(self._consumer)
            await self.join()
        self._heard_s = time.monotonic()


def _stands(store: Store) -> dict[TopicPartition, int]:
    """Return what a room's store says is to be read next."""
    rows = store.query("SELECT topic, partition, next FROM positions")
    return {TopicPartition(topic, partition): following for topic, partition, following in rows}


def _compact(topic: str) -> bool:
    return any(topic == known and spec.compact for known, spec in TOPICS.items())
