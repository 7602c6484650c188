"""What a routine's execution looks like, all routines in one: a chain of the last two steps.

An execution ("thread") starts with some token, goes on depending on its last two, and ends. A step
may be missing, which links what stood beside it; other events may stand between, which are no part
of it. Pauses tell apart going on, turning to another thread, and beginning a new one. Counted from
labelled events, asked for log probabilities. Pure.

Source: Markov chains with back-off (Katz 1987, in Jelinek and Mercer's linear form); events without
case identifiers as interleaved chains (Ferreira and Gillblad 2009).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.task_learner.discovery.boundaries import NUM_BINS, log_ratio, smoothed

if TYPE_CHECKING:
    from services.task_learner.discovery.kernels import Tables

__all__ = ["END", "MAX_TOKEN", "NONE", "ThreadModel", "Threads", "tables"]

NONE = -1
"""What stands for the token before the first, and for no thread at all."""
END = -2
MAX_TOKEN = (1 << 20) - 4
"""The largest number a token may have."""

_BACK_OFF = 2.0  # weight of the shorter context, in executions
_DISCOUNT = 1.0  # what was seen once only may be chance
_SPECIFIC = 0.1  # share of a token's uses that begin something, below which none is meant to
_SKIP = 0.03  # share of links that leave a step out, where none has been seen yet
_STRAY = 1e-3  # chance of beginning in the middle

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Threads(NamedTuple):
    """Executions one after the other, each event's place and what it is in its execution."""

    tokens: Ints
    first: NDArray[np.bool_]  # it is the execution's first event, …
    begun: NDArray[np.bool_]  # … which is where the execution really begins
    last: NDArray[np.bool_]
    ended: NDArray[np.bool_]


class ThreadModel(NamedTuple):
    """What is counted of labelled events; plain arrays."""

    chains: Ints  # (3, chains): last but one, last, next token, sorted
    uses: Floats
    first: Floats  # by token: executions that begin with it
    tokens: Floats  # by token
    noise: Floats
    gaps: Floats  # (how, bin): pauses before events
    switches: Floats  # left open for another thread, chances to
    resumes: Floats  # of the turns after a switch or an end, those to an open thread

    @classmethod
    def of(
        cls, threads: Threads, tokens: Floats, noise: Floats, gaps: Floats,
        switches: tuple[float, float] = (0, 0), resumes: tuple[float, float] = (0, 0),
    ) -> "ThreadModel":  # fmt: skip
        """Count executions."""
        x = threads.tokens
        a = np.where(threads.first, NONE, np.concatenate(([NONE], x[:-1])))
        c = np.where(threads.last, END, np.concatenate((x[1:], [END])))
        kept = ~threads.last | threads.ended
        keys, uses = np.unique(_key(_key(a[kept], x[kept]), c[kept]), return_counts=True)
        pairs, third = _parts(keys)
        chains = np.stack((*_parts(pairs), third))
        first = np.bincount(x[threads.first & threads.begun], minlength=tokens.size)
        first = np.where((first > 1) & (first >= _SPECIFIC * tokens), first, 0)
        return cls(
            chains, uses.astype(float), first.astype(float), tokens, noise, gaps,
            np.array((5.0, 100.0)) + switches, np.array((1.0, 2.0)) + resumes,
        )  # fmt: skip

    @classmethod
    def none(cls) -> "ThreadModel":
        """Return the counts of no events."""
        nothing = np.zeros(0, np.int64)
        no = np.zeros(0, bool)
        return cls.of(
            Threads(nothing, no, no, no, no), np.zeros(0), np.zeros(0), np.zeros((4, NUM_BINS))
        )

    def dump(self) -> dict[str, Any]:
        """Return the counts, for `load`; numbers, lists and texts alone."""
        return {name: part.tolist() for name, part in self._asdict().items()}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "ThreadModel":
        """Return the model of which `dump` returned the counts."""
        chains = np.array(state["chains"], np.int64).reshape(3, -1)
        parts = {name: np.array(part, float) for name, part in state.items()}
        return cls(**(parts | {"chains": chains}))

    def links(self) -> tuple[Ints, Floats]:
        """Return the pairs of neighbours in executions, sorted, and how often each is."""
        keys, where = np.unique(_key(*self.chains[1:]), return_inverse=True)
        return np.stack(_parts(keys)), np.bincount(where, self.uses, keys.size).astype(float)

    def cost(self) -> float:
        """Return what it takes to tell the model; nats, half a log of the events a parameter.

        Source: Schwarz 1978.
        """
        number = (self.links()[1] > 1).sum() + (self.uses > 1).sum() + (self.first > 0).sum()
        return 0.5 * float(number) * math.log(self.tokens.sum() + 1)


def _key(first: Ints, second: Ints) -> Ints:
    """Return one number for two that sorts as they do; the second is a token, NONE or END."""
    return first * (MAX_TOKEN + 4) + (second - END)


def _parts(keys: Ints) -> tuple[Ints, Ints]:
    """Return the two numbers of each `_key`."""
    first, second = np.divmod(keys, MAX_TOKEN + 4)
    return first, second + END


def tables(model: ThreadModel) -> "Tables":
    """Return the log probabilities that follow from counts, as the decoder asks for them."""
    from services.task_learner.discovery import kernels

    (rows, columns), uses = model.links()
    keys, one, two = kernels.derive(
        np.ascontiguousarray(rows), np.ascontiguousarray(columns), uses, model.chains,
        model.uses, _SKIP, _DISCOUNT, _BACK_OFF,
    )  # fmt: skip
    total, seen = model.first.sum() or 1.0, model.tokens.sum() or 1.0
    size = model.tokens.size
    totals = np.bincount(rows, uses, size)
    inside = columns != END
    lent = model.first[rows] * uses / totals[rows] if rows.size else np.zeros(0)
    skipped = np.bincount(columns[inside], lent[inside], size)
    starts = (1 - _SKIP) * model.first / total + _SKIP * skipped / total
    num_noise = model.noise.sum()
    share = (num_noise + 0.01 * seen) / (1.1 * seen)
    used = model.tokens > 0
    starts = np.where(used, starts + _STRAY * model.tokens / seen, _STRAY / seen)
    noises = np.where(used, (model.tokens + 2 * model.noise) / (seen + 2 * num_noise), 1 / seen)
    base = model.gaps.sum(axis=0)
    resumed = min(0.95, model.resumes[0] / model.resumes[1])
    return kernels.Tables(
        keys, one, two, np.log(starts), np.log(noises) + math.log(share),
        np.array([
            log_ratio(model.gaps[kernels.ON], base),
            _tempered(model.gaps[kernels.RESUME], base),
            _tempered(model.gaps[kernels.BEGIN], base),
        ]),
        np.array([
            math.log(model.switches[0] / model.switches[1]), math.log(resumed),
            math.log(1 - resumed), math.log(share / seen), math.log(_STRAY / seen),
        ]),
    )  # fmt: skip


def _tempered(counts: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return log ratios to the base, drawn to it where little has been counted."""
    weight = 10.0
    prior = smoothed(base)
    total = sum(counts)
    soft = smoothed(counts, 0.0) if total else [0.0] * len(prior)
    mixed = [(total * c + weight * p) / (total + weight) for c, p in zip(soft, prior, strict=True)]
    return [math.log(m / p) for m, p in zip(mixed, prior, strict=True)]
