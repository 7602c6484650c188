"""The compiled inner loops of discovery: deriving a model's table, and the beam over threads.

Plain functions over arrays, compiled by numba when first used (its cache lies beside this file or
in NUMBA_CACHE_DIR); imported by those who decode only, since compiled code costs a start its time.
What they mean is told in `model` and `decode`.

Chains are keyed by three token codes of 20 bits each: tokens from 3 on, 1 for none, 2 for the end.
A code of 0 stands for what is left out: (0, b, c) is a link, (a, b, 0) the totals of a chain.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "BEGIN", "MAX_BEAM", "MAX_OPEN", "NO_STEP", "ON", "RESUME", "RING", "STRAY", "Beam", "Tables",
    "derive", "run",
]  # fmt: skip

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ON, RESUME, BEGIN, STRAY = 0, 1, 2, 3
"""How an event came to its label: the thread's next one, back to a thread left open, the first of
one, or of none."""

MAX_OPEN = 4
MAX_BEAM = 8
RING = 256
"""Events whose labels may be unsettled at once, at most."""

NO_STEP = -1e9
_BITS = 20
_MOST = MAX_BEAM * 2 * (MAX_OPEN + 2)  # candidates an event can make
_LOG_SWITCH, _LOG_RESUME, _LOG_BEGIN, _UNSEEN, _NEVER_STARTED = range(5)


class Tables(NamedTuple):
    """A model as arrays."""

    keys: Ints  # of an open-addressing table, -1 where free
    one: Floats  # a link's probability, a chain's discounted count, or what a chain lends
    two: Floats  # a chain's total
    starts: Floats  # by token
    noises: Floats
    gaps: Floats  # log ratios by how (ON, RESUME, BEGIN) and bin
    scalars: Floats


class Beam(NamedTuple):
    """The hypotheses, best first, and the labels they have not settled."""

    at: Ints  # position, first unsettled position, number of hypotheses
    likelihood: Floats  # of what is settled
    scores: Floats
    threads: Ints  # hypothesis x (worked on, left open …) x (last but one, last, first, last place)
    active: Ints  # whether there is one that is worked on
    others: Ints  # number of those left open
    ring: Ints  # place x hypothesis x (parent, first, how, closed)

    def copy(self) -> "Beam":
        """Return a beam that goes its own way."""
        return Beam(
            self.at.copy(), self.likelihood.copy(), self.scores.copy(), self.threads.copy(),
            self.active.copy(), self.others.copy(), self.ring.copy(),
        )  # fmt: skip

    @classmethod
    def new(cls, position: int) -> "Beam":
        """Return the beam before its first event."""
        return cls(
            np.array([position, position, 1]), np.zeros(1), np.zeros(MAX_BEAM),
            np.zeros((MAX_BEAM, MAX_OPEN, 4), np.int64), np.zeros(MAX_BEAM, np.int64),
            np.zeros(MAX_BEAM, np.int64), np.full((RING, MAX_BEAM, 4), -1, np.int64),
        )  # fmt: skip


@njit(cache=True)
def _slot(keys: Ints, key: int) -> int:
    """Return where a key is, or would be."""
    mask = keys.size - 1
    mixed = key ^ (key >> 31)
    mixed = (mixed * 0x2545F4914F6CDD1D) & 0x7FFFFFFFFFFFFFFF
    i = (mixed >> 24) & mask
    while keys[i] != -1 and keys[i] != key:
        i = (i + 1) & mask
    return i


@njit(cache=True)
def _key(a: int, b: int, c: int) -> int:
    return (((a + 3) << _BITS) | (b + 3)) << _BITS | (c + 3)


@njit(cache=True)
def derive(
    rows: Ints, columns: Ints, counts: Floats, chains: Ints, uses: Floats, skip: float,
    discount: float, back_off: float,
) -> tuple[Ints, Floats, Floats]:  # fmt: skip
    """Return the table of a model.

    `rows`, `columns`, `counts` are the links b -> c, by b; `chains` (a, b, c by column) and `uses`
    the chains, by a and b.
    """
    size = 3
    for i in range(rows.size):
        size = max(size, rows[i] + 4, columns[i] + 4)
    first = np.zeros(size + 1, np.int64)
    total = np.zeros(size)
    for i in range(rows.size):
        first[rows[i] + 3 + 1] += 1
        total[rows[i] + 3] += counts[i]
    for b in range(size):
        first[b + 1] += first[b]
    share = np.zeros(size)
    seen = np.zeros(size, np.int64)
    number = 0
    capacity = 0
    for fill in range(2):
        if fill:
            number += 2 * uses.size
            capacity = 16
            while capacity < 2 * number:
                capacity *= 2
        keys = np.full(capacity, -1, np.int64)
        one, two = np.zeros(capacity), np.zeros(capacity)
        for b in range(3, size):
            touched = 0
            for i in range(first[b], first[b + 1]):
                c = columns[i] + 3
                if share[c] == 0.0:
                    seen[touched] = c
                    touched += 1
                share[c] += (1 - skip) * max(0.0, counts[i] - discount) / total[b] + 1e-300
                if columns[i] < 0:
                    continue
                for j in range(first[c], first[c + 1]):
                    d = columns[j] + 3
                    if share[d] == 0.0:
                        seen[touched] = d
                        touched += 1
                    share[d] += skip * counts[i] / total[b] * counts[j] / total[c]
            for k in range(touched):
                c = seen[k]
                if share[c] > 1e-290:
                    if fill:
                        at = _slot(keys, _key(-3, b - 3, c - 3))
                        keys[at], one[at] = _key(-3, b - 3, c - 3), share[c]
                    else:
                        number += 1
                share[c] = 0.0
    i = 0
    while i < uses.size:
        j = i
        whole = 0.0
        while j < uses.size and chains[0, j] == chains[0, i] and chains[1, j] == chains[1, i]:
            key = _key(chains[0, j], chains[1, j], chains[2, j])
            at = _slot(keys, key)
            keys[at], one[at] = key, max(0.0, uses[j] - discount)
            whole += uses[j]
            j += 1
        key = _key(chains[0, i], chains[1, i], -3)
        at = _slot(keys, key)
        keys[at], one[at], two[at] = key, back_off + discount * (j - i), whole + back_off
        i = j
    return keys, one, two


@njit(cache=True)
def _chance(tables: Tables, a: int, b: int, c: int) -> float:
    """Return the probability of `c` after `a`, `b`; 0 where it was never seen."""
    at = _slot(tables.keys, _key(-3, b, c))
    p = tables.one[at] if tables.keys[at] != -1 else 0.0
    chain = _slot(tables.keys, _key(a, b, -3))
    if tables.keys[chain] != -1:
        at = _slot(tables.keys, _key(a, b, c))
        seen = tables.one[at] if tables.keys[at] != -1 else 0.0
        p = (seen + tables.one[chain] * p) / tables.two[chain]
    return p


@njit(cache=True)
def _log(p: float) -> float:
    return math.log(p) if p > 0 else NO_STEP


@njit(cache=True)
def _left(tables: Tables, a: int, b: int, least: float) -> float:
    """Return the log probability of a thread being left here for good."""
    return math.log(max(_chance(tables, a, b, -2), least))


@njit(cache=True)
def _follow(
    tables: Tables, beam: Beam, token: int, gap: int, max_wait: int, clear: float,
    close_from: float,
) -> bool:  # fmt: skip
    """Take the usual next step where nothing speaks for anything else."""
    if not beam.active[0]:
        return False
    position = beam.at[0]
    thread = beam.threads[0, 0]
    log = _log(_chance(tables, thread[0], thread[1], token))
    on = tables.gaps[ON, gap]
    rival = max(tables.gaps[BEGIN, gap], tables.gaps[RESUME, gap])
    if log < -1.5 or log + on - rival < -clear:
        return False
    if _chance(tables, thread[1], token, -2) > close_from:
        return False
    others = beam.others[0]
    for i in range(1, others + 1):
        other = beam.threads[0, i]
        if _log(_chance(tables, other[0], other[1], token)) > -4:
            return False
    if others and position - beam.threads[0, others, 3] > max_wait:
        return False
    thread[0], thread[1], thread[3] = thread[1], token, position
    beam.scores[0] += log + on
    node = beam.ring[position % RING, 0]
    node[0], node[1], node[2], node[3] = 0, thread[2], ON, 0
    return True


@njit(cache=True)
def _step(
    tables: Tables, beam: Beam, token: int, gap: int, max_wait: int, margin: float,
    close_from: float, open_end: float,
) -> None:  # fmt: skip
    """Extend each hypothesis in each way and keep the best."""
    position = beam.at[0]
    scores = np.empty(_MOST)
    hashes = np.empty(_MOST, np.int64)
    made = np.empty((_MOST, 5), np.int64)  # hypothesis, how, which thread, closed, which is dropped
    number = 0
    best = -np.inf
    for h in range(beam.at[2]):
        score = beam.scores[h]
        active = beam.active[h]
        others = beam.others[h]
        threads = beam.threads[h]
        if others and position - threads[others, 3] > max_wait:
            score += _left(tables, threads[others, 0], threads[others, 1], open_end)
            others -= 1
            beam.others[h] = others
        noise = tables.noises[token] if token < tables.noises.size else tables.scalars[_UNSEEN]
        for way in range(others + 3):  # no part of any, on, resume each, begin
            which, drop, how = -1, -1, ON
            if way == 0:
                value, how = score + noise, STRAY
            elif way == 1:
                if not active:
                    continue
                log = _log(_chance(tables, threads[0, 0], threads[0, 1], token))
                if log <= -20:
                    continue
                which, value = 0, score + log + tables.gaps[ON, gap]
            elif way < others + 2:
                which, how = way - 1, RESUME
                log = _log(_chance(tables, threads[which, 0], threads[which, 1], token))
                if log <= -6:
                    continue
                value = score + (tables.scalars[_LOG_SWITCH] if active else 0.0)
                value += tables.scalars[_LOG_RESUME] + tables.gaps[RESUME, gap] + log
            else:
                how = BEGIN
                value = score + (tables.scalars[_LOG_SWITCH] if active else 0.0)
                if others:
                    value += tables.scalars[_LOG_BEGIN]
                if others + active >= MAX_OPEN:
                    for i in range(0 if active else 1, others + 1):
                        if drop < 0 or threads[i, 3] < threads[drop, 3]:
                            drop = i
                    value += _left(tables, threads[drop, 0], threads[drop, 1], open_end)
                if token < tables.starts.size:
                    value += tables.starts[token]
                else:
                    value += tables.scalars[_NEVER_STARTED]
                value += tables.gaps[BEGIN, gap]
            b = threads[which, 1] if which >= 0 else -1
            end = _chance(tables, b, token, -2) if way else 0.0
            for closed in range(2):
                if way == 0 and closed:
                    continue
                if way and not closed and end >= 0.999:
                    continue
                if closed:
                    if end <= close_from:
                        continue
                    value += math.log(max(end, open_end))
                if value < best - margin:
                    continue
                # The state that follows, as a number: two that are in one go on alike.
                mixed = 1469598103934665603
                if way == 0:
                    state = active
                    if active:
                        mixed = (mixed ^ (threads[0, 0] + 7)) * 1099511628211
                        mixed = (mixed ^ (threads[0, 1] + 7)) * 1099511628211
                elif closed:
                    state = 0
                else:
                    state = 1
                    mixed = (mixed ^ (b + 7)) * 1099511628211
                    mixed = (mixed ^ (token + 7)) * 1099511628211
                mixed = (mixed ^ (state + 3)) * 1099511628211
                for i in range(0 if active and way > 1 else 1, others + 1):
                    if i in (which, drop):
                        continue
                    mixed = (mixed ^ (threads[i, 0] + 7)) * 1099511628211
                    mixed = (mixed ^ (threads[i, 1] + 7)) * 1099511628211
                    mixed ^= mixed >> 29
                at = 0
                while at < number and hashes[at] != mixed:
                    at += 1
                if at < number and scores[at] >= value:
                    continue
                if at == number:
                    number += 1
                hashes[at], scores[at] = mixed, value
                made[at, 0], made[at, 1], made[at, 2] = h, how, which
                made[at, 3], made[at, 4] = closed, drop
                best = max(best, value)
    _select(beam, token, number, scores, made, margin)


@njit(cache=True)
def _select(beam: Beam, token: int, number: int, scores: Floats, made: Ints, margin: float) -> None:
    """Make the best candidates the beam's hypotheses."""
    position = beam.at[0]
    before = beam.threads.copy()
    was_active, had_others = beam.active.copy(), beam.others.copy()
    kept = 0
    floor = 0.0
    for place in range(MAX_BEAM):
        top = -1
        for i in range(number):
            if scores[i] > -np.inf and (top < 0 or scores[i] > scores[top]):
                top = i
        if top < 0:
            break
        value = scores[top]
        if not place:
            floor = value - margin
        elif value < floor:
            break
        scores[top] = -np.inf
        h, how, which = made[top, 0], made[top, 1], made[top, 2]
        closed, drop = made[top, 3], made[top, 4]
        threads = beam.threads[place]
        first = -1
        count = 0
        if how == STRAY:
            active = was_active[h]
            threads[0] = before[h, 0]
        else:
            active = 1 - closed
            first = position if which < 0 else before[h, which, 2]
            threads[0, 0] = before[h, which, 1] if which >= 0 else -1
            threads[0, 1], threads[0, 2], threads[0, 3] = token, first, position
        turned = how in (RESUME, BEGIN)
        for i in range(0 if was_active[h] and turned else 1, had_others[h] + 1):
            if i != which and i != drop:
                count += 1
                threads[count] = before[h, i]
        beam.scores[place], beam.active[place], beam.others[place] = value, active, count
        node = beam.ring[position % RING, place]
        node[0], node[1], node[2], node[3] = h, first, how, closed
        kept += 1
    beam.at[2] = kept


