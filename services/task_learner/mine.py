"""Finding repeated routines in an unsegmented UI log.

1. Tokens that keep turning up near each other, each rarely without the other, form a group.
2. A group's boundary is the token after which the longest pauses and most other work lie, and
   across which the fewest values flow.
3. What at least 80 % of the stretches between boundaries have in common, in one order, is the
   routine; whatever else was done meanwhile is noise.
4. It counts when naming it shortens the log: description length against single actions.

Pure: a window of actions in, patterns with their executions out. One pass over the window per
call; the caller decides how often.

Does not cover: interleaved executions of several routines, variants, optional steps.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from services.task_learner.actions import Token, UserAction, value_of
from services.task_learner.segment import (
    BREAK_MS,
    MAX_SPAN,
    Execution,
    Pattern,
    Vocabulary,
    align,
    executions,
)

__all__ = ["CORE_SHARE", "Finding", "consensus", "mine"]

CORE_SHARE = 0.8
"""Share of executions that have a core step."""

MIN_STEPS = 3
_NEAR = (3, 6)  # actions ahead that count as near: a detour of five does not part two steps
_MUTUAL = (0.6, 0.8)  # share of either token's uses that are near the other
_BEFORE = 3  # actions before a stretch's first own one that may belong to it
_NEAR_MS = 5 * 60_000
_LIFT = 0.3  # how much more often than by chance a shared token must be there
_ORDER_SHARE = 0.75  # share of present steps that are in the common order
_MIN_GAIN_BITS = 1.0
_MIN_EVIDENCE = 7  # (executions - 1) x steps: the shorter a pattern, the more often it is shown
_CHANGING = frozenset({"edit", "select", "file"})
_MAX_GROUP = 60
_CANDIDATES = 12  # commonest sequences among which the usual order is chosen
_JOIN_SHARE = 0.7
_JOIN_PAUSE = 4.0  # two groups are one routine if the pause between is no longer than this x inside
_JOIN_PAUSE_MS = 5_000


@dataclass(frozen=True)
class Finding:
    """A pattern with its executions; indices count within the window that was mined."""

    pattern: Pattern
    executions: tuple[Execution, ...]
    gain_bits: float


@dataclass(frozen=True)
class _Log:
    """The window as numbers."""

    tokens: list[Token]
    ids: list[int]
    names: list[Token]
    counts: list[int]
    times_ms: list[int]
    values: list[str | None]

    @classmethod
    def of(cls, actions: Sequence[UserAction], vocabulary: Vocabulary) -> "_Log":
        tokens = [vocabulary.token(a) for a in actions]
        numbers: dict[Token, int] = {}
        ids = [numbers.setdefault(t, len(numbers)) for t in tokens]
        counts = [0] * len(numbers)
        for number in ids:
            counts[number] += 1
        values = [value_of(a.event) for a in actions]
        return cls(
            tokens, ids, list(numbers), counts, [a.event.time_ms for a in actions],
            [v.key if v is not None and v.key and len(v.key) > 2 else None for v in values],
        )  # fmt: skip


def mine(actions: Sequence[UserAction], vocabulary: Vocabulary) -> list[Finding]:
    """Return what repeats in `actions`, the greatest gain first; often nothing."""
    if len(actions) < 2 * MIN_STEPS:
        return []
    log = _Log.of(actions, vocabulary)
    findings: dict[Pattern, Finding] = {}
    tried: set[tuple[frozenset[int], frozenset[int]]] = set()
    # Loose and tight groupings are all tried; description length chooses among what they give.
    for links in _links(log):
        for mutual in _MUTUAL:
            groups = _join(log, _groups(log, links, mutual))
            large = [frozenset(g) for g in groups if len(g) >= MIN_STEPS]
            for group in map(frozenset, groups):
                foreign = frozenset(n for g in large if g != group for n in g)
                if (group, foreign) in tried:
                    continue
                tried.add((group, foreign))
                finding = _finding(log, group, foreign)
                if finding is not None:
                    findings[finding.pattern] = finding
    return _distinct(sorted(findings.values(), key=lambda f: (-f.gain_bits, f.pattern.tokens)))


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


def _links(log: _Log) -> list[dict[tuple[int, int], int]]:
    """Return for each of _NEAR how often tokens follow each other so near, one for one."""
    size = len(log.names)
    ids, times = np.array(log.ids), np.array(log.times_ms)
    frequent = (np.array(log.counts) >= 2)[ids]
    before, after = _same_before_and_after(ids)
    codes: list[NDArray[np.int64]] = []
    found: list[dict[tuple[int, int], int]] = []
    for distance in range(1, _NEAR[-1] + 1):
        i = np.arange(max(0, len(ids) - distance))
        j = i + distance
        # Neither token stands again between the two: each use is linked to one at most.
        near = (after[i] > j) & (before[j] < i) & (times[j] - times[i] <= _NEAR_MS)
        i, j = i[near & frequent[i] & frequent[j]], j[near & frequent[i] & frequent[j]]
        codes.append(ids[i] * size + ids[j])
        if distance in _NEAR:
            pairs, counts = np.unique(np.concatenate(codes), return_counts=True)
            found.append(
                {divmod(p, size): n for p, n in zip(pairs.tolist(), counts.tolist(), strict=True)}
            )
    return found


def _same_before_and_after(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each action where its token stood last, and where next; -1 and the end for none.

    Both (N,).
    """
    order = np.argsort(ids, kind="stable")
    before, after = np.full(len(ids), -1), np.full(len(ids), len(ids))
    same = ids[order[1:]] == ids[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    after[order[:-1][same]] = order[1:][same]
    return before, after


def _groups(log: _Log, links: Mapping[tuple[int, int], int], mutual: float) -> list[set[int]]:
    """Return sets of tokens of which each is near another in `mutual` of both their uses."""
    parent = list(range(len(log.names)))

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for (a, b), both in links.items():
        if both >= 2 and both >= mutual * max(log.counts[a], log.counts[b]):
            parent[root(a)] = root(b)
    groups: dict[int, set[int]] = defaultdict(set)
    for n in range(len(parent)):
        groups[root(n)].add(n)
    return [g for g in groups.values() if 2 <= len(g) <= _MAX_GROUP]


def _join(log: _Log, groups: list[set[int]]) -> list[set[int]]:
    """Join groups that long detours parted: used in turns, without a longer pause between."""
    owner = {n: i for i, g in enumerate(groups) for n in g}
    runs: list[tuple[int, int, int]] = []  # (group, first index, last index)
    inside: dict[int, list[int]] = defaultdict(list)
    for i, n in enumerate(log.ids):
        group = owner.get(n)
        if group is None:
            continue
        if runs and runs[-1][0] == group:
            inside[group].append(log.times_ms[i] - log.times_ms[runs[-1][2]])
            runs[-1] = (group, runs[-1][1], i)
        else:
            runs.append((group, i, i))
    pauses: dict[tuple[int, int], list[int]] = defaultdict(list)
    num_runs = Counter(run[0] for run in runs)
    for one, two in pairwise(runs):
        pauses[one[0], two[0]].append(log.times_ms[two[1]] - log.times_ms[one[2]])
    joined = {i: set(g) for i, g in enumerate(groups)}
    into = {i: i for i in joined}
    for (a, b), gaps in sorted(pauses.items()):
        back = pauses.get((b, a), [])
        usual = median(inside[a] + inside[b] or [0])
        # Used in turns, both pauses tell: the shorter lies within an execution, if any does.
        if back and median(back) < median(gaps):
            continue
        near = median(gaps) <= max(_JOIN_PAUSE * usual, _JOIN_PAUSE_MS)
        apart = not back or median(back) > 2 * median(gaps) + 1
        if near and apart and len(gaps) >= max(2, _JOIN_SHARE * max(num_runs[a], num_runs[b])):
            first, second = into[a], into[b]
            if first != second:
                joined[first] |= joined.pop(second)
                into.update({k: first for k, v in into.items() if v == second})
    return list(joined.values())


def _finding(log: _Log, group: frozenset[int], foreign: frozenset[int]) -> Finding | None:
    """Return the routine a group stands for, or None."""
    end = _boundary(log, group)
    if end is None:
        return None
    segments = _stretches(log, group, end, foreign)
    if len(segments) < 2:
        return None
    core = group | _shared(log, segments, group)
    plan = consensus([[n for n in s if n in core] for s in segments])
    if len(plan) < MIN_STEPS or not any(_is_change(log.names[n]) for n in plan):
        return None
    if plan[-1] != end:
        plan = [n for n in plan if n != end] + [end]
    pattern = Pattern(tuple(log.names[n] for n in plan))
    found = executions(pattern, log.tokens, log.times_ms)
    if len(found) < 2 or (len(found) - 1) * len(plan) < _MIN_EVIDENCE:
        return None
    present = sum(len(e.indices) for e in found)
    if sum(e.in_order for e in found) < _ORDER_SHARE * present:
        return None
    gain = _gain_bits(log, plan, found)
    return Finding(pattern, tuple(found), gain) if gain >= _MIN_GAIN_BITS else None


def _boundary(log: _Log, group: frozenset[int]) -> int | None:
    """Return the token whose uses end executions: pauses and other work follow, values do not."""
    uses = [i for i, n in enumerate(log.ids) if n in group]
    best, best_score = None, -math.inf
    pauses = [
        math.log1p(max(0, log.times_ms[b] - log.times_ms[a]) / 1000) + math.log1p(b - a - 1)
        for a, b in pairwise(uses)
    ]
    for end in group:
        after = [p for a, p in zip(uses, pauses, strict=False) if log.ids[a] == end]
        if log.counts[end] < 2 or not after:
            continue
        segments = _cut_after(log, uses, end)
        score = (
            0.5 * median(after)
            + 2 * _steadiness(segments, log)
            - 1.5 * _flow_across(segments, log)
            - _unlikely_end(log.names[end])
        )
        if score > best_score:
            best, best_score = end, score
    return best


def _cut_after(log: _Log, uses: Sequence[int], end: int) -> list[list[int]]:
    segments: list[list[int]] = [[]]
    for i in uses:
        segments[-1].append(i)
        if log.ids[i] == end:
            segments.append([])
    return [s for s in segments if s]


def _steadiness(segments: Sequence[Sequence[int]], log: _Log) -> float:
    """Return how alike the segments are in what they contain, 0 to 1."""
    sets = [{log.ids[i] for i in s} for s in segments]
    present = Counter(n for s in sets for n in s)
    core = {n for n, c in present.items() if c >= CORE_SHARE * len(sets)}
    if not core:
        return 0.0
    return sum(len(s & core) for s in sets) / (len(core) * len(sets))


def _flow_across(segments: Sequence[Sequence[int]], log: _Log) -> float:
    """Return the share of neighbouring segments that a value new in the first connects."""
    values = [{log.values[i] for i in s} - {None} for s in segments]
    total = Counter(v for vs in values for v in vs)
    rare = {v for v, c in total.items() if c <= max(2, 0.2 * len(values))}
    pairs = list(pairwise(values))
    return sum(bool(a & b & rare) for a, b in pairs) / len(pairs) if pairs else 0.0


def _unlikely_end(token: Token) -> float:
    """Return a penalty: an entry not yet confirmed, or a choice of data, seldom ends a routine."""
    if token.action in ("edit", "select"):
        return 1.0
    return 0.7 if token.label.startswith("@") else 0.0


def _is_change(token: Token) -> bool:
    """Tell whether a step changes something: reading and searching alone are no routine."""
    return token.action in _CHANGING and token.role != "searchbox"


def _stretches(
    log: _Log, group: frozenset[int], end: int, foreign: frozenset[int]
) -> list[list[int]]:
    """Return what leads to each end: from little before the first own token after the end before.

    Cut at long pauses and at other routines.
    """
    segments: list[list[int]] = []
    start = 0
    for stop, number in enumerate(log.ids):
        if number != end:
            continue
        low = max(start, stop - MAX_SPAN + 1)
        for i in range(stop, low, -1):
            if log.times_ms[i] - log.times_ms[i - 1] > BREAK_MS:
                low = i
                break
        start = stop + 1
        first = next(i for i in range(low, stop + 1) if log.ids[i] in group)
        low = max([low, *(i + 1 for i in range(low, first) if log.ids[i] in foreign)])
        low = max(low, first - _BEFORE)
        segments.append([log.ids[i] for i in range(low, stop + 1) if log.ids[i] not in foreign])
    longest = max((len(set(s) & group) for s in segments), default=0)
    return [s for s in segments if len(set(s) & group) >= 0.5 * longest]


def _shared(log: _Log, segments: Sequence[Sequence[int]], group: frozenset[int]) -> set[int]:
    """Return tokens that other work uses too, but that these stretches have beyond chance."""
    present: Counter[int] = Counter()
    num_free = 0
    for segment in segments:
        free = [n for n in segment if n not in group]
        present.update(set(free))
        num_free += len(free)
    shared = set()
    for number, count in present.items():
        share = count / len(segments)
        chance = 1 - (1 - log.counts[number] / len(log.ids)) ** (num_free / len(segments))
        if share >= CORE_SHARE and share - chance >= _LIFT:
            shared.add(number)
    return shared


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


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
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
