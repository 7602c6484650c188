"""First guess of where instances begin in a stretch of log, before any routine is known.

What follows the end of an instance does not depend on which end it was: END x START is a block of
the table of neighbours that is closed (ends are followed by starts, starts preceded by ends), in
which both sides are uncertain and independent of each other. Where no such block is - one routine,
back to back - the phase of the loop is chosen by pauses, by the change of the record worked on and
by where the log begins. Pauses then say more: how long they are at the block and at rare neighbours
teaches what a pause at a boundary looks like. Pure.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUM_BINS", "Cut", "first_cuts", "gap_bin", "gap_bins"]

NUM_BINS = 64
_EDGE = 0.15  # share of a token's neighbours that makes one of them usual
_CLOSED = 0.5  # share of a token's neighbours inside a block that makes it a member
_RARE = 0.2
_TIED = 0.6  # share of both tokens' places in a block that only they fill
_STRONG, _MEMBER, _WEAK = -2.2, 2.5, -1.5  # prior log odds of a boundary
_ROUNDS = 4
_SAME = 0.7  # share of two blocks' places in both that makes them one guess
_LEAST = 3.0  # score from which on a block is believed
_APART = 20  # bins between two kinds of pauses: a factor of a thousand
_DECADE = 6.64  # bins
_PATIENCE = 0.5  # decades by which a pause must stand out


class Cut(IntEnum):
    """What begins with an event."""

    NONE = 0
    PART = 1  # something else than before; perhaps the rest of what was left open
    BEGIN = 2


def gap_bin(gap_ms: int) -> int:
    """Return the bin of a pause: two for each doubling from 1 ms; none at all has one of its own.

    A clock that went back tells that something else began, as a very long pause does.
    """
    if gap_ms <= 0:
        return NUM_BINS - 1 if gap_ms < 0 else 1
    return min(NUM_BINS - 1, 2 + int(2 * math.log2(gap_ms)))


_FROM_MS = np.array([math.ceil(2 ** (half / 2)) for half in range(1, NUM_BINS - 2)])


def gap_bins(times_ms: Sequence[int]) -> NDArray[np.int64]:
    """Return the bin of the pause before each event, as `gap_bin` does; 1 for the first."""
    gaps = np.diff(np.asarray(times_ms, np.int64))
    bins = np.where(gaps > 0, 2 + np.searchsorted(_FROM_MS, gaps, side="right"), 1)
    return np.append(1, np.where(gaps < 0, NUM_BINS - 1, bins))[: len(times_ms)]


def first_cuts(
    tokens: Sequence[int], gaps: Sequence[int], changed: Sequence[bool], most: int = 1
) -> list[list[Cut]]:
    """Tell for each event whether an instance, or a part of one, begins with it.

    The likeliest guess comes first, then others that differ, `most` in all.
    `gaps` are bins of the pause before each event; `changed` says that the event is about another
    record than those before.
    """
    num = len(tokens)
    pairs = Counter(pairwise(tokens))
    after, before = _margins(pairs)
    rare = [True]
    for i in range(1, num):
        a, b = tokens[i - 1], tokens[i]
        count = pairs[a, b]
        link = max(count / after[a], count / before[b]) if count > 1 else 0.0
        rare.append(link < _RARE)
    unlike = _gap_ratio(gaps, rare) if sum(rare) >= 10 else [0.0] * NUM_BINS
    middle = sorted(gaps)[num // 2]
    guesses: list[list[Cut]] = []
    for inside in _best_blocks(tokens, gaps, changed, unlike, most):
        guess = _cuts(gaps, rare, inside - _quick(inside, gaps, middle))
        if guess not in guesses:
            guesses.append(guess)
    return guesses


def _cuts(gaps: Sequence[int], rare: Sequence[bool], inside: set[int]) -> list[Cut]:
    """Return the cuts at a block's places and at rare neighbours, by what pauses say."""
    num = len(gaps)
    prior = [_MEMBER if i in inside or not i else _WEAK if rare[i] else _STRONG for i in range(num)]
    guess = [p >= _WEAK for p in prior]
    for _ in range(_ROUNDS):
        ratio = _gap_ratio(gaps, guess)
        cuts = [p + ratio[g] > 0 for p, g in zip(prior, gaps, strict=True)]
        cuts[0] = True
        if cuts == guess:
            break
        guess = cuts
    return [
        (Cut.BEGIN if i in inside or not i else Cut.PART) if cut else Cut.NONE
        for i, cut in enumerate(guess)
    ]


