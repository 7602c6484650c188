"""Which events a person wants forgotten, as content-free ranges; and their removal here.

Reads: `raw-events`, the tables `sessions` and `spool`. Writes: ranges for `forgets`; takes events
off the topic and lets go of snapshots that no other event refers to.
Does not cover: what other rooms made of the events; each does that for itself.
"""

import asyncio
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.user_monitor.publisher import holder_of
from shared.bus import Effects, Message, Port
from shared.errors import NotFound
from shared.forget import count_forgotten
from shared.schemas import END_OF_TIME_MS, ForgetRange, Source, UiEvent
from shared.topics import Room, Topic

__all__ = ["ForgetAsked", "ForgetStarted", "erase_events", "ranges_of"]

_READ = 500
_DIGESTS = "SELECT digest FROM artifacts WHERE holder = ?"
_NO_SESSION = ""
"""Names no session: such a range holds a time alone."""


def _no_flag(value: object) -> object:
    """Refuse true and false, which are numbers to Python and none in JSON."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_Seq = Annotated[int, Field(ge=0, lt=2**53), BeforeValidator(_no_flag)]
_SpanMs = Annotated[int, Field(ge=1, lt=END_OF_TIME_MS), BeforeValidator(_no_flag)]
_SessionName = Annotated[str, Field(min_length=1, max_length=128)]
_Where = tuple[str, Source, str]


class PlaceAsked(BaseModel):
    """Events of one session that another room still has and the topic no longer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    session: _SessionName
    first_seq: _Seq
    last_seq: _Seq
    user_id: str | None = None


class ForgetAsked(BaseModel):
    """What is to be forgotten: exactly one of the first four."""

    model_config = ConfigDict(
        extra="forbid", frozen=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["last_ms"], "properties": {"last_ms": {"type": "integer"}}},
                {"required": ["application"], "properties": {"application": {"type": "string"}}},
                {"required": ["session"], "properties": {"session": {"type": "string"}}},
                {"required": ["everything"], "properties": {"everything": {"const": True}}},
            ]
        },
    )  # fmt: skip

    last_ms: Annotated[_SpanMs | None, Field(description="what happened since so long ago")] = None
    application: Annotated[str | None, Field(min_length=1, max_length=300)] = None
    session: _SessionName | None = None
    everything: Annotated[bool, Field(strict=True)] = False
    places: Annotated[
        list[PlaceAsked],
        Field(
            max_length=100_000,
            description="events of it that task-learner still has (GET its /places)",
        ),
    ] = []

    @model_validator(mode="after")
    def _one(self) -> Self:
        named = (self.last_ms, self.application, self.session, self.everything or None)
        if sum(what is not None for what in named) != 1:
            raise ValueError("give one of last_ms, application, session and everything")
        return self


class ForgetStarted(BaseModel):
    """What was asked for; every room has a receipt of it at `/forgets/{request}`."""

    request: str
    num_ranges: int


@dataclass
class _Runs:
    """Runs of events to forget, by session; what lies between two of them stays."""

    runs: dict[_Where, list[list[int]]] = field(default_factory=lambda: defaultdict(list))
    open: set[_Where] = field(default_factory=set)

    def see(self, event: UiEvent, wanted: bool) -> None:
        """Take in the next event of its session."""
        where = (event.user_id, event.source, event.session)
        if not wanted:
            self.open.discard(where)
        elif where in self.open:
            self.runs[where][-1][1] = event.seq
        else:
            self.runs[where].append([event.seq, event.seq])
            self.open.add(where)


async def ranges_of(asked: ForgetAsked, port: Port, user_id: str, now_ms: int) -> list[ForgetRange]:
    """Return the ranges that say what was asked, none where nothing fits.

    Raises NotFound for a session there is not.
    """
    request = secrets.token_hex(8)
    runs = _Runs()
    since_ms = None if asked.last_ms is None else max(0, now_ms - asked.last_ms)
    places: list[tuple[str, Source | None, str | None, int, int | None]] = []
    if asked.everything:
        rows = port.store.query("SELECT DISTINCT user_id FROM sessions")
        places += [(user, None, None, 0, None) for user in sorted({user_id, *(u for (u,) in rows)})]
    elif asked.session is not None:
        rows = port.store.query(
            "SELECT user_id, source, next_seq FROM sessions WHERE session = ?", (asked.session,)
        )
        if not rows and not asked.places:
            raise NotFound(f"there is no session {asked.session}: GET sessions lists them")
        places += [(u, Source(s), asked.session, 0, max(n - 1, 0)) for u, s, n in rows]
    else:
        await _scan(port, asked, since_ms, runs)
        for (user, source, session), found in runs.runs.items():
            places += [(user, source, session, first, last) for first, last in found]
    places += [
        (p.user_id or user_id, p.source, p.session, p.first_seq, p.last_seq) for p in asked.places
    ]
    if since_ms is not None:
        places.append((user_id, None, _NO_SESSION, 0, 0))
    return [
        ForgetRange(
            id=f"{request}-{number}",
            time_ms=now_ms,
            user_id=user,
            source=source,
            session=session,
            first_seq=first,
            last_seq=last,
            request=request,
            num_ranges=len(places),
            since_ms=since_ms,
        )
        for number, (user, source, session, first, last) in enumerate(places)
    ]


