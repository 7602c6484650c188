"""From one person's window of actions to routines in the catalogue, and their new executions.

A known routine gains a trace when its last step has been done and the screen after it is known.
Unknown ones are looked for at each anchor of the person's stream: what is found is the known
routine it is most like, or a new one; what is only provisional and no longer found goes. The
stream's state is written with that; what came after it is read from the table of actions.

Does not cover: which actions there are (`memory`), what repeats in them (`stream`, `discover`).
"""

import time
from collections import defaultdict
from collections.abc import Sequence

from prometheus_client import Histogram

from services.task_learner.actions import Token, UserAction
from services.task_learner.catalogue import Catalogue
from services.task_learner.discover import Finding, discover, distinct
from services.task_learner.discovery.miner import FIRST
from services.task_learner.memory import Memory
from services.task_learner.routines import Known, likeness, routine_id_of
from services.task_learner.segment import MAX_SPAN, Execution, Pattern, Vocabulary, executions
from services.task_learner.stream import Stream
from services.task_learner.told import find_told, first_looked, first_told
from services.task_learner.traces import TraceKeeper
from shared.bus.base import Effects
from shared.schemas import Origin, RoutineStatus, derive_id
from shared.store import Store

__all__ = ["Finder"]

_SAME = 0.5  # likeness from which on a finding is a known routine
_STAYS, _ENTERS = 0.7, 0.9  # coverage below which a step leaves, from which on a new one enters
_MINING_S = Histogram("wat_task_learner_mining_seconds", "time of one search of a window")