def _quick(inside: set[int], gaps: Sequence[int], usual: int) -> set[int]:
    """Return the places of a block that are no boundary since their pause is none.

    They are where the block's pauses are of two kinds, a thousandfold apart (Otsu 1979), and both
    are common; `usual` is the log's middle pause.
    """
    values = sorted(gaps[i] for i in inside)
    num, total = len(values), sum(values)
    best, limit, left = 0.0, 0, 0
    for k in range(1, num):
        left += values[k - 1]
        if values[k] == values[k - 1]:
            continue
        apart = (total - left) / (num - k) - left / k
        between = k * (num - k) * apart * apart
        if between > best:
            best, limit = between, values[k] if apart >= _APART else 0
    quick = {i for i in inside if gaps[i] < limit and gaps[i] <= usual + _DECADE}
    return quick if num * _RARE <= len(quick) <= num * (1 - _RARE) else set()


def _gap_ratio(gaps: Sequence[int], cuts: Sequence[bool]) -> list[float]:
    """Return for each bin the log of how much more often it is at a boundary than elsewhere."""
    at, elsewhere = [0.0] * NUM_BINS, [0.0] * NUM_BINS
    for gap, cut in zip(gaps, cuts, strict=True):
        (at if cut else elsewhere)[gap] += 1
    return log_ratio(at, elsewhere)


