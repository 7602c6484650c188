"""One broker: its address, the project's topics, and who may run a room on it.

Does not cover: reading as a group (`subscription`), a room's end (`port`).
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from shared.bus.base import FRAME_TABLES, Message
from shared.bus.kafka.client import (
    REQUEST_MS,
    STOP_LIMIT_S,
    Asker,
    asked,
    message_of,
    started,
    stopped,
)
from shared.bus.kafka.port import KafkaPort
from shared.bus.kafka.subscription import KafkaSubscription
from shared.bus.kafka.topics import new_topics
from shared.bus.lock import take
from shared.clock import Clock
from shared.errors import BusUnavailable, ConfigError, TopicLocked
from shared.store import Store
from shared.topics import OWNERS, Room, Topic, dead_letters

__all__ = ["KafkaBus"]

_BATCH_BYTES = 512 * 1024
_READ_WAIT_MS = 1_000

_READER_FETCH_MS = 20
"""The client fetches ahead, at the end in vain; the next reading waits behind that."""

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
        self._asker = Asker(self._client)
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
        bounds = await self._asker.bounds(await self._asker.places(topic))
        return {place.partition: bound for place, bound in bounds.items()}

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """See Bus.read."""
        place = TopicPartition(topic, partition)
        oldest, end = (await self._asker.bounds([place]))[place]
        start = max(offset, oldest)
        if start >= end:
            return []
        async with self._reading:
            reader = await self._standing_reader()
            reader.assign([place])
            reader.seek(place, start)
            try:
                return await self._read_on(reader, place, end, limit)
            finally:
                reader.unsubscribe()  # else it goes on fetching

    async def close(self) -> None:
        """See Bus.close."""
        for opened in list(self._open):
            await opened.close()
        self._open.clear()
        await self._asker.close()
        if self._reader is not None:
            await stopped(self._reader)
            self._reader = None

    async def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Delete what stands before offset `before`. Raises BusUnavailable."""
        admin = await started(lambda: AIOKafkaAdminClient(**self._client))
        try:
            place = TopicPartition(topic, partition)
            await asked(admin.delete_records({place: RecordsToDelete(before)}))
        finally:
            await admin.close()

    async def producer(self) -> AIOKafkaProducer:
        """Return a new producer. Raises BusUnavailable."""
        return await started(
            lambda: AIOKafkaProducer(
                **self._client,
                acks="all",
                enable_idempotence=True,
                compression_type="zstd",
                max_batch_size=_BATCH_BYTES,
                request_timeout_ms=REQUEST_MS,
            )
        )

    async def _subscribe(
        self, group: str, topics: Sequence[str], instance: str | None, store: Store | None
    ) -> "KafkaSubscription":
        async def join() -> AIOKafkaConsumer:
            consumer = await started(
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
                    request_timeout_ms=REQUEST_MS,
                    session_timeout_ms=self._numbers["session_timeout_ms"],
                    heartbeat_interval_ms=self._numbers["session_timeout_ms"] // 3,
                    max_poll_interval_ms=self._numbers["max_poll_interval_ms"],
                )
            )
            consumer.subscribe(list(topics))
            return consumer

        silence_s = self._numbers["silence_ms"] / 1000
        subscription = KafkaSubscription(join, topics, self._asker, store, silence_s)
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
        deadline = time.monotonic() + self._numbers["session_timeout_ms"] / 1000 + STOP_LIMIT_S
        admin = await started(lambda: AIOKafkaAdminClient(**self._client))
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
        wanted = new_topics(names, self._numbers["partitions"])
        admin = await started(lambda: AIOKafkaAdminClient(**self._client))
        try:
            answer = await asked(admin.create_topics(wanted))
            for name, code, *_ in answer.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise BusUnavailable(f"topic {name} cannot be created: {error.__name__}")
        finally:
            await admin.close()

    async def _standing_reader(self) -> AIOKafkaConsumer:
        if self._reader is None:
            self._reader = await started(
                lambda: AIOKafkaConsumer(
                    **self._client,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    fetch_max_wait_ms=_READER_FETCH_MS,
                )
            )
        return self._reader

    async def _read_on(
        self, reader: AIOKafkaConsumer, place: TopicPartition, end: int, limit: int
    ) -> list[Message]:
        found: list[Message] = []
        while len(found) < limit and await reader.position(place) < end:
            got = await asked(
                reader.getmany(place, timeout_ms=_READ_WAIT_MS, max_records=limit - len(found))
            )
            if not got:
                break
            found.extend(message_of(record) for record in got[place])
        return found


def _read_password(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"password_file {path} cannot be read: {error}") from error
