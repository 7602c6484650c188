"""Whether a type is a routine: what follows what in it tells more than how often its tokens are.

A frequent token is found many times, and two frequent ones near each other nearly as often, in
events without any order; a model of a few such tokens even shortens them a little. So each link of
a type, a step and the one after it, is held against chance: of all uses of the first token in view,
the share after which the second came as the next step, and the share after which it would have come
as soon if tokens were drawn at random. Pure.

Source: log-likelihood ratio of two shares (Dunning 1993); half a log of the events for a parameter
(Schwarz 1978), and the log of the number of tokens to say which one it is of.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

__all__ = ["evidence"]

_REACH = 0.9  # quantile of how far on a next step is, taken for how far it was looked for
_SURE = 0.999


def evidence(tokens: Sequence[int], executions: Iterable[Sequence[int]]) -> float:
    """Return by how much a type's links shorten the telling of the events in view; nats, from 0.

    `tokens` are of all events in view, an execution the ascending places of its events in them.
    """
    distances: dict[tuple[int, int], list[int]] = defaultdict(list)
    for places in executions:
        for a, b in pairwise(places):
            distances[tokens[a], tokens[b]].append(b - a)
    uses = Counter(tokens)
    cost = 0.5 * math.log(len(tokens) + 1) + math.log(len(uses) + 1)
    total = 0.0
    for (first, second), far in distances.items():
        reach = sorted(far)[int(_REACH * len(far))]
        chance = min(_SURE, 1 - (1 - uses[second] / len(tokens)) ** reach)
        share = len(far) / uses[first]
        if share > chance:
            total += max(0.0, uses[first] * _divergence(share, chance) - cost)
    return total


def _divergence(share: float, chance: float) -> float:
    """Return the relative entropy of two shares; nats."""
    told = share * math.log(share / chance)
    return told + (1 - share) * math.log((1 - share) / (1 - chance)) if share < 1 else told
