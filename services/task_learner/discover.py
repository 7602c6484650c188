"""Routines of a window of actions: what discovery labels, as patterns with their executions.

1. The stream's discovery (`stream`) has told which actions belong to one execution, and which
   executions are of one type.
2. What at least 80 % of a type's executions have in common, in one order, is the routine; whatever
   else was done meanwhile is noise. A type cut in two is tried whole.
3. It counts when naming it shortens the log: description length against single actions.

Pure: a window of actions with its threads in, patterns with their executions out.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from services.task_learner.actions import Token, UserAction
from services.task_learner.segment import (
    MAX_SPAN,
    Execution,
    Pattern,
    Vocabulary,
    align,
    executions,
)

__all__ = ["CORE_SHARE", "Finding", "Thread", "consensus", "discover", "distinct"]

Thread = tuple[int, int]
"""An execution, and its type."""

CORE_SHARE = 0.8
"""Share of executions that have a core step."""

MIN_STEPS = 3
_ORDER_SHARE = 0.75  # share of present steps that are in the common order
_MIN_GAIN_BITS = 1.0
_MIN_EVIDENCE = 7  # (executions - 1) x steps: the shorter a pattern, the more often it is shown
_CHANGING = frozenset({"edit", "select", "file"})
_CANDIDATES = 12  # commonest sequences among which the usual order is chosen
_FOLLOWS = 0.75  # share of two types' executions that follow each other where they may be one
_ONCE = 0.7  # share of a plan's steps that differ, up to which it may be a loop gone round twice
_CLEAR = 1.5  # times that one pause of a loop is longer than another, to be where it begins …
_CLEAR_GAIN = 0.7  # … if what is left at the log's edges costs no more than the rest
_FAR_MORE = 1.3  # times the gain at which a loop begins elsewhere whatever its pauses say
_WORTH = 0.9  # share of the gain that a routine keeps without an end that costs executions
_HEADS = 6  # steps that a loop's rounds may begin with that are tried
_TURNS = 3  # places where a loop may begin that are tried, by pauses and by bits
_NEAR = 6  # actions between such two, at most; and around an execution that may belong to it


@dataclass(frozen=True)
class Finding:
    """A pattern with its executions; indices count within the window that was searched."""

    pattern: Pattern
    executions: tuple[Execution, ...]
    gain_bits: float
    told_by: tuple[str, ...] = ()  # words of the sentences that tell it (`told`), if any do
    begin: int = 0  # the first action that was looked at for it


@dataclass(frozen=True)
class _Log:
    """The window as numbers."""

    tokens: list[Token]
    ids: list[int]
    names: list[Token]
    counts: list[int]
    times_ms: list[int]

    @classmethod
    def of(cls, actions: Sequence[UserAction], vocabulary: Vocabulary) -> "_Log":
        tokens = [vocabulary.token(a) for a in actions]
        numbers: dict[Token, int] = {}
        ids = [numbers.setdefault(t, len(numbers)) for t in tokens]
        counts = [0] * len(numbers)
        for number in ids:
            counts[number] += 1
        return cls(tokens, ids, list(numbers), counts, [a.event.time_ms for a in actions])


def discover(
    actions: Sequence[UserAction], vocabulary: Vocabulary, threads: Sequence[Thread | None]
) -> list[Finding]:
    """Return what repeats in `actions`, the greatest gain first; often nothing.

    `threads` tells what each action is part of, None for nothing.
    """
    if len(actions) < 2 * MIN_STEPS:
        return []
    log = _Log.of(actions, vocabulary)
    types = _types(log, threads)
    findings: dict[Pattern, Finding] = {}
    for segments in [*types, *_joined(types)]:
        rows = [[log.ids[i] for i in s] for s in segments]
        for tried in _plans(rows):
            finding = _finding(log, tried)
            if finding is not None:
                findings[finding.pattern] = finding
    return distinct(sorted(findings.values(), key=lambda f: (-f.gain_bits, f.pattern.tokens)))


def _types(log: _Log, threads: Sequence[Thread | None]) -> list[list[list[int]]]:
    """Return for each type seen twice, or going round, the places of its executions' actions."""
    groups: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, thread in enumerate(threads):
        if thread is not None:
            execution, kind = thread
            groups[kind][execution].append(i)
    found = [list(group.values()) for group in groups.values()]
    return [g for g in found if len(g) >= 2 or _repeats([log.ids[i] for i in g[0]])]


def _joined(types: Sequence[list[list[int]]]) -> Iterator[list[list[int]]]:
    """Yield the executions of two types in one where those nearly always follow each other."""
    ordered = sorted((s[0], s[-1], kind, s) for kind, group in enumerate(types) for s in group)
    follows: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
    for before, after in pairwise(ordered):
        if before[2] != after[2] and 0 < after[0] - before[1] <= _NEAR:
            follows[before[2], after[2]].append(before[3] + after[3])
    for (first, second), whole in sorted(follows.items()):
        if len(whole) >= _FOLLOWS * max(len(types[first]), len(types[second])):
            yield whole


