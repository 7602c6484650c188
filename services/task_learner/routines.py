"""A routine as the learner keeps it: pattern, traces, values, decisions; and its record.

Pure. The record on `tasks` follows from it; whether that is due is said here too.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TypeVar

from services.task_learner.actions import DATA_ROLES, Token
from services.task_learner.automatability import PROPOSE_RATE, Replayed, dry_replay
from services.task_learner.dataflow import Flow, StepValue, find_flow
from services.task_learner.segment import Pattern
from services.task_learner.settings import TaskLearnerSettings
from shared.schemas import (
    Action,
    Automatability,
    Forward,
    Level,
    Origin,
    Parameter,
    Routine,
    RoutineStatus,
    Source,
    Step,
    TraceRef,
    UiEvent,
    derive_id,
    event_id,
)

__all__ = [
    "DECIDED",
    "Known",
    "KnownTrace",
    "default_name",
    "in_time_order",
    "likeness",
    "places_of",
    "routine_id_of",
    "step_of",
    "steps_from",
]

T = TypeVar("T")

DECIDED = frozenset({RoutineStatus.APPROVED, RoutineStatus.IGNORED})
"""What a person has decided is not changed by more evidence."""

_ALIKE = 0.8  # likeness from which on an agent for one routine does for another
_COMMITTING = frozenset({"button", "menuitem"})  # what else is clicked on chooses or navigates
_TICKED = frozenset({"checkbox", "radio", "switch"})
_ALWAYS_UP_TO = 50  # traces up to which each new one is published
_GROWTH = 1.05  # … and from there on each growth by this factor
_SEARCH_ALWAYS = 10  # traces up to which programmes are looked for each time …
_SEARCH_GROWTH = 1.25  # … and from there on each growth by this factor


@dataclass
class KnownTrace:
    """One trace: where its artifact is, which events it has, what values its steps carry."""

    trace_id: str
    digest: str
    session: str
    started_ms: int
    ended_ms: int
    level: Level
    event_ids: tuple[str, ...]
    places: tuple[tuple[str, str, int], ...]  # source, session, seq of each event
    values: list[StepValue | None]
    final: str | None
    num_actions: int = 0  # of a demonstration, noise included
    final_place: tuple[tuple[str, str, int], ...] = ()  # of the event that saw the final screen
    forwarded_by: str | None = None  # of a copy: the routine whose trace it is
    others: tuple[str, ...] = ()  # events that are no step: a sentence told them

    def dump(self) -> str:
        """Return the trace as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> "KnownTrace":
        """Read what `dump` wrote."""
        raw = json.loads(text)
        values = [None if v is None else StepValue.load(v) for v in raw["values"]]
        return cls(
            **{
                **raw, "values": values, "level": Level(raw["level"]),
                "event_ids": tuple(raw["event_ids"]), "others": tuple(raw.get("others", ())),
                "places": tuple(tuple(p) for p in raw["places"]),
                "final_place": tuple(tuple(p) for p in raw["final_place"]),
            }
        )  # fmt: skip


