"""Which actions belong to one case, told by what their screens show.

Where many chores are done in one window under one address, tokens and pauses tell little; the
screens tell more: texts that stay while a case goes on and are others in the next, fields that are
empty again. Screens are told apart by their layout: where elements are in the tree. Within
layouts, each place of a text has two rates of staying: between the neighbours of one case, and
between actions that are far apart. They, the pauses, and the chain of actions are counted from
labelled actions and label them anew, as `discovery.fit` does. A case of several layouts is
followed by the texts they share.

Pure. Does not cover: actions whose screen is not known, and chores in several windows.

Longer than 400 lines because what is counted and how it labels anew are read together.

Source: correlating events by shared values (Motahari-Nezhad et al. 2011); Viterbi training (Juang
and Rabiner 1990), here from left to right.
"""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.task_learner.actions import Token, mask
from services.task_learner.discovery.boundaries import NUM_BINS, gap_bin

__all__ = ["REACH", "Looked", "Sight", "cases", "led", "sight_of"]

REACH = 60
"""Actions since the last one of a case after which it does not go on."""

_DEEPEST = 6  # elements of the tree that tell a place
_ALIKE = 0.5  # share of their places that layouts of one family have in common
_FAMILIES = 100  # told apart, the commonest layouts first: each costs every other layout a look
_STATIC = 0.5  # share of a family's screens that show what names a control for good
_FAR = 20  # actions of a family apart: another case
_ROUNDS = 6
_OPEN = 3  # cases of one family that may be open
_TELLING = 1.5  # nats that texts must tell where neither layout nor order does
_MOST_TEXT, _MOST_PACE, _MOST_CHAIN = 8.0, 4.0, 5.0  # nats that one kind of evidence is worth
_TYPED = 3.0  # guess of the log odds that what was typed or chosen is not the end
_FIRST_TEXT = 1.0  # nats against one case that texts are worth before it is known which ones stay
_LONG = 0.8  # share of the pauses within cases that are shorter than what a pause between is
_MEET = 0.75  # share of a step's beginnings that follow ends of one family: inside of cases
_CLEAR = 2.0  # nats of texts from which on a pause teaches what pauses are like
_LEAST = 5  # pauses of a kind to learn from
_FAINT = 0.004  # probability of a pause that was never seen
_SPREAD = (0.1, 0.2, 0.4, 0.2, 0.1)  # of a pause over its neighbouring bins
_TOGETHER = 0.5  # share of a family's cases with another, from which on they are one type's
_SAME, _PART, _OTHER = 0, 1, 2  # what a place shows, beside what it showed before
_STAYS = (0.8, 0.08, 0.12)  # guess of how often, in one case
_FAR_STAYS = (0.5, 0.25, 0.25)  # and far apart, with a weight of one
_VALUES = ""  # the place of all fields' values
_VALUES_STAY = (40.0, 0.1, 0.1)  # what was filled in is not emptied within a case
_ENTERING = frozenset({"edit", "select"})
_KINDS = 4  # of pauses: after typing or not, with other work between or not

_Key = tuple[Any, ...]


class Sight(NamedTuple):
    """What a screen shows: its places, the texts at each, and whether fields are filled in."""

    layout: frozenset[str]
    texts: Mapping[str, frozenset[str]]
    filled: bool
    elements: Mapping[int, tuple[str, str | None]]  # place and text of each, by index


class Looked(NamedTuple):
    """An action and the screen it was done on."""

    time_ms: int
    token: Token
    sight: Sight


def sight_of(untrusted: Mapping[str, Any]) -> Sight:
    """Return what a snapshot's JSON object shows. Raises KeyError, TypeError if it is none."""
    elements = {e["index"]: e for e in untrusted["elements"]}
    paths: dict[int, str] = {}

    def path(index: int, depth: int = 0) -> str:
        if index not in paths or depth:
            e = elements[index]
            own = f"{e['role']} {e.get('tag', '')} {mask(e.get('element_id') or '')}"
            above = e.get("parent")
            if above in elements and depth < _DEEPEST:
                own = f"{own}/{path(above, depth + 1)}"
            if depth:
                return own
            paths[index] = sys.intern(own)  # nearly the same on thousands of screens
        return paths[index]

    texts: dict[str, set[str]] = defaultdict(set)
    own: dict[int, tuple[str, str | None]] = {}
    filled = False
    for index, e in elements.items():
        place = path(index)
        shown = next((t for n in ("text", "name") if (t := _text(e.get(n)))), None)
        own[index] = place, shown
        if shown is not None:
            texts[place].add(shown)
        filled |= "checked" in e.get("states", ())
        filled |= e["role"] != "button" and bool(_text(e.get("value")))
    return Sight(
        frozenset(paths.values()), {p: frozenset(found) for p, found in texts.items()}, filled, own
    )


