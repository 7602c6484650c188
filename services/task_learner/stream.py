"""One person's actions as a stream of tokens for discovery, and discovery's state as bytes.

An action is handed on once nothing can be collapsed into it any more: when the next one is there.
A state holds no more than a window; it is of an anchor, and what came after is pushed again.

Does not cover: what becomes of the labels (`discover`, `finder`), where the state is kept.
"""

import json
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from services.task_learner.actions import Token, UserAction, record_of
from services.task_learner.discover import Thread
from services.task_learner.discovery.miner import Miner
from services.task_learner.segment import Vocabulary

__all__ = ["Stream"]

_VERSION = 2
_LEAST = 6  # actions from which anything can be learned


class Stream:
    """Discovery over the actions of one person."""

    def __init__(self, window: int, vocabulary: Vocabulary) -> None:
        """Begin with nothing; `window` is the number of actions that are looked at together."""
        self.vocabulary = vocabulary
        self._numbers: dict[Token, int] = {}
        self._free: list[int] = []  # numbers below the largest that no token has
        self._positions: list[int] = []  # of the actions in the miner's window
        self._record = ""  # that the newest action was about, if any was
        self._actions: Sequence[UserAction] = ()
        self._window = window
        self._miner = Miner(window, self._reread)

    def take(self, actions: Sequence[UserAction]) -> bool:
        """Take in what is new and final in the window; tell whether there is an anchor now."""
        self._actions = actions
        newest = self._positions[-1] if self._positions else -1
        begin = len(actions) - 1
        while begin > 0 and actions[begin - 1].position > newest:
            begin -= 1
        for action in actions[max(0, begin) : -1]:
            self._push(action)
        return 0 <= begin < len(actions) - 1 and self._miner.is_anchored

    def rebuild(self, actions: Sequence[UserAction]) -> bool:
        """Begin anew with a window; tell whether there was enough to learn from."""
        self._numbers, self._free, self._record = {}, [], ""
        self._actions = actions
        window = actions[:-1][-self._window :]
        self._positions = [action.position for action in window]
        self._miner = Miner(self._window, self._reread)
        if len(window) < _LEAST:
            return False
        changed = [self._is_other_record(action) for action in window]
        times_ms = [action.event.time_ms for action in window]
        self._miner.begin([self._number(action) for action in window], times_ms, changed)
        return True

    def threads(self, actions: Sequence[UserAction]) -> list[Thread | None]:
        """Return what each of a window's actions is part of, as the anchor has it."""
        at = dict(zip(self._positions, self._miner.threads(), strict=True))
        return [at.get(action.position) for action in actions]

    def dump(self) -> bytes:
        """Return the state; there must be an anchor now."""
        state = {
            "version": _VERSION, "window": self._window, "record": self._record,
            "numbers": [[*token, number] for token, number in self._numbers.items()],
            "positions": [self._positions[0], *(b - a for a, b in pairwise(self._positions))],
            "miner": self._miner.dump(),
        }  # fmt: skip
        return zlib.compress(json.dumps(state, separators=(",", ":")).encode())

    def load(self, data: bytes) -> bool:
        """Go on from a state; tell whether it is one of this version and window."""
        state = json.loads(zlib.decompress(data))
        if (state["version"], state["window"]) != (_VERSION, self._window):
            return False
        self._record = state["record"]
        self._numbers = {Token(*row[:-1]): row[-1] for row in state["numbers"]}
        self._positions = list(accumulate(state["positions"]))
        self._find_free()
        self._miner.load(state["miner"])
        return True

    def _push(self, action: UserAction) -> None:
        self._positions.append(action.position)
        token, changed = self._number(action), self._is_other_record(action)
        self._miner.push(token, action.event.time_ms, changed)
        del self._positions[: len(self._positions) - self._miner.num_kept]

    def _is_other_record(self, action: UserAction) -> bool:
        record = record_of(action.event)
        is_other = bool(record) and record != self._record
        self._record = record or self._record
        return is_other

    def _number(self, action: UserAction) -> int:
        token = self.vocabulary.token(action)
        number = self._numbers.get(token)
        if number is None:
            number = self._free.pop() if self._free else len(self._numbers)
            self._numbers[token] = number
        return number

    def _find_free(self) -> None:
        """Note which numbers are free below the largest; the smallest is used first."""
        used = set(self._numbers.values())
        self._free = [n for n in range(max(used, default=0), -1, -1) if n not in used]

    def _reread(self) -> list[int]:
        """Return the window's tokens by a new vocabulary; free the numbers that nothing uses."""
        positions = self._positions[-self._miner.num_kept :]
        first = bisect_left(self._actions, positions[0], key=_place)
        window = self._actions[first : first + len(positions)]
        assert [action.position for action in window] == positions
        self.vocabulary = Vocabulary.of(window)
        wanted = {self.vocabulary.token(action) for action in window}
        used = self._miner.known_tokens()
        self._numbers = {t: n for t, n in self._numbers.items() if t in wanted or n in used}
        self._find_free()
        return [self._number(action) for action in window]


def _place(action: UserAction) -> int:
    return action.position
