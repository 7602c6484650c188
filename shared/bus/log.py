"""The embedded, durable log: one SQLite file per topic, written by the owning room alone.

`DIR/<topic>.sqlite3` holds the topic and everything its owner must change together with it:
positions, jobs, dead letters, read model. Others open it read-only. An flock on `<topic>.lock`
keeps a second writer out; it is never taken on SQLite's own files, since opening and closing those
by other means drops SQLite's locks. Groups that own no topic keep their positions in
`DIR/groups/<group>.sqlite3`.

Does not cover: more than one machine, and more than one process per room.
"""

import asyncio
import os
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import apsw

from shared import failpoints
from shared.bus.base import FRAME_TABLES, Effects, Erased, Message, Outgoing, Place
from shared.bus.lock import take
from shared.clock import Clock
from shared.errors import (
    BusError,
    BusUnavailable,
    ContractError,
    OffsetOutOfRange,
)
from shared.schemas import Headers
from shared.store import SqlValue, Store, connect_reader, execute_all
from shared.topics import OWNERS, TOPICS, Room, Topic

__all__ = ["LogBus", "LogPort", "LogSubscription"]

_SHIFT = 44
"""A row's id is partition << 44 | offset: 2^44 records per partition, appended at N ends."""

_POLL_MIN_S, _POLL_MAX_S, _POLL_GROWTH = 0.0005, 0.01, 1.4
"""Another process's appends are found by polling: fast after traffic, slower while idle."""

_OWN_POLL_MAX_S = 0.2
"""Where this process writes all the topics it is woken, and polls only to be sure."""

_RETAIN_CHUNK = 2_000
"""Rows removed in one transaction, so that retention never holds up an append for long."""

_ERASE_CHUNK = 500
"""Records looked at in one go when some are forgotten."""

_TOPIC_TABLES = """
CREATE TABLE IF NOT EXISTS records(
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, time_ms INTEGER NOT NULL,
  headers BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS heads(partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
"""
_COMPACT_INDEX = "CREATE INDEX IF NOT EXISTS records_key ON records(key, id);"


class LogBus:
    """A folder of topics."""

    def __init__(self, folder: Path, clock: Clock, num_partitions: int = 1) -> None:
        """Create `folder` with mode 0700 where it is missing. Raises BusUnavailable."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BusUnavailable(f"{folder} cannot be made: {error}") from error
        self.clock = clock
        self._folder = folder
        self._num_partitions = num_partitions
        self._open: list[LogPort | LogSubscription] = []
        self._wakeups: set[asyncio.Event] = set()

    async def open_port(
        self, room: Room, inputs: Sequence[Topic], tables: str, address: str
    ) -> "LogPort":
        """See Bus.open_port."""
        locks, stores = [], {}
        try:
            for topic in OWNERS[room]:
                locks.append(await take(self._folder / f"{topic}.lock", f"topic {topic}", address))
                stores[topic] = Store(
                    self._folder / f"{topic}.sqlite3",
                    _TOPIC_TABLES
                    + (_COMPACT_INDEX if TOPICS[topic].compact else "")
                    + (FRAME_TABLES + tables if topic is OWNERS[room][0] else ""),
                )
        except BaseException:
            for store in stores.values():
                store.close()
            for lock in locks:
                os.close(lock)
            raise
        port = LogPort(self, room, inputs, stores, locks)
        self._open.append(port)
        return port

    async def subscribe(self, group: str, topics: Sequence[str]) -> "LogSubscription":
        """See Bus.subscribe."""
        groups = self._folder / "groups"
        groups.mkdir(mode=0o700, exist_ok=True)
        store = Store(groups / f"{group}.sqlite3", FRAME_TABLES)
        subscription = LogSubscription(self, topics, store, owns_store=True)
        self._open.append(subscription)
        return subscription

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """See Bus.bounds."""
        with _TopicReader(self.path(topic)) as reader:
            return reader.bounds()

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """See Bus.read."""
        with _TopicReader(self.path(topic)) as reader:
            return reader.read(topic, partition, offset, limit)

    async def close(self) -> None:
        """See Bus.close."""
        for opened in list(self._open):
            await opened.close()

    def path(self, topic: str) -> Path:
        """Return the topic's file."""
        return self._folder / f"{topic}.sqlite3"

    def partition_of(self, key: bytes) -> int:
        """Return the partition of `key`."""
        return zlib.crc32(key) % self._num_partitions

    def appended(self) -> None:
        """Wake the readers of this process."""
        for wakeup in self._wakeups:
            wakeup.set()

    def longest_poll_s(self, topics: Iterable[str]) -> float:
        """Return how long to wait at most between two looks at these topics."""
        owned = {
            topic
            for opened in self._open
            if isinstance(opened, LogPort)
            for topic in OWNERS[opened.room]
        }
        return _OWN_POLL_MAX_S if owned.issuperset(topics) else _POLL_MAX_S

    def watch(self, wakeup: asyncio.Event) -> None:
        """Set `wakeup` whenever this process appends."""
        self._wakeups.add(wakeup)

    def unwatch(self, wakeup: asyncio.Event) -> None:
        """Undo `watch`."""
        self._wakeups.discard(wakeup)

    def closed(self, closed: "LogPort | LogSubscription") -> None:
        """Drop what is closed."""
        if closed in self._open:
            self._open.remove(closed)