def _text(untrusted: Mapping[str, Any] | None) -> str | None:
    return (untrusted.get("clear") or untrusted.get("hash")) if untrusted else None


def cases(looked: Sequence[Looked | None]) -> list[tuple[int, int] | None]:
    """Return for each action its case, by the case's first action, and type; None where unseen."""
    places = [i for i, one in enumerate(looked) if one is not None]
    log = _Log.of([one for one in looked if one is not None])
    found: list[tuple[int, int] | None] = [None] * len(looked)
    if not places:
        return found
    labels = _labels(log)
    types = _types(log, labels)
    for i, place in enumerate(places):
        found[place] = (places[labels[i]], types[labels[i]])
    return found


@dataclass(frozen=True)
class _Log:
    """Actions as what is counted."""

    times_ms: list[int]
    sights: list[Sight]
    families: list[int]
    steps: list[_Key]  # family, role, action and name of the control
    exact: list[_Key]  # and layout
    typed: list[bool]
    far: dict[tuple[int, str], list[float]]  # by family and place: how often texts stay far apart

    @classmethod
    def of(cls, looked: Sequence[Looked]) -> "_Log":
        """Tell layouts apart and count."""
        layouts = [one.sight.layout for one in looked]
        common = [layout for layout, _ in Counter(layouts).most_common()]
        of_layout = dict(zip(common, led(common, _ALIKE, _FAMILIES), strict=True))
        families = [of_layout[layout] for layout in layouts]
        numbers = {layout: n for n, layout in enumerate(dict.fromkeys(layouts))}
        shown: dict[int, Counter[str]] = defaultdict(Counter)
        for family, one in zip(families, looked, strict=True):
            shown[family].update({t for found in one.sight.texts.values() for t in found})
        sizes = Counter(families)
        steps = []
        for family, one in zip(families, looked, strict=True):
            label = one.token.label
            lasting = label.startswith("@") or shown[family][label] > _STATIC * sizes[family]
            steps.append((
                family, one.token.role, one.token.action, label if lasting else "",
                one.sight.filled,
            ))  # fmt: skip
        log = cls(
            [one.time_ms for one in looked], [one.sight for one in looked], families, steps,
            [(numbers[a], *s) for a, s in zip(layouts, steps, strict=True)],
            [one.token.action in _ENTERING for one in looked], {},
        )  # fmt: skip
        log._count_far()
        return log

    def _count_far(self) -> None:
        members: dict[int, list[int]] = defaultdict(list)
        for i, family in enumerate(self.families):
            members[family].append(i)
        for own in members.values():
            num = len(own)
            for step in {num // 2, num // 3 + 1}:
                if step < min(_FAR, num // 3):
                    continue
                for at, i in enumerate(own):
                    for place, state in self.states(i, own[(at + step) % num]):
                        key = self.families[i], place
                        self.far.setdefault(key, list(_FAR_STAYS))[state] += 1

    def states(self, now: int, before: int) -> Iterator[tuple[str, int]]:
        """Yield for each place that two screens share what it shows now, beside before."""
        new, old = self.sights[now], self.sights[before]
        for place, texts in old.texts.items():
            here = new.texts.get(place)
            if here is not None:
                yield place, _SAME if here == texts else _PART if here & texts else _OTHER
        if new.layout == old.layout:
            yield _VALUES, _OTHER if old.filled and not new.filled else _SAME

    def pace(self, now: int, before: int) -> int:
        """Return the kind and length of the pause between two actions as one number."""
        bin_ = gap_bin(max(0, self.times_ms[now] - self.times_ms[before]))
        return bin_ + NUM_BINS * ((before != now - 1) + 2 * self.typed[before])


def led(sets: Iterable[Set[str]], least: float, most: int) -> list[int]:
    """Return for each set the number of the first one that leads sets like it; `most` past those.

    Source: leader clustering (Hartigan 1975) under the Jaccard similarity, at `least` that.
    """
    heads: list[Set[str]] = []
    found = []
    for one in sets:
        likeness = [len(head & one) / max(1, len(head | one)) for head in heads]
        best = max(range(len(heads)), key=likeness.__getitem__, default=None)
        if best is None or likeness[best] < least:
            best = len(heads)
            if best < most:
                heads.append(one)
        found.append(best)
    return found


@dataclass
class _Counts:
    """What labelled actions tell: chains, beginnings and ends, pauses, what stays."""

    chains: dict[_Key, Counter[_Key]] = field(default_factory=lambda: defaultdict(Counter))
    goes_on: Counter[_Key] = field(default_factory=Counter)
    ends: Counter[_Key] = field(default_factory=Counter)
    begins: Counter[_Key] = field(default_factory=Counter)
    families: Counter[int] = field(default_factory=Counter)  # cases that begin in each
    inside: list[float] = field(default_factory=lambda: [0.0] * _KINDS * NUM_BINS)
    between: list[float] = field(default_factory=lambda: [0.0] * _KINDS * NUM_BINS)
    stays: dict[tuple[int, str], list[float]] = field(default_factory=dict)

    def staying(self, family: int, place: str) -> list[float]:
        """Return how often a place's texts stay in one case."""
        guess = _VALUES_STAY if place == _VALUES else _STAYS
        return self.stays.setdefault((family, place), list(guess))

    def paces(self) -> list[float] | None:
        """Return log odds of going on by the pause; None where too little is known."""
        if min(sum(self.inside), sum(self.between)) < _LEAST:
            return None
        rates = [_spread(self.inside), _spread(self.between)]
        return [math.log(a / b) for a, b in zip(*rates, strict=True)]


def _spread(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    found = []
    for at in range(len(counts)):
        kind = at // NUM_BINS
        near = (
            (j, w) for w, j in zip(_SPREAD, range(at - 2, at + 3), strict=True)
            if j // NUM_BINS == kind and j < len(counts)
        )  # fmt: skip
        found.append(sum(counts[j] * w for j, w in near) / total + _FAINT)
    whole = sum(found)
    return [f / whole for f in found]


def _labels(log: _Log) -> list[int]:
    """Return for each action the first one of its case."""
    told, paces = _Counts(), _first_paces(log)
    chained = False
    labels: list[int] = []
    for _ in range(_ROUNDS):
        labels, told = _round(log, told, paces, chained)
        paces, chained = told.paces() or paces, True
    return _joined(log, labels, paces)


def _joined(log: _Log, labels: Sequence[int], paces: Sequence[float]) -> list[int]:
    """Make one case of two where those of one family nearly always go on from another's.

    The screens of the two have no text in common; the pause between must be one within a case.
    """
    last: dict[int, int] = {}
    for now, case in enumerate(labels):
        last[case] = now
    begins = Counter(log.steps[case] for case in last)
    ended: dict[int, int] = {}  # by family, the newest end of a case
    ends = {at: case for case, at in last.items()}
    meetings: dict[tuple[int, _Key], list[tuple[int, int]]] = defaultdict(list)
    for now, family in enumerate(log.families):
        if labels[now] == now:
            for other, at in ended.items():
                if other != family and paces[log.pace(now, at)] > 0:
                    meetings[other, log.steps[now]].append((labels[at], now))
        if now in ends:
            ended[family] = now
    into: dict[int, int] = {}
    done: set[_Key] = set()
    for (_, step), pairs in sorted(meetings.items(), key=lambda m: -len(m[1])):
        whole = {first: second for first, second in reversed(pairs)}  # one goes on once
        if step not in done and len(whole) >= max(_LEAST - 2, _MEET * begins[step]):
            done.add(step)
            into.update({second: first for first, second in whole.items()})

    def root(case: int) -> int:
        while case in into:
            case = into[case]
        return case

    return [root(case) for case in labels]


def _first_paces(log: _Log) -> list[float]:
    """Return log odds of going on by the pause, from where texts alone are clear.

    Where they nowhere are, pauses are of two kinds. What was typed took a while: such pauses tell
    nothing yet.
    """
    counts = _Counts()
    pairs: list[int] = []
    inner: list[int] = []
    outer: list[int] = []
    last: dict[int, int] = {}
    for now, family in enumerate(log.families):
        before = last.get(family)
        last[family] = now
        if before is None or log.typed[before]:
            continue
        pace = log.pace(now, before)
        pairs.append(pace)
        evidence = _by_texts(log, counts, now, before)
        if evidence >= _CLEAR:
            counts.inside[pace] += 1
            inner.append(pace % NUM_BINS)
        elif evidence <= -_CLEAR:
            outer.append(pace)
    usual = sorted(inner)[int(len(inner) * _LONG)] if inner else 0
    for pace in outer:
        if pace % NUM_BINS >= usual:
            counts.between[pace] += 1
    if (found := counts.paces()) is not None:
        return found
    counts = _Counts()
    short, long = _two_means([p % NUM_BINS for p in pairs])
    for pace in pairs:
        bin_ = pace % NUM_BINS
        (counts.inside if abs(bin_ - short) <= abs(bin_ - long) else counts.between)[pace] += 1
    return counts.paces() or [0.0] * _KINDS * NUM_BINS


def _two_means(numbers: Sequence[int]) -> tuple[float, float]:
    low, high = float(min(numbers, default=0)), float(max(numbers, default=1))
    for _ in range(10):
        near = [n for n in numbers if abs(n - low) <= abs(n - high)]
        far = [n for n in numbers if abs(n - low) > abs(n - high)]
        low = sum(near) / len(near) if near else low
        high = sum(far) / len(far) if far else high
    return low, high


def _by_texts(log: _Log, told: _Counts, now: int, before: int) -> float:
    """Return log odds of one case by what the places show; that all is new is never for it."""
    family, total = log.families[now], 0.0
    for place, state in log.states(now, before):
        inside, far = told.staying(family, place), log.far.get((family, place), _FAR_STAYS)
        odds = math.log(inside[state] / sum(inside) / far[state] * sum(far))
        total += min(0.0, odds) if state == _OTHER else odds
    return max(-_MOST_TEXT, min(_MOST_TEXT, total))


def _round(
    log: _Log, told: _Counts, paces: Sequence[float], chained: bool
) -> tuple[list[int], _Counts]:
    """Label all actions, from left to right, by what was counted; count anew."""
    counts, labels = _Counts(), []
    ends: dict[int, int] = {}  # of each case that may go on, its newest action
    for now, family in enumerate(log.families):
        ends = {case: at for case, at in ends.items() if now - at <= REACH}
        own = sorted((at for at in ends.values() if log.families[at] == family), reverse=True)
        best, case, before = 0.0, now, -1
        for candidate, at in ends.items():
            odds = _odds(log, told, paces, chained, now, at, bool(own) and at == own[0])
            if odds > best:
                best, case, before = odds, candidate, at
        labels.append(case)
        step = log.exact[now]
        if before >= 0:
            last = log.exact[before]
            counts.inside[log.pace(now, before)] += 1
            counts.goes_on[last] += 1
            for key in (step, log.steps[now]):
                counts.chains[last][key] += 1
            for place, state in log.states(now, before):
                counts.staying(family, place)[state] += 1
        else:
            for key in (step, log.steps[now]):
                counts.begins[key] += 1
            counts.families[family] += 1
            if own:
                counts.between[log.pace(now, own[0])] += 1
                counts.ends[log.exact[own[0]]] += 1
        for at in own[_OPEN - 1 :]:
            ends = {c: a for c, a in ends.items() if a != at or c == case}
        ends[case] = now
    return labels, counts


def _odds(
    log: _Log, told: _Counts, paces: Sequence[float], chained: bool, now: int, before: int,
    newest: bool,
) -> float:  # fmt: skip
    """Return the log odds that an action goes on with the case that `before` is the end of."""
    odds = _by_texts(log, told, now, before)
    last, step, family = log.exact[before], log.exact[now], log.families[now]
    pace = max(-_MOST_PACE, min(_MOST_PACE, paces[log.pace(now, before)]))
    if not newest and odds < _TELLING:
        return -math.inf
    if not chained:
        return max(odds, -_FIRST_TEXT) + pace + (_TYPED if log.typed[before] else 0.0)
    odds += pace
    on, begins = told.goes_on[last], told.families[family]
    near = log.steps[now]
    into = (told.chains[last][step] + told.chains[last][near] / (on + 1) + 0.1) / (on + 1)
    begun = (told.begins[step] + told.begins[near] / (begins + 1) + 0.1) / (begins + 1)
    chain = math.log((on + 0.5) / (told.ends[last] + 0.5)) + math.log(into / begun)
    return odds + max(-_MOST_CHAIN, min(_MOST_CHAIN, chain))


def _types(log: _Log, labels: Sequence[int]) -> dict[int, int]:
    """Return each case's type: families of layouts that go together are one."""
    inside: dict[int, set[int]] = defaultdict(set)
    for case, family in zip(labels, log.families, strict=True):
        inside[case].add(family)
    uses = Counter(f for own in inside.values() for f in own)
    both = Counter((a, b) for own in inside.values() for a in own for b in own if a < b)
    into = {family: family for family in uses}

    def root(family: int) -> int:
        while into[family] != family:
            family = into[family]
        return family

    for (a, b), count in sorted(both.items()):
        if count >= max(_LEAST - 2, _TOGETHER * min(uses[a], uses[b])):
            into[root(b)] = root(a)
    return {case: root(log.families[case]) for case in inside}
