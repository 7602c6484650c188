"""Takes what the recorders hold, filters it, and makes it durable in order.

Reads: recorders, consents and lessons of the moment. Writes: `raw-events`, snapshots as artifacts,
the table `sessions`; where the broker is away the filtered events go to the spool instead.
Does not cover: what the filter keeps (privacy), and what a person decides (monitor).
"""

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from services.user_monitor.capture import RawCapture
from services.user_monitor.consent import Allowance, Consents
from services.user_monitor.metrics import EVENTS, SPOOLED
from services.user_monitor.privacy import Redactor
from services.user_monitor.recorder import DropReason, Recorder, place_of
from services.user_monitor.spool import Spool
from services.user_monitor.teaching import Lesson, Teaching
from shared import tracing
from shared.artifacts import Artifacts
from shared.bus import Effects, Port
from shared.errors import BusUnavailable, ContractError
from shared.schemas import Source, UiEvent, event_id
from shared.topics import Room, Topic

__all__ = ["TABLES", "Publisher", "holder_of"]

_log = logging.getLogger(__name__)

TABLES = """
CREATE TABLE IF NOT EXISTS sessions(source TEXT NOT NULL, session TEXT NOT NULL,
  user_id TEXT NOT NULL, started_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
  next_seq INTEGER NOT NULL, num_events INTEGER NOT NULL,
  PRIMARY KEY(source, session)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_by_start ON sessions(started_ms, session);
"""

_ADVANCE = (
    "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "last_ms = max(last_ms, excluded.last_ms), next_seq = excluded.next_seq, "
    "num_events = num_events + excluded.num_events"
)

_DRAINED_AT_ONCE = 4_000
"""Events that leave the disk in one commit."""

_Taken = tuple[Recorder, int | None, RawCapture]


def holder_of(source: Source, session: str) -> str:
    """Return who needs a session's snapshots, as artifacts name it."""
    return f"{source}/{session}"


@dataclass(frozen=True)
class _Candidate:
    """A capture that may be kept, with its place in its session."""

    recorder: Recorder
    seq: int
    capture: RawCapture
    allowed: Allowance
    lesson: Lesson | None


_Kept = tuple[_Candidate, UiEvent]


@dataclass
class _Choice:
    """What of a batch may be kept, where each session goes on, and how many may not be kept."""

    candidates: list[_Candidate] = field(default_factory=list)
    next_seqs: dict[Recorder, int] = field(default_factory=dict)
    refused: Counter[Recorder] = field(default_factory=Counter)

    def unfit(self, kept: "Sequence[_Kept]") -> Counter[Recorder]:
        """Count what may be kept, but is no event."""
        return Counter(c.recorder for c in self.candidates) - Counter(c.recorder for c, _ in kept)


