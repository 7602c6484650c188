"""Which event belongs to which execution: a beam over up to four open threads.

Each hypothesis holds the thread that is worked on, those left open, and a chain of labels back to
what is settled. Contiguous work is the case of one thread. Labels become final when all hypotheses
agree or after LAG events. Deterministic; the loop is `kernels.run`.

Source: Viterbi decoding with a beam; the open threads are the tracks of multi-target tracking
(Reid 1979), with skipped and spurious detections.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.task_learner.discovery.boundaries import gap_bin, gap_bins
from services.task_learner.discovery.model import ThreadModel, tables

if TYPE_CHECKING:
    from services.task_learner.discovery.kernels import Beam

__all__ = [
    "BEGIN", "LAG", "MAX_WAIT", "NOISE", "ON", "RESUME", "Decoder", "Labels", "Node", "decoded",
]  # fmt: skip

LAG = 120
"""Events after which a label is final, whatever hypotheses are left."""

NOISE = -1
"""What stands for the first event of an execution where the event is part of none."""
MAX_WAIT = 200
"""Events that a thread may stay open without one of its own."""
ON, RESUME, BEGIN = 0, 1, 2
"""How an event came to its label: next in its execution, back to it, or the first of it."""

_MARGIN = 11.0
_CLEAR = 3.0
_CLOSE_FROM = 1e-3
_OPEN_END = 2e-3  # chance of ending in the middle
_LIMITS = np.array((LAG, MAX_WAIT, _MARGIN, _CLEAR, _CLOSE_FROM, _OPEN_END))

Ints = NDArray[np.int64]
_NOTHING = np.zeros(0, np.int64)


class Labels(NamedTuple):
    """Labels of events that follow each other."""

    first: Ints  # position of the first event of the execution of each, or NOISE
    how: Ints
    closed: Ints  # whether the execution ends with it


class Node(NamedTuple):
    """One event's label."""

    position: int
    first: int
    how: int
    closed: bool


class Decoder:
    """Labels events as they come."""

    def __init__(self, model: ThreadModel, position: int = 0) -> None:
        from services.task_learner.discovery import kernels

        self._kernels = kernels
        self._tables = tables(model)
        self._beam = kernels.Beam.new(position)
        self._last_ms: int | None = None
        self._one = np.zeros((2, 1), np.int64)
        self._out = np.empty((1 + kernels.RING, 3), np.int64)

    def push(self, token: int, time_ms: int) -> list[Node]:
        """Take the next event; return the labels that have become final, the oldest first."""
        self._one[0, 0] = token
        self._one[1, 0] = 1 if self._last_ms is None else gap_bin(time_ms - self._last_ms)
        self._last_ms = time_ms
        return self._nodes(self._beam, self._one[0], self._one[1], self._out)

    def push_all(self, tokens: Sequence[int], times_ms: Sequence[int]) -> list[Node]:
        """Take events, as `push` would each of them."""
        before = times_ms[0] if self._last_ms is None else self._last_ms
        gaps = gap_bins((before, *times_ms))[1:]
        self._last_ms = times_ms[-1]
        out = np.empty((len(tokens) + len(self._out), 3), np.int64)
        return self._nodes(self._beam, np.asarray(tokens, np.int64), gaps, out)

    def finish(self) -> list[Node]:
        """Return the labels still open, by the best hypothesis."""
        return self._nodes(self._beam, _NOTHING, _NOTHING, self._out, finish=True)

    def unsettled(self) -> list[Node]:
        """Return the labels still open, by the best hypothesis, and leave them open."""
        return self._nodes(self._beam.copy(), _NOTHING, _NOTHING, self._out, finish=True)

    def _nodes(
        self, beam: "Beam", tokens: Ints, gaps: Ints, out: Ints, *, finish: bool = False
    ) -> list[Node]:
        at = int(beam.at[1])
        number = self._kernels.run(self._tables, beam, tokens, gaps, finish, _LIMITS, out)
        return [Node(at + i, *label) for i, label in enumerate(out[:number].tolist())]


def decoded(model: ThreadModel, tokens: Ints, gaps: Ints) -> tuple[Labels, float]:
    """Return the labels of a stretch of log, and its log likelihood."""
    from services.task_learner.discovery import kernels

    beam = kernels.Beam.new(0)
    out = np.empty((tokens.size + kernels.RING, 3), np.int64)
    number = kernels.run(tables(model), beam, tokens, gaps, True, _LIMITS, out)
    assert number == tokens.size
    labels = Labels(out[:number, 0], out[:number, 1], out[:number, 2])
    return labels, float(beam.likelihood[0])
