"""Routines that a person teaches: what several demonstrations have in common are the steps.

Reads the demonstrations of a memory; writes routines and traces through the catalogue.

Does not cover: which events are shown, and when a demonstration ends (`memory`).
"""

from collections import defaultdict
from collections.abc import Sequence

from services.task_learner.actions import Token
from services.task_learner.catalogue import Catalogue
from services.task_learner.discover import consensus
from services.task_learner.memory import Demonstration, Memory
from services.task_learner.routines import Known, step_of
from services.task_learner.segment import Execution, Pattern, align, fill
from services.task_learner.traces import TraceKeeper
from shared.bus.base import Effects
from shared.schemas import Origin, RoutineStatus, Step, derive_id

__all__ = ["Teaching"]

_HALF = 0.5


class Teaching:
    """Makes routines of demonstrations."""

    def __init__(self, catalogue: Catalogue, traces: TraceKeeper) -> None:
        self._catalogue = catalogue
        self._traces = traces

    def learn(self, memory: Memory, effects: Effects) -> None:
        """Make traces of the demonstrations that have ended."""
        ended: dict[str, list[Demonstration]] = defaultdict(list)
        for showing in memory.showings.values():
            last = showing.actions[-1:]
            if not showing.is_open and last and memory.is_settled(last[0]):
                ended[showing.name].append(showing)
        for name, showings in ended.items():
            routine_id = derive_id(memory.user_id, "taught", name)
            known = self._catalogue.routines.get(routine_id)
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
        """Learn a routine from its demonstrations."""
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
        known = self._catalogue.routines.get(routine_id)
        if known is None:
            known = Known(routine_id, memory.user_id, Origin.TAUGHT, pattern, name, True)
            self._catalogue.routines[routine_id] = known
        if not known.is_live:
            known.status = RoutineStatus.PROPOSED
        if known.pattern != pattern:
            known.change_pattern(pattern)
        known.left_out = _left_out(pattern, names, rows)
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
            self._catalogue.update(known, effects)


def _left_out(
    pattern: Pattern, names: Sequence[Token], rows: Sequence[Sequence[int]]
) -> tuple[Step, ...]:
    """Return what is no step although half of the demonstrations have it: perhaps one forgot it."""
    shares = {
        number: sum(number in row for row in rows) / len(rows)
        for row in rows for number in row
    }  # fmt: skip
    return tuple(
        step_of(names[number], share)
        for number, share in shares.items()
        if share >= _HALF and names[number] not in pattern.numbers
    )
