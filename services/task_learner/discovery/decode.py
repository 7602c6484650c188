"""Which event belongs to which execution: a beam over up to four open threads.

Each hypothesis holds the thread that is worked on, those left open, and a chain of labels back to
what is settled. Contiguous work is the case of one thread. Labels become final when all hypotheses
agree or after LAG events. Pure and deterministic.

Source: Viterbi decoding with a beam; the open threads are the tracks of multi-target tracking
(Reid 1979), with skipped and spurious detections.
"""

from typing import NamedTuple

from services.task_learner.discovery.boundaries import gap_bin
from services.task_learner.discovery.model import NONE, ThreadModel

__all__ = ["LAG", "NOISE", "Decoder"]

LAG = 120
"""Events after which a label is final, whatever hypotheses are left."""

NOISE = -1
MAX_OPEN = 4
MAX_WAIT = 200
"""Events that a thread may stay open without one of its own."""

_BEAM = 8
_MARGIN = 11.0
_CLEAR = 3.0
_CLOSE_FROM = 1e-3


class Thread(NamedTuple):
    """An execution under way: its last two tokens, and the position of its first and last event."""

    a: int
    b: int
    first: int
    last: int
    time_ms: int


class Node(NamedTuple):
    """One event's label in one hypothesis; `how` is what kind of turn it was."""

    parent: "Node | None"
    position: int
    first: int  # position of the execution's first event, or NOISE
    how: str
    closed: bool


Hypothesis = tuple[float, Thread | None, tuple[Thread, ...], Node | None]


class Decoder:
    """Labels events as they come."""

    def __init__(self, model: ThreadModel, position: int = 0) -> None:
        self.model = model
        self.position = position
        self.log_likelihood = 0.0  # of what is settled
        self._settled = position  # events before it are labelled for good
        self._last_ms: int | None = None
        self._beam: list[Hypothesis] = [(0.0, None, (), None)]

    def push(self, token: int, time_ms: int) -> list[Node]:
        """Take the next event; return the labels that have become final, the oldest first."""
        gap = 1 if self._last_ms is None else gap_bin(time_ms - self._last_ms)
        self._last_ms = time_ms
        position = self.position
        self.position += 1
        beam = self._beam
        if len(beam) == 1 and self._follow(token, time_ms, gap, position):
            return self._collect()
        candidates: dict[object, Hypothesis] = {}
        for hypothesis in beam:
            self._extend(hypothesis, token, time_ms, gap, position, candidates)
        ranked = sorted(candidates.values(), key=lambda h: -h[0])[:_BEAM]
        floor = ranked[0][0] - _MARGIN
        self._beam = [h for h in ranked if h[0] >= floor]
        return self._collect()

    def finish(self) -> list[Node]:
        """Return the labels still open, by the best hypothesis."""
        self._beam = self._beam[:1]
        return self._collect()

    def open_threads(self) -> set[int]:
        """Return the first positions of the threads that the best hypothesis has open."""
        _, active, others, _ = self._beam[0]
        return {t.first for t in (active, *others) if t is not None}

    def _follow(self, token: int, time_ms: int, gap: int, position: int) -> bool:
        """Take the usual next step where nothing speaks for anything else."""
        score, active, others, node = self._beam[0]
        if active is None:
            return False
        model = self.model
        log = model.go_on(active.a, active.b, token)
        rival = max(model.gap_begin[gap], model.gap_resume[gap])
        if (
            log < -1.5
            or log + model.gap_on[gap] - rival < -_CLEAR
            or (model.end(active.b, token) > _CLOSE_FROM)
        ):
            return False
        if others and any(model.go_on(t.a, t.b, token) > -4 for t in others):
            return False
        if others and position - others[-1].last > MAX_WAIT:
            return False
        thread = Thread(active.b, token, active.first, position, time_ms)
        step = Node(node, position, active.first, "on", False)
        self._beam = [(score + log + model.gap_on[gap], thread, others, step)]
        return True

    def _extend(
        self, hypothesis: Hypothesis, token: int, time_ms: int, gap: int, position: int,
        out: dict[object, Hypothesis],
    ) -> None:  # fmt: skip
        score, active, others, node = hypothesis
        model = self.model
        if others and position - others[-1].last > MAX_WAIT:
            stale = others[-1]
            score += model.drop(stale.a, stale.b)
            others = others[:-1]
        noise = score + model.noises.get(token, model.unseen)
        _offer(out, (noise, active, others, Node(node, position, NOISE, "noise", False)))
        left = score
        rest = others
        if active is not None:
            log = model.go_on(active.a, active.b, token)
            if log > -20:
                self._place(
                    score + log + model.gap_on[gap], active, others, node, token, time_ms,
                    position, "on", out,
                )  # fmt: skip
            left += model.log_switch
            rest = (active, *others)
        if others:
            left_resume = left + model.log_resume + model.gap_resume[gap]
            for thread in others:
                log = model.go_on(thread.a, thread.b, token)
                if log > -6:
                    remaining = tuple(t for t in rest if t is not thread)
                    self._place(
                        left_resume + log, thread, remaining, node, token, time_ms, position,
                        "resume", out,
                    )  # fmt: skip
            left += model.log_begin
        if len(rest) >= MAX_OPEN:
            oldest = min(rest, key=lambda t: t.last)
            left += model.drop(oldest.a, oldest.b)
            rest = tuple(t for t in rest if t is not oldest)
        start = model.starts.get(token, model.never_started)
        fresh = Thread(NONE, NONE, position, position, time_ms)
        self._place(
            left + start + model.gap_begin[gap], fresh, rest, node, token, time_ms, position,
            "begin", out,
        )  # fmt: skip

    def _place(
        self, score: float, thread: Thread, others: tuple[Thread, ...], node: Node | None,
        token: int, time_ms: int, position: int, how: str, out: dict[object, Hypothesis],
    ) -> None:  # fmt: skip
        b = thread.b
        end = self.model.end(b, token)
        if end < 0.999:
            grown = Thread(b, token, thread.first, position, time_ms)
            _offer(out, (score, grown, others, Node(node, position, thread.first, how, False)))
        if end > _CLOSE_FROM:
            closed = score + self.model.drop(b, token)
            _offer(out, (closed, None, others, Node(node, position, thread.first, how, True)))

    def _collect(self) -> list[Node]:
        """Return what no hypothesis contradicts any more, and what is older than LAG."""
        beam = self._beam
        best = beam[0][3]
        if best is None:
            return []
        if len(beam) > 1:
            if self.position - self._settled < LAG:
                return []
            cut = self.position - LAG // 2
            kept = best
            while kept.position > cut:
                assert kept.parent is not None
                kept = kept.parent
            self._beam = [h for h in beam if _passes(h[3], kept)]
            best = kept
        found: list[Node] = []
        node: Node | None = best
        while node is not None and node.position >= self._settled:
            found.append(node)
            node = node.parent
        self._settled = best.position + 1
        if len(self._beam) == 1 and best is self._beam[0][3]:
            score, active, others, _ = self._beam[0]
            self.log_likelihood += score
            self._beam = [(0.0, active, others, best._replace(parent=None))]
        return found[::-1]


def _offer(out: dict[object, Hypothesis], hypothesis: Hypothesis) -> None:
    _, active, others, _ = hypothesis
    key = (
        (active.a, active.b) if active is not None else None,
        tuple([(t.a, t.b) for t in others]),
    )
    before = out.get(key)
    if before is None or before[0] < hypothesis[0]:
        out[key] = hypothesis


def _passes(node: Node | None, through: Node) -> bool:
    while node is not None and node.position > through.position:
        node = node.parent
    return node is through