class LogSubscription:
    """A group's reading: positions in `store`, topics read-only."""

    def __init__(
        self, bus: LogBus, topics: Sequence[str], store: Store, *, owns_store: bool
    ) -> None:
        self._bus = bus
        self._store = store
        self._owns_store = owns_store
        self._readers = {str(topic): _TopicReader(bus.path(str(topic))) for topic in topics}
        self._wakeup = asyncio.Event()
        bus.watch(self._wakeup)
        self._positions = self._stored()

    async def poll(self, max_records: int, timeout_s: float) -> list[Message]:
        """See Subscription.poll."""
        deadline = time.monotonic() + timeout_s
        delay_s, longest_s = _POLL_MIN_S, self._bus.longest_poll_s(self._readers)
        while True:
            self._wakeup.clear()
            found = self._poll_once(max_records)
            left_s = deadline - time.monotonic()
            if found or left_s <= 0:
                return found
            try:
                await asyncio.wait_for(self._wakeup.wait(), min(delay_s, left_s))
            except TimeoutError:
                delay_s = min(delay_s * _POLL_GROWTH, longest_s)

    async def commit(self, positions: Mapping[Place, int]) -> None:
        """See Subscription.commit."""
        await self._store.write(partial(_save_positions, positions))

    async def rewind(self) -> None:
        """See Subscription.rewind."""
        self._positions = self._stored()
        for reader in self._readers.values():
            reader.look_again()

    async def close(self) -> None:
        """See Subscription.close."""
        self._bus.unwatch(self._wakeup)
        self._bus.closed(self)
        for reader in self._readers.values():
            reader.close()
        if self._owns_store:
            self._store.close()

    def _stored(self) -> dict[Place, int]:
        rows = self._store.query("SELECT topic, partition, next FROM positions")
        return {(topic, partition): following for topic, partition, following in rows}

    def _poll_once(self, max_records: int) -> list[Message]:
        """Return what the first topic with news has.

        The last topic is looked at before the leading ones and given after them: what led to a
        record (the mark of the agent that caused it) stands on a leading topic before it.
        """
        *leading, last = self._readers
        following = self._news(last, max_records)
        for topic in leading:
            if found := self._news(topic, max_records):
                return self._take(found)
        return self._take(following)

    def _news(self, topic: str, max_records: int) -> list[Message]:
        """Return the next messages of one partition of `topic`, without moving on."""
        reader = self._readers[topic]
        if not reader.changed():
            return []
        for place, position, following in self._unread(topic, reader):
            reader.look_again()
            found = reader.read(topic, place[1], position, max_records)
            arrived_at = found[0].offset if found else following
            if arrived_at > position:
                self._positions[place] = arrived_at
                self._check_not_overtaken(place, position, reader)
            if found:
                return found
        return []

    def _take(self, found: list[Message]) -> list[Message]:
        """Move on past `found`."""
        if found:
            self._positions[found[0].topic, found[0].partition] = found[-1].offset + 1
        return found

    def _unread(self, topic: str, reader: "_TopicReader") -> list[tuple[Place, int, int]]:
        """Return (place, position, next offset) of partitions with news, the longest first."""
        ends = [((topic, p), following) for p, following in reader.heads().items()]
        unread = [(at, self._positions.get(at, 0), following) for at, following in ends]
        return sorted((u for u in unread if u[1] < u[2]), key=lambda u: u[1] - u[2])

    def _check_not_overtaken(self, place: Place, position: int, reader: "_TopicReader") -> None:
        """Raise OffsetOutOfRange where the oldest record there is lies after `position`."""
        topic, partition = place
        compact = any(topic == known and spec.compact for known, spec in TOPICS.items())
        if position == 0 or compact:
            return  # a new group starts at the oldest; compaction leaves gaps on purpose
        oldest = reader.bounds()[partition][0]
        if oldest > position:  # else the gap is in the middle: records that were forgotten
            raise OffsetOutOfRange(
                f"{topic}/{partition}: records {position} to {oldest - 1} were removed by "
                "retention before they were read; reading goes on after them"
            )


