"""Forgetting as every room does it: each range once, down to the bytes, with a receipt.

A room's handler deletes what its tables hold; what needs more (its topic, files, a new search) it
does in `erase`, beside the loop. Then the dead letters that may hold what is forgotten go, the
files that nobody needs any more, and the write-ahead log. A receipt says that all of this is done
for everything the room had read by then: what a room derives from another's records is forgotten
once that room's newer ones are read.

Does not cover: which events a range names (`ForgetRange.covers`).
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message, Place, Port
from shared.clock import Clock
from shared.errors import BusError
from shared.schemas import ForgetRange, encode
from shared.topics import OWNERS, TOPICS, Room, dead_letters

__all__ = ["FORGET_TABLES", "Erases", "Forgetting", "Receipt", "count_forgotten"]

FORGET_TABLES = """
CREATE TABLE IF NOT EXISTS forget_ranges(
  id TEXT PRIMARY KEY, request TEXT NOT NULL, num_ranges INTEGER NOT NULL, range BLOB NOT NULL,
  handled_ms INTEGER NOT NULL, erased_ms INTEGER, gone_by_ms INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS forget_requests ON forget_ranges(request);
CREATE INDEX IF NOT EXISTS forget_waiting ON forget_ranges(id) WHERE erased_ms IS NULL;
CREATE TABLE IF NOT EXISTS forget_counts(
  request TEXT NOT NULL, what TEXT NOT NULL, num INTEGER NOT NULL,
  PRIMARY KEY(request, what)) WITHOUT ROWID;
"""

_LOOK_S = 0.5
_AT_ONCE = 1_000

_log = logging.getLogger(__name__)


@runtime_checkable
class Erases(Protocol):
    """A room that forgets more than its handler can delete."""

    async def erase(self, ranges: Sequence[ForgetRange]) -> int | None:
        """Delete what handled ranges name; twice is harmless.

        Return when (ms) the last byte leaves the disk, where that is not with the next `scrub`.
        Raises BusError: it is tried again.
        """
        ...


class Receipt(BaseModel):
    """How far one room has forgotten what one request named."""

    request: str
    room: Room
    done: bool = Field(description="nothing of it is left in this room's files")
    num_ranges: int = Field(description="ranges this room has taken in")
    deleted: dict[str, int] = Field(description="what went, and how much; no content")
    gone_by_ms: int | None = Field(
        None, description="when the last byte leaves a broker's disk; none: it has left ours"
    )
    wrote: dict[str, dict[int, int]] = Field(
        description="own topics: partition -> next offset; who reads them forgets from there on"
    )


def count_forgotten(effects: Effects, what: str, num: int = 1) -> None:
    """Count what is deleted, for the receipt of the request that was taken in last."""
    if num:
        effects.write(
            "INSERT INTO forget_counts SELECT request, ?, ? FROM (SELECT request FROM "
            "forget_ranges ORDER BY handled_ms DESC, request LIMIT 1) WHERE true "
            "ON CONFLICT(request, what) DO UPDATE SET num = num + excluded.num",
            (what, num),
        )


class Forgetting:
    """What is left to forget in one room, and the receipts."""

    def __init__(
        self, room: Room, port: Port, logic: object, files: Artifacts, clock: Clock
    ) -> None:
        self._room = room
        self._port = port
        self._logic = logic
        self._files = files
        self._clock = clock
        self._asked = asyncio.Event()
        # Rounds: one is clean once all that had been let go of when it began is gone.
        self._wanted, self._clean = 1, 0
        self._round: tuple[int, int] | None = None
        self._rounds_of: dict[tuple[str, str], int] = {}

    def take_in(self, forget: ForgetRange, message: Message, effects: Effects) -> None:
        """Remember a range; it comes with the effects of the handler that deletes by it."""
        effects.write(
            "INSERT OR IGNORE INTO forget_ranges(id, request, num_ranges, range, handled_ms) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                forget.id,
                forget.request or forget.id,
                forget.num_ranges,
                encode(forget.model_copy(update={"time_ms": message.time_ms})),
                self._clock.time_ms(),
            ),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Delete what is left to delete, until `stop`."""
        while not stop.is_set():
            self._asked.clear()
            try:
                await self.step()
            except (BusError, OSError) as error:
                _log.warning("forgetting waits: %s", type(error).__name__)
            waits = [asyncio.create_task(e.wait()) for e in (stop, self._asked)]
            await asyncio.wait(waits, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def step(self) -> None:
        """Go on by one step."""
        while await self._erase():
            self._wanted += 1
        if self._round is None and self._clean < self._wanted:
            last = self._query("SELECT coalesce(max(n), 0) FROM artifacts_dropped")[0][0]
            self._round = (self._wanted, last)
        if self._round is not None:
            # What was merely replaced waits for `collect`: another room may still read it.
            while await self._files.sweep(self._port.store):
                continue
            wanted, last = self._round
            left = self._query("SELECT 1 FROM artifacts_dropped WHERE n <= ? LIMIT 1", last)
            if not left and await self._port.scrub():
                self._clean, self._round = wanted, None

    async def receipt(self, request: str, after: Mapping[Place, int]) -> Receipt:
        """Say how a request stands; it is done once `after` was read too, and nothing is left."""
        handled, expected, erased, gone_by_ms = self._query(
            "SELECT count(*), coalesce(max(num_ranges), 1), count(erased_ms), max(gone_by_ms) "
            "FROM forget_ranges WHERE request = ?",
            request,
        )[0]
        done = False
        if handled >= expected and erased == handled and self._has_read(after):
            key = (request, json.dumps(sorted([*place, end] for place, end in after.items())))
            if key not in self._rounds_of:  # a round that begins now: one under way may be too old
                self._wanted += 1
                self._rounds_of[key] = self._wanted
                self._asked.set()
            done = self._clean >= self._rounds_of[key]
        return Receipt(
            request=request,
            room=self._room,
            done=done,
            num_ranges=handled,
            deleted=dict(
                self._query("SELECT what, num FROM forget_counts WHERE request = ?", request)
            ),
            gone_by_ms=gone_by_ms,
            wrote={
                str(topic): {p: end for p, (_, end) in (await self._port.bounds(topic)).items()}
                for topic in OWNERS[self._room]
            },
        )

    def requests(self, before: tuple[int, str], limit: int) -> list[tuple[int, str]]:
        """Return when (ms) requests were taken in, and their names, the newest first."""
        return self._query(
            "SELECT min(handled_ms) AS at, request FROM forget_ranges GROUP BY request "
            "HAVING (at, request) < (?, ?) ORDER BY at DESC, request DESC LIMIT ?",
            *before,
            limit,
        )

    async def _erase(self) -> bool:
        """Forget some ranges that were taken in; tell whether there were any."""
        rows = self._query(
            "SELECT id, range FROM forget_ranges WHERE erased_ms IS NULL LIMIT ?", _AT_ONCE
        )
        if not rows:
            return False
        ranges = [ForgetRange.model_validate_json(raw) for _, raw in rows]
        gone_by_ms = None
        if isinstance(self._logic, Erases):
            gone_by_ms = await self._logic.erase(ranges)
        effects = Effects(self._room)
        self._drop_dead_letters(ranges, effects)
        erased = await self._port.erase(dead_letters(self._room), lambda _: True)
        now_ms = self._clock.time_ms()
        lingers = self._port.lingers_ms if self._replaces() else 0
        last_ms = max(gone_by_ms or 0, erased.gone_by_ms or 0, now_ms + lingers if lingers else 0)
        for range_id, _ in rows:
            effects.write(
                "UPDATE forget_ranges SET erased_ms = ?, gone_by_ms = ? WHERE id = ?",
                (now_ms, last_ms or None, range_id),
            )
        await self._port.commit(effects)
        return True

    def _replaces(self) -> bool:
        """Tell whether the room's own topics keep the newest record alone, and hold content."""
        return any(TOPICS[t].compact and "forget-range" not in TOPICS[t].records
                   for t in OWNERS[self._room])  # fmt: skip

    def _drop_dead_letters(self, ranges: Sequence[ForgetRange], effects: Effects) -> None:
        """Let go of letters that hold what is forgotten, or may: what was derived, what is torn."""
        gone = [
            letter_id
            for letter_id, value in self._query("SELECT id, value FROM dead_letters")
            if _may_hold(value, ranges)
        ]
        for letter_id in gone:
            effects.write("DELETE FROM dead_letters WHERE id = ?", (letter_id,))
        count_forgotten(effects, "dead letters", len(gone))

    def _has_read(self, after: Mapping[Place, int]) -> bool:
        read = {(t, p): n for t, p, n in self._query("SELECT * FROM positions")}
        return all(read.get(place, 0) >= end for place, end in after.items())

    def _query(self, sql: str, *params: str | int) -> list[tuple[Any, ...]]:
        return self._port.store.query(sql, params)


def _may_hold(value: bytes, ranges: Sequence[ForgetRange]) -> bool:
    """Tell whether a dead letter holds a forgotten event, or cannot be told not to."""
    try:
        fields = json.loads(value)
        place = fields["source"], fields["session"], int(fields["seq"])
    except (ValueError, KeyError, TypeError):
        return True
    return any(
        r.session is None
        or (
            r.session == place[1]
            and r.source in (None, place[0])
            and r.first_seq <= place[2] <= (place[2] if r.last_seq is None else r.last_seq)
        )
        for r in ranges
    )