@dataclass
class Known:
    """One routine and all that is known about it."""

    routine_id: str
    user_id: str
    origin: Origin
    pattern: Pattern
    name: str = ""
    named_by_user: bool = False
    status: RoutineStatus = RoutineStatus.PROVISIONAL
    revision: int = 0
    train: int = 0
    num_older: int = 0  # traces no longer kept
    older_until_ms: int = -1  # … which ended no later than this
    num_forgotten: int = 0  # traces that had to be forgotten
    traces: dict[str, KnownTrace] = field(default_factory=dict)  # by id, in order of time
    flow: Flow = field(default_factory=lambda: Flow((), (), ()))
    automatability: Automatability | None = None
    not_proposed: str | None = None  # why, in words
    forwards: tuple[Forward, ...] = ()  # joined or split by a person: where its traces go
    left_out: tuple[Step, ...] = ()  # taught: what only some demonstrations have
    told_by: tuple[str, ...] = ()  # words of the sentences on the screen that tell what to do
    derived_from: str | None = None  # split off by a person: it has what is forwarded to it alone
    searched: int = 0  # the support when programmes were last looked for, and it was replayed
    coverage: float = 0.0
    record: Routine | None = None  # as published last
    fresh: dict[str, list[UiEvent]] = field(default_factory=dict)  # events of traces to be written

    @property
    def support(self) -> int:
        """Return the number of traces seen."""
        return self.num_older + len(self.traces)

    @property
    def is_live(self) -> bool:
        """Tell whether there is still something it was learned from."""
        return self.status is not RoutineStatus.DELETED

    @property
    def is_mined(self) -> bool:
        """Tell whether mining finds its executions."""
        return self.origin is Origin.MINED and self.derived_from is None

    def is_due(self) -> bool:
        """Tell whether the traces have grown enough to look at them all again."""
        last = self.record.support if self.record is not None else 0
        return self.support <= _ALWAYS_UP_TO or self.support >= _GROWTH * last

    def update(self, settings: TaskLearnerSettings, agents: Sequence["Known"] = ()) -> bool:
        """Derive parameters, status and name from the traces; tell whether steps or parameters
        changed, which raises the revision. `agents` are routines that have an agent, or may get
        one before this.
        """
        search = not _SEARCH_ALWAYS < self.support < _SEARCH_GROWTH * self.searched
        self._find_flow(self.flow.parameters, search)
        if search and not self.told_by:
            self.automatability = self._replay()
        if self.status not in DECIDED:
            self.status = self._status(settings, agents)
        if not self.named_by_user:
            self.name = " ".join(self.told_by)[:120] or default_name(self.pattern, self.flow)
        steps = tuple(s.model_copy(update={"coverage": 1.0}) for s in self.steps())
        before = self.record
        known = before is not None and (
            tuple(s.model_copy(update={"coverage": 1.0}) for s in before.steps) == steps
            and before.parameters == self.flow.parameters
        )
        if not known:
            self.revision += 1
        return not known

    def change_pattern(self, pattern: Pattern) -> None:
        """Take other steps; the traces keep what they have of them, those of a sentence all."""
        sources = steps_from(self.pattern, pattern)
        for trace in self.traces.values():
            ids, values = trace.event_ids, trace.values
            trace.event_ids = tuple("" if s is None else ids[s] for s in sources)
            if self.told_by:  # an execution is all that was done
                lost = [i for i in ids if i and i not in trace.event_ids]
                trace.others = (*trace.others, *lost)
            trace.values = [None if s is None else values[s] for s in sources]
        self.pattern = pattern

    def drop_unseen_steps(self) -> None:
        """Leave out the steps that no trace has any more, and what programmes say."""
        self.flow, self.searched = Flow((), (), ()), 0  # literals and tables came from all traces
        traces = self.traces.values()
        kept = [
            step
            for step in range(len(self.pattern.tokens))
            if any(trace.event_ids[step] for trace in traces)
        ]
        self.pattern = Pattern(tuple(self.pattern.tokens[step] for step in kept))
        for trace in traces:
            trace.event_ids = tuple(trace.event_ids[step] for step in kept)
            trace.values = [trace.values[step] for step in kept]

    def restore_flow(self) -> None:
        """Derive the parameters again after a restart."""
        self._find_flow(self.record.parameters if self.record is not None else (), search=False)
        self.searched = self.support
        if self.record is not None:
            self.automatability = self.record.automatability
            self.not_proposed = self.record.not_proposed

    def _find_flow(self, known: Sequence[Parameter], search: bool) -> None:
        if self.told_by:  # what is entered is not asked for: the screen says it
            num = len(self.pattern.tokens)
            self.flow = Flow((), (None,) * num, (None,) * num)
            return
        rows = [t.values for t in self.traces.values()]
        self.flow = find_flow(len(self.pattern.tokens), rows, known, search)
        if search:
            self.searched = self.support

    def steps(self) -> tuple[Step, ...]:
        """Return the steps as the record shows them."""
        rows = [t.event_ids for t in self.traces.values()]
        return tuple(
            step_of(
                token, sum(bool(row[i]) for row in rows) / len(rows) if rows else 1.0,
                self.flow.of_step[i], self.flow.constants[i],
            )
            for i, token in enumerate(self.pattern.tokens)
        )  # fmt: skip

    def to_record(self, time_ms: int) -> Routine:
        """Return the record as it is to be published now."""
        traces = list(self.traces.values())
        level = Level.STRUCTURE if any(t.level is Level.STRUCTURE for t in traces) else Level.VALUES
        gone = not self.is_live
        return Routine(
            id=derive_id(
                self.routine_id, self.revision, self.support, self.status.value, self.train,
                self.name, time_ms,
            ),
            time_ms=time_ms, routine_id=self.routine_id, revision=max(1, self.revision),
            user_id=self.user_id, name="(forgotten)" if gone else self.name, origin=self.origin,
            status=self.status, level=level,
            applications=tuple(sorted({t.application for t in self.pattern.tokens if not gone})),
            steps=() if gone else self.steps(),
            parameters=() if gone else self.flow.parameters,
            support=0 if gone else self.support, coverage=0.0 if gone else self.coverage,
            median_ms=self._median_ms(),
            traces=tuple(
                TraceRef(trace_id=t.trace_id, digest=t.digest, session=t.session,
                         started_ms=t.started_ms, ended_ms=t.ended_ms)
                for t in traces
            ),
            train=self.train, num_forgotten=self.num_forgotten,
            automatability=None if gone else self.automatability,
            not_proposed=None if gone else self.not_proposed,
            forwards=None if gone else self.forwards or None, derived_from=self.derived_from,
            left_out=None if gone else self.left_out or None,
            told_by=None if gone else self.told_by or None,
        )  # fmt: skip

    def _status(self, settings: TaskLearnerSettings, agents: Sequence["Known"]) -> RoutineStatus:
        """Propose what was taught, and what was mined if an agent could do it and none does."""
        self.not_proposed = None
        if self.origin is Origin.TAUGHT:
            return RoutineStatus.PROPOSED
        if self.told_by:
            self.not_proposed = (
                "a sentence on the screen tells what to do: how often an agent would get that "
                "right is known once one is trained"
            )
            return self._seen(settings)
        alike = next(
            (
                a
                for a in agents
                if likeness(a.pattern, self.pattern, (a.told_by, self.told_by)) >= _ALIKE
            ),
            None,
        )
        low = self.automatability.step_low if self.automatability is not None else 0.0
        if self.support < settings.propose_after:
            self.not_proposed = f"seen {self.support} times, {settings.propose_after} are needed"
        elif low < PROPOSE_RATE:
            self.not_proposed = (
                f"an agent would get at least {low:.0%} of the steps right, {PROPOSE_RATE:.0%} "
                "are needed"
            )
        elif alike is not None and self.derived_from is None:
            self.not_proposed = f"nearly the same as {alike.name}"
        else:
            return RoutineStatus.PROPOSED
        return self._seen(settings)

    def _seen(self, settings: TaskLearnerSettings) -> RoutineStatus:
        if self.support >= settings.confirm_after:
            return RoutineStatus.CONFIRMED
        return RoutineStatus.PROVISIONAL

    def _replay(self) -> Automatability | None:
        """Replay the traces on paper."""
        tokens = self.pattern.tokens
        return dry_replay(
            [self._replayed(trace) for trace in self.traces.values()], self.flow,
            named=[bool(self.flow.of_step[i]) or (bool(t.label.strip("@")) and t.label[:1] != "@")
                   for i, t in enumerate(tokens)],
            fills=[
                t.document if t.action.startswith(("edit", "select")) or t.role in _TICKED else None
                for t in tokens
            ],
            num_side_effects=sum(t.role in _COMMITTING or t.action.endswith("Enter")
                                 for t in tokens if t.action.startswith(("click", "key"))),
            median_ms=self._median_ms(),
        )  # fmt: skip

    def _replayed(self, trace: KnownTrace) -> Replayed:
        """Return a trace's steps in the order of time, which its places are in."""
        step_of = {event: step for step, event in enumerate(trace.event_ids) if event}
        ids = [event_id(self.user_id, Source(s), session, seq) for s, session, seq in trace.places]
        in_time = [step_of[i] for i in ids if i in step_of]
        order = in_time if len(in_time) == len(step_of) else sorted(step_of.values())
        return Replayed(tuple(order), trace.values, trace.started_ms, trace.ended_ms)

    def _median_ms(self) -> int:
        traces = self.traces.values()
        return int(median(t.ended_ms - t.started_ms for t in traces)) if traces else 0


