"""How well an agent could have done a routine: its executions replayed on paper, none of it acted.

Two figures with different uses. *Held out*: the newest executions are set aside, everything is
learned from the older ones, and each next action and each value is foretold; that is what is
shown. *Leave one out*: each execution is foretold from all others (where values come from is taken
from all); the lower bound of its step rate decides whether the routine is proposed. Which record
an execution is about is given; any other value that only the user knows counts as not foretold.

Pure. Does not cover: whether the pages will be the same (`shared.screen`), and what the network
will have learned (the trainer's evaluation).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import exp, lgamma, log

from services.task_learner.dataflow import Flow, StepValue, find_flow, parameter_values
from shared.schemas import Automatability, ParameterSource
from shared.schemas.programmes import PREVIOUS
from shared.transforms import run

__all__ = ["PROPOSE_RATE", "Replayed", "beta_quantile", "dry_replay"]

PROPOSE_RATE = 0.8
"""What the lower bound of the step rate must reach before a routine is proposed."""

_BOUND = 0.2  # one-sided 80 % lower bound; the interval is the central 80 %
_HELD_OUT_SHARE = 0.25
_MAX_HELD_OUT = 20
_MIN_EXECUTIONS = 3
_WEEK_MS = 7 * 24 * 3_600_000
_START = -1


@dataclass(frozen=True)
class Replayed:
    """One execution: which steps of the pattern were done, in which order, with which values."""

    order: tuple[int, ...]
    values: Sequence[StepValue | None]  # by step of the pattern
    started_ms: int
    ended_ms: int


@dataclass
class _Score:
    """What was foretold right, of how much."""

    steps: int = 0
    steps_right: int = 0
    actions_right: int = 0
    values: int = 0
    values_right: int = 0
    firsts_right: int = 0
    runs: int = 0
    runs_right: int = 0


def dry_replay(
    executions: Sequence[Replayed], flow: Flow, *, named: Sequence[bool],
    fills: Sequence[str | None], num_side_effects: int, median_ms: int,
) -> Automatability | None:  # fmt: skip
    """Return how well the executions, in the order of time, can be foretold; None for too few.

    `flow` is what was learned from all of them, `named` tells of each step of the pattern whether
    its element is known by a name or by its value rather than by its place, `fills` on which page
    it fills a field, if it does: fields filled one after the other on one page may be filled in any
    order, since an agent keeps to one of its own.
    """
    if len(executions) < _MIN_EXECUTIONS:
        return None
    counts = _counts(executions)
    every = _Score()
    constants = _constants(executions)
    for at, execution in enumerate(executions):
        last = executions[at - 1] if at else None
        _score(execution, last, counts, _counts([execution]), flow, constants, fills, every)
    num_held = max(1, min(_MAX_HELD_OUT, round(_HELD_OUT_SHARE * len(executions))))
    older, newest = executions[:-num_held], executions[-num_held:]
    held = _Score()
    then = find_flow(len(flow.of_step), [e.values for e in older], flow.parameters)
    counts, constants = _counts(older), _constants(older)
    for last, execution in zip([older[-1], *newest], newest, strict=False):
        _score(execution, last, counts, {}, then, constants, fills, held)
    done = Counter(step for e in executions for step in e.order)
    weeks = max(1.0, (executions[-1].ended_ms - executions[0].started_ms) / _WEEK_MS)
    run_rate = held.runs_right / held.runs
    return Automatability(
        num_held_out=num_held,
        step_rate=_share(held.steps_right, held.steps),
        step_low=beta_quantile(
            _BOUND, every.steps_right + 0.5, every.steps - every.steps_right + 0.5
        ),
        run_rate=run_rate,
        run_low=beta_quantile(
            _BOUND / 2, held.runs_right + 0.5, held.runs - held.runs_right + 0.5
        ),
        run_high=beta_quantile(
            1 - _BOUND / 2, held.runs_right + 0.5, held.runs - held.runs_right + 0.5
        ),
        branching=_share(held.actions_right, held.steps),
        values=_share(held.values_right, held.values),
        selectors=_share(sum(n for step, n in done.items() if named[step]), done.total()),
        trigger=_share(held.firsts_right, held.runs),
        num_side_effects=num_side_effects,
        saves_ms_a_week=int(run_rate * median_ms * len(executions) / weeks),
    )  # fmt: skip


_Counts = Mapping[tuple[int, ...], Counter[int]]


def _counts(executions: Sequence[Replayed]) -> _Counts:
    """Count what came after the last two steps, the last one, and at all."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for execution in executions:
        for past, following in _moments(execution):
            for context in (past, past[-1:], ()):
                counts[context][following] += 1
    return counts


