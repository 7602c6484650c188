"""The bus on Apache Kafka.

Outputs are acknowledged first, then the room's store takes effects and position in one transaction,
then the group's offset follows. Reading goes on where the store stands, so a crash repeats outputs
at most: ids make that harmless. The store lies in `<state_dir>/kafka/<room>.sqlite3`; replicas
share that folder, one of them works and the others stand by (docs/adr/0006).

Source for what is avoided: sticky assignment can leave a group stuck, and aiokafka's transactions
are version 0 only (docs/architecture.md).
"""

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    TopicPartition,
)
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IllegalStateError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import murmur2

from shared import failpoints
from shared.bus.base import FRAME_TABLES, Effects, Erased, Message, Outgoing, Place
from shared.bus.lock import take
from shared.clock import Clock
from shared.errors import BusUnavailable, ConfigError, OffsetOutOfRange, TopicLocked, WatError
from shared.store import Store, execute_all
from shared.topics import OWNERS, TOPICS, Room, Topic, TopicSpec, dead_letters

__all__ = ["KafkaBus", "KafkaPort", "KafkaSubscription"]

_START_LIMIT_S = 60.0
_START_RETRY_S = 1.0
_STOP_LIMIT_S = 5.0
_REQUEST_MS = 10_000
"""After this a batch without an acknowledgement counts as failed, and the frame sends it again."""

_LEADING_WAIT_MS = 200
"""How long a wait for the last topic may hold back news of the leading ones."""

_SEGMENT_MS = 24 * 3600 * 1000
_FILE_DELAY_MS = 10 * 60 * 1000
"""The broker looks every 5 min for files to delete, and deletes them a minute later."""

_ERASE_CHUNK = 500
_BATCH_BYTES = 512 * 1024
_READ_WAIT_MS = 1_000

_METADATA_MS = 5_000
"""A topic that nobody wrote yet is noticed within this time."""

