"""Which events may be learned from: each once, none forgotten, none that an agent of ours caused.

Events of a target on which an agent may be acting are held until its run mark tells. Everything
is in the room's tables; writes go to the effects of the handling.

Does not cover: what is made of the events (`memory`), what was derived from forgotten ones.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

from prometheus_client import Counter, Gauge

from services.task_learner.marks import Marks, Verdict
from shared.bus.base import Effects
from shared.schemas import ForgetRange, RunMark, UiEvent
from shared.store import Store

__all__ = ["ACTIONS", "ADMISSION_TABLES", "Admission", "Admitted"]

ADMISSION_TABLES = """
CREATE TABLE IF NOT EXISTS seen(
  user_id TEXT NOT NULL, source TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(user_id, source, session)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(id TEXT PRIMARY KEY, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks(key TEXT PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten(id TEXT PRIMARY KEY, range BLOB NOT NULL) WITHOUT ROWID;
"""

Admitted = tuple[UiEvent, bytes]
"""An event, and its record as it came."""

ACTIONS = Counter("wat_task_learner_actions_total", "events by what became of them", ["outcome"])
_HELD = Gauge("wat_task_learner_held_events", "events that wait for a run mark to end")


class Admission:
    """What has been seen, what waits for a run mark, and what is forgotten."""

    def __init__(self, store: Store) -> None:
        """Read everything back."""
        self._seen = {(u, s, n): q for u, s, n, q in store.query("SELECT * FROM seen")}
        self._marks = Marks()
        for (raw,) in store.query("SELECT mark FROM marks"):
            self._marks.add(RunMark.model_validate_json(raw))
        self._held = OrderedDict(
            (i, (UiEvent.model_validate_json(raw), raw))
            for i, raw in store.query("SELECT id, event FROM held ORDER BY rowid")
        )
        self._forgotten: dict[str | None, list[ForgetRange]] = defaultdict(list)
        for (raw,) in store.query("SELECT range FROM forgotten"):
            self._cover(ForgetRange.model_validate_json(raw))
        _HELD.set(len(self._held))

    def held(self) -> list[UiEvent]:
        """Return the events that wait."""
        return [event for event, _ in self._held.values()]

    def take(
        self, event: UiEvent, raw: bytes, appended_ms: int, effects: Effects
    ) -> Iterator[Admitted]:
        """Take in an event; yield what may be learned from now, in order.

        Each is to be learned from before the next is asked for.
        """
        place = (event.user_id, event.source.value, event.session)
        if event.seq <= self._seen.get(place, -1):
            ACTIONS.labels("duplicate").inc()
            return
        self._seen[place] = event.seq
        effects.write("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (*place, event.seq))
        if self._is_forgotten(event, appended_ms):
            ACTIONS.labels("forgotten").inc()
            return
        if event.boot_id is not None and event.boottime_ms is not None:
            yield from self.release(event.boot_id, event.boottime_ms, effects)
        verdict = self._marks.judge(event)
        if verdict is Verdict.OWN:
            ACTIONS.labels("own").inc()
        elif verdict is Verdict.HELD:
            self._held[event.id] = (event, raw)
            effects.write("INSERT OR REPLACE INTO held VALUES (?, ?)", (event.id, raw))
            _HELD.set(len(self._held))
        else:
            yield event, raw

    def mark(self, mark: RunMark, raw: bytes, effects: Effects) -> Iterator[Admitted]:
        """Take in a run mark; yield what may be learned from now, in order."""
        key, present, dropped = self._marks.add(mark)
        stored = raw if present is mark else present.model_dump_json(exclude_none=True).encode()
        effects.write("INSERT OR REPLACE INTO marks VALUES (?, ?)", (key, stored))
        for old in dropped:
            effects.write("DELETE FROM marks WHERE key = ?", (old,))
        yield from self.release(mark.boot_id, mark.renewed_boottime_ms, effects)

    def release(self, boot_id: str, now_boottime_ms: int, effects: Effects) -> Iterator[Admitted]:
        """Judge held events again, `now` being an instant of that boot that has passed."""
        if not self._held:
            return
        for event_id, (event, raw) in list(self._held.items()):
            now = now_boottime_ms if event.boot_id == boot_id else None
            verdict = self._marks.judge(event, now)
            if verdict is Verdict.HELD:
                continue
            del self._held[event_id]
            effects.write("DELETE FROM held WHERE id = ?", (event_id,))
            ACTIONS.labels(verdict.value).inc()
            if verdict is Verdict.FREE:
                yield event, raw
        _HELD.set(len(self._held))

    def forget(self, forget: ForgetRange, effects: Effects) -> None:
        """Admit these events no more, and drop those that wait."""
        self._cover(forget)
        effects.write(
            "INSERT OR REPLACE INTO forgotten VALUES (?, ?)",
            (forget.id, forget.model_dump_json(exclude_none=True).encode()),
        )
        if forget.session is None:
            for place in [place for place in self._seen if place[0] == forget.user_id]:
                del self._seen[place]
            effects.write("DELETE FROM seen WHERE user_id = ?", (forget.user_id,))
        for event_id, (event, _) in list(self._held.items()):
            if forget.covers(event, 0):
                del self._held[event_id]
                effects.write("DELETE FROM held WHERE id = ?", (event_id,))

    def _cover(self, forget: ForgetRange) -> None:
        self._forgotten[forget.session].append(forget)

    def _is_forgotten(self, event: UiEvent, appended_ms: int) -> bool:
        if not self._forgotten:
            return False
        ranges = (*self._forgotten.get(event.session, ()), *self._forgotten.get(None, ()))
        return any(forget.covers(event, appended_ms) for forget in ranges)
