"""What a routine's execution looks like, all routines in one: a chain of the last two steps.

An execution ("thread") starts with some token, goes on depending on its last two, and ends. A step
may be missing, which links what stood beside it; other events may stand between, which are no part
of it. Pauses tell apart going on, turning to another thread, and beginning a new one. Counted from
labelled events, asked for log probabilities. Pure.

Source: Markov chains with back-off (Katz 1987, in Jelinek and Mercer's linear form); events without
case identifiers as interleaved chains (Ferreira and Gillblad 2009).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from services.task_learner.discovery.boundaries import NUM_BINS, log_ratio, smoothed

__all__ = ["END", "NONE", "ThreadModel"]

NONE = -1
"""What stands for the token before the first, and for no thread at all."""
END = -2

_BACK_OFF = 2.0  # weight of the shorter context, in executions
_DISCOUNT = 1.0  # what was seen once only may be chance
_SPECIFIC = 0.1  # share of a token's uses that begin something, below which none is meant to
_SKIP = 0.03  # share of links that leave a step out, where none has been seen yet
_STRAY = 1e-3  # chance of beginning in the middle
_OPEN_END = 2e-3  # chance of ending in the middle
_NEVER = -1e9


class ThreadModel:
    """Counts, and the log probabilities that follow from them."""

    def __init__(self) -> None:
        self.first: dict[int, float] = defaultdict(float)
        self.links: dict[int, dict[int, float]] = {}
        self.chains: dict[tuple[int, int], dict[int, float]] = {}
        self.noise: dict[int, float] = defaultdict(float)
        self.tokens: dict[int, float] = defaultdict(float)
        self.gaps = {k: [0.0] * NUM_BINS for k in ("on", "resume", "begin", "noise")}
        self.switches = [5.0, 100.0]  # left open for another thread, chances to
        self.resumes = [1.0, 2.0]  # of the turns after a switch or an end, those to an open thread

    def add(self, thread: Sequence[int], *, begun: bool = True, ended: bool = True) -> None:
        """Count an execution's tokens; `begun` and `ended` say that its edges are the real ones."""
        a, b = NONE, thread[0]
        self.first[b] += begun
        for c in (*thread[1:], END) if ended else thread[1:]:
            row = self.links.setdefault(b, {})
            row[c] = row.get(c, 0.0) + 1
            row = self.chains.setdefault((a, b), {})
            row[c] = row.get(c, 0.0) + 1
            a, b = b, c

    def prepare(self) -> None:
        """Derive what the decoder asks for again and again."""
        self._memo: dict[tuple[int, int, int], float] = {}
        self._ends: dict[tuple[int, int], float] = {}
        self._link_totals = {b: sum(row.values()) for b, row in self.links.items()}
        self._chain_totals = {k: sum(row.values()) for k, row in self.chains.items()}
        self._skips = {b: self._skipping(row) for b, row in self.links.items()}
        self.first = defaultdict(
            float,
            {t: c for t, c in self.first.items() if c > 1 and c >= _SPECIFIC * self.tokens[t]},
        )
        total = sum(self.first.values()) or 1.0
        seen = sum(self.tokens.values()) or 1.0
        self.starts: dict[int, float] = {}
        skipped: dict[int, float] = defaultdict(float)
        for d, count in self.first.items():
            for c, n in self.links.get(d, {}).items():
                if c != END:
                    skipped[c] += count * n / self._link_totals[d]
        for token, count in self.tokens.items():
            p = (1 - _SKIP) * self.first.get(token, 0.0) / total
            p += _SKIP * skipped.get(token, 0.0) / total + _STRAY * count / seen
            self.starts[token] = math.log(p)
        num_noise = sum(self.noise.values())
        share = (num_noise + 0.01 * seen) / (1.1 * seen)
        self.noises = {
            token: math.log(share)
            + math.log((count + 2 * self.noise.get(token, 0.0)) / (seen + 2 * num_noise))
            for token, count in self.tokens.items()
        }
        self.unseen = math.log(share / seen)
        self.never_started = math.log(_STRAY / seen)
        base = [sum(g[i] for g in self.gaps.values()) for i in range(NUM_BINS)]
        self.gap_on = log_ratio(self.gaps["on"], base)
        self.gap_resume = _tempered(self.gaps["resume"], base)
        self.gap_begin = _tempered(self.gaps["begin"], base)
        self.log_switch = math.log(self.switches[0] / self.switches[1])
        share = min(0.95, self.resumes[0] / self.resumes[1])
        self.log_resume, self.log_begin = math.log(share), math.log(1 - share)

    def cost(self) -> float:
        """Return what it takes to tell the model; nats, half a log of the events a parameter.

        Source: Schwarz 1978.
        """
        rows = [*self.links.values(), *self.chains.values()]
        number = sum(count > 1 for row in rows for count in row.values()) + len(self.first)
        return 0.5 * number * math.log(sum(self.tokens.values()) + 1)

    def go_on(self, a: int, b: int, c: int) -> float:
        """Return the log probability of `c` after `a`, `b`; very low where it was never seen."""
        key = (a, b, c)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._log(a, b, c)
        return found

    def end(self, a: int, b: int) -> float:
        """Return the probability that an execution ends after `a`, `b`."""
        key = (a, b)
        found = self._ends.get(key)
        if found is None:
            log = self._log(a, b, END)
            found = self._ends[key] = math.exp(log) if log > _NEVER else 0.0
        return found

    def drop(self, a: int, b: int) -> float:
        """Return the log probability of a thread being left here for good."""
        return math.log(max(self.end(a, b), _OPEN_END))

    def _log(self, a: int, b: int, c: int) -> float:
        total = self._link_totals.get(b)
        if total is None:
            return _NEVER
        seen = max(0.0, self.links[b].get(c, 0.0) - _DISCOUNT)
        p = (1 - _SKIP) * seen / total + _SKIP * self._skips[b].get(c, 0.0)
        chain = self.chains.get((a, b))
        if chain is not None:
            seen = max(0.0, chain.get(c, 0.0) - _DISCOUNT)
            lent = _BACK_OFF + _DISCOUNT * len(chain)
            p = (seen + lent * p) / (self._chain_totals[a, b] + _BACK_OFF)
        return math.log(p) if p > 0 else _NEVER

    def _skipping(self, row: dict[int, float]) -> dict[int, float]:
        """Return how probable each token is when the step between is left out."""
        found: dict[int, float] = defaultdict(float)
        total = sum(row.values())
        for d, count in row.items():
            if d == END:
                continue
            for c, n in self.links.get(d, {}).items():
                found[c] += count / total * n / self._link_totals[d]
        return found


def _tempered(counts: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return log ratios to the base, drawn to it where little has been counted."""
    weight = 10.0
    prior = smoothed(base)
    soft = smoothed(counts, 0.0) if sum(counts) else [0.0] * len(prior)
    total = sum(counts)
    mixed = [(total * c + weight * p) / (total + weight) for c, p in zip(soft, prior, strict=True)]
    return [math.log(m / p) for m, p in zip(mixed, prior, strict=True)]