def routine_id_of(user_id: str, pattern: Pattern, told_by: Sequence[str] = ()) -> str:
    """Return the id a routine gets when it is first found."""
    return derive_id(user_id, *("\n".join(token) for token in pattern.tokens), *told_by)


def steps_from(old: Pattern, new: Pattern) -> list[int | None]:
    """Return for each step of `new` which step of `old` it is, None for one that is not there."""
    known: dict[tuple[Token, int], int] = {}
    nth: Counter[Token] = Counter()
    for step, token in enumerate(old.tokens):
        known[token, nth[token]] = step
        nth[token] += 1
    nth.clear()
    found: list[int | None] = []
    for token in new.tokens:
        found.append(known.get((token, nth[token])))
        nth[token] += 1
    return found


def likeness(
    first: Pattern, second: Pattern, told: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> float:
    """Return what share of their steps two patterns have in common, 0 to 1 (Jaccard).

    Where sentences tell either of them (`told`), what counts is the words the sentences share.
    """
    if any(told):
        return _jaccard(Counter(told[0]), Counter(told[1]))
    return _jaccard(Counter(map(_coarse, first.tokens)), Counter(map(_coarse, second.tokens)))


def _jaccard(a: Counter[T], b: Counter[T]) -> float:
    return (a & b).total() / (a | b).total()


def default_name(pattern: Pattern, flow: Flow) -> str:
    """Return a readable name from the routine's own elements."""
    end = next(
        (t for t in reversed(pattern.tokens) if t.action.startswith(("click", "double"))
         and t.label and not t.label.startswith("@")),
        pattern.end,
    )  # fmt: skip
    words = end.label.lstrip("@") or end.action
    tail = next((p for p in reversed(re.split(r"[/?#]+", end.document)) if p), "")
    if " " not in words and tail and tail.lower() != words.lower():
        words = f"{words}: {tail}"
    fields = len({t for t in pattern.tokens if t.action in ("edit", "select")})
    return f"{words} ({fields} field{'' if fields == 1 else 's'})"[:120]


def places_of(events: Iterable[UiEvent]) -> tuple[tuple[str, str, int], ...]:
    """Return source, session and seq of each event."""
    return tuple((e.source.value, e.session, e.seq) for e in events)


def in_time_order(traces: Iterable[KnownTrace]) -> dict[str, KnownTrace]:
    """Return traces by id, the oldest first."""
    return {t.trace_id: t for t in sorted(traces, key=lambda t: (t.ended_ms, t.trace_id))}


def _coarse(token: Token) -> Token:
    return token._replace(label="") if token.role in DATA_ROLES else token


def step_of(
    token: Token, coverage: float, parameter: str | None = None, constant: str | None = None
) -> Step:
    """Return a step as a record shows it; `coverage` is the share of executions that have it."""
    action, _, keys = token.action.partition(" ")
    return Step(
        action=Action(action), application=token.application,
        document=token.document or None, role=token.role or None,
        label=None if not token.label or token.label.startswith("@") else token.label,
        parameter=parameter, constant=keys or constant, coverage=coverage,
    )  # fmt: skip
