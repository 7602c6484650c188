"""Learning the thread model from a stretch of log: a first guess of cuts, then hard EM.

Each round labels the stretch with the model so far and counts anew. Pure and deterministic.

Source: Viterbi training (Juang and Rabiner 1990).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from services.task_learner.discovery.boundaries import Cut, first_cuts, gap_bin
from services.task_learner.discovery.decode import NOISE, Decoder, Node
from services.task_learner.discovery.model import ThreadModel

__all__ = ["Stretch", "fit", "label"]

_ROUNDS = 3
_GUESSES = 3  # first guesses that are followed …
_SHORT = 1_500  # … in a stretch of no more events
_MEET = 0.75  # share of an end's and a beginning's uses that makes them one execution's inside …
_PACE = 0.7  # … if the log odds of a boundary by the pause are below
_OWN = 0.5  # share of a token's uses at the edge of parts that makes it an edge of wholes


class Stretch(NamedTuple):
    """A part of a log, one entry for each event."""

    tokens: Sequence[int]
    times_ms: Sequence[int]
    changed: Sequence[bool]  # about another record than the events before

    def gaps(self) -> list[int]:
        """Return the bin of the pause before each event."""
        return [1, *(gap_bin(b - a) for a, b in pairwise(self.times_ms))]


def fit(stretch: Stretch, before: ThreadModel | None = None) -> ThreadModel:
    """Return the model of a stretch of log.

    Those learned from first guesses and the one that `before` becomes are compared by how short
    they make the stretch.
    """
    gaps = stretch.gaps()
    most = _GUESSES if len(stretch.tokens) <= _SHORT else 1
    guesses = first_cuts(stretch.tokens, gaps, stretch.changed, most)
    seeds = [_seed(stretch.tokens, gaps, cuts) for cuts in guesses]
    if before is not None:
        seeds.append(before)
    found: list[tuple[float, ThreadModel]] = []
    for model in seeds:
        length = 0.0
        for _ in range(_ROUNDS):
            labels, likelihood = _decoded(model, stretch)
            length = model.cost() - likelihood
            model = _count(stretch.tokens, gaps, _joined(stretch.tokens, gaps, labels, model))
        found.append((length, model))
    return min(found, key=lambda f: f[0])[1]


def label(model: ThreadModel, stretch: Stretch) -> list[Node]:
    """Return the label of each event of a stretch."""
    return _decoded(model, stretch)[0]


def _decoded(model: ThreadModel, stretch: Stretch) -> tuple[list[Node], float]:
    decoder = Decoder(model)
    found: list[Node] = []
    for token, time_ms in zip(stretch.tokens, stretch.times_ms, strict=True):
        found += decoder.push(token, time_ms)
    return found + decoder.finish(), decoder.log_likelihood


def _joined(
    tokens: Sequence[int], gaps: Sequence[int], labels: Sequence[Node], model: ThreadModel
) -> list[Node]:
    """Make one execution of two where one end and one beginning nearly always meet.

    Not where the pause between is a boundary's, nor where all boundaries are that one: a routine
    back to back.
    """
    meetings: dict[tuple[int, int], list[int]] = defaultdict(list)
    ends: Counter[int] = Counter()
    begins: Counter[int] = Counter()
    for i, node in enumerate(labels):
        ends[tokens[i]] += node.closed
        if node.how == "begin":
            begins[tokens[i]] += 1
            if i and labels[i - 1].closed:
                meetings[tokens[i - 1], tokens[i]].append(i)
    into: dict[int, int] = {}
    meet: set[int] = set()
    for (end, begin), at in sorted(meetings.items()):
        pace = sum(model.gap_begin[gaps[i]] - model.gap_on[gaps[i]] for i in at) / len(at)
        if (
            len(at) >= max(3, _MEET * ends[end], _MEET * begins[begin])
            and len(at) < _MEET * ends.total()
            and pace < _PACE
        ):
            meet.update(at)
            into |= {labels[i].first: labels[i - 1].first for i in at}
    found = []
    for i, node in enumerate(labels):
        first = node.first
        while first in into:
            first = into[first]
        how = "on" if i in meet else node.how
        closed = node.closed and i + 1 not in meet
        found.append(node._replace(first=first, how=how, closed=closed))
    return found


def _seed(tokens: Sequence[int], gaps: Sequence[int], cuts: Sequence[Cut]) -> ThreadModel:
    """Return the model of the parts between cuts; of parts, only what is inside is believed."""
    model = ThreadModel()
    parts: list[list[int]] = []
    for i, cut in enumerate(cuts):
        model.tokens[tokens[i]] += 1
        kind = {Cut.BEGIN: "begin", Cut.PART: "resume", Cut.NONE: "on"}[cut]
        model.gaps[kind][gaps[i]] += 1
        if cut is Cut.PART:
            model.gaps["begin"][gaps[i]] += 0.5
        if cut is Cut.NONE:
            parts[-1].append(i)
        else:
            parts.append([i])
    firsts = Counter(tokens[p[0]] for p in parts)
    lasts = Counter(tokens[p[-1]] for p in parts)
    for part in parts:
        first, last = tokens[part[0]], tokens[part[-1]]
        following = cuts[part[-1] + 1] if part[-1] + 1 < len(cuts) else Cut.NONE
        begun = cuts[part[0]] is Cut.BEGIN or firsts[first] >= _OWN * model.tokens[first]
        ended = following is Cut.BEGIN or lasts[last] >= _OWN * model.tokens[last]
        model.add([tokens[i] for i in part], begun=begun, ended=ended)
    model.prepare()
    return model


def _count(tokens: Sequence[int], gaps: Sequence[int], labels: Sequence[Node]) -> ThreadModel:
    model = ThreadModel()
    threads: dict[int, list[int]] = defaultdict(list)
    ends: dict[int, int] = {}
    for i, node in enumerate(labels):
        model.tokens[tokens[i]] += 1
        model.gaps[node.how][gaps[i]] += 1
        if node.first == NOISE:
            model.noise[tokens[i]] += 1
        else:
            threads[node.first].append(tokens[i])
            ends[node.first] = i
    for thread in threads.values():
        model.add(thread)
    opened: set[int] = set()
    active: int | None = None
    for i, node in enumerate(labels):
        if node.first == NOISE:
            continue
        model.switches[1] += active is not None
        if node.how != "on":
            model.switches[0] += active is not None
            if opened - {active}:
                model.resumes[1] += 1
                model.resumes[0] += node.how == "resume"
        opened.add(node.first)
        active = node.first
        if ends[node.first] == i:
            opened.discard(node.first)
            active = None
    model.prepare()
    return model