def _plans(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield what executions have in common; and where that is a loop gone round, one round's."""
    plan = consensus(rows)
    if len(plan) <= MAX_SPAN:
        yield plan
    longest = max(rows, key=len)  # it may hold many rounds where the others hold one each
    if not _repeats(longest):
        return
    uses = Counter(number for row in rows for number in row)
    heads = sorted((uses[n], n) for n, c in Counter(longest).items() if c > 1)
    if len(heads) > _HEADS:  # from the rarest, as a detour's are, to an inner loop's
        heads = [heads[round(i * (len(heads) - 1) / (_HEADS - 1))] for i in range(_HEADS)]
    for _, head in heads:
        rounds: list[list[int]] = []
        for row in rows:
            for number in row:
                if number == head or not rounds:
                    rounds.append([])
                rounds[-1].append(number)
        yield consensus([r for r in rounds if len(r) > 1])


def _repeats(plan: Sequence[int]) -> bool:
    """Tell whether steps may be a loop gone round more than once."""
    return 0 < len(set(plan)) <= _ONCE * len(plan)


def _finding(log: _Log, plan: list[int]) -> Finding | None:
    """Return the routine whose steps a plan gives, or None."""
    if not plan:
        return None
    found = _executions(log, plan)
    while found and (longer := _grown(log, plan, found)) is not None:
        plan, found = longer, _executions(log, longer)
    if len(plan) < MIN_STEPS or not any(_is_change(log.names[n]) for n in plan):
        return None
    if len(found) < 2 or (len(found) - 1) * len(plan) < _MIN_EVIDENCE:
        return None
    present = sum(len(e.indices) for e in found)
    if sum(e.in_order for e in found) < _ORDER_SHARE * present:
        return None
    gain = _gain_bits(log, plan, found)
    plan, found, gain = _turned(log, plan, found, gain)
    plan, found, gain = _trimmed(log, plan, found, gain)
    pattern = Pattern(tuple(log.names[n] for n in plan))
    return Finding(pattern, tuple(found), gain) if gain >= _MIN_GAIN_BITS else None


def _trimmed(
    log: _Log, plan: list[int], found: list[Execution], gain: float
) -> tuple[list[int], list[Execution], float]:
    """Leave out what stands at the end of a plan by chance: what most did next, but not all.

    It is done to something without a name of its own, as a list's links are: whatever lies in
    the way of the next thing. An agent would have to do it each time, and has nothing to do it to.
    """
    while len(plan) > MIN_STEPS and log.names[plan[-1]].label.startswith("@"):
        shorter = _weighed(log, plan[:-1])
        if len(shorter[1]) <= len(found) or shorter[2] < _WORTH * gain:
            break
        plan, found, gain = shorter
    return plan, found, gain


def _executions(log: _Log, plan: Sequence[int]) -> list[Execution]:
    pattern = Pattern(tuple(log.names[n] for n in plan))
    return executions(pattern, log.tokens, log.times_ms)


def _weighed(log: _Log, plan: list[int]) -> tuple[list[int], list[Execution], float]:
    """Return a plan with its executions and what they gain."""
    found = _executions(log, plan)
    return plan, found, _gain_bits(log, plan, found)


def _turned(
    log: _Log, plan: list[int], found: list[Execution], gain: float
) -> tuple[list[int], list[Execution], float]:
    """Begin a loop where its longest pause is, or where a round costs far fewer bits."""
    near = sum(b.indices[0] - a.indices[-1] <= 3 for a, b in pairwise(found))
    if near < _FOLLOWS * (len(found) - 1):
        return plan, found, gain
    pauses = []
    for step in range(len(plan)):
        here = [
            log.times_ms[i] - log.times_ms[i - 1]
            for e in found if (i := e.steps[step]) is not None and i
        ]  # fmt: skip
        pauses.append(median(here) if here else 0.0)
    best = plan, found, gain
    for step in sorted(range(1, len(plan)), key=lambda s: (-pauses[s], s))[:_TURNS]:
        if _CLEAR * pauses[step] < pauses[0]:
            break
        clear = pauses[step] > _CLEAR * max(pauses[0], 1)
        turned = _weighed(log, plan[step:] + plan[:step])
        enough = clear and turned[2] > _CLEAR_GAIN * best[2] and len(turned[1]) > 1
        if turned[2] > best[2] or enough:
            best = turned
            if clear:
                return best
    plan = best[0]
    for step in range(1, min(_TURNS, len(plan) - 1) + 1):  # how the next round is come to
        turned = _weighed(log, plan[-step:] + plan[:-step])
        if turned[2] > max(best[2], _FAR_MORE * gain):
            best = turned
    return best


def _grown(log: _Log, plan: list[int], found: Sequence[Execution]) -> list[int] | None:
    """Return the plan with a token before or after it that nearly all executions have there."""
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    stops = [e.indices[-1] for e in found]
    for number, execution in enumerate(found):
        first, last = execution.indices[0], execution.indices[-1]
        low = max(0, first - _NEAR, stops[number - 1] + 1 if number else 0)
        high = min(len(log.ids), last + 1 + _NEAR)
        if number + 1 < len(found):
            high = min(high, found[number + 1].indices[0])
        before.update({log.ids[i] for i in range(low, first)})
        after.update({log.ids[i] for i in range(last + 1, high)})
    for counts, front in ((after, False), (before, True)):
        new = [
            (-c, n) for n, c in counts.items()
            if n not in plan and c >= CORE_SHARE * max(len(found), log.counts[n])
        ]  # fmt: skip
        if new:
            token = min(new)[1]
            return [token, *plan] if front else [*plan, token]
    return None


def consensus(segments: Sequence[Sequence[int]], share: float = CORE_SHARE) -> list[int]:
    """Return the sequence that at least `share` of `segments` contain, in their usual order."""
    if not segments:
        return []
    kept = _multiplicity(segments, share)
    if not kept:
        return []
    reduced: Counter[tuple[int, ...]] = Counter(tuple(_last_uses(s, kept)) for s in segments)
    common = [s for s, _ in reduced.most_common(_CANDIDATES)]
    usual = max(common, key=lambda s: _likeness(s, reduced, common))
    plan = _insert_missing(list(usual), reduced, kept)
    hits = [0] * len(plan)
    for segment, count in reduced.items():
        present = Counter(segment)
        for step, j in enumerate(align(plan, segment)):
            hits[step] += count * (j is not None or present[plan[step]] >= kept[plan[step]])
    return [n for n, hit in zip(plan, hits, strict=True) if hit >= share * len(segments)]


def _is_change(token: Token) -> bool:
    """Tell whether a step changes something: reading and searching alone are no routine."""
    return token.action in _CHANGING and token.role != "searchbox"


def _multiplicity(segments: Sequence[Sequence[int]], share: float) -> Mapping[int, int]:
    """Return how many times each token is in at least `share` of the segments."""
    counts: dict[int, list[int]] = defaultdict(list)
    for segment in segments:
        for number, count in Counter(segment).items():
            counts[number].append(count)
    needed = max(1, math.ceil(share * len(segments) - 1e-9))
    return {
        number: sorted(seen, reverse=True)[needed - 1]
        for number, seen in counts.items()
        if len(seen) >= needed
    }


def _last_uses(segment: Sequence[int], kept: Mapping[int, int]) -> list[int]:
    """Reduce a segment to as many uses of each kept token as the core has, the last ones."""
    left = dict(kept)
    reduced = []
    for number in reversed(segment):
        if left.get(number, 0) > 0:
            left[number] -= 1
            reduced.append(number)
    return reduced[::-1]


def _likeness(
    segment: tuple[int, ...],
    weights: Mapping[tuple[int, ...], int],
    others: Sequence[tuple[int, ...]],
) -> int:
    """Return how many steps `segment` has in common with `others`, by their weights."""
    return sum(weights[o] * (len(segment) - align(segment, o).count(None)) for o in others)


def _insert_missing(
    plan: list[int], segments: Mapping[tuple[int, ...], int], kept: Mapping[int, int]
) -> list[int]:
    """Add core tokens the chosen segment lacks, each after the token it most often follows."""
    for number in sorted(kept.keys() - set(plan)):
        before: Counter[int] = Counter()
        for segment, count in segments.items():
            for j, n in enumerate(segment):
                if n == number:
                    before[segment[j - 1] if j else -1] += count
        previous = before.most_common(1)[0][0]
        at = plan.index(previous) + 1 if previous in plan else 0
        plan = [*plan[:at], number, *plan[at:]]
    return plan


def _gain_bits(log: _Log, plan: Sequence[int], found: Sequence[Execution]) -> float:
    """Return the bits saved by coding the executions as such; negative where it does not pay.

    Source: two-part minimum description length (Rissanen 1978); single actions by frequency,
    an execution by its place, its missing and displaced steps and the other work inside it.
    """
    num, size = len(log.ids), len(plan)
    slot = math.log2(size + 1)
    saved = 0.0
    for execution in found:
        indices = execution.indices
        span = indices[-1] - indices[0] + 1
        saved += sum(-math.log2(log.counts[log.ids[i]] / num) for i in indices)
        saved -= math.log2(num + 1)
        saved -= _log2_choose(span, len(indices))
        displaced = len(indices) - execution.in_order
        missing = size - len(indices)
        saved -= (displaced + missing) * slot + 1
    return saved - size * math.log2(len(log.names) + 1) - 2 * math.log2(num + 1)


def _log2_choose(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def distinct(findings: Sequence[Finding]) -> list[Finding]:
    """Drop findings whose executions are mostly parts of better ones."""
    kept: list[Finding] = []
    taken: set[int] = set()
    for finding in findings:
        free = [e for e in finding.executions if sum(i in taken for i in e.indices) < 2]
        if len(free) * 2 < len(finding.executions) or len(free) < 2:
            continue
        kept.append(finding)
        taken.update(i for e in finding.executions for i in e.indices)
    return kept