def _moments(execution: Replayed) -> list[tuple[tuple[int, ...], int]]:
    """Return (the two steps before, the step), and at last (the last two, the end)."""
    steps = (_START, _START, *execution.order, len(execution.values))
    return [(steps[at - 2 : at], steps[at]) for at in range(2, len(steps))]


def _foretold(past: tuple[int, ...], counts: _Counts, own: _Counts) -> int | None:
    """Return the commonest next step after the longest history seen in other executions."""
    for context in (past, past[-1:], ()):
        others = counts.get(context, Counter()) - own.get(context, Counter())
        if others:
            return max(others, key=lambda step: (others[step], -step))
    return None


def _constants(executions: Sequence[Replayed]) -> list[Counter[str]]:
    """Count the values of each step."""
    num = max(len(e.values) for e in executions)
    found: list[Counter[str]] = [Counter() for _ in range(num)]
    for execution in executions:
        for step, value in enumerate(execution.values):
            if value is not None and value.key is not None:
                found[step][value.key] += 1
    return found


def _score(
    execution: Replayed, last: Replayed | None, counts: _Counts, own: _Counts, flow: Flow,
    constants: Sequence[Counter[str]], fills: Sequence[str | None], score: _Score,
) -> None:  # fmt: skip
    """Foretell the execution after `last`; `own` is its share of `counts`, so that it is left out.

    Where `own` is given, the execution is one of those `constants` were counted in too.
    """
    all_right = True
    known = parameter_values(flow, execution.values)
    before = parameter_values(flow, last.values) if last is not None else {}
    done: set[str] = set()
    for at, (past, step) in enumerate(_moments(execution)):
        foretold = _foretold(past, counts, own)
        action_right = foretold == step or foretold in _block(execution.order[at:], fills)
        value_right = True
        if step < len(execution.values) and (value := execution.values[step]) is not None:
            name = flow.of_step[step]
            if name is not None:
                # What is clicked on is which record it is about: that is asked for, not foretold.
                value_right = (
                    value.chosen or name in done or _follows(name, value, flow, known, before)
                )
                if not value.chosen:
                    done.add(name)
            elif value.key is not None and flow.constants[step] is not None:
                value_right = constants[step][value.key] > bool(own)
            score.values += 1
            score.values_right += value_right
        score.steps += 1
        score.actions_right += action_right
        score.steps_right += action_right and value_right
        score.firsts_right += at == 0 and action_right
        all_right = all_right and action_right and value_right
    score.runs += 1
    score.runs_right += all_right


def _block(ahead: Sequence[int], fills: Sequence[str | None]) -> list[int]:
    """Return the steps that fill fields of one page, from the next one on without a break."""
    page = fills[ahead[0]] if ahead else None
    return list(takewhile(lambda step: page is not None and fills[step] == page, ahead))


def _follows(
    name: str, value: StepValue, flow: Flow, known: Mapping[str, str], before: Mapping[str, str]
) -> bool:
    """Tell whether a parameter's value could have been read or computed before it was used."""
    parameter = next(p for p in flow.parameters if p.name == name)
    if parameter.source is ParameterSource.SCREEN:
        return (parameter.label, parameter.role, parameter.document) in value.seen
    given = {**known, PREVIOUS: before.get(name, "")}
    return parameter.programme is not None and run(parameter.programme, given) == value.clear


def _share(right: int, num: int) -> float:
    return right / num if num else 1.0


def beta_quantile(p: float, a: float, b: float) -> float:
    """Return x with P(X <= x) = p for X ~ Beta(a, b), by bisection to 1e-9.

    With a = successes + 1/2 and b = failures + 1/2 it bounds a proportion (Jeffreys interval;
    Brown, Cai and DasGupta 2001).
    """
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Source: continued fraction (DLMF 8.17.22), evaluated by Lentz's method as in Numerical Recipes,
    section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(1 - x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 400):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = 1 + term / c, 1 / (1 + term * d)
            value *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return front * value
