"""Which executions are of one routine: clusters of their tokens, with ids that stay.

A type is the share of its executions that have each token. An execution joins the type it is most
like, or founds one. From time to time all executions in view are clustered afresh, and the clusters
take over the ids of the types most of their executions had. Types not seen for long are dropped.
Pure and deterministic.

Variants that share steps become one type where their executions are shorter to tell as one chain of
tokens than as two and which of them each is.

Source: leader clustering (Hartigan 1975) under the weighted Jaccard (Ruzicka) similarity; two-part
description length (Rissanen 1978).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

__all__ = ["Types"]

_LIKE = 0.25  # similarity from which on an execution belongs to a type
_KEPT = 500  # types, those last seen
_VARIANT = 0.7  # … and to a variant of one
_FEW = 3  # executions below which a variant tells nothing of its own
_EDGE = -1  # before the first token and after the last
_FADE = 200.0  # executions after which the older ones count half


class _Cluster:
    def __init__(self) -> None:
        self.weight = 0.0
        self.counts: dict[int, float] = defaultdict(float)
        self.total = 0.0  # of the counts

    def add(self, tokens: frozenset[int]) -> None:
        if self.weight > _FADE:
            self.weight /= 2
            self.total /= 2
            for token in self.counts:
                self.counts[token] /= 2
        self.weight += 1
        self.total += len(tokens)
        for token in tokens:
            self.counts[token] += 1

    @classmethod
    def load(cls, weight: float, counts: Iterable[tuple[int, float]]) -> "_Cluster":
        """Return the cluster of which these are the parts."""
        cluster = cls()
        cluster.weight = weight
        cluster.counts.update(counts)
        cluster.total = sum(cluster.counts.values())
        return cluster

    def join(self, other: "_Cluster") -> None:
        self.weight += other.weight
        self.total += other.total
        for token, count in other.counts.items():
            self.counts[token] += count

    def likeness(self, tokens: frozenset[int]) -> float:
        """Return how like one execution is; `alike` for shares of 1."""
        get = self.counts.get
        shared = 0.0
        for token in tokens:
            shared += get(token, 0.0)
        return shared / (len(tokens) * self.weight + self.total - shared)

    def alike(self, shares: Mapping[int, float]) -> float:
        least = most = 0.0
        for token, share in shares.items():
            own = self.counts.get(token, 0.0) / self.weight
            least += min(own, share)
            most += max(own, share)
        most += sum(c for t, c in self.counts.items() if t not in shares) / self.weight
        return least / most if most else 0.0

    def shares(self) -> dict[int, float]:
        return {t: c / self.weight for t, c in self.counts.items()}


class Types:
    """The types found so far."""

    def __init__(self) -> None:
        self._clusters: dict[int, _Cluster] = {}
        self._next = 0

    def dump(self) -> dict[str, Any]:
        """Return the types, for `load`; numbers and lists alone."""
        clusters = [[n, c.weight, list(c.counts.items())] for n, c in self._clusters.items()]
        return {"next": self._next, "clusters": clusters}

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Types":
        """Return the types that `dump` returned."""
        types = cls()
        types._next = state["next"]
        types._clusters = {n: _Cluster.load(*rest) for n, *rest in state["clusters"]}
        return types

    def tokens(self) -> set[int]:
        """Return every token that a type has."""
        return {token for cluster in self._clusters.values() for token in cluster.counts}

    def assign(self, tokens: Iterable[int]) -> int:
        """Return the type of an execution, which it then belongs to."""
        bag = frozenset(tokens)
        number = _nearest(self._clusters, bag)
        if number is None:
            number = self._next
            self._next += 1
            self._clusters[number] = _Cluster()
        self._clusters[number].add(bag)
        return number

    def guess(self, tokens: Iterable[int]) -> int | None:
        """Return the type that the beginning of an execution is most like."""
        return _nearest(self._clusters, frozenset(tokens))

    def recluster(self, executions: Sequence[tuple[Sequence[int], int | None]]) -> list[int]:
        """Cluster all executions in view, each with the type it had; return their types now."""
        members = _clustered([tokens for tokens, _ in executions])
        clusters: dict[int, _Cluster] = defaultdict(_Cluster)
        for member, (tokens, _) in zip(members, executions, strict=True):
            clusters[member].add(frozenset(tokens))
        votes: dict[int, Counter[int]] = defaultdict(Counter)
        for member, (_, before) in zip(members, executions, strict=True):
            if before is not None:
                votes[member][before] += 1
        names: dict[int, int] = {}
        taken: set[int] = set()
        for member in sorted(votes, key=lambda m: (-max(votes[m].values()), m)):
            for before, _ in sorted(votes[member].items(), key=lambda v: (-v[1], v[0])):
                if before not in taken:
                    names[member] = before
                    taken.add(before)
                    break
        for member in members:
            if member not in names:
                names[member] = self._next
                self._next += 1
        for member, number in names.items():
            self._clusters.pop(number, None)  # the last seen stand last
            self._clusters[number] = clusters[member]
        for number in list(self._clusters)[:-_KEPT]:
            del self._clusters[number]
        return [names[m] for m in members]


def _nearest(
    clusters: Mapping[int, _Cluster], tokens: frozenset[int], least: float = _LIKE
) -> int | None:
    best, found = least, None
    for number, cluster in clusters.items():
        value = cluster.likeness(tokens)
        if value > best:
            best, found = value, number
    return found


def _clustered(executions: Sequence[Sequence[int]]) -> list[int]:
    """Return a cluster for each execution: variants that are shorter to tell as one than apart."""
    clusters: dict[int, _Cluster] = {}
    chains: dict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
    members: list[int] = []
    for tokens in executions:
        bag = frozenset(tokens)
        number = _nearest(clusters, bag, _VARIANT)
        if number is None:
            number = len(clusters)
            clusters[number] = _Cluster()
        clusters[number].add(bag)
        chains[number].update(pairwise((_EDGE, *tokens, _EDGE)))
        members.append(number)
    into = {number: number for number in clusters}
    parameter = 0.5 * math.log(len(executions) + 1)
    while (pair := _cheapest(clusters, chains, parameter)) is not None:
        kept, gone = pair
        clusters[kept].join(clusters.pop(gone))
        chains[kept].update(chains.pop(gone))
        into[gone] = kept
    for number in sorted(clusters, key=lambda n: (clusters[n].weight, n)):
        if clusters[number].weight < _FEW:
            cluster = clusters.pop(number)
            shares = cluster.shares()
            likes = {n: c.alike(shares) for n, c in clusters.items()}
            other = max(likes, key=likes.__getitem__, default=number)
            into[number] = other if likes.get(other, 0.0) > _LIKE else number
            clusters[into[number]] = clusters.get(into[number], cluster)
    for number in into:
        at = number
        while into[at] != at:
            at = into[at]
        into[number] = at
    return [into[m] for m in members]


def _cheapest(
    clusters: Mapping[int, _Cluster], chains: Mapping[int, Counter[tuple[int, int]]],
    parameter: float,
) -> tuple[int, int] | None:  # fmt: skip
    """Return the two clusters that it saves most to tell as one, if there are such."""
    some = [n for n, c in clusters.items() if c.weight >= _FEW]
    best, found = 0.0, None
    lengths = {n: _length(chains[n], parameter) for n in some}
    for i, first in enumerate(some):
        shares = clusters[first].shares()
        for second in some[i + 1 :]:
            if clusters[second].alike(shares) <= _LIKE:
                continue
            more = _length(chains[first] + chains[second], parameter)
            more -= lengths[first] + lengths[second]
            more -= _naming(clusters[first].weight, clusters[second].weight)
            if more < best:
                best, found = more, (first, second)
    return found


def _length(chain: Mapping[tuple[int, int], int], parameter: float) -> float:
    """Return the nats to tell executions as a chain of tokens, and the chain itself."""
    totals: Counter[int] = Counter()
    for (a, _), count in chain.items():
        totals[a] += count
    told = sum(count * math.log(totals[a] / count) for (a, _), count in chain.items())
    return told + parameter * len(chain)


def _naming(first: float, second: float) -> float:
    """Return the nats to tell of each execution in which of two clusters it is."""
    both = first + second
    return first * math.log(both / first) + second * math.log(both / second)
