"""Streaming discovery: tokens in, final labels out, at most LAG events later.

Between refits events are labelled with the model there is. It is learned anew from the newest
events each time the stream has grown by a share, and when it no longer explains what comes. When
that happens depends on the stream alone, so the same stream gives the same labels however it is cut
into batches. Memory is bounded by the window. Pure.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

from services.task_learner.discovery.decode import LAG, MAX_WAIT, NOISE, Decoder, Node
from services.task_learner.discovery.fit import Stretch, fit
from services.task_learner.discovery.model import ThreadModel
from services.task_learner.discovery.types import Types

__all__ = ["Final", "Miner"]

_FIRST = 40  # events before anything is looked for
_GROWTH = 1.25
_WINDOW = 6_000
_WAIT = 220  # events after which a label is given away even if its execution goes on


class Final(NamedTuple):
    """The label of an event: the execution it belongs to, by its first event, and its type."""

    position: int
    execution: int | None
    kind: int | None


class _Execution:
    """An execution whose events are being collected."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.pending: list[int] = []  # positions whose label has not been given away
        self.last = 0


class Miner:
    """Labels a stream of events."""

    def __init__(self, window: int = _WINDOW) -> None:
        self._window = window
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
        self._next_fit = _FIRST

    @property
    def position(self) -> int:
        """Return the position the next event gets."""
        return self._start + len(self._tokens)

    def push(self, token: int, time_ms: int, changed: bool = False) -> list[Final]:
        """Take an event; return the labels that have become final."""
        self._tokens.append(token)
        self._times_ms.append(time_ms)
        self._changed.append(changed)
        found: list[Final] = []
        self._settle(self._decoder.push(token, time_ms), found)
        if self.position >= self._next_fit:
            self._next_fit = max(self.position + 20, int(self.position * _GROWTH))
            self._refit(found)
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
                continue
            name = self._name(node)
            self._labels.append(name)
            if name in self._kinds:  # it had been taken for complete
                found.append(Final(node.position, name, self._kinds[name]))
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
        found += [Final(position, name, kind) for position in execution.pending]

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
                found += [Final(position, name, kind) for position in due]

    def _refit(self, found: list[Final]) -> None:
        """Learn anew from the window and label what is not settled with what was learned."""
        self._trim()
        stretch = Stretch(self._tokens, self._times_ms, self._changed)
        model = self._model = fit(stretch, self._model)
        self._decoder = Decoder(model, self._start)
        self._names, self._votes = {}, {}
        nodes = self._decoder.push_all(self._tokens, self._times_ms)
        self._recluster(nodes)
        self._settle(nodes, found)

    def _recluster(self, nodes: list[Node]) -> None:
        tokens: dict[int, set[int]] = defaultdict(set)
        before: dict[int, Counter[int]] = defaultdict(Counter)
        for node in nodes:
            if node.first == NOISE:
                continue
            index = node.position - self._start
            tokens[node.first].add(self._tokens[index])
            old = self._labels[index] if index < len(self._labels) else None
            if old in self._kinds:
                before[node.first][self._kinds[old]] += 1
        executions = [
            (frozenset(bag), max(before[f], key=lambda k: (before[f][k], -k), default=None))
            for f, bag in tokens.items()
        ]
        self._types.recluster(executions)

    def _trim(self) -> None:
        surplus = min(len(self._tokens) - self._window, len(self._labels))
        if surplus <= 0:
            return
        del self._tokens[:surplus], self._times_ms[:surplus], self._changed[:surplus]
        del self._labels[:surplus]
        self._start += surplus
        kept = set(self._labels)
        self._kinds = {name: kind for name, kind in self._kinds.items() if name in kept}