class Publisher:
    """The one way from captures to the topic."""

    def __init__(
        self,
        port: Port,
        redactor: Redactor,
        artifacts: Artifacts,
        boot_id: str,
        consents: Consents,
        teaching: Callable[[], Teaching],
        *,
        batch_events: int,
        spool_events: int,
    ) -> None:
        self.lock = asyncio.Lock()
        self.spool = Spool(port.store)
        self.spooled = asyncio.Event()  # set while something waits on disk
        self._port = port
        self._redactor = redactor
        self._artifacts = artifacts
        self._boot_id = boot_id
        self._consents = consents
        self._teaching = teaching
        self._batch_events = batch_events
        self._spool_events = spool_events
        self._held: list[_Taken] = []  # taken, but neither bus nor disk took it
        self._show_spooled()

    @property
    def num_held(self) -> int:
        """Return how many captures neither bus nor disk has taken yet."""
        return len(self._held)

    async def publish(self, recorders: Iterable[Recorder], *, everything: bool = False) -> int:
        """Filter and publish what is ready; return how many events.

        `everything`: also what more could still merge into. Raises BusUnavailable where neither
        the bus nor the disk takes it; it waits in memory then.
        """
        watched, num_events = list(recorders), 0
        async with self.lock:
            while True:
                taken = self._held or self._take(watched, everything=everything)
                if not taken:
                    return num_events
                self._held = taken
                with self._span(len(taken)):
                    num_events += await self._publish(taken)
                self._held = []

    async def drain_spool(self) -> int:
        """Publish what waited on disk, oldest first; return how many. Raises BusUnavailable.

        While the bus is looked for, which may take a minute, `publish` goes on spooling: what
        arrives must not wait in memory for it.
        """
        num_events = 0
        while self.spool.num_events:
            await self._port.reach()
            async with self.lock:
                effects = Effects(Room.USER_MONITOR)
                count = self.spool.oldest(effects, _DRAINED_AT_ONCE)
                await self._port.commit(effects)
                self.spool.num_events -= count
                num_events += count
                self._show_spooled()
        self._show_spooled()  # what was refused meanwhile is gone without being published
        return num_events

    def _show_spooled(self) -> None:
        SPOOLED.set(self.spool.num_events)
        if self.spool.num_events:
            self.spooled.set()
        else:
            self.spooled.clear()

    def _take(self, recorders: list[Recorder], *, everything: bool) -> list[_Taken]:
        """Return what is ready of every source, in order of time."""
        taken: list[list[_Taken]] = [
            [(r, number, c) for number, c in r.take(self._batch_events, everything=everything)]
            for r in recorders
        ]
        return list(heapq.merge(*taken, key=lambda item: item[2].time_ms))

    def _span(self, num_captures: int) -> AbstractContextManager[None]:
        """Begin the trace of what is published together: the way to a run begins here."""
        return tracing.span(
            Room.USER_MONITOR, f"publish {Topic.RAW_EVENTS}", None, "producer",
            messaging__operation__type="send", messaging__destination__name=Topic.RAW_EVENTS,
            messaging__batch__message_count=num_captures,
        )  # fmt: skip

    async def _publish(self, taken: list[_Taken]) -> int:
        while True:
            decided = self._consents.num_decisions
            choice = self._choose(taken)
            effects, kept = await asyncio.to_thread(self._filter, choice)
            if decided == self._consents.num_decisions:
                break  # else the user decided anew meanwhile: filter again
        if effects:
            await self._commit(effects, [c.allowed.consent_id for c, _ in kept])
        for recorder, next_seq in choice.next_seqs.items():
            recorder.next_seq = next_seq
        for recorder, count in choice.refused.items():
            recorder.drop(DropReason.NOT_ALLOWED, count)
        for recorder, count in choice.unfit(kept).items():
            recorder.drop(DropReason.UNFIT, count)
        for candidate, event in kept:
            candidate.recorder.num_published += 1
            EVENTS.labels(event.source, event.action).inc()
        return len(kept)

    def _choose(self, taken: Sequence[_Taken]) -> _Choice:
        """Decide by the consents of this moment."""
        choice = _Choice()
        for recorder, number, capture in taken:
            seq = choice.next_seqs.get(recorder, recorder.next_seq) if number is None else number
            allowed = self._consents.allowance(place_of(capture, recorder.source.kind))
            if allowed is None:
                choice.refused[recorder] += 1
            else:
                lesson = None if recorder.is_replay else self._teaching().at(capture.time_ms)
                choice.candidates.append(_Candidate(recorder, seq, capture, allowed, lesson))
            if allowed is not None or number is not None:
                choice.next_seqs[recorder] = seq + 1
        return choice

    def _filter(self, choice: _Choice) -> tuple[Effects, list[_Kept]]:
        """Redact, store snapshots, and say what is to be committed. Runs beside the loop.

        A capture that is no event (too large, text that is no Unicode) is left out: one must not
        stop the others.
        """
        effects, kept = Effects(Room.USER_MONITOR), list[_Kept]()
        num_events: Counter[Recorder] = Counter()
        last_ms: dict[Recorder, int] = {}
        for candidate in choice.candidates:
            before = effects.mark()
            try:
                event = self._event(candidate, effects)
                effects.publish(event)
            except (ContractError, ValueError) as error:
                effects.back_to(before)
                extra = {"room": Room.USER_MONITOR, "outcome": type(error).__name__}
                _log.warning("a capture is no event", extra=extra)
                continue
            kept.append((candidate, event))
            num_events[candidate.recorder] += 1
            last_ms[candidate.recorder] = event.time_ms
        for recorder, next_seq in choice.next_seqs.items():
            source = recorder.source
            at_ms = last_ms.get(recorder, recorder.started_ms)
            row = (recorder.user_id, recorder.started_ms, at_ms, next_seq, num_events[recorder])
            effects.write(_ADVANCE, (source.kind.value, source.session, *row))
        return effects, kept

    def _event(self, candidate: _Candidate, effects: Effects) -> UiEvent:
        recorder, capture, lesson = candidate.recorder, candidate.capture, candidate.lesson
        source, user_id = recorder.source, recorder.user_id
        snapshot = self._redactor.snapshot(capture, candidate.allowed)
        digest = None
        if snapshot is not None:
            raw = snapshot.model_dump_json(exclude_none=True).encode()
            digest = self._artifacts.put(raw, effects, holder_of(source.kind, source.session))
        return self._redactor.event(
            capture,
            candidate.allowed,
            event_id=event_id(user_id, source.kind, source.session, candidate.seq),
            user_id=user_id,
            source=source.kind,
            session=source.session,
            seq=candidate.seq,
            boot_id=self._boot_id,
            snapshot=digest,
            demonstration=lesson.name if lesson else capture.demonstration,
            showing=lesson.showing if lesson else capture.showing,
        )

    async def _commit(self, effects: Effects, consents: list[str]) -> None:
        """Publish; spool where events wait on disk already or the broker is away."""
        if not self.spool.num_events:
            try:
                await self._port.commit(effects)
            except BusUnavailable as error:
                _log.warning(str(error), extra={"room": Room.USER_MONITOR, "outcome": "spooled"})
            else:
                return
        if self.spool.num_events + len(consents) > self._spool_events:
            raise BusUnavailable(
                f"{self.spool.num_events} events wait on disk for the broker, the most allowed "
                "(WAT_USER_MONITOR_SPOOL_EVENTS): start the broker"
            )
        await self.spool.append(effects, consents)
        self._show_spooled()
