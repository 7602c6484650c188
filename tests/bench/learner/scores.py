"""The strict scores of discovery, and the literature's forgiving ones beside them.

Truth and labels name, for each event, an instance and its type, or None. An instance counts as
found when one found instance shares at least 0.8 of their united events with it (IoU); above 0.5
such a match is one-to-one by itself. Events of instances that are left out (the first of each type)
count neither way. Reads and writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

MATCH = 0.8

Label = tuple[Hashable, Hashable] | None
"""Instance and type of an event; None for an event of no routine."""


class Scores(NamedTuple):
    """What one run came to; each 0 to 1."""

    if1: float  # F1 over instances
    if1t: float  # … whose types agree under a one-to-one map
    exact: float  # share of the true instances found with precisely their events
    bf1: float  # F1 over first events of instances, tolerance 0
    pairs: float  # share of the true instances whose first and last event are found as a pair
    ef1: float  # F1 over events under the map of types
    forgiving: float  # F1 over events, each found type read as the true type it meets most


def score(
    truth: Sequence[Label], found: Sequence[Label], left_out: int = 0,
    only: Collection[Hashable] | None = None,
) -> Scores:  # fmt: skip
    """Compare labels; the first `left_out` instances of each type count neither way.

    Nor do those that are not in `only`, if that is given.
    """
    out = _first_instances(truth, left_out)
    true_at, true_type = _instances(truth)
    if only is not None:
        out |= {key for key in true_at if key not in only}
    found_at, found_type = _instances(found)
    hidden = {i for key in out for i in true_at[key]}
    wanted = {k: v for k, v in true_at.items() if k not in out}
    shown = {k: v for k, v in found_at.items() if 2 * sum(i in hidden for i in v) < len(v)}
    matches = _matches(wanted, shown, truth)
    agree = Counter((found_type[f], true_type[t]) for t, (f, _) in matches.items())
    by_type = one_to_one(agree)
    typed = sum(by_type.get(found_type[f]) == true_type[t] for t, (f, _) in matches.items())
    first_true = {v[0] for v in wanted.values()}
    first_found = {v[0] for v in shown.values()}
    ends = {(v[0], v[-1]) for v in shown.values()}
    return Scores(
        if1=_f1(len(matches), len(shown), len(wanted)),
        if1t=_f1(typed, len(shown), len(wanted)),
        exact=_share(sum(iou == 1 for _, iou in matches.values()), len(wanted)),
        bf1=_f1(len(first_true & first_found), len(first_found), len(first_true)),
        pairs=_share(sum((v[0], v[-1]) in ends for v in wanted.values()), len(wanted)),
        ef1=_event_f1(truth, found, hidden, forgiving=False),
        forgiving=_event_f1(truth, found, hidden, forgiving=True),
    )


def set_score(true_sets: Sequence[frozenset[str]], found_sets: Sequence[frozenset[str]]) -> float:
    """Return sJC: matched Jaccards of action sets over the larger number of routines."""
    weights = {
        (f, t): len(a & b) / len(a | b)
        for f, a in enumerate(found_sets)
        for t, b in enumerate(true_sets)
    }
    chosen = one_to_one(weights)
    total = sum(weights[f, t] for f, t in chosen.items())
    return total / max(len(true_sets), len(found_sets), 1)


def one_to_one(
    weights: Mapping[tuple[Hashable, Hashable], float],
) -> dict[Hashable, Hashable]:
    """Return the one-to-one map of the largest total weight.

    Source: the Hungarian algorithm (Kuhn 1955) with potentials, O(n³).
    """
    rows = sorted({a for a, _ in weights}, key=repr)
    columns = sorted({b for _, b in weights}, key=repr)
    size = max(len(rows), len(columns))
    cost = [
        [
            -weights.get((rows[i], columns[j]), 0.0) if i < len(rows) and j < len(columns) else 0.0
            for j in range(size)
        ]
        for i in range(size)
    ]
    u, v = [0.0] * (size + 1), [0.0] * (size + 1)
    matched = [0] * (size + 1)
    for i in range(1, size + 1):
        matched[0], j0 = i, 0
        least, way = [float("inf")] * (size + 1), [0] * (size + 1)
        used = [False] * (size + 1)
        while True:
            used[j0] = True
            i0, delta, j1 = matched[j0], float("inf"), 0
            for j in range(1, size + 1):
                if used[j]:
                    continue
                reduced = cost[i0 - 1][j - 1] - u[i0] - v[j]
                if reduced < least[j]:
                    least[j], way[j] = reduced, j0
                if least[j] < delta:
                    delta, j1 = least[j], j
            for j in range(size + 1):
                if used[j]:
                    u[matched[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            j0 = j1
            if matched[j0] == 0:
                break
        while j0:
            matched[j0] = matched[way[j0]]
            j0 = way[j0]
    return {
        rows[matched[j] - 1]: columns[j - 1]
        for j in range(1, size + 1)
        if matched[j] <= len(rows) and j <= len(columns)
        and weights.get((rows[matched[j] - 1], columns[j - 1]), 0) > 0
    }  # fmt: skip


def _instances(
    labels: Sequence[Label],
) -> tuple[dict[Hashable, list[int]], dict[Hashable, Hashable]]:
    events: dict[Hashable, list[int]] = defaultdict(list)
    types: dict[Hashable, Hashable] = {}
    for i, label in enumerate(labels):
        if label is not None:
            events[label[0]].append(i)
            types[label[0]] = label[1]
    return events, types


def _first_instances(truth: Sequence[Label], number: int) -> set[Hashable]:
    seen: dict[Hashable, list[Hashable]] = defaultdict(list)
    for label in truth:
        if label is not None and len(seen[label[1]]) < number and label[0] not in seen[label[1]]:
            seen[label[1]].append(label[0])
    return {key for keys in seen.values() for key in keys}


def _matches(
    wanted: Mapping[Hashable, list[int]], shown: Mapping[Hashable, list[int]],
    truth: Sequence[Label],
) -> dict[Hashable, tuple[Hashable, float]]:  # fmt: skip
    matches: dict[Hashable, tuple[Hashable, float]] = {}
    for key, events in shown.items():
        shared = Counter(label[0] for i in events if (label := truth[i]) is not None)
        for other, count in shared.items():
            if other in wanted:
                iou = count / (len(events) + len(wanted[other]) - count)
                if iou >= MATCH:
                    matches[other] = (key, iou)
    return matches


def _event_f1(
    truth: Sequence[Label], found: Sequence[Label], hidden: set[int], *, forgiving: bool
) -> float:
    pairs = Counter(
        (f[1], t[1]) for i, (t, f) in enumerate(zip(truth, found, strict=True))
        if t is not None and f is not None and i not in hidden
    )  # fmt: skip
    if forgiving:
        right = sum(max(c for (g, _), c in pairs.items() if g == f) for f in {f for f, _ in pairs})
    else:
        chosen = one_to_one(pairs)
        right = sum(c for (f, t), c in pairs.items() if chosen.get(f) == t)
    num_found = sum(f is not None for i, f in enumerate(found) if i not in hidden)
    num_true = sum(t is not None for i, t in enumerate(truth) if i not in hidden)
    return _f1(right, num_found, num_true)


def _f1(right: int, found: int, true: int) -> float:
    return 2 * right / (found + true) if found + true else 1.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
