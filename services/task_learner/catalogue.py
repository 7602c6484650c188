"""All routines of the room: loaded from its tables, updated, published, forwarded, deleted.

Reads tables `routines` and `traces`, and the records on `tasks` where the store was lost; writes
`Routine` records, rows and trace artifacts through effects.

Does not cover: finding executions (`finder`, `teaching`), what a routine is (`routines`).
"""

import json
from collections.abc import Iterable

from prometheus_client import Gauge

from services.task_learner.actions import Token
from services.task_learner.decisions import forward, part_of
from services.task_learner.routines import DECIDED, Known, KnownTrace, in_time_order
from services.task_learner.segment import Pattern
from services.task_learner.settings import TaskLearnerSettings
from services.task_learner.traces import TraceKeeper
from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import NotFound
from shared.forget import count_forgotten
from shared.schemas import ForgetRange, Forward, Origin, Routine, RoutineStatus, decode
from shared.store import Store
from shared.topics import Topic

__all__ = ["CATALOGUE_TABLES", "Catalogue"]

CATALOGUE_TABLES = """
CREATE TABLE IF NOT EXISTS routines(
  routine_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, pattern TEXT NOT NULL, record BLOB NOT NULL,
  named_by_user INTEGER NOT NULL, num_older INTEGER NOT NULL, older_until_ms INTEGER NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS traces(
  trace_id TEXT PRIMARY KEY, routine_id TEXT NOT NULL, trace TEXT NOT NULL) WITHOUT ROWID;
"""

_PAGE = 500
_ROUTINES = Gauge("wat_task_learner_routines", "routines known", ["status"])