class LogPort:
    """A room's end: its topics' files, the first of which holds all that belongs together."""

    lingers_ms = 0

    def __init__(
        self,
        bus: LogBus,
        room: Room,
        inputs: Sequence[Topic],
        stores: Mapping[Topic, Store],
        locks: Sequence[int],
    ) -> None:
        self.room = room
        self._bus = bus
        self._stores = dict(stores)
        self._locks = list(locks)
        self._main = OWNERS[room][0]
        self.store = self._stores[self._main]
        self._subscription = LogSubscription(bus, inputs, self.store, owns_store=False)

    @property
    def num_revived(self) -> int:
        """See Port.num_revived: a file does not go silent."""
        return 0

    async def poll(self, max_records: int, timeout_s: float) -> list[Message]:
        """See Subscription.poll."""
        return await self._subscription.poll(max_records, timeout_s)

    async def rewind(self) -> None:
        """See Subscription.rewind."""
        await self._subscription.rewind()

    async def reach(self) -> None:
        """See Port.reach: the files are always there."""

    async def commit(self, effects: Effects, positions: Mapping[Place, int] | None = None) -> None:
        """See Port.commit."""
        failpoints.reach("handled")
        for topic, store in self._stores.items():
            rows = [out for out in effects.outgoing if out.topic == topic]
            if rows and store is not self.store:
                await store.write(partial(self._append, topic, rows))
        rows = [out for out in effects.outgoing if out.topic == self._main]

        def change(writer: apsw.Connection) -> None:
            self._append(self._main, rows, writer)
            execute_all(writer, effects.writes)
            if positions:
                _save_positions(positions, writer)
            failpoints.reach("written")

        if rows or effects.writes or positions:
            await self.store.write(change)
        if effects.outgoing:
            self._bus.appended()

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """See Bus.bounds."""
        return await self._bus.bounds(topic)

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """See Bus.read."""
        return await self._bus.read(topic, partition, offset, limit)

    async def erase(self, topic: str, covers: Callable[[Message], bool]) -> Erased:
        """See Port.erase. Dead letters stand in the room's own table, not on a topic."""
        store = next((s for t, s in self._stores.items() if t == topic), None)
        num_records = 0
        for partition, (oldest, end) in (await self.bounds(topic)).items() if store else ():
            base, at = partition << _SHIFT, oldest
            while found := await self.read(topic, partition, at, _ERASE_CHUNK):
                rows = [base | message.offset for message in found if covers(message)]
                if rows:
                    assert store is not None
                    num_records += await store.write(partial(_remove, rows))
                at = found[-1].offset + 1
                if at >= end:
                    break
                await asyncio.sleep(0)  # a long topic must not hold up what is captured meanwhile
        return Erased(num_records)

    async def scrub(self) -> bool:
        """See Port.scrub: until a checkpoint, the write-ahead log holds what was deleted."""
        return all([await store.checkpoint() for store in self._stores.values()])

    async def maintain(self, now_ms: int) -> None:
        """Remove in small steps what is older or more than the topic may keep."""
        for topic, store in self._stores.items():
            spec = TOPICS[topic]
            if spec.compact:
                continue
            step = partial(_retain, now_ms, spec.retention_ms, spec.retention_bytes)
            more = True
            while more:  # each step is a transaction of its own: appends get in between
                more = await store.write(step)

    async def close(self) -> None:
        """See Port.close."""
        await self._subscription.close()
        self._bus.closed(self)
        for store in self._stores.values():
            store.close()
        while self._locks:
            os.close(self._locks.pop())

    def _append(self, topic: Topic, rows: Sequence[Outgoing], writer: apsw.Connection) -> None:
        """Insert `rows` at the end of their partitions; in a compact topic drop what they replace.

        Runs in the writer's transaction, so the heads it reads are current.
        """
        if not rows:
            return
        heads: dict[int, int] = dict(writer.execute("SELECT partition, next FROM heads"))
        inserts, now_ms = [], self._bus.clock.time_ms()
        for out in rows:
            partition = self._bus.partition_of(out.key)
            offset = heads.get(partition, 0)
            heads[partition] = offset + 1
            row = partition << _SHIFT | offset
            inserts.append((row, out.key, now_ms, _pack(out.headers), out.value))
        writer.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", inserts)
        writer.executemany("INSERT OR REPLACE INTO heads VALUES (?, ?)", list(heads.items()))
        if TOPICS[topic].compact:
            writer.executemany(
                "DELETE FROM records WHERE key = ? AND id < "
                "(SELECT max(id) FROM records WHERE key = ?)",
                [(out.key, out.key) for out in rows],
            )