def log_ratio(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return the logs of two smoothed histograms' ratios."""
    one, two = smoothed(first), smoothed(second)
    return [math.log(a / b) for a, b in zip(one, two, strict=True)]


def smoothed(counts: Sequence[float], weight: float = 1.0) -> list[float]:
    """Return a histogram as probabilities, each bin lent some of its neighbours' weight."""
    size = len(counts)
    total = sum(counts) + weight
    soft = [
        0.8 * counts[i] + 0.1 * counts[max(0, i - 1)] + 0.1 * counts[min(size - 1, i + 1)]
        for i in range(size)
    ]
    return [(c + weight / size) / total for c in soft]


Block = tuple[frozenset[int], frozenset[int]]


def _best_blocks(
    tokens: Sequence[int], gaps: Sequence[int], changed: Sequence[bool], unlike: Sequence[float],
    most: int,
) -> list[set[int]]:  # fmt: skip
    """Return the places in the best closed blocks, over contexts of one and two tokens.

    Places are none where there is no block.
    """
    num = len(tokens)
    size = max(tokens) + 1
    one = list(tokens)
    before = [-1, *(tokens[i - 1] * size + tokens[i] + size for i in range(1, num))]
    after = [*(tokens[i + 1] * size + tokens[i] + size for i in range(num - 1)), -1]
    middle = sorted(gaps)[num // 2]
    evidence = [
        max(0.0, (g - middle) / _DECADE - _PATIENCE) + c for g, c in zip(gaps, changed, strict=True)
    ]
    mean = sum(changed) / num
    odd = [max(-2.0, min(2.0, unlike[g])) for g in gaps]
    usual = sum(odd) / num
    ranked: dict[frozenset[int], float] = {}
    for left, right, cost in (
        (one, one, 1.0), (before, one, 0.95), (one, after, 0.95), (before, after, 0.9),
    ):  # fmt: skip
        positions: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i in range(1, num):
            positions[left[i - 1], right[i]].append(i)
        pairs = {pair: len(at) for pair, at in positions.items()}
        for ends, starts in _blocks(pairs):
            inside = {p: len(at) for p, at in positions.items() if p[0] in ends and p[1] in starts}
            for pair in _tied(inside):
                del inside[pair]
            weight = sum(inside.values())
            if weight < 2 or weight > num / 2:
                continue
            at = [i for pair in inside for i in positions[pair]]
            base = Counter((tokens[i - 1], tokens[i]) for i in at)
            both = {a for a, _ in base} & {b for _, b in base}
            overlap = sum(c for p, c in base.items() if not both.isdisjoint(p)) / weight
            value = max(0.0, _freedom(base)) * (1 - overlap)
            value += sum(evidence[i] for i in at) / weight - mean
            value += right[0] in starts
            strange = sum(odd[i] for i in at) / weight - usual
            value += 0.5 * min(1.0, strange) if strange > 0 else 2 * strange
            value *= cost * (1 - overlap / 2) * math.log2(1 + weight)
            if value > _LEAST:
                places = frozenset(at)
                ranked[places] = max(value, ranked.get(places, 0.0))
    order = sorted(ranked, key=lambda p: (-ranked[p], min(p), len(p)))
    distinct: list[set[int]] = []
    for places in order:
        if all(len(places & d) < _SAME * len(places | d) for d in distinct):
            distinct.append(set(places))
        if len(distinct) == most:
            break
    return distinct or [set()]


def _blocks(pairs: Mapping[tuple[int, int], int]) -> list[Block]:
    """Return the closed blocks, grown from each token's usual predecessors."""
    after, before = _margins(pairs)
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    columns: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for (a, b), count in pairs.items():
        rows[a].append((b, count))
        columns[b].append((a, count))
    found: set[Block] = set()
    for seed in columns:
        if before[seed] < 2:
            continue
        usual = min(_EDGE * before[seed], 0.5 * max(c for _, c in columns[seed]))
        ends = frozenset(a for a, c in columns[seed] if c >= usual)
        starts: frozenset[int] = frozenset()
        for share in (0.2, 0.3, 0.4, *[_CLOSED] * 6):
            grown = _side(ends, rows, before, share)
            if grown == starts and share == _CLOSED:
                break
            starts = grown
            ends = _side(starts, columns, after, share)
        if starts and ends:
            found.add((ends, starts))
    return sorted(found, key=lambda b: (sorted(b[0]), sorted(b[1])))


def _side(
    members: Iterable[int], table: Mapping[int, Sequence[tuple[int, int]]],
    totals: Mapping[int, int], share: float,
) -> frozenset[int]:  # fmt: skip
    mass: Counter[int] = Counter()
    for member in members:
        for other, count in table[member]:
            mass[other] += count
    return frozenset(t for t, m in mass.items() if totals[t] > 1 and m >= share * totals[t])


def _tied(pairs: Mapping[tuple[int, int], int]) -> list[tuple[int, int]]:
    """Return the neighbours of a block that go together far more than by chance: no boundary."""
    left: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for (a, b), count in pairs.items():
        left[a] += count
        right[b] += count
    total = sum(pairs.values())
    return [
        (a, b) for (a, b), count in pairs.items()
        if count >= _TIED * max(left[a], right[b]) and count > 3 * left[a] * right[b] / total
    ]  # fmt: skip


def _freedom(pairs: Mapping[tuple[int, int], int]) -> float:
    """Return how uncertain both sides of a block are, less what one tells of the other; bits.

    The mutual information is corrected for its bias (Miller 1955).
    """
    left: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for (a, b), count in pairs.items():
        left[a] += count
        right[b] += count
    mutual = _entropy(left) + _entropy(right) - _entropy(pairs)
    mutual -= (len(left) - 1) * (len(right) - 1) / (2 * sum(pairs.values()) * math.log(2))
    return min(_entropy(left), _entropy(right)) - 2 * max(0.0, mutual)


def _entropy(counts: Mapping[Any, int]) -> float:
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values() if c)


def _margins(pairs: Mapping[tuple[int, int], int]) -> tuple[Counter[int], Counter[int]]:
    after: Counter[int] = Counter()
    before: Counter[int] = Counter()
    for (a, b), count in pairs.items():
        after[a] += count
        before[b] += count
    return after, before
