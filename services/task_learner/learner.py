"""The room's logic: events in, routines out, with everything to go on from in the store.

Reads RunMark, ForgetRange and UiEvent; writes Routine records and trace artifacts. A known routine
gains a trace when its last step has been done and the screen after it is known; unknown ones are
looked for each time the window has grown by a tenth.

Does not cover: REST (`api.py`), what the records mean to the trainer.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from prometheus_client import Counter, Gauge, Histogram

from services.task_learner.actions import Token, UserAction
from services.task_learner.decisions import forward, join, part_of, split
from services.task_learner.discover import Finding, consensus, discover
from services.task_learner.marks import Marks, Verdict
from services.task_learner.memory import MEMORY_TABLES, Demonstration, Memory
from services.task_learner.routines import (
    DECIDED,
    Known,
    KnownTrace,
    in_time_order,
    likeness,
    routine_id_of,
)
from services.task_learner.segment import (
    MAX_SPAN,
    Execution,
    Pattern,
    Vocabulary,
    align,
    executions,
    fill,
)
from services.task_learner.settings import TaskLearnerSettings
from services.task_learner.traces import TraceKeeper
from shared import tracing
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message, Port, noted_trace
from shared.clock import Clock
from shared.errors import ConflictError, ContractError, NotFound
from shared.forget import count_forgotten
from shared.jobs import Job
from shared.schemas import (
    ForgetRange,
    Level,
    Origin,
    Record,
    Routine,
    RoutineStatus,
    RunMark,
    Trace,
    UiEvent,
    decode,
    derive_id,
)
from shared.topics import Room, Topic

__all__ = ["Place", "TaskLearner"]

Place = tuple[str, str, str, int]
"""User, source, session and seq of an event."""

_MINE_MIN = 20  # new actions before the window is searched again …
_MINE_SHARE = 10  # … and at least this fraction (1 / n) of it
_SAME = 0.5  # likeness from which on a finding is a known routine
_STAYS, _ENTERS = 0.7, 0.9  # coverage below which a step leaves, from which on a new one enters
_TICK_S = 1.0
_PAGE = 500

_ACTIONS = Counter("wat_task_learner_actions_total", "events by what became of them", ["outcome"])
_HELD = Gauge("wat_task_learner_held_events", "events that wait for a run mark to end")
_ROUTINES = Gauge("wat_task_learner_routines", "routines known", ["status"])
_MINING_S = Histogram("wat_task_learner_mining_seconds", "time of one search of a window")

_log = logging.getLogger(__name__)


class TaskLearner:
    """Finds routines, or is taught them."""

    room: ClassVar[Room] = Room.TASK_LEARNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.FORGETS, Topic.RUNS, Topic.RAW_EVENTS)
    tables: ClassVar[str] = (
        MEMORY_TABLES
        + """