class _TopicReader:
    """Read-only access to one topic's file, which need not exist yet.

    Every read is finished before it returns: an open cursor would starve checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None
        self._seen_version = -1

    def changed(self) -> bool:
        """Tell whether the file changed since the last time this was asked."""
        if not self._connect():
            return False
        assert self._connection is not None
        version: Any = self._connection.execute("PRAGMA data_version").fetchall()[0][0]
        if version == self._seen_version:
            return False
        self._seen_version = version
        return True

    def look_again(self) -> None:
        """Make the next `changed` true."""
        self._seen_version = -1

    def heads(self) -> dict[int, int]:
        """Return partition -> next offset; empty for a missing topic."""
        return dict(self._rows("SELECT partition, next FROM heads"))

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Return partition -> (oldest offset, next offset); empty for a missing topic."""
        result = {}
        for partition, following in self.heads().items():
            first = self._rows(
                "SELECT id FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1",
                (partition << _SHIFT, (partition + 1) << _SHIFT),
            )
            oldest = first[0][0] - (partition << _SHIFT) if first else following
            result[partition] = (oldest, following)
        return result

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Message]:
        """Return up to `limit` messages from `offset` on."""
        base = partition << _SHIFT
        return [
            Message(topic, partition, row - base, key, value, _unpack(headers), time_ms)
            for row, key, time_ms, headers, value in self._rows(
                "SELECT id, key, time_ms, headers, value FROM records "
                "WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (base + offset, (partition + 1) << _SHIFT, limit),
            )
        ]

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "_TopicReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> bool:
        if self._connection is None and self._path.exists():
            connection = connect_reader(self._path)
            tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'heads'")
            if not tables.fetchall():  # its owner is just creating it
                connection.close()
                return False
            self._connection = connection
        return self._connection is not None

    def _rows(self, sql: str, params: tuple[SqlValue, ...] = ()) -> list[tuple[Any, ...]]:
        if not self._connect():
            return []
        assert self._connection is not None
        try:
            return self._connection.execute(sql, params).fetchall()
        except apsw.Error as error:
            raise BusError(f"{self._path} cannot be read: {error}") from error


def _pack(headers: Headers) -> bytes:
    """Join names and values by NUL, which CloudEvents attributes cannot hold."""
    packed = b"\0".join([part for name, value in headers for part in (name.encode(), value)])
    if headers and packed.count(b"\0") != 2 * len(headers) - 1:
        raise ContractError("a header holds a NUL byte: leave it out")
    return packed


def _unpack(packed: bytes) -> Headers:
    parts = packed.split(b"\0") if packed else []
    return tuple(zip(map(bytes.decode, parts[::2]), parts[1::2], strict=True))


def _save_positions(positions: Mapping[Place, int], writer: apsw.Connection) -> None:
    rows = [(topic, partition, following) for (topic, partition), following in positions.items()]
    writer.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", rows)


def _retain(
    now_ms: int, max_age_ms: int | None, max_bytes: int | None, writer: apsw.Connection
) -> bool:
    """Remove one chunk of what is too old or too much; tell whether there may be more.

    Looks at the oldest rows alone: within a partition, rows stand in order of time.
    """
    too_much = max_bytes is not None and _used_bytes(writer) > max_bytes
    eldest: list[tuple[int, int]] = []  # time of each partition's oldest record, and its base
    removed = 0
    for (partition,) in writer.execute("SELECT partition FROM heads").fetchall():
        base = cast("int", partition) << _SHIFT
        rows = cast("list[tuple[int, int]]", writer.execute(_OLDEST, _range(base)).fetchall())
        if rows:
            eldest.append((rows[0][1], base))
        if max_age_ms is not None:
            old = [row for row, time_ms in rows if time_ms < now_ms - max_age_ms]
            removed += _remove(old, writer)
    if not removed and too_much and eldest:
        rows = cast("list[tuple[int, int]]", writer.execute(_OLDEST, _range(min(eldest)[1])))
        removed = _remove([row for row, _ in rows], writer)
    return removed > 0


_OLDEST = "SELECT id, time_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"


def _range(base: int) -> tuple[int, int, int]:
    return base, base + (1 << _SHIFT), _RETAIN_CHUNK


def _remove(rows: Sequence[int], writer: apsw.Connection) -> int:
    writer.executemany("DELETE FROM records WHERE id = ?", [(row,) for row in rows])
    return len(rows)


def _used_bytes(writer: apsw.Connection) -> int:
    pages, free, size = (
        cast("int", writer.execute(f"PRAGMA {name}").fetchall()[0][0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