async def _scan(port: Port, asked: ForgetAsked, since_ms: int | None, runs: _Runs) -> None:
    """Look through the topic for what happened since then, or in the application."""
    application = asked.application.casefold() if asked.application is not None else None
    for partition, (oldest, end) in (await port.bounds(Topic.RAW_EVENTS)).items():
        at = oldest
        while at < end and (found := await port.read(Topic.RAW_EVENTS, partition, at, _READ)):
            for message in found:
                event = _event(message)
                if event is None:
                    continue
                if since_ms is not None:
                    # A replayed log tells of another day: what counts is when it was replayed.
                    live = event.boottime_ms is not None
                    runs.see(event, (event.time_ms if live else message.time_ms) >= since_ms)
                else:
                    runs.see(event, event.application.casefold() == application)
            at = found[-1].offset + 1
            await asyncio.sleep(0)


async def erase_events(
    ranges: Sequence[ForgetRange], port: Port, publishing: asyncio.Lock
) -> int | None:
    """Take forgotten events off the topic, and the snapshots that only they refer to.

    Return when (ms) the last byte leaves a broker's disk. Twice is harmless.
    """
    ends = {p: end for p, (_, end) in (await port.bounds(Topic.RAW_EVENTS)).items()}
    by_session: dict[str | None, list[ForgetRange]] = defaultdict(list)
    for forget in ranges:
        by_session[forget.session].append(forget)
    held = _snapshots_held(port, ranges)
    kept: set[str] = set()
    gone: Counter[tuple[str, str]] = Counter()

    def covers(message: Message) -> bool:
        event = _event(message)
        if event is None:  # a torn record may be any of this user's
            return any(r.user_id.encode() == message.key for r in by_session[None])
        named = (*by_session.get(event.session, ()), *by_session.get(None, ()))
        if any(r.covers(event, message.time_ms) for r in named):
            gone[event.source.value, event.session] += 1
            return True
        if event.snapshot is not None:
            kept.add(event.snapshot)
        return False

    erased = await port.erase(Topic.RAW_EVENTS, covers)
    async with publishing:  # what came meanwhile may show the same screen once more
        kept |= _snapshots_spooled(port) | await _snapshots_since(port, ends)
        await _let_go(port, ranges, [pair for pair in held if pair[1] not in kept], gone)
    return erased.gone_by_ms


async def _let_go(
    port: Port,
    ranges: Sequence[ForgetRange],
    lost: Sequence[tuple[str, str]],
    gone: Counter[tuple[str, str]],
) -> None:
    """Drop the reference rows of snapshots, and say in `sessions` what is left."""
    effects = Effects(Room.USER_MONITOR)
    for pair in lost:
        effects.write("DELETE FROM artifacts WHERE holder = ? AND digest = ?", pair)
    for place, count in gone.items():
        effects.write(
            "UPDATE sessions SET num_events = max(0, num_events - ?) "
            "WHERE source = ? AND session = ?",
            (count, *place),
        )
    for forget in ranges:
        if forget.session is None:
            effects.write(
                "DELETE FROM sessions WHERE user_id = ? AND started_ms <= ?",
                (forget.user_id, forget.time_ms),
            )
    count_forgotten(effects, "events", gone.total())
    count_forgotten(effects, "screens", len(lost))
    if effects:
        await port.commit(effects)


def _snapshots_held(port: Port, ranges: Iterable[ForgetRange]) -> list[tuple[str, str]]:
    """Return holder and digest of the snapshots of the sessions that ranges name."""
    holders: set[str] = set()
    for forget in ranges:
        sources = (forget.source,) if forget.source else tuple(Source)
        if forget.session is None:
            rows = port.store.query("SELECT DISTINCT holder FROM artifacts")
            holders.update(holder for (holder,) in rows)
        else:
            holders.update(holder_of(source, forget.session) for source in sources)
    return [
        (holder, digest)
        for holder in sorted(holders)
        for (digest,) in port.store.query(_DIGESTS, (holder,))
    ]


async def _snapshots_since(port: Port, ends: Mapping[int, int]) -> set[str]:
    """Return the snapshots of events that came after these offsets."""
    found: set[str] = set()
    for partition, (oldest, end) in (await port.bounds(Topic.RAW_EVENTS)).items():
        at = max(oldest, ends.get(partition, 0))
        while at < end and (news := await port.read(Topic.RAW_EVENTS, partition, at, _READ)):
            events = (_event(message) for message in news)
            found.update(e.snapshot for e in events if e is not None and e.snapshot is not None)
            at = news[-1].offset + 1
    return found


def _snapshots_spooled(port: Port) -> set[str]:
    rows = port.store.query("SELECT value FROM spool")
    return {digest for (raw,) in rows if (digest := json.loads(raw).get("snapshot")) is not None}


def _event(message: Message) -> UiEvent | None:
    try:
        return UiEvent.model_validate_json(message.value)
    except ValueError:
        return None