_STANDBY_S = 0.25
_NUMBERS = {
    "partitions": 1,
    "session_timeout_ms": 10_000,
    "max_poll_interval_ms": 300_000,
    "silence_ms": 30_000,
}
"""Options of the address and their defaults. silence_ms: a consumer that hands over nothing so
long although there is something to read is replaced."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class KafkaBus:
    """A broker."""

    def __init__(self, url: str, state_dir: Path, clock: Clock) -> None:
        """Take `kafka://HOST:PORT[,…][?NAME=VALUE&…]` with the names that the error lists.

        Raises ConfigError.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        numbers = {name: options.pop(name, str(value)) for name, value in _NUMBERS.items()}
        user, password_file = options.pop("user", None), options.pop("password_file", None)
        standby = options.pop("standby", "no")
        wrong = options or standby not in ("yes", "no") or (user is None) != (password_file is None)
        if wrong or not all(text.isdigit() and int(text) > 0 for text in numbers.values()):
            raise ConfigError(
                f"WAT_BUS_URL={url}: after ? only {'=N, '.join(numbers)}=N, standby=yes, and "
                "user=NAME together with password_file=PATH, are known"
            )
        self._numbers = {name: int(text) for name, text in numbers.items()}
        self._standby = standby == "yes"
        self._client: dict[str, Any] = {"bootstrap_servers": parts.netloc}
        if user is not None and password_file is not None:
            self._client |= {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": user,
                "sasl_plain_password": _read_password(Path(password_file)),
            }
        self._folder = state_dir / "kafka"
        self.clock = clock
        self._reader: AIOKafkaConsumer | None = None
        self._reading = asyncio.Lock()
        self._open: list[KafkaPort | KafkaSubscription] = []

    async def open_port(
        self, room: Room, inputs: Sequence[Topic], tables: str, address: str
    ) -> "KafkaPort":
        """See Bus.open_port."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = await self._take(room, address)
        store: Store | None = None
        try:
            await self._make_topics([*OWNERS[room], *inputs, dead_letters(room)])
            instance = self._instance(room)
            await self._refuse_second(room, instance)
            store = Store(self._folder / f"{room}.sqlite3", FRAME_TABLES + tables)
            subscription = None
            if inputs:
                topics = [str(topic) for topic in inputs]
                subscription = await self._subscribe(str(room), topics, instance, store)
        except BaseException:
            if store is not None:
                store.close()
            os.close(lock)
            raise
        port = KafkaPort(self, room, subscription, store, lock)
        self._open.append(port)
        return port

    async def subscribe(self, group: str, topics: Sequence[str]) -> "KafkaSubscription":
        """See Bus.subscribe."""
        await self._make_topics(topics)
        subscription = await self._subscribe(group, topics, None, None)
        self._open.append(subscription)
        return subscription

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See Bus.bounds."""
        async with self._reading:
            places = await self._places(topic)
            reader = await self._standing_reader()
            oldest = await _asked(reader.beginning_offsets(places))
            following = await _asked(reader.end_offsets(places))
        return {p.partition: (oldest[p], following[p]) for p in places}

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """See Bus.read."""
        place = TopicPartition(topic, partition)
        async with self._reading:
            reader = await self._standing_reader()
            end = (await _asked(reader.end_offsets([place])))[place]
            start = max(offset, (await _asked(reader.beginning_offsets([place])))[place])
            found: list[Message] = []
            reader.assign([place])
            reader.seek(place, start)
            while len(found) < limit and start < end:
                got = await _asked(
                    reader.getmany(place, timeout_ms=_READ_WAIT_MS, max_records=limit - len(found))
                )
                messages = [_message(record) for record in got.get(place, [])]
                if not messages:
                    break
                found.extend(messages)
                start = await reader.position(place)
        return found

    async def close(self) -> None:
        """See Bus.close."""
        for opened in list(self._open):
            await opened.close()
        self._open.clear()
        if self._reader is not None:
            await _stopped(self._reader)
            self._reader = None

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete what stands before offset `before`. Raises BusUnavailable."""
        admin = await _started(lambda: AIOKafkaAdminClient(**self._client))
        try:
            place = TopicPartition(topic, partition)
            await _asked(admin.delete_records({place: RecordsToDelete(before)}))
        finally:
            await admin.close()

    async def producer(self) -> AIOKafkaProducer:
        """Return a new producer. Raises BusUnavailable."""
        return await _started(
            lambda: AIOKafkaProducer(
                **self._client,
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                max_batch_size=_BATCH_BYTES,
                request_timeout_ms=_REQUEST_MS,
            )
        )

    async def _subscribe(
        self, group: str, topics: Sequence[str], instance: str | None, store: Store | None
    ) -> "KafkaSubscription":
        async def join(listener: "KafkaSubscription") -> AIOKafkaConsumer:
            consumer = await _started(
                lambda: AIOKafkaConsumer(
                    **self._client,
                    client_id=instance or "wat",
                    group_id=group,
                    group_instance_id=instance,
                    auto_offset_reset="earliest",
                    enable_auto_commit=False,
                    partition_assignment_strategy=(RoundRobinPartitionAssignor,),
                    max_partition_fetch_bytes=4 * 1024 * 1024,
                    metadata_max_age_ms=_METADATA_MS,
                    request_timeout_ms=_REQUEST_MS,
                    session_timeout_ms=self._numbers["session_timeout_ms"],
                    heartbeat_interval_ms=self._numbers["session_timeout_ms"] // 3,
                    max_poll_interval_ms=self._numbers["max_poll_interval_ms"],
                )
            )
            consumer.subscribe(list(topics), listener=listener)
            return consumer

        subscription = KafkaSubscription(join, topics, store, self._numbers["silence_ms"] / 1000)
        await subscription.join()
        return subscription

    async def _take(self, room: Room, address: str) -> int:
        """Take the room's store; a stand-by waits for it. Raises TopicLocked."""
        waiting = False
        while True:
            try:
                return await take(self._folder / f"{room}.lock", f"the store of {room}", address)
            except TopicLocked:
                if not self._standby:
                    raise
            if not waiting:
                _log.info("standing by for %s", room)
            waiting = True
            await asyncio.sleep(_STANDBY_S)

    async def _refuse_second(self, room: Room, instance: str) -> None:
        """Raise TopicLocked where another replica has the room's store in another folder.

        One that has just died counts as a member until its session times out.
        """
        deadline = time.monotonic() + self._numbers["session_timeout_ms"] / 1000 + _STOP_LIMIT_S
        admin = await _started(lambda: AIOKafkaAdminClient(**self._client))
        try:
            while (others := await self._members(admin, room)) is None or others - {instance}:
                if time.monotonic() >= deadline and others is not None:
                    raise TopicLocked(
                        f"another process runs {room} on this broker with a store of its own "
                        f"({', '.join(sorted(others - {instance}))}): stop it, or give both the "
                        "same WAT_DATA_DIR and this one standby=yes in WAT_BUS_URL"
                    )
                await asyncio.sleep(_STANDBY_S)
        finally:
            await admin.close()

    async def _members(self, admin: AIOKafkaAdminClient, room: Room) -> set[str] | None:
        """Return the names of those who read as `room`; None while a new broker cannot tell."""
        try:
            found = await admin.describe_consumer_groups([str(room)])
        except GroupCoordinatorNotAvailableError:
            return None
        except (KafkaError, OSError) as error:
            raise BusUnavailable(f"the broker does not answer ({error!r})") from error
        return {member[1] for answer in found for group in answer.groups for member in group[5]}

    def _instance(self, room: Room) -> str:
        """Return the name of this replica in its group: its own, and the same at each start.

        So a restart takes its place again at once; any other name would wait for the old one's
        session to time out.
        """
        path = self._folder / f"{room}.instance"
        if not path.exists():
            path.write_text(f"{room}-{secrets.token_hex(8)}")
        return path.read_text()

    async def _make_topics(self, names: Sequence[str]) -> None:
        """Create those of the project's topics that are missing."""
        dead = {dead_letters(room) for room in Room}
        wanted = [_named(name, 1, _DEAD_CONFIG) for name in names if name in dead]
        known = [topic for topic in TOPICS if str(topic) in names]
        num_partitions = self._numbers["partitions"]
        wanted += [_new_topic(topic, TOPICS[topic], num_partitions) for topic in known]
        admin = await _started(lambda: AIOKafkaAdminClient(**self._client))
        try:
            answer = await _asked(admin.create_topics(wanted))
            for name, code, *_ in answer.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise BusUnavailable(f"topic {name} cannot be created: {error.__name__}")
        finally:
            await admin.close()

    async def _standing_reader(self) -> AIOKafkaConsumer:
        if self._reader is None:
            self._reader = await _started(
                lambda: AIOKafkaConsumer(
                    **self._client, enable_auto_commit=False, auto_offset_reset="earliest"
                )
            )
        return self._reader

    async def _places(self, topic: str) -> list[TopicPartition]:
        reader = await self._standing_reader()
        cluster = await _asked(reader._client.fetch_all_metadata())
        partitions = cluster.partitions_for_topic(topic) or set()
        return [TopicPartition(topic, p) for p in sorted(partitions)]


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """A group member."""

    def __init__(
        self,
        join: Callable[["KafkaSubscription"], Awaitable[AIOKafkaConsumer]],
        topics: Sequence[str],
        store: Store | None,
        silence_s: float,
    ) -> None:
        """Read for the room whose `store` this is, if it is a room that reads."""
        self.num_revived = 0
        self._join = join
        self._consumer: AIOKafkaConsumer
        self._topics = list(topics)
        self._store = store
        self._silence_s = silence_s
        self._heard_s = time.monotonic()
        self._held: list[Message] = []
        self._next: dict[TopicPartition, int | None] = {}  # None: a new group
        self._settled: set[TopicPartition] = set()
        self._reapply: dict[TopicPartition, int] = {}  # up to where others know the outputs

    async def join(self) -> None:
        """Become a member. Raises BusUnavailable."""
        self._consumer = await self._join(self)

    def on_partitions_revoked(self, revoked: object) -> None:
        """Forget where reading was; see aiokafka's ConsumerRebalanceListener."""
        self._forget_places()

    def on_partitions_assigned(self, assigned: object) -> None:
        """Do nothing: where to begin is looked up before the first fetch."""

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
        *leading, last = self._topics
        while True:
            await self._settle()
            if not self._held:
                left_ms = max(0, int((deadline - time.monotonic()) * 1000))
                wait_ms = min(left_ms, _LEADING_WAIT_MS) if leading else left_ms
                self._held = await self._fetch([last], wait_ms, max_records)
            if news := await self._leading_news(leading, max_records):
                self._heard_s = time.monotonic()
                return news
            if self._held or time.monotonic() >= deadline:
                held, self._held = self._held, []
                if held:
                    self._heard_s = time.monotonic()
                elif self._store is not None:
                    await self._revive()
                return held

    async def commit(self, positions: Mapping[Place, int]) -> None:
        """See Subscription.commit."""
        offsets = {TopicPartition(*place): following for place, following in positions.items()}
        await _asked(self._consumer.commit(offsets))

    async def rewind(self) -> None:
        """See Subscription.rewind."""
        self._forget_places()
        if self._store is not None:
            return  # the next poll settles where to go on
        for place in self._consumer.assignment():
            committed = await _asked(self._consumer.committed(place))
            try:
                if committed is None:  # seek_to_committed would stay where it is
                    await _asked(self._consumer.seek_to_beginning(place))
                else:
                    self._consumer.seek(place, committed)
            except IllegalStateError:  # a rebalance took it: its new owner begins there anyway
                continue

    def lag(self) -> dict[Place, int]:
        """See Subscription.lag; a partition counts from its first fetch on."""
        result = {}
        for place in self._consumer.assignment():
            end = self._consumer.highwater(place)
            position = self._consumer._subscription.subscription.assignment.state_value(place)
            if end is not None and position is not None and position.has_valid_position:
                result[place.topic, place.partition] = max(0, end - position.position)
        return result

    async def close(self) -> None:
        """See Subscription.close."""
        await _stopped(self._consumer)

    async def _fetch(self, topics: Sequence[str], wait_ms: int, limit: int) -> list[Message]:
        """Return messages of one partition of `topics`."""
        places = [p for p in self._consumer.assignment() if p.topic in topics]
        if not places:  # no assignment yet: getmany without partitions waits for one
            await asyncio.sleep(min(wait_ms, 50) / 1000)
            return []
        again = next((place for place in places if place in self._reapply), None)
        if again is not None:
            return await self._fetch_again(again, limit)
        try:
            got = await _asked(
                self._consumer.getmany(*places, timeout_ms=wait_ms, max_records=limit)
            )
        except IllegalStateError:  # a rebalance took the partition while we asked
            return []
        await self._check_not_overtaken(got)
        return [_message(record) for found in got.values() for record in found]

    async def _fetch_again(self, place: TopicPartition, limit: int) -> list[Message]:
        """Return messages that were handled before; none once all have been read again."""
        end = self._reapply[place]
        got = await _asked(
            self._consumer.getmany(place, timeout_ms=_READ_WAIT_MS, max_records=limit)
        )
        records = got.get(place, [])
        again = [_message(record) for record in records if record.offset < end]
        if len(again) < len(records):
            self._consumer.seek(place, end)
            self._next[place] = end
        if not again:
            del self._reapply[place]
        return again

    async def _settle(self) -> None:
        """Go on where the room's store stands, in partitions that are newly ours.

        The store is written before the group's offset, so it is ahead of it or equal. One that is
        behind was lost, or put back from a copy: what it lacks is handled again, unpublished.
        """
        if self._store is None:
            return
        rows: list[Any] = []
        for place in self._consumer.assignment() - self._settled:
            rows = rows or self._store.query("SELECT topic, partition, next FROM positions")
            at = (place.topic, place.partition)
            stored = next((row[2] for row in rows if row[:2] == at), None)
            committed = await _asked(self._consumer.committed(place))
            try:
                if stored is not None:
                    self._consumer.seek(place, stored)
                else:
                    await _asked(self._consumer.seek_to_beginning(place))
            except IllegalStateError:  # a rebalance took it
                continue
            if committed is not None and committed > (stored or 0):
                _log.warning("the store is behind the group: handling again what it lacks")
                self._reapply[place] = committed
            self._next[place] = stored
            self._settled.add(place)

    async def _revive(self) -> None:
        """Replace a consumer that hands over nothing though there is something to read."""
        if time.monotonic() - self._heard_s < self._silence_s:
            return
        places = list(self._consumer.assignment())
        ends = await _asked(self._consumer.end_offsets(places)) if places else {}
        behind = [p for p in places if await self._consumer.position(p) < ends[p]]
        self._heard_s = time.monotonic()
        if behind or not places:
            self.num_revived += 1
            _log.warning("the consumer has gone silent: it is replaced")
            self._forget_places()
            await _stopped(self._consumer)
            await self.join()

    def _forget_places(self) -> None:
        self._held = []
        self._next.clear()
        self._settled.clear()
        self._reapply.clear()

    async def _check_not_overtaken(self, got: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Raise OffsetOutOfRange where records are missing that no compaction has taken.

        The client itself goes on at the oldest record there is, and says nothing.
        """
        lost = []
        for place, records in got.items():
            if place not in self._next:
                self._next[place] = await _asked(self._consumer.committed(place))
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

    async def _leading_news(self, leading: Sequence[str], limit: int) -> list[Message]:
        places = [p for p in self._consumer.assignment() if p.topic in leading]
        if not places:
            return []
        ends = await _asked(self._consumer.end_offsets(places))
        behind = [p for p in places if await self._consumer.position(p) < ends[p]]
        while behind:
            if found := await self._fetch([p.topic for p in behind], _LEADING_WAIT_MS, limit):
                return found
            behind = [p for p in behind if await self._consumer.position(p) < ends[p]]
        return []


class KafkaPort:
    """A room's end on a broker."""

    lingers_ms = 2 * _SEGMENT_MS

    def __init__(
        self,
        bus: KafkaBus,
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

    def lag(self) -> dict[Place, int]:
        """See Subscription.lag."""
        return self._subscription.lag() if self._subscription is not None else {}

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
        kept_ms = next((s.retention_ms for t, s in TOPICS.items() if t == topic), _DEAD_KEPT_MS)
        for partition, (oldest, end) in (await self.bounds(topic)).items():
            start = at = oldest
            while at < end and (found := await self.read(topic, partition, at, _ERASE_CHUNK)):
                for message in found:
                    if not covers(message):
                        continue
                    num_records += 1
                    stays_ms = _SEGMENT_MS + _FILE_DELAY_MS
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
            await _stopped(self._producer)
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
        if self._producer is None:
            self._producer = await self._bus.producer()
        try:
            await self._produce(self._producer, outgoing)
        except BaseException:
            failed, self._producer = self._producer, None
            await _cut_off(failed)
            raise

    async def _produce(self, producer: AIOKafkaProducer, outgoing: Sequence[Outgoing]) -> None:
        """Send in whole batches per partition, in order; return once all are acknowledged."""
        topics = {out.topic for out in outgoing}
        partitions = {t: sorted(await _asked(producer.partitions_for(t))) for t in topics}
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
                        await _asked(producer.send_batch(batch, topic, partition=partition))
                    )
                    batch = producer.create_batch()
                    added = batch.append(timestamp=None, key=out.key, value=value, headers=headers)
                    assert added is not None, "a record is smaller than an empty batch"
            waiting.append(await _asked(producer.send_batch(batch, topic, partition=partition)))
        try:
            async with asyncio.timeout(_REQUEST_MS / 1000):
                for sent in waiting:
                    await _asked(sent)
        except TimeoutError as error:  # an idempotent producer itself would wait for ever
            raise BusUnavailable("the broker does not acknowledge: is it running?") from error


_DEAD_KEPT_MS = 14 * 24 * 3600 * 1000


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


_DEAD_CONFIG = {
    "retention.ms": str(_DEAD_KEPT_MS),
    "segment.ms": str(_SEGMENT_MS),
    "message.timestamp.type": "LogAppendTime",
}


def _new_topic(topic: Topic, spec: TopicSpec, num_partitions: int) -> NewTopic:
    config = {"message.timestamp.type": "LogAppendTime", "segment.ms": str(_SEGMENT_MS)}
    if spec.compact:
        # Within a day at the latest: what is replaced may have been forgotten.
        config |= {"cleanup.policy": "compact", "max.compaction.lag.ms": str(_SEGMENT_MS)}
    if spec.retention_ms is not None:
        config |= {"retention.ms": str(spec.retention_ms)}
    if spec.retention_bytes is not None:
        config |= {"retention.bytes": str(spec.retention_bytes // num_partitions)}
    return _named(str(topic), num_partitions, config)


def _compact(topic: str) -> bool:
    return any(topic == known and spec.compact for known, spec in TOPICS.items())


def _named(name: str, num_partitions: int, config: dict[str, str]) -> NewTopic:
    topic = NewTopic(name, num_partitions, 1, topic_configs=config)
    topic.replication_factor = -1  # the broker's default, which the constructor does not take
    return topic


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


def _message(record: Any) -> Message:
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.key or b"",
        record.value or b"",
        tuple(record.headers),
        record.timestamp,
    )


def _read_password(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"password_file {path} cannot be read: {error}") from error


async def _asked(answer: Awaitable[T]) -> T:
    """Wait for the broker; its errors become BusUnavailable, save the ones callers look for."""
    try:
        return await answer
    except IllegalStateError:
        raise
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"the broker does not answer ({error!r}): is it running?") from error


async def _started(make: Callable[[], T]) -> T:
    """Make a client and start it, waiting up to a minute for the broker. Raises BusUnavailable."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        client: Any = make()
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await _stopped(client)
            if time.monotonic() >= deadline:
                raise BusUnavailable(
                    f"no broker answers at the address of WAT_BUS_URL ({error!r}): start it, or "
                    "correct the address"
                ) from error
            _log.warning("waiting for the broker")
            await asyncio.sleep(_START_RETRY_S)
        except BaseException:
            await _stopped(client)
            raise
        else:
            return cast("T", client)


async def _stopped(client: Any) -> None:
    """Stop a client; one that waits for a broker that is away is cut off after a while."""
    try:
        async with asyncio.timeout(_STOP_LIMIT_S):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    except (KafkaError, OSError, TimeoutError) as error:
        _log.warning("a broker's client did not end: %s", type(error).__name__)
        if isinstance(client, AIOKafkaProducer):
            await _cut_off(client)


async def _cut_off(producer: AIOKafkaProducer) -> None:
    """End a producer without sending what it still holds, as its own `stop` would."""
    producer._closed = True
    await producer._sender.close()
    await producer.client.close()
