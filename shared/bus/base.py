"""What a bus is: messages, what a handling wants to make durable, and one room's end of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from shared import tracing
from shared.errors import ContractError
from shared.schemas import Headers, Record, derive_id, encode, headers_of
from shared.store import SqlValue, Statement, Store
from shared.topics import TOPICS, Room, Topic

__all__ = [
    "FRAME_TABLES",
    "Bus",
    "DeadLetter",
    "Effects",
    "Erased",
    "Message",
    "Outgoing",
    "Place",
    "Port",
    "Subscription",
    "noted_trace",
]

Place = tuple[str, int]
"""Topic and partition."""


FRAME_TABLES = """
CREATE TABLE IF NOT EXISTS positions(
  topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
  PRIMARY KEY(topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts(
  topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  count INTEGER NOT NULL, PRIMARY KEY(topic, partition, offset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters(
  id TEXT PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  key BLOB NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL, error TEXT NOT NULL,
  time_ms INTEGER NOT NULL, replayed_ms INTEGER);
CREATE TABLE IF NOT EXISTS jobs(
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, state TEXT NOT NULL,
  attempts INTEGER NOT NULL, asked_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, error TEXT);
CREATE INDEX IF NOT EXISTS jobs_asked ON jobs(asked_ms, id) WHERE state = 'asked';
CREATE TABLE IF NOT EXISTS trace_contexts(
  subject TEXT PRIMARY KEY, traceparent TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS job_gone AFTER DELETE ON jobs BEGIN
  DELETE FROM trace_contexts WHERE subject = old.id; END;
"""
"""Tables of the frame, in every room's store beside the room's own."""


class Message(NamedTuple):
    """One record as it stands on a topic; an empty value is a tombstone.

    `time_ms` is when it was appended: retention counts from there, so that a replayed log of long
    ago is not old at once.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Headers
    time_ms: int


class Erased(NamedTuple):
    """How many records were taken off a topic, and when (ms) the last byte leaves the disk.

    `gone_by_ms` is None where it does with the next `scrub`.
    """

    num_records: int
    gone_by_ms: int | None = None


class Outgoing(NamedTuple):
    """One record on its way to a topic."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


class DeadLetter(NamedTuple):
    """A message that this room could not handle, and why."""

    message: Message
    error: str
    time_ms: int

    @property
    def id(self) -> str:
        """Return the letter's id: the same message twice is one letter."""
        return derive_id(self.message.topic, self.message.partition, self.message.offset)


_TOPIC_OF = {kind: topic for topic, spec in TOPICS.items() for kind in spec.records}


class Effects:
    """Everything one handling wants to make durable; committed together with the position."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.outgoing: list[Outgoing] = []
        self.writes: list[Statement] = []
        self.dead: list[DeadLetter] = []
        self.asks_work = False

    def publish(self, record: Record) -> None:
        """Put `record` on its topic; topic and key follow from its type.

        Raises ContractError where the record is too large or belongs to another room's topic.
        """
        topic = _TOPIC_OF[record.record_type]
        self._check_owner(topic)
        key = str(getattr(record, TOPICS[topic].key))
        headers = headers_of(record, self.room, tracing.current())
        self.outgoing.append(Outgoing(topic, key.encode(), encode(record), headers))
        if TOPICS[topic].compact and topic is not Topic.FORGETS:
            self.note_trace(key)

    def tombstone(self, topic: Topic, key: str) -> None:
        """Delete `key` from a compact topic."""
        self._check_owner(topic)
        if not TOPICS[topic].compact:
            raise ContractError(f"topic {topic} is not compact: it has no tombstones")
        self.outgoing.append(Outgoing(topic, key.encode(), b"", ()))

    def write(self, sql: str, params: tuple[SqlValue, ...] = ()) -> None:
        """Change the room's own tables by one SQL statement."""
        self.writes.append((sql, params))

    def dead_letter(self, message: Message, error: str, time_ms: int) -> None:
        """Put `message` aside: in the room's table and, on a broker, on `<room>.dead`."""
        letter = DeadLetter(message, error, time_ms)
        self.dead.append(letter)
        self.write(
            "INSERT OR IGNORE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                letter.id,
                message.topic,
                message.partition,
                message.offset,
                message.key,
                json.dumps([(name, value.decode("latin-1")) for name, value in message.headers]),
                message.value,
                error,
                time_ms,
            ),
        )

    def job(self, job_id: str, kind: str, payload: Mapping[str, Any], time_ms: int) -> None:
        """Ask for long work; the same id twice is one job."""
        self.write(
            "INSERT OR IGNORE INTO jobs(id, kind, payload, state, attempts, asked_ms, updated_ms) "
            "VALUES (?, ?, ?, 'asked', 0, ?, ?)",
            (job_id, kind, json.dumps(payload), time_ms, time_ms),
        )
        self.note_trace(job_id)
        self.asks_work = True

    def note_trace(self, subject: str) -> None:
        """Remember the trace under way as that of `subject`, for what is done with it later."""
        if (context := tracing.current()) is not None:
            self.write("INSERT OR REPLACE INTO trace_contexts VALUES (?, ?)", (subject, context))

    def extend(self, other: "Effects") -> None:
        """Append another handling's effects, in order."""
        self.outgoing.extend(other.outgoing)
        self.writes.extend(other.writes)
        self.dead.extend(other.dead)
        self.asks_work = self.asks_work or other.asks_work

    def mark(self) -> tuple[int, int, int]:
        """Return how much there is now, for `back_to`."""
        return len(self.outgoing), len(self.writes), len(self.dead)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Drop what came after `mark`."""
        del self.outgoing[mark[0] :], self.writes[mark[1] :], self.dead[mark[2] :]

    def __bool__(self) -> bool:
        """Tell whether there is anything to commit."""
        return bool(self.outgoing or self.writes or self.dead)

    def _check_owner(self, topic: Topic) -> None:
        if TOPICS[topic].owner is not self.room:
            raise ContractError(
                f"{self.room} may not write {topic}: hand it to {TOPICS[topic].owner} over REST"
            )


def noted_trace(store: Store, subject: str) -> str | None:
    """Return the `traceparent` that `Effects.note_trace` left, if any."""
    rows = store.query("SELECT traceparent FROM trace_contexts WHERE subject = ?", (subject,))
    return rows[0][0] if rows else None


class Subscription(Protocol):
    """A group's reading of some topics."""

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Message]:
        """Return messages of one topic, in order per key; empty after `timeout_s`.

        All inputs but the last lead: they are read to their end before the last is read.
        Raises OffsetOutOfRange where retention overtook the group (the next poll goes on at the
        oldest record there is), BusUnavailable where the broker is away.
        """
        ...

    async def commit(self, positions: Mapping[Place, int]) -> None:
        """Make the next offsets to read durable."""
        ...

    async def rewind(self) -> None:
        """Go back to the last commit: what was polled since is polled again."""
        ...

    async def close(self) -> None:
        """Leave the group."""
        ...


class Port(Protocol):
    """One room's end of the bus: its inputs, its own topics and its store."""

    room: Room
    store: Store
    lingers_ms: int
    """How long a compact topic's replaced records stay on disk; 0: until the next `scrub`."""

    @property
    def num_revived(self) -> int:
        """Return how often a consumer that had gone silent was replaced."""
        ...

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Message]:
        """See Subscription.poll."""
        ...

    async def commit(self, effects: Effects, positions: Mapping[Place, int] | None = None) -> None:
        """Make effects, then positions, durable; nothing is half-written on the embedded log.

        Raises BusUnavailable (retryable).
        """
        ...

    async def reach(self) -> None:
        """Wait until a commit would not have to look for the bus. Raises BusUnavailable."""
        ...

    async def rewind(self) -> None:
        """See Subscription.rewind."""
        ...

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """See Bus.bounds."""
        ...

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Message]:
        """See Bus.read."""
        ...

    async def erase(self, topic: str, covers: Callable[[Message], bool]) -> Erased:
        """Take the records that `covers` names off one of the room's own topics.

        A transport that cannot do so at once says when they go. Raises BusUnavailable.
        """
        ...

    async def scrub(self) -> bool:
        """Overwrite what was deleted from the room's files; tell whether that was possible now."""
        ...

    async def maintain(self, now_ms: int) -> None:
        """Apply retention and compaction where the transport does not do so itself."""
        ...

    async def close(self) -> None:
        """Let go of topics and store."""
        ...


class Bus(Protocol):
    """Either transport; only `open_bus` knows which."""

    async def open_port(
        self, room: Room, inputs: Sequence[Topic], tables: str, address: str
    ) -> Port:
        """Take the room's topics and open its store.

        `address` is where the room's REST answers, for those who find the topic taken.
        Raises TopicLocked, BusUnavailable.
        """
        ...

    async def subscribe(self, group: str, topics: Sequence[str]) -> Subscription:
        """Join `group`, which owns no topic; a new group starts at the oldest record."""
        ...

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """Return partition -> (oldest offset, next offset)."""
        ...

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> Sequence[Message]:
        """Return up to `limit` messages from `offset` on, without a group and without waiting."""
        ...

    async def close(self) -> None:
        """Close what is still open."""
        ...