class Catalogue:
    """Every routine by its id."""

    def __init__(self, settings: TaskLearnerSettings, traces: TraceKeeper, clock: Clock) -> None:
        self.routines: dict[str, Known] = {}
        self._decided: dict[str, Routine] = {}
        self._settings = settings
        self._traces = traces
        self._clock = clock

    async def load(self, port: Port) -> None:
        """Read everything back; from the topic, what was decided, where the tables are empty."""
        self.routines.clear()
        self._decided.clear()
        self._load_rows(port.store)
        if not self.routines:
            self._decided = await _published(port)
        self._measure()

    def get(self, routine_id: str) -> Known:
        """Return a routine. Raises NotFound."""
        known = self.routines.get(routine_id)
        if known is None:
            raise NotFound(f"there is no routine {routine_id}")
        return known

    def of_user(self, user_id: str) -> list[Known]:
        """Return one person's routines."""
        return [known for known in self.routines.values() if known.user_id == user_id]

    def update(self, known: Known, effects: Effects, force: bool = False) -> None:
        """Write new traces; look at all of them again, and publish, where that is due."""
        if known.record is not None and not force and not known.is_due():
            self._traces.write_fresh(known, effects)
            return
        if known.update(self._settings, self._agents(known)):
            self._traces.write_all(known, effects)
        else:
            self._traces.write_fresh(known, effects)
        self.publish(known, effects)
        self.forward(known, effects)
        self._measure()

    def take_back(self, known: Known, forwards: Iterable[Forward], effects: Effects) -> None:
        """Take copies back from where a person had sent them; parts of a split go."""
        for rule in forwards:
            target = self.routines.get(rule.into)
            if target is None:
                continue
            for trace in list(target.traces.values()):
                if trace.forwarded_by == known.routine_id:
                    self._traces.drop(target, trace, effects)
            if target.derived_from == known.routine_id:
                self._remove(target, effects)
            else:
                self.update(target, effects, force=True)
        self.update(known, effects, force=True)

    def forward(self, known: Known, effects: Effects) -> None:
        """Copy traces to where a person has sent them."""
        for rule in known.forwards:
            target = self.routines.get(rule.into)
            if target is None and rule.step is not None:
                target = self.routines[rule.into] = part_of(known, rule)
            if target is None:
                continue  # it will be found again: then it gets them
            new, gone = forward(known, target, rule)
            for trace in gone:
                self._traces.drop(target, trace, effects)
            for trace_id, trace in new.items():
                target.fresh[trace_id] = self._traces.events_of(trace)
            if new or gone:
                self.update(target, effects, force=True)

    def note_coverage(self, known: Known, effects: Effects) -> None:
        """Let a changed coverage outlast a restart: it is not worth a record on the topic."""
        if known.record is None or known.record.coverage == known.coverage:
            return
        known.record = known.record.model_copy(update={"coverage": known.coverage})
        raw = known.record.model_dump_json(exclude_none=True).encode()
        row = (raw, known.routine_id)
        effects.write("UPDATE routines SET record = ? WHERE routine_id = ?", row)

    def publish(self, known: Known, effects: Effects) -> Routine:
        """Publish a routine as it is now; return the record."""
        if known.routine_id in self._decided:
            self._take_over(known, self._decided[known.routine_id])
        known.record = record = known.to_record(self._clock.time_ms())
        effects.publish(record)
        effects.write(
            "INSERT OR REPLACE INTO routines VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                known.routine_id, known.user_id, json.dumps(known.pattern.tokens),
                record.model_dump_json(exclude_none=True).encode(), int(known.named_by_user),
                known.num_older, known.older_until_ms,
            ),
        )  # fmt: skip
        return record

    def delete(self, known: Known, effects: Effects) -> None:
        """Say that a routine is gone; one that was never published just goes."""
        for trace in list(known.traces.values()):
            self._traces.drop(known, trace, effects)
        if known.record is None:
            self.routines.pop(known.routine_id, None)
            return
        if not known.is_live:
            return
        known.status, known.num_older, known.train = RoutineStatus.DELETED, 0, 0
        known.named_by_user = known.origin is Origin.TAUGHT
        self.publish(known, effects)
        self._measure()

    def forget_traces(self, known: Known, forget: ForgetRange, effects: Effects) -> None:
        """Drop the traces that a range names, and what was learned from them."""
        gone = [t for t in known.traces.values() if any(forget.names(*p) for p in t.places)]
        ends = [t for t in known.traces.values() if any(forget.names(*p) for p in t.final_place)]
        if forget.session is None:
            known.num_older = 0
        known.num_forgotten += len(gone)
        for trace in gone:
            self._traces.drop(known, trace, effects)
        count_forgotten(effects, "traces", len(gone))
        for trace in ends:  # what it came to was seen by an event that is forgotten
            trace.final, trace.final_place = None, ()
        if not known.traces:
            self._erase(known, effects)
        elif gone or ends:
            known.num_forgotten += not gone
            count_forgotten(effects, "routines changed")
            known.drop_unseen_steps()
            known.update(self._settings, self._agents(known))
            known.revision += known.revision == (known.record.revision if known.record else 0)
            self._traces.write_all(known, effects)  # names may have come from what is gone
            self.publish(known, effects)

    def _erase(self, known: Known, effects: Effects) -> None:
        """Delete a routine with its words: its steps and its name, too, came from its traces."""
        count_forgotten(effects, "routines", int(known.is_live))
        self._remove(known, effects)

    def _remove(self, known: Known, effects: Effects) -> None:
        self.delete(known, effects)
        self.routines.pop(known.routine_id, None)
        effects.write("DELETE FROM routines WHERE routine_id = ?", (known.routine_id,))

    def _agents(self, known: Known) -> list[Known]:
        """Return the user's other routines that have an agent or are about to get one."""
        return [
            other for other in self.of_user(known.user_id)
            if other is not known and other.is_live
            and (other.status is RoutineStatus.APPROVED or other.origin is Origin.TAUGHT)
        ]  # fmt: skip

    def _take_over(self, known: Known, decided: Routine) -> None:
        """Decide as a person did before the store was lost."""
        if decided.status in DECIDED:
            known.status = decided.status
        known.train = max(known.train, decided.train)
        known.forwards = known.forwards or decided.forwards or ()
        if known.support >= decided.support:  # from here on it is known what it would be called
            del self._decided[known.routine_id]
            known.named_by_user |= known.name != decided.name
            known.name = decided.name

    def _load_rows(self, store: Store) -> None:
        for routine_id, user_id, pattern, raw, named, older, until in store.query(
            "SELECT * FROM routines"
        ):
            record = Routine.model_validate_json(raw)
            known = Known(
                routine_id, user_id, record.origin,
                Pattern(tuple(Token(*row) for row in json.loads(pattern))),
                record.name, bool(named), record.status, record.revision, record.train,
                older, until, coverage=record.coverage, record=record,
                num_forgotten=record.num_forgotten, forwards=record.forwards or (),
                derived_from=record.derived_from, left_out=record.left_out or (),
                told_by=record.told_by or (),
            )  # fmt: skip
            rows = store.query("SELECT trace FROM traces WHERE routine_id = ?", (routine_id,))
            known.traces = in_time_order(KnownTrace.load(text) for (text,) in rows)
            known.restore_flow()
            self.routines[routine_id] = known

    def _measure(self) -> None:
        for status in RoutineStatus:
            _ROUTINES.labels(status.value).set(
                sum(k.status is status for k in self.routines.values())
            )


async def _published(port: Port) -> dict[str, Routine]:
    """Return the live routines on the topic: where the store is lost, it has the decisions."""
    found: dict[str, Routine] = {}
    for partition, (at, end) in (await port.bounds(Topic.TASKS)).items():
        while at < end and (page := await port.read(Topic.TASKS, partition, at, _PAGE)):
            records = [decode(m.value, m.headers) for m in page if m.value]
            found |= {r.routine_id: r for r in records if isinstance(r, Routine)}
            at = page[-1].offset + 1
    return {i: r for i, r in found.items() if r.status is not RoutineStatus.DELETED}