class Finder:
    """Finds routines, and the executions of those it knows."""

    def __init__(
        self, catalogue: Catalogue, traces: TraceKeeper, store: Store, window: int
    ) -> None:
        """Go on where `store` stands; `window` is the number of actions that are kept."""
        self._catalogue = catalogue
        self._traces = traces
        self._store = store
        self._window = window - window // 10  # at an anchor all of it is kept
        self._streams: dict[str, Stream] = {}
        self._overdue: set[str] = set()  # users whose stream had to be begun anew
        self._pending: dict[str, list[tuple[str, UserAction]]] = defaultdict(list)
        self._ends: dict[str, dict[Token, list[str]]] = {}  # which routines a token ends, by user

    def resume(self, memory: Memory) -> None:
        """Go on where the store stands."""
        user_id, actions = memory.user_id, memory.actions
        stream = self._streams[user_id] = Stream(self._window, memory.vocabulary)
        rows = self._store.query("SELECT state FROM streams WHERE user_id = ?", (user_id,))
        if (rows and stream.load(rows[0][0])) or len(actions) <= FIRST:
            stream.take(actions)
        elif stream.rebuild(actions):
            self._overdue.add(user_id)
        self._await_ends(memory, actions[-MAX_SPAN:])

    def take(self, memory: Memory, action: UserAction | None, effects: Effects) -> None:
        """Take in what an event added to the window, if it added anything."""
        if action is not None and action.event.demonstration is None:
            self._await_ends(memory, [action])
        if self._pending[memory.user_id]:
            self._complete(memory, effects)
        stream = self._streams.get(memory.user_id)
        if stream is None:
            stream = self._streams[memory.user_id] = Stream(self._window, memory.vocabulary)
        overdue = memory.user_id in self._overdue
        if overdue or (action is not None and stream.take(memory.actions)):
            self._search(memory, stream, effects)

    def begin_anew(self, memory: Memory, effects: Effects) -> None:
        """Learn from the window as it is now, without what was known before."""
        stream = self._streams[memory.user_id] = Stream(self._window, memory.vocabulary)
        if stream.rebuild(memory.actions):
            self._search(memory, stream, effects)
        else:
            self._adopt_all(memory, [], stream.vocabulary, effects)

    def forget(self, user_id: str, effects: Effects) -> None:
        """Drop what was learned of a person's actions; `begin_anew` is due."""
        self._streams.pop(user_id, None)
        effects.write("DELETE FROM streams WHERE user_id = ?", (user_id,))
        self._ends.pop(user_id, None)

    def _search(self, memory: Memory, stream: Stream, effects: Effects) -> None:
        """Look for routines in the whole window, by its threads at the anchor."""
        started_s = time.perf_counter()
        self._overdue.discard(memory.user_id)
        actions, vocabulary = memory.actions, stream.vocabulary
        findings = self._found(actions, vocabulary, stream)
        state = (memory.user_id, stream.dump())
        effects.write("INSERT OR REPLACE INTO streams VALUES (?, ?)", state)
        self._adopt_all(memory, findings, vocabulary, effects)
        _MINING_S.observe(time.perf_counter() - started_s)

    def _found(
        self, actions: Sequence[UserAction], vocabulary: Vocabulary, stream: Stream
    ) -> list[Finding]:
        """Return what repeats; what a sentence tells first: nobody has to fill anything in."""
        found = discover(actions, vocabulary, stream.threads(actions))
        told = find_told(actions, vocabulary, self._traces.sight)
        looked = actions[first_looked(len(actions)) :]
        self._traces.keep_sights({a.event.snapshot for a in looked})
        return distinct([*told, *found])

    def _adopt_all(
        self, memory: Memory, findings: Sequence[Finding], vocabulary: Vocabulary, effects: Effects
    ) -> None:
        """Take over what was found, and take back what no longer is."""
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

    def _await_ends(self, memory: Memory, actions: Sequence[UserAction]) -> None:
        """Note which actions may have ended an execution; whether they did is seen later."""
        ends = self._ends.get(memory.user_id)
        if ends is None:
            ends = self._ends[memory.user_id] = defaultdict(list)
            for known in self._catalogue.of_user(memory.user_id):
                if known.is_mined and not known.told_by:  # where those end is told by what follows
                    ends[known.pattern.end].append(known.routine_id)
        for action in actions:
            for routine_id in ends.get(memory.vocabulary.token(action), ()):
                self._pending[memory.user_id].append((routine_id, action))

    def _complete(self, memory: Memory, effects: Effects) -> None:
        """Take the executions whose last action has been followed by a screen."""
        still, changed = [], {}
        for routine_id, action in self._pending[memory.user_id]:
            known = self._catalogue.routines.get(routine_id)
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
            self._catalogue.update(known, effects)

    def _match(self, memory: Memory, finding: Finding, matched: set[str]) -> Known | None:
        """Return the routine a finding is, a new one where none is alike, None for a taught one."""
        rivals = [
            (likeness(known.pattern, finding.pattern, (known.told_by, finding.told_by)), known)
            for known in self._catalogue.of_user(memory.user_id)
            if known.routine_id not in matched and not known.derived_from
        ]
        best = max(rivals, key=lambda r: (r[0], r[1].is_live), default=None)
        if best is not None and best[0] >= _SAME:
            return None if best[1].origin is Origin.TAUGHT and best[1].is_live else best[1]
        routine_id = routine_id_of(memory.user_id, finding.pattern, finding.told_by)
        known = self._catalogue.routines.get(routine_id)
        if known is None:
            known = Known(
                routine_id, memory.user_id, Origin.MINED, finding.pattern, told_by=finding.told_by
            )
            self._catalogue.routines[routine_id] = known
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
            if not (revive or known.told_by) and _holds(known.pattern, old, finding):
                found = old
            else:
                known.change_pattern(finding.pattern)
                changed = True
        if revive:
            known.status, known.told_by = RoutineStatus.PROVISIONAL, finding.told_by
        elif any(word not in finding.told_by for word in known.told_by):
            # It was a value that some sentences had in common, or of those that are forgotten.
            known.told_by = tuple(word for word in known.told_by if word in finding.told_by)
            changed = True
        settled = [e for e in found if memory.is_settled(actions[e.indices[-1]])]
        taken = self._traces.take(known, actions, settled, effects)
        ends = {derive_id(known.routine_id, actions[e.indices[-1]].event.id) for e in found}
        first_ms = actions[finding.begin].event.time_ms
        stale = [
            t for t in known.traces.values()
            if t.started_ms >= first_ms and t.trace_id not in ends and t.forwarded_by is None
        ]  # fmt: skip
        for trace in stale:
            self._traces.drop(known, trace, effects)
        known.coverage = len({i for e in found for i in e.indices}) / len(actions)
        if len(known.traces) < 2:
            self._catalogue.delete(known, effects)
        elif changed or taken or stale:
            self._catalogue.update(known, effects, force=changed or bool(stale))
        else:
            self._catalogue.note_coverage(known, effects)

    def _retract(self, memory: Memory, matched: set[str], effects: Effects) -> None:
        """Take back what was only provisional and is no longer found while it is still in view."""
        if not memory.actions:
            return
        first_ms = memory.actions[0].event.time_ms
        first_told_ms = memory.actions[first_told(len(memory.actions))].event.time_ms
        for known in self._catalogue.of_user(memory.user_id):
            if (
                known.is_mined
                and known.routine_id not in matched
                and known.status in (RoutineStatus.PROVISIONAL, RoutineStatus.CONFIRMED)
                and all(
                    t.started_ms >= (first_told_ms if known.told_by else first_ms)
                    for t in known.traces.values()
                )
            ):
                self._catalogue.delete(known, effects)


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
    most = max(len(found), len(finding.executions))  # a step that costs executions is not firm
    firm = any(
        sum(e.steps[i] is not None for e in finding.executions) >= _ENTERS * most for i in new
    )
    return not seldom and not firm
