"""Streaming discovery: tokens in, final labels out, at most LAG events later.

Between refits events are labelled with the model there is. It is learned anew from the newest
events each time the stream has grown by a share, and when it no longer explains what comes; then
the stream counts as begun anew, so that what is new is learned as fast as the first was. When that
happens depends on the stream alone, so the same stream gives the same labels however it is cut
into batches. Memory is bounded by the window. Pure.

A type is confirmed while its links tell more than its tokens' frequency (`evidence`). That is
looked at again at each anchor, by its executions in the light of the window or as given away.

After learning, and once in half a window without, there is an anchor: all that was begun is decoded
anew from the window, so that window, model and types are the whole state (`dump`, `load`).

Source: when to learn anew follows from a cumulative sum (Page 1954).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from services.task_learner.discovery.decode import LAG, MAX_WAIT, NOISE, Decoder, Node
from services.task_learner.discovery.evidence import evidence
from services.task_learner.discovery.fit import Stretch, fit
from services.task_learner.discovery.model import ThreadModel
from services.task_learner.discovery.types import Types

__all__ = ["FIRST", "Final", "Miner"]

FIRST = 40
"""Events before anything is looked for."""

_GROWTH = 1.25
_WINDOW = 6_000
_WAIT = 220  # events after which a label is given away even if its execution goes on
_LEAST = 20  # events between two fits, at least; and one in so many of the window
_SLACK = 0.05  # share of noise above the fit's that is taken for chance
_LEAST_SHOWN = 3  # executions in view that a confirmed type has
_CLEAR = 3.0  # nats of evidence for it
_STRANGE = 30.0  # events of noise above that, after which the model no longer explains what comes


class Final(NamedTuple):
    """The label of an event: the execution it belongs to, by its first event, and its type."""

    position: int
    execution: int | None
    kind: int | None
    confirmed: bool = False  # whether the type was confirmed by then


class _Execution:
    """An execution whose events are being collected."""

    def __init__(
        self, tokens: Sequence[int] = (), pending: Sequence[int] = (), last: int = 0
    ) -> None:
        self.tokens = list(tokens)
        self.pending = list(pending)  # positions whose label has not been given away
        self.last = last


class Miner:
    """Labels a stream of events."""

    def __init__(
        self, window: int = _WINDOW, reread: Callable[[], Sequence[int]] | None = None
    ) -> None:
        """Begin; `reread` returns the window's tokens where they may be others at a fit."""
        self._window = window
        self._reread = reread
        self._tokens: list[int] = []
        self._times_ms: list[int] = []
        self._changed: list[bool] = []
        self._start = 0  # position of the window's first event
        self._labels: list[int | None] = []  # execution of each settled event of the window
        self._kinds: dict[int, int] = {}  # of closed executions in the window
        self._open: dict[int, _Execution] = {}
        self._names: dict[int, int] = {}  # decoder's thread -> execution
        self._votes: dict[int, Counter[int]] = {}
        self._model: ThreadModel | None = None
        self._decoder = Decoder(ThreadModel.none())
        self._types = Types()
        self._confirmed: set[int] = set()
        self._next_fit = FIRST
        self._anchor = 0  # position of the newest anchor
        self._begun = 0  # position from which on growth counts
        self._fitted = 0  # position of the newest fit
        self._noise = 0.0  # share of noise in the window then
        self._strange = 0.0  # events of noise above that since
        self._seen: list[Node] = []  # the window's labels at the anchor

    @property
    def position(self) -> int:
        """Return the position the next event gets."""
        return self._start + len(self._tokens)

    @property
    def num_kept(self) -> int:
        """Return the number of events in the window."""
        return len(self._tokens)

    @property
    def is_anchored(self) -> bool:
        """Tell whether there has been no event since the anchor."""
        return self._anchor == self.position > 0

    def begin(
        self, tokens: Sequence[int], times_ms: Sequence[int], changed: Sequence[bool]
    ) -> None:
        """Take the first events all at once and learn from them."""
        self._tokens, self._times_ms = list(tokens), list(times_ms)
        self._changed = list(changed)
        self.refit()

    def push(self, token: int, time_ms: int, changed: bool = False) -> list[Final]:
        """Take an event; return the labels that have become final."""
        self._tokens.append(token)
        self._times_ms.append(time_ms)
        self._changed.append(changed)
        found: list[Final] = []
        self._settle(self._decoder.push(token, time_ms), found)
        surprised = self._is_surprised()
        if surprised:
            self._begun = self.position - FIRST
        if surprised or self.position >= self._next_fit:
            found += self.refit()
        elif self.position - self._anchor >= self._window // 2:
            self._drop_anchor(found)
        if self._open and not self.position % 16:
            self._hurry(found)
        return found

    def finish(self) -> list[Final]:
        """Return what is not final yet."""
        found: list[Final] = []
        self._settle(self._decoder.finish(), found)
        for name in list(self._open):
            self._close(name, found)
        return found

    def _settle(self, nodes: list[Node], found: list[Final]) -> None:
        """Take what the decoder has settled; events that were settled before only name threads."""
        for node in nodes:
            index = node.position - self._start
            if index < len(self._labels):
                before = self._labels[index]
                if node.first != NOISE and before is not None:
                    self._votes.setdefault(node.first, Counter())[before] += 1
                continue
            if node.first == NOISE:
                self._labels.append(None)
                found.append(Final(node.position, None, None))
                self._strange = max(0.0, self._strange + 1 - self._noise - _SLACK)
                continue
            self._strange = max(0.0, self._strange - self._noise - _SLACK)
            name = self._name(node)
            self._labels.append(name)
            if name in self._kinds:  # it had been taken for complete
                found.append(self._final(node.position, name, self._kinds[name]))
                continue
            execution = self._open.get(name)
            if execution is None:
                execution = self._open[name] = _Execution()
            execution.tokens.append(self._tokens[index])
            execution.pending.append(node.position)
            execution.last = node.position
            if node.closed:
                self._close(name, found)

    def _name(self, node: Node) -> int:
        name = self._names.get(node.first)
        if name is None:
            taken = set(self._names.values())
            votes = self._votes.get(node.first, Counter())
            free = [(-count, before) for before, count in votes.items() if before not in taken]
            name = self._names[node.first] = min(free)[1] if free else node.position
        return name

    def _close(self, name: int, found: list[Final]) -> None:
        execution = self._open.pop(name)
        kind = self._kinds[name] = self._types.assign(execution.tokens)
        if len(execution.tokens) == 1 and kind not in self._confirmed:  # nothing follows anything
            found += [Final(position, None, None) for position in execution.pending]
        else:
            found += [self._final(position, name, kind) for position in execution.pending]

    def _final(self, position: int, name: int, kind: int | None) -> Final:
        return Final(position, name, kind, kind in self._confirmed)

    def _hurry(self, found: list[Final]) -> None:
        """Give away what has waited long, and close what nothing is added to any more."""
        now = self.position
        for name, execution in list(self._open.items()):
            if now - execution.last > MAX_WAIT + LAG:
                self._close(name, found)
            elif now - execution.pending[0] > _WAIT if execution.pending else False:
                kind = self._types.guess(execution.tokens)
                due = [p for p in execution.pending if now - p > _WAIT]
                execution.pending = execution.pending[len(due) :]
                found += [self._final(position, name, kind) for position in due]

    def refit(self) -> list[Final]:
        """Learn anew from the window and label what is not settled with what was learned."""
        found: list[Final] = []
        now = self.position
        grown = self._begun + int((now - self._begun) * _GROWTH)
        self._next_fit = max(now + self._pause(), grown)
        self._fitted = now
        self._trim()
        if self._reread is not None:
            self._tokens = list(self._reread())
        self._model = fit(Stretch(self._tokens, self._times_ms, self._changed), self._model)
        self._drop_anchor(found)
        self._noise = sum(n.first == NOISE for n in self._seen) / len(self._seen)
        self._strange = 0.0
        return found

    @property
    def confirmed(self) -> frozenset[int]:
        """Return the types that are confirmed now."""
        return frozenset(self._confirmed)

    def known_tokens(self) -> set[int]:
        """Return the tokens of all types and of what is under way."""
        return self._types.tokens().union(*(e.tokens for e in self._open.values()))

    def threads(self) -> list[tuple[int, int] | None]:
        """Return for each event of the window at the anchor its execution and kind; or None.

        This is how the newest model labels it, in the light of all of the window: not what was
        given away as final. Kinds are numbered anew.
        """
        rows: dict[int, list[int]] = defaultdict(list)
        for token, node in zip(self._tokens, self._seen, strict=True):
            if node.first != NOISE:
                rows[node.first].append(token)
        groups = Types().recluster([(row, None) for row in rows.values()])
        kinds = dict(zip(rows, groups, strict=True))
        return [None if n.first == NOISE else (n.first, kinds[n.first]) for n in self._seen]

    def dump(self) -> dict[str, Any]:
        """Return the state at an anchor, for `load`; numbers, lists and texts alone."""
        assert self.is_anchored
        assert self._model is not None
        return {
            "start": self._start, "tokens": list(self._tokens),
            "times_ms": [self._times_ms[0], *(b - a for a, b in pairwise(self._times_ms))],
            "changed": [int(c) for c in self._changed],
            "labels": list(self._labels), "kinds": list(self._kinds.items()),
            "open": [
                [name, list(e.tokens), list(e.pending), e.last] for name, e in self._open.items()
            ],
            "names": list(self._names.items()),
            "votes": [[first, list(v.items())] for first, v in self._votes.items()],
            "model": self._model.dump(), "types": self._types.dump(),
            "confirmed": sorted(self._confirmed), "next_fit": self._next_fit,
            "begun": self._begun, "fitted": self._fitted, "noise": self._noise,
            "strange": self._strange,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `dump` returned: the same events then get the same labels."""
        self._start, self._tokens = state["start"], state["tokens"]
        self._times_ms = list(accumulate(state["times_ms"]))
        self._changed = [bool(c) for c in state["changed"]]
        self._labels, self._kinds = state["labels"], dict(state["kinds"])
        self._open = {name: _Execution(*rest) for name, *rest in state["open"]}
        self._model, self._types = ThreadModel.load(state["model"]), Types.load(state["types"])
        self._confirmed = set(state["confirmed"])
        self._begun, self._next_fit = state["begun"], state["next_fit"]
        self._fitted = state["fitted"]
        self._noise, self._strange = state["noise"], state["strange"]
        self._look_at_all()
        self._names = dict(state["names"])
        self._votes = {first: Counter(dict(votes)) for first, votes in state["votes"]}

    def _is_surprised(self) -> bool:
        """Tell whether more than chance has come that the model knows nothing of."""
        return self._strange >= _STRANGE and self.position - self._fitted >= self._pause()

    def _pause(self) -> int:
        """Return how many events there are between two fits at least."""
        return max(_LEAST, len(self._tokens) // _LEAST)

    def _drop_anchor(self, found: list[Final]) -> None:
        """Begin decoding anew with the window, and settle what that settles."""
        self._trim()
        nodes = self._look_at_all()
        self._recluster(nodes)
        self._settle(nodes, found)

    def _look_at_all(self) -> list[Node]:
        """Decode the window from its first event; return the labels that are final."""
        assert self._model is not None
        self._decoder = Decoder(self._model, self._start)
        self._names, self._votes = {}, {}
        nodes = self._decoder.push_all(self._tokens, self._times_ms)
        self._seen = nodes + self._decoder.unsettled()
        self._anchor = self.position
        return nodes

    def _recluster(self, nodes: list[Node]) -> None:
        places: dict[int, list[int]] = defaultdict(list)
        before: dict[int, Counter[int]] = defaultdict(Counter)
        for node in nodes:
            if node.first == NOISE:
                continue
            index = node.position - self._start
            places[node.first].append(index)
            old = self._labels[index] if index < len(self._labels) else None
            if old in self._kinds:
                before[node.first][self._kinds[old]] += 1
        executions = [
            (
                [self._tokens[i] for i in at],
                max(before[f], key=lambda k: (before[f][k], -k), default=None),
            )
            for f, at in places.items()
        ]
        of_kind: dict[int, list[list[int]]] = defaultdict(list)
        for at, kind in zip(places.values(), self._types.recluster(executions), strict=True):
            of_kind[kind].append(at)
        self._confirm(of_kind)

    def _confirm(self, of_kind: dict[int, list[list[int]]]) -> None:
        """Look anew at which types are routines; what has no execution in view, by its labels."""
        given: dict[int, list[int]] = defaultdict(list)
        for index, name in enumerate(self._labels):
            if name is not None and name in self._kinds and self._kinds[name] not in of_kind:
                given[name].append(index)
        for name, at in given.items():
            of_kind[self._kinds[name]].append(at)
        for kind, group in of_kind.items():
            if len(group) >= _LEAST_SHOWN and evidence(self._tokens, group) > _CLEAR:
                self._confirmed.add(kind)
            else:
                self._confirmed.discard(kind)

    def _trim(self) -> None:
        surplus = min(len(self._tokens) - self._window, len(self._labels))
        if surplus <= 0:
            return
        del self._tokens[:surplus], self._times_ms[:surplus], self._changed[:surplus]
        del self._labels[:surplus]
        self._start += surplus
        kept = set(self._labels)
        self._kinds = {name: kind for name, kind in self._kinds.items() if name in kept}