@njit(cache=True)
def _settle(beam: Beam, lag: int, out: Ints, number: int) -> int:
    """Write what no hypothesis contradicts any more, and what is older than `lag`."""
    position, settled = beam.at[0], beam.at[1]
    if position == settled:
        return number
    h, last = 0, position - 1
    if beam.at[2] > 1:
        if position - settled < lag:
            return number
        cut = position - lag // 2
        places = np.arange(MAX_BEAM)
        for p in range(position - 1, cut, -1):
            for i in range(beam.at[2]):
                places[i] = beam.ring[p % RING, places[i], 0]
        h, last = places[0], cut
        kept = 0
        for i in range(beam.at[2]):
            if places[i] == h:
                if kept != i:
                    beam.scores[kept] = beam.scores[i]
                    beam.threads[kept] = beam.threads[i]
                    beam.active[kept], beam.others[kept] = beam.active[i], beam.others[i]
                    beam.ring[(position - 1) % RING, kept] = beam.ring[(position - 1) % RING, i]
                kept += 1
        beam.at[2] = kept
    else:
        beam.likelihood[0] += beam.scores[0]
        beam.scores[0] = 0.0
    for p in range(last, settled - 1, -1):
        out[number + p - settled] = beam.ring[p % RING, h, 1:]
        h = beam.ring[p % RING, h, 0]
    beam.at[1] = last + 1
    return int(number + last + 1 - settled)


@njit(cache=True)
def run(
    tables: Tables, beam: Beam, tokens: Ints, gaps: Ints, finish: bool, limits: Floats, out: Ints
) -> int:
    """Take events; write the labels that have become final to `out`, and return their number.

    `limits` are lag, longest wait, margin, clear, close_from and open_end; `out` has a row (first,
    how, closed) for each event, and RING more.
    """
    lag, max_wait = int(limits[0]), int(limits[1])
    margin, clear, close_from, open_end = limits[2], limits[3], limits[4], limits[5]
    number = 0
    for i in range(tokens.size):
        token, gap = tokens[i], gaps[i]
        if beam.at[2] > 1 or not _follow(tables, beam, token, gap, max_wait, clear, close_from):
            _step(tables, beam, token, gap, max_wait, margin, close_from, open_end)
        beam.at[0] += 1
        number = _settle(beam, lag, out, number)
    if finish:
        beam.at[2] = 1
        number = _settle(beam, lag, out, number)
    return number
