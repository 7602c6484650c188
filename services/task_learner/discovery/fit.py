"""Learning the thread model from a stretch of log: a first guess of cuts, then hard EM.

Each round labels the stretch with the model so far and counts anew. Pure and deterministic.

Source: Viterbi training (Juang and Rabiner 1990).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.task_learner.discovery.boundaries import NUM_BINS, Cut, first_cuts, gap_bins
from services.task_learner.discovery.decode import (
    BEGIN,
    NOISE,
    ON,
    RESUME,
    Decoder,
    Labels,
    Node,
    decoded,
)
from services.task_learner.discovery.model import ThreadModel, Threads, tables

__all__ = ["Stretch", "fit", "label"]

_ROUNDS = 3
_GUESSES = 3  # first guesses that are followed …
_SHORT = 1_500  # … in a stretch of no more events
_MEET = 0.75  # share of an end's and a beginning's uses that makes them one execution's inside …
_PACE = 0.7  # … if the log odds of a boundary by the pause are below
_OWN = 0.5  # share of a token's uses at the edge of parts that makes it an edge of wholes
_STRAY = 3

Ints = NDArray[np.int64]


class Stretch(NamedTuple):
    """A part of a log, one entry for each event."""

    tokens: Sequence[int]
    times_ms: Sequence[int]
    changed: Sequence[bool]  # about another record than the events before

    def gaps(self) -> Ints:
        """Return the bin of the pause before each event."""
        return gap_bins(self.times_ms)


def fit(stretch: Stretch, before: ThreadModel | None = None) -> ThreadModel:
    """Return the model of a stretch of log.

    Those learned from first guesses and the one that `before` becomes are compared by how short
    they make the stretch.
    """
    tokens, gaps = np.asarray(stretch.tokens, np.int64), stretch.gaps()
    most = _GUESSES if len(tokens) <= _SHORT else 1
    guesses = first_cuts(stretch.tokens, gaps.tolist(), stretch.changed, most)
    seeds = [_seed(tokens, gaps, np.asarray(cuts)) for cuts in guesses]
    if before is not None:
        seeds.append(before)
    found: list[tuple[float, ThreadModel]] = []
    for model in seeds:
        length = 0.0
        for _ in range(_ROUNDS):
            labels, likelihood = decoded(model, tokens, gaps)
            length = model.cost() - likelihood
            model = _count(tokens, gaps, _joined(tokens, gaps, labels, model))
        found.append((length, model))
    return min(found, key=lambda f: f[0])[1]


def label(model: ThreadModel, stretch: Stretch) -> list[Node]:
    """Return the label of each event of a stretch."""
    decoder = Decoder(model)
    return decoder.push_all(stretch.tokens, stretch.times_ms) + decoder.finish()


def _joined(tokens: Ints, gaps: Ints, labels: Labels, model: ThreadModel) -> Labels:
    """Make one execution of two where one end and one beginning nearly always meet.

    Not where the pause between is a boundary's, nor where all boundaries are that one: a routine
    back to back.
    """
    meetings: dict[tuple[int, int], list[int]] = defaultdict(list)
    begin = labels.how == BEGIN
    ends, begins = np.bincount(tokens[labels.closed > 0]), np.bincount(tokens[begin])
    for i in np.flatnonzero(begin[1:] & (labels.closed[:-1] > 0)).tolist():
        meetings[int(tokens[i]), int(tokens[i + 1])].append(i + 1)
    derived = tables(model)
    odds = derived.gaps[BEGIN] - derived.gaps[ON]
    num_ends = ends.sum()
    meet: list[int] = []
    for (end, start), at in meetings.items():
        if (
            len(at) >= max(3, _MEET * ends[end], _MEET * begins[start])
            and len(at) < _MEET * num_ends
            and odds[gaps[at]].mean() < _PACE
        ):
            meet += at
    if not meet:
        return labels
    into = np.arange(tokens.size)
    for i in sorted(meet):
        into[labels.first[i]] = into[labels.first[i - 1]]
    how, closed = labels.how.copy(), labels.closed.copy()
    how[meet] = ON
    closed[np.asarray(meet) - 1] = 0
    first = np.where(labels.first == NOISE, NOISE, into[labels.first])
    return Labels(first, how, closed)


def _seed(tokens: Ints, gaps: Ints, cuts: Ints) -> ThreadModel:
    """Return the model of the parts between cuts; of parts, only what is inside is believed."""
    kinds = np.array((ON, RESUME, BEGIN))[cuts]  # Cut.NONE, Cut.PART, Cut.BEGIN
    paces = np.zeros((4, NUM_BINS))
    np.add.at(paces, (kinds, gaps), 1.0)
    np.add.at(paces[BEGIN], gaps[cuts == Cut.PART], 0.5)
    uses = np.bincount(tokens).astype(float)
    first = cuts != Cut.NONE
    last = np.append(first[1:], True)
    firsts = np.bincount(tokens[first], minlength=uses.size)
    lasts = np.bincount(tokens[last], minlength=uses.size)
    begun = (cuts == Cut.BEGIN) | (firsts >= _OWN * uses)[tokens]
    ended = np.append(cuts[1:] == Cut.BEGIN, False) | (lasts >= _OWN * uses)[tokens]
    threads = Threads(tokens, first, begun, last, ended)
    return ThreadModel.of(threads, uses, np.zeros(uses.size), paces)


def _count(tokens: Ints, gaps: Ints, labels: Labels) -> ThreadModel:
    uses = np.bincount(tokens).astype(float)
    noise = np.bincount(tokens[labels.first == NOISE], minlength=uses.size).astype(float)
    paces = np.zeros((4, NUM_BINS))
    np.add.at(paces, (labels.how, gaps), 1.0)
    order = np.argsort(labels.first, kind="stable")
    order = order[labels.first[order] != NOISE]
    thread = labels.first[order]
    first = np.append(True, thread[1:] != thread[:-1])[: thread.size]
    last = np.append(first[1:], True)[: thread.size]
    threads = Threads(tokens[order], first, first, last, last)
    ends = np.zeros(tokens.size, bool)
    ends[order[last]] = True
    turns = _turns(labels, ends.tolist())
    return ThreadModel.of(threads, uses, noise, paces, *turns)


def _turns(labels: Labels, ends: Sequence[bool]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return how often work was left open of how many times, and taken up again of how many."""
    left = chances = resumed = turned = 0
    opened: set[int] = set()
    active: int | None = None
    for first, how, end in zip(labels.first.tolist(), labels.how.tolist(), ends, strict=True):
        if first == NOISE:
            continue
        chances += active is not None
        if how != ON:
            left += active is not None
            if len(opened) > (active in opened):
                turned += 1
                resumed += how == RESUME
        opened.add(first)
        active = first
        if end:
            opened.discard(first)
            active = None
    return (left, chances), (resumed, turned)
