"""Which executions are of one routine: clusters of their tokens, with ids that stay.

A type is the share of its executions that have each token. An execution joins the type it is most
like, or founds one. From time to time all executions in view are clustered afresh, and the clusters
take over the ids of the types most of their executions had. Types not seen for long are dropped.
Pure and deterministic.

Source: leader clustering (Hartigan 1975) under the weighted Jaccard (Ruzicka) similarity.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Types"]

_LIKE = 0.25  # similarity from which on an execution belongs to a type
_KEPT = 500  # types, those last seen
_FADE = 200.0  # executions after which the older ones count half


class _Cluster:
    def __init__(self) -> None:
        self.weight = 0.0
        self.counts: dict[int, float] = defaultdict(float)

    def add(self, tokens: frozenset[int]) -> None:
        if self.weight > _FADE:
            self.weight /= 2
            for token in self.counts:
                self.counts[token] /= 2
        self.weight += 1
        for token in tokens:
            self.counts[token] += 1

    @classmethod
    def load(cls, weight: float, counts: Iterable[tuple[int, float]]) -> "_Cluster":
        """Return the cluster of which these are the parts."""
        cluster = cls()
        cluster.weight = weight
        cluster.counts.update(counts)
        return cluster

    def join(self, other: "_Cluster") -> None:
        self.weight += other.weight
        for token, count in other.counts.items():
            self.counts[token] += count

    def likeness(self, shares: Mapping[int, float]) -> float:
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
        number = _nearest(self._clusters, dict.fromkeys(bag, 1.0))
        if number is None:
            number = self._next
            self._next += 1
            self._clusters[number] = _Cluster()
        self._clusters[number].add(bag)
        return number

    def guess(self, tokens: Iterable[int]) -> int | None:
        """Return the type that the beginning of an execution is most like."""
        return _nearest(self._clusters, dict.fromkeys(frozenset(tokens), 1.0))

    def recluster(self, executions: Sequence[tuple[frozenset[int], int | None]]) -> list[int]:
        """Cluster all executions in view, each with the type it had; return their types now."""
        clusters: dict[int, _Cluster] = {}
        members: list[int] = []
        for bag, _ in executions:
            number = _nearest(clusters, dict.fromkeys(bag, 1.0))
            if number is None:
                number = len(clusters)
                clusters[number] = _Cluster()
            clusters[number].add(bag)
            members.append(number)
        into = _merged(clusters)
        members = [into[m] for m in members]
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


def _nearest(clusters: Mapping[int, _Cluster], shares: Mapping[int, float]) -> int | None:
    best, found = _LIKE, None
    for number, cluster in clusters.items():
        value = cluster.likeness(shares)
        if value > best:
            best, found = value, number
    return found


def _merged(clusters: dict[int, _Cluster]) -> dict[int, int]:
    """Merge clusters that are alike; return into which each went."""
    into = {number: number for number in clusters}
    for number in sorted(clusters, key=lambda n: clusters[n].weight):
        cluster = clusters.pop(number)
        other = _nearest(clusters, cluster.shares())
        if other is None:
            clusters[number] = cluster
        else:
            clusters[other].join(cluster)
            into[number] = other
    for number in into:
        at = number
        while into[at] != at:
            at = into[at]
        into[number] = at
    return into