CREATE TABLE IF NOT EXISTS seen(
  user_id TEXT NOT NULL, source TEXT NOT NULL, session TEXT NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY(user_id, source, session)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held(id TEXT PRIMARY KEY, event BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks(key TEXT PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten(id TEXT PRIMARY KEY, range BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routines(
  routine_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, pattern TEXT NOT NULL, record BLOB NOT NULL,
  named_by_user INTEGER NOT NULL, num_older INTEGER NOT NULL, older_until_ms INTEGER NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS traces(
  trace_id TEXT PRIMARY KEY, routine_id TEXT NOT NULL, trace TEXT NOT NULL) WITHOUT ROWID;
"""
    )

    def __init__(
        self,
        settings: TaskLearnerSettings,
        artifacts: Artifacts,
        clock: Clock,
        snapshot_bytes: Callable[[str], bytes],
    ) -> None:
        self.routines: dict[str, Known] = {}
        self._decided: dict[str, Routine] = {}
        self._settings = settings
        self._clock = clock
        self._traces = TraceKeeper(artifacts, snapshot_bytes, settings.kept_traces)
        self.port: Port

    async def start(self, port: Port) -> None:
        """Load everything from the store."""
        self.port = port
        self.routines.clear()
        self._memories: dict[str, Memory] = {}
        self._pending: dict[str, list[tuple[str, UserAction]]] = defaultdict(list)
        self._to_search: set[str] = set()  # users whose words may have come from what is forgotten
        self._ends: dict[str, dict[Token, list[str]]] = {}  # which routines a token ends, by user
        self._heard_in: str | None = None  # trace of the newest event
        self._heard_s: dict[str, float] = {}  # when a user's demonstration was last added to
        store = port.store
        self._seen = {
            (u, s, n): q for u, s, n, q in store.query("SELECT * FROM seen")
        }  # fmt: skip
        self._marks = Marks()
        for (raw,) in store.query("SELECT mark FROM marks"):
            self._marks.add(RunMark.model_validate_json(raw))
        self._held = OrderedDict(
            (i, (UiEvent.model_validate_json(raw), raw))
            for i, raw in store.query("SELECT id, event FROM held ORDER BY rowid")
        )
        self._forgotten: dict[str | None, list[ForgetRange]] = defaultdict(list)
        for (raw,) in store.query("SELECT range FROM forgotten"):
            forget = ForgetRange.model_validate_json(raw)
            self._forgotten[forget.session].append(forget)
        self._load_routines()
        if not self.routines:
            self._decided = await self._published()
        for (user_id,) in store.query("SELECT DISTINCT user_id FROM actions"):
            memory = self._memory(user_id)
            self._await_ends(memory, memory.actions[-MAX_SPAN:])
        self._measure()

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Take in a mark, a range to forget or an event. Raises ContractError for anything else."""
        match record:
            case UiEvent():
                self._on_event(record, message, effects)
            case RunMark():
                self._on_mark(record, message.value, effects)
            case ForgetRange():
                self._on_forget(record.model_copy(update={"time_ms": message.time_ms}), effects)
            case _ if message.topic == Topic.RUNS:
                return  # how a run ended teaches nothing
            case _:
                raise ContractError(f"{self.room} does not read {record.record_type}")

    async def work(self, job: Job, port: Port) -> Effects:
        """Refuse: this room asks for no long work."""
        raise NotFound(f"{self.room} knows no work of kind {job.kind}")

    async def background(self, stop: asyncio.Event) -> None:
        """End what only silence ends: demonstrations, and the leases of run marks."""
        while not stop.is_set():
            effects = Effects(self.room)
            with tracing.continued(self._heard_in):
                self.tick(effects)
            if effects:
                await self._commit(effects)
            try:
                await asyncio.wait_for(stop.wait(), _TICK_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Hold nothing."""

    def tick(self, effects: Effects) -> None:
        """Do what is due by the clock."""
        idle_s = self._settings.teaching_idle_ms / 1000
        now_s = self._clock.boottime_ms() / 1000
        for user_id, heard_s in list(self._heard_s.items()):
            if now_s - heard_s >= idle_s:
                del self._heard_s[user_id]
                memory = self._memory(user_id)
                memory.finish_showings()
                self._learn_showings(memory, effects)
        if self._held:
            self._release(self._clock.boot_id, self._clock.boottime_ms(), effects)
        for known in self.routines.values():
            if known.record is not None and known.is_live and known.support > known.record.support:
                self._update(known, effects, force=True)

    # ---- what a person decides ---------------------------------------------------------------

    async def decide(
        self, routine_id: str, status: RoutineStatus | None = None, name: str | None = None,
        train: bool = False,
    ) -> Routine:  # fmt: skip
        """Set status or name, or ask for a training; durable on return.

        Raises NotFound, ConflictError.
        """
        known = self.known(routine_id)
        if not known.is_live or known.record is None:
            raise ConflictError(f"routine {routine_id} has been forgotten: show it again")
        if train and known.record.level is Level.STRUCTURE:
            raise ConflictError(
                f"routine {routine_id} touches an application whose values are not kept: "
                "allow `values` for it and show the routine again"
            )
        known.status = status or known.status
        if name is not None:
            known.name, known.named_by_user = name, True
        known.train += train
        effects = Effects(self.room)
        with tracing.span(self.room, "decide", noted_trace(self.port.store, routine_id)):
            record = self._publish(known, effects)
            await self._commit(effects)
        if self.routines.get(routine_id) is not known:  # reloaded while the commit was under way
            await self.start(self.port)
        return record

    async def join(self, routine_id: str, into: str) -> Routine:
        """Let one routine count as another; return that. Raises NotFound, ConflictError."""
        source, target = self.known(routine_id), self.known(into)
        join(source, target)
        await self._hand_over(source)
        return self.known(into).to_record(self._clock.time_ms())

    async def split(self, routine_id: str, step: int) -> list[Routine]:
        """Let executions with and without a step, from 0, be two routines; return those.

        Raises NotFound, ConflictError.
        """
        source = self.known(routine_id)
        split(source, step)
        await self._hand_over(source)
        parts = [self.known(rule.into) for rule in self.known(routine_id).forwards]
        return [part.record for part in parts if part.record is not None]

    async def _hand_over(self, source: Known) -> None:
        effects = Effects(self.room)
        with tracing.span(self.room, "decide", noted_trace(self.port.store, source.routine_id)):
            self._publish(source, effects)
            self._forward(source, effects)
            await self._commit(effects)
        if self.routines.get(source.routine_id) is not source:  # reloaded meanwhile
            await self.start(self.port)

    def known(self, routine_id: str) -> Known:
        """Return a routine. Raises NotFound."""
        known = self.routines.get(routine_id)
        if known is None:
            raise NotFound(f"there is no routine {routine_id}")
        return known

    def trace(self, routine_id: str, trace_id: str) -> Trace:
        """Return one trace with every event. Raises NotFound, ArtifactError."""
        trace = self.known(routine_id).traces.get(trace_id)
        if trace is None:
            raise NotFound(f"routine {routine_id} has no trace {trace_id}")
        return self._traces.read(trace)

    # ---- events --------------------------------------------------------------------------------

    def _on_event(self, event: UiEvent, message: Message, effects: Effects) -> None:
        self._heard_in = tracing.current()
        raw = message.value
        place = (event.user_id, event.source.value, event.session)
        if event.seq <= self._seen.get(place, -1):
            _ACTIONS.labels("duplicate").inc()
            return
        self._seen[place] = event.seq
        effects.write("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", (*place, event.seq))
        if self._is_forgotten(event, message.time_ms):
            _ACTIONS.labels("forgotten").inc()
            return
        if event.boot_id is not None and event.boottime_ms is not None and self._held:
            self._release(event.boot_id, event.boottime_ms, effects)
        verdict = self._marks.judge(event)
        if verdict is Verdict.OWN:
            _ACTIONS.labels("own").inc()
        elif verdict is Verdict.HELD:
            self._held[event.id] = (event, raw)
            effects.write("INSERT OR REPLACE INTO held VALUES (?, ?)", (event.id, raw))
            _HELD.set(len(self._held))
        else:
            self._learn(event, raw, effects)

    def _learn(self, event: UiEvent, raw: bytes, effects: Effects) -> None:
        self._search_again(effects)
        memory = self._memory(event.user_id)
        action = memory.take(event, raw, effects)
        _ACTIONS.labels("dropped" if action is None else "kept").inc()
        if event.demonstration is not None:
            self._heard_s[event.user_id] = self._clock.boottime_ms() / 1000
        if memory.showings:
            self._learn_showings(memory, effects)
        if action is not None and event.demonstration is None:
            self._await_ends(memory, [action])
        if self._pending[event.user_id]:
            self._complete(memory, effects)
        grown = memory.next_position - memory.mined
        if grown >= max(_MINE_MIN, len(memory.actions) // _MINE_SHARE):
            self._mine(memory, effects)

    def _await_ends(self, memory: Memory, actions: Sequence[UserAction]) -> None:
        """Note which actions may have ended an execution; whether they did is seen later."""
        ends = self._ends.get(memory.user_id)
        if ends is None:
            ends = self._ends[memory.user_id] = defaultdict(list)
            for known in self.routines.values():
                if known.user_id == memory.user_id and known.is_mined:
                    ends[known.pattern.end].append(known.routine_id)
        for action in actions:
            for routine_id in ends.get(memory.vocabulary.token(action), ()):
                self._pending[memory.user_id].append((routine_id, action))

    def _complete(self, memory: Memory, effects: Effects) -> None:
        """Take the executions whose last action has been followed by a screen."""
        still, changed = [], {}
        for routine_id, action in self._pending[memory.user_id]:
            known = self.routines.get(routine_id)
            if known is None or not known.is_live:
                continue
            if not memory.is_settled(action):
                still.append((routine_id, action))
                continue
            stop = memory.index_of(action) + 1
            if stop > len(memory.actions) or memory.actions[stop - 1] is not action:
                continue
            tail = memory.actions[max(0, stop - MAX_SPAN) : stop]
            found = executions(
                known.pattern,
                [memory.vocabulary.token(a) for a in tail],
                [a.event.time_ms for a in tail],
            )
            if (
                found
                and found[-1].indices[-1] == len(tail) - 1
                and self._traces.take(known, tail, found[-1:], effects)
            ):
                changed[routine_id] = known
        self._pending[memory.user_id] = still
        for known in changed.values():
            self._update(known, effects)

    def _mine(self, memory: Memory, effects: Effects) -> None:
        """Look for routines in the whole window."""
        started_s = time.perf_counter()
        vocabulary = Vocabulary.of(memory.actions)
        findings = discover(memory.actions, vocabulary)
        memory.note_mined(vocabulary, effects)
        self._pending[memory.user_id].clear()
        matched: set[str] = set()
        for finding in findings:
            known = self._match(memory, finding, matched)
            if known is None:
                continue
            matched.add(known.routine_id)
            self._adopt(known, memory, finding, vocabulary, effects)
        self._retract(memory, matched, effects)
        self._ends.pop(memory.user_id, None)
        self._await_ends(memory, memory.actions[-MAX_SPAN:])
        self._measure()
        _MINING_S.observe(time.perf_counter() - started_s)

    def _match(self, memory: Memory, finding: Finding, matched: set[str]) -> Known | None:
        """Return the routine a finding is, a new one where none is alike, None for a taught one."""
        rivals = [
            (likeness(k.pattern, finding.pattern), k)
            for k in self.routines.values()
            if k.user_id == memory.user_id and k.routine_id not in matched and not k.derived_from
        ]
        best = max(rivals, key=lambda r: (r[0], r[1].is_live), default=None)
        if best is not None and best[0] >= _SAME:
            return None if best[1].origin is Origin.TAUGHT and best[1].is_live else best[1]
        routine_id = routine_id_of(memory.user_id, finding.pattern)
        known = self.routines.get(routine_id)
        if known is None:
            known = Known(routine_id, memory.user_id, Origin.MINED, finding.pattern)
            self.routines[routine_id] = known
        return known

    def _adopt(
        self, known: Known, memory: Memory, finding: Finding, vocabulary: Vocabulary,
        effects: Effects,
    ) -> None:  # fmt: skip
        """Take over a finding: its steps, unless the known ones hold as well, and its traces."""
        actions = memory.actions
        tokens = [vocabulary.token(a) for a in actions]
        times = [a.event.time_ms for a in actions]
        found: Sequence[Execution] = finding.executions
        changed = revive = not known.is_live
        if finding.pattern != known.pattern:
            old = executions(known.pattern, tokens, times)
            if not revive and _holds(known.pattern, old, finding):
                found = old
            else:
                known.change_pattern(finding.pattern)
                changed = True
        if revive:
            known.status = RoutineStatus.PROVISIONAL
        settled = [e for e in found if memory.is_settled(actions[e.indices[-1]])]
        taken = self._traces.take(known, actions, settled, effects)
        ends = {derive_id(known.routine_id, actions[e.indices[-1]].event.id) for e in found}
        first_ms = actions[0].event.time_ms
        stale = [
            t for t in known.traces.values()
            if t.started_ms >= first_ms and t.trace_id not in ends and t.forwarded_by is None
        ]  # fmt: skip
        for trace in stale:
            self._traces.drop(known, trace, effects)
        known.coverage = len({i for e in found for i in e.indices}) / len(actions)
        if len(known.traces) < 2:
            self._delete(known, effects)
        elif changed or taken or stale:
            self._update(known, effects, force=changed or bool(stale))
        elif known.record is not None and known.record.coverage != known.coverage:
            # Not worth a record on the topic, but a restart must not go back to the old one.
            known.record = known.record.model_copy(update={"coverage": known.coverage})
            raw = known.record.model_dump_json(exclude_none=True).encode()
            row = (raw, known.routine_id)
            effects.write("UPDATE routines SET record = ? WHERE routine_id = ?", row)

    def _retract(self, memory: Memory, matched: set[str], effects: Effects) -> None:
        """Take back what was only provisional and is no longer found while it is still in view."""
        if not memory.actions:
            return
        first_ms = memory.actions[0].event.time_ms
        for known in list(self.routines.values()):
            if (
                known.user_id == memory.user_id
                and known.is_mined
                and known.routine_id not in matched
                and known.status in (RoutineStatus.PROVISIONAL, RoutineStatus.CONFIRMED)
                and all(t.started_ms >= first_ms for t in known.traces.values())
            ):
                self._delete(known, effects)

    def _learn_showings(self, memory: Memory, effects: Effects) -> None:
        """Make traces of the demonstrations that have ended."""
        ended: dict[str, list[Demonstration]] = defaultdict(list)
        for showing in memory.showings.values():
            last = showing.actions[-1:]
            if not showing.is_open and last and memory.is_settled(last[0]):
                ended[showing.name].append(showing)
        for name, showings in ended.items():
            routine_id = derive_id(memory.user_id, "taught", name)
            known = self.routines.get(routine_id)
            ids = {s.key: derive_id(routine_id, s.actions[0].event.id) for s in showings}
            if known is not None and all(
                ids[s.key] in known.traces
                and known.traces[ids[s.key]].final == s.actions[-1].after
                and known.traces[ids[s.key]].num_actions == len(s.actions)
                for s in showings
            ):
                continue
            self._teach(memory, name, showings, effects)

    def _teach(
        self, memory: Memory, name: str, showings: Sequence[Demonstration], effects: Effects
    ) -> None:
        """Learn a routine from its demonstrations: what they have in common are its steps."""
        numbers: dict[Token, int] = {}
        rows = [
            [numbers.setdefault(memory.vocabulary.token(a), len(numbers)) for a in s.actions]
            for s in showings
        ]
        names = list(numbers)
        plan = consensus(rows)
        if not plan:
            return
        pattern = Pattern(tuple(names[n] for n in plan))
        routine_id = derive_id(memory.user_id, "taught", name)
        known = self.routines.get(routine_id)
        if known is None:
            known = Known(routine_id, memory.user_id, Origin.TAUGHT, pattern, name, True)
            self.routines[routine_id] = known
        if not known.is_live:
            known.status = RoutineStatus.PROPOSED
        if known.pattern != pattern:
            known.change_pattern(pattern)
        for showing, row in zip(showings, rows, strict=True):
            places = [j for j, n in enumerate(row) if names[n] in pattern.numbers]
            seen = [pattern.numbers[names[row[j]]] for j in places]
            steps = fill(
                pattern, seen, places, align([pattern.numbers[t] for t in pattern.tokens], seen)
            )
            execution = Execution(tuple(None if j is None else places[j] for j in steps), 0)
            if execution.indices:
                self._traces.take(known, showing.actions, [execution], effects, whole=True)
        if known.traces:
            self._update(known, effects)

    def _update(self, known: Known, effects: Effects, force: bool = False) -> None:
        """Write new traces; look at all of them again, and publish, where that is due."""
        if known.record is not None and not force and not known.is_due():
            self._traces.write_fresh(known, effects)
            return
        if known.update(self._settings, self._agents(known)):
            self._traces.write_all(known, effects)
        else:
            self._traces.write_fresh(known, effects)
        self._publish(known, effects)
        self._forward(known, effects)
        self._measure()

    def _forward(self, known: Known, effects: Effects) -> None:
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
                self._update(target, effects, force=True)

    def _agents(self, known: Known) -> list[Known]:
        """Return the user's other routines that have an agent or are about to get one."""
        others = (k for k in self.routines.values() if k is not known and k.is_live)
        return [
            k for k in others
            if k.user_id == known.user_id
            and (k.status is RoutineStatus.APPROVED or k.origin is Origin.TAUGHT)
        ]  # fmt: skip

    # ---- marks and forgetting --------------------------------------------------------------

    def _on_mark(self, mark: RunMark, raw: bytes, effects: Effects) -> None:
        key, present, dropped = self._marks.add(mark)
        stored = raw if present is mark else present.model_dump_json(exclude_none=True).encode()
        effects.write("INSERT OR REPLACE INTO marks VALUES (?, ?)", (key, stored))
        for old in dropped:
            effects.write("DELETE FROM marks WHERE key = ?", (old,))
        if self._held:
            self._release(mark.boot_id, mark.renewed_boottime_ms, effects)

    def _release(self, boot_id: str, now_boottime_ms: int, effects: Effects) -> None:
        """Judge held events again; `now` is an instant of that boot that has passed."""
        for event_id, (event, raw) in list(self._held.items()):
            now = now_boottime_ms if event.boot_id == boot_id else None
            verdict = self._marks.judge(event, now)
            if verdict is Verdict.HELD:
                continue
            del self._held[event_id]
            effects.write("DELETE FROM held WHERE id = ?", (event_id,))
            _ACTIONS.labels(verdict.value).inc()
            if verdict is Verdict.FREE:
                self._learn(event, raw, effects)
        _HELD.set(len(self._held))

    def _is_forgotten(self, event: UiEvent, appended_ms: int) -> bool:
        if not self._forgotten:
            return False
        ranges = (*self._forgotten.get(event.session, ()), *self._forgotten.get(None, ()))
        return any(forget.covers(event, appended_ms) for forget in ranges)

    def _on_forget(self, forget: ForgetRange, effects: Effects) -> None:
        """Delete what was derived from these events; all that is kept here came before."""
        self._forgotten[forget.session].append(forget)
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
        memory = self._memory(forget.user_id)
        gone = [a for a in memory.all_actions() if forget.covers(a.event, 0)]
        touched = {a.position for a in gone}
        for showing in memory.showings.values():  # a demonstration with a hole shows nothing
            if any(a.position in touched for a in showing.actions):
                gone += [a for a in showing.actions if a.position not in touched]
        memory.forget(gone, forget, effects)
        count_forgotten(effects, "actions", len({a.position for a in gone}))
        self._traces.forget_screens()
        for known in list(self.routines.values()):
            if known.user_id == forget.user_id:
                self._forget_traces(known, forget, effects)
        self._to_search.add(forget.user_id)

    def _forget_traces(self, known: Known, forget: ForgetRange, effects: Effects) -> None:
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
            self._publish(known, effects)

    def _erase(self, known: Known, effects: Effects) -> None:
        """Delete a routine with its words: its steps and its name, too, came from its traces."""
        count_forgotten(effects, "routines", int(known.is_live))
        self._delete(known, effects)
        self.routines.pop(known.routine_id, None)
        effects.write("DELETE FROM routines WHERE routine_id = ?", (known.routine_id,))
        self._ends.pop(known.user_id, None)

    def _search_again(self, effects: Effects) -> None:
        """Search the windows anew from which actions were forgotten.

        Traces that are written again by this leave no file behind for whoever reads by the record
        before: what forgot something says so once more, and nobody waits for those files.
        """
        touched = [k for k in self.routines.values() if k.num_forgotten and k.is_live]
        before = {k.routine_id: {t.digest for t in k.traces.values()} for k in touched}
        for user_id in sorted(self._to_search):
            self._mine(self._memory(user_id), effects)
        self._to_search.clear()
        for known in touched:
            written = {t.digest for t in known.traces.values()}
            if known.is_live and not before[known.routine_id] <= written:
                known.num_forgotten += 1
                self._publish(known, effects)

    async def erase(self, ranges: Sequence[ForgetRange]) -> int | None:
        """Search anew once for all ranges: each search takes a while.

        A record that is older than a range of its sessions says nothing to its readers: it is
        published again where it still holds.
        """
        effects = Effects(self.room)
        newest_ms = {(r.user_id, r.session): r.time_ms for r in ranges}
        for known in self.routines.values():
            record = known.record
            if (
                record is not None
                and known.is_live
                and any(
                    record.time_ms <= newest_ms.get((known.user_id, t.session), -1)
                    for t in known.traces.values()
                )
            ):
                self._publish(known, effects)
        self._to_search.update(forget.user_id for forget in ranges)
        self._search_again(effects)
        if effects:
            await self._commit(effects)
        return None

    def places(self, application: str | None, since_ms: int | None) -> Iterator[Place]:
        """Yield the places of the events that are still kept here and fit, in no order."""
        wanted = application.casefold() if application is not None else None
        kept = [event for event, _ in self._held.values()]
        for memory in self._memories.values():
            kept += [action.event for action in memory.all_actions()]
        for known in self.routines.values():
            for trace in known.traces.values():
                if since_ms is None or trace.ended_ms >= since_ms:
                    kept += self._traces.events_of(trace) if trace.digest else []
        for event in kept:
            if (wanted is None or event.application.casefold() == wanted) and (
                since_ms is None or event.time_ms >= since_ms
            ):
                yield (event.user_id, event.source.value, event.session, event.seq)

    def _delete(self, known: Known, effects: Effects) -> None:
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
        self._publish(known, effects)
        self._measure()

    # ---- store ---------------------------------------------------------------------------------

    async def _published(self) -> dict[str, Routine]:
        """Return the live routines on the topic: where the store is lost, it has the decisions."""
        found: dict[str, Routine] = {}
        for partition, (at, end) in (await self.port.bounds(Topic.TASKS)).items():
            while at < end and (page := await self.port.read(Topic.TASKS, partition, at, _PAGE)):
                records = [decode(m.value, m.headers) for m in page if m.value]
                found |= {r.routine_id: r for r in records if isinstance(r, Routine)}
                at = page[-1].offset + 1
        return {i: r for i, r in found.items() if r.status is not RoutineStatus.DELETED}

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

    def _publish(self, known: Known, effects: Effects) -> Routine:
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

    async def _commit(self, effects: Effects) -> None:
        try:
            await self.port.commit(effects)
        except Exception:
            await self.start(self.port)
            raise

    def _memory(self, user_id: str) -> Memory:
        memory = self._memories.get(user_id)
        if memory is None:
            memory = Memory(
                user_id,
                self._settings.window_actions,
                self._settings.result_wait_ms,
                self._traces.place,
            )
            memory.load(self.port.store)
            self._memories[user_id] = memory
            if any(showing.is_open for showing in memory.showings.values()):
                self._heard_s[user_id] = self._clock.boottime_ms() / 1000
        return memory

    def _load_routines(self) -> None:
        store = self.port.store
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
                derived_from=record.derived_from,
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
        _HELD.set(len(self._held))


def _holds(pattern: Pattern, found: Sequence[Execution], finding: Finding) -> bool:
    """Tell whether known steps still explain the log, so that they need not change."""
    if len(found) < 0.95 * len(finding.executions):
        return False
    if pattern.end != finding.pattern.end and pattern.counts.total() == len(finding.pattern.tokens):
        return False  # the same loop, begun elsewhere
    seldom = any(
        sum(e.steps[i] is not None for e in found) < _STAYS * len(found)
        for i in range(len(pattern.tokens))
    )
    new = [
        i for i, token in enumerate(finding.pattern.tokens) if token not in pattern.numbers
    ]  # fmt: skip
    firm = any(
        sum(e.steps[i] is not None for e in finding.executions) >= _ENTERS * len(finding.executions)
        for i in new
    )
    return not seldom and not firm
