"""Merges what belongs together, and sheds in a fixed order when captures come too fast. Pure.

Reads and writes: RawCaptures in memory. Scroll steps, repeated keys, counted key strokes and
repeated focus merge into one capture. Clicks, values and all else pass through one by one.
"""

from collections import deque
from dataclasses import replace
from enum import StrEnum

from services.user_monitor.capture import RawCapture
from shared.schemas import Action

__all__ = ["Intake", "Pressure", "merge"]

_GAPS_MS = {
    Action.SCROLL: 1_000,
    Action.KEY: 1_000,
    Action.EDIT: 2_000,
    Action.FOCUS: 10_000,
}
"""How long after the last one a further capture of the kind still merges into it."""

_LIGHT = frozenset({Action.SCROLL, Action.FOCUS})
"""May be dropped under pressure: no routine needs them to be repeated."""


def _same_place(first: RawCapture, second: RawCapture) -> bool:
    return (
        first.action is second.action
        and first.untrusted_application == second.untrusted_application
        and first.target == second.target
        and first.untrusted_url == second.untrusted_url
        and first.keys == second.keys
        and (first.element and first.element.untrusted_selector)
        == (second.element and second.element.untrusted_selector)
    )


def merge(first: RawCapture, second: RawCapture) -> RawCapture | None:
    """Return both as one capture, or None where they are two.

    The first one's time and snapshot stay: they are from before the action.
    """
    gap_ms = _GAPS_MS.get(first.action)
    if gap_ms is None or not 0 <= second.time_ms - first.time_ms <= gap_ms:
        return None
    if not _same_place(first, second):
        return None
    if first.action is Action.EDIT and not (
        first.untrusted_value is None and second.untrusted_value is None and first.count
    ):
        return None  # a field's value: two edits are two
    if first.action is Action.FOCUS:
        return first if first.untrusted_title == second.untrusted_title else None
    return replace(first, count=(first.count or 1) + (second.count or 1))


class Pressure(StrEnum):
    """How full the intake is."""

    NORMAL = "normal"
    SHEDDING = "shedding"  # light captures are dropped, and counted
    OVERFLOW = "overflow"  # one that may not be dropped found no room: recording stops


class Intake:
    """A bounded queue of captures between a source and the disk.

    Shedding order: merge with any waiting light capture of the same place (from half full), drop
    light captures (from four fifths), overflow.
    """

    def __init__(self, capacity: int, *, merging: bool = True) -> None:
        """Take up to `capacity` captures; without `merging` each stays by itself."""
        self.capacity = capacity
        self._merging = merging
        self._waiting: deque[RawCapture] = deque()

    def __len__(self) -> int:
        """Return how many captures wait."""
        return len(self._waiting)

    def put(self, capture: RawCapture) -> Pressure:
        """Take one capture in; say how full it is then."""
        if self._waiting and self._merging:
            merged = merge(self._waiting[-1], capture)
            if merged is not None:
                self._waiting[-1] = merged
                return Pressure.NORMAL
        filled = len(self._waiting) / self.capacity
        light = self._merging and capture.action in _LIGHT
        if light and filled >= 0.5 and self._merge_deeper(capture):
            return Pressure.NORMAL
        if light and filled >= 0.8:
            return Pressure.SHEDDING
        if len(self._waiting) >= self.capacity:
            return Pressure.OVERFLOW
        self._waiting.append(capture)
        return Pressure.NORMAL

    def take(self, now_ms: int, limit: int, *, everything: bool = False) -> list[RawCapture]:
        """Return what is ready, oldest first; the newest waits while more may merge into it."""
        ready: list[RawCapture] = []
        while self._waiting and len(ready) < limit:
            last = self._waiting[0]
            gap_ms = _GAPS_MS.get(last.action, 0)
            open_ = len(self._waiting) == 1 and 0 <= now_ms - last.time_ms <= gap_ms
            if open_ and gap_ms and self._merging and not everything:
                break
            ready.append(self._waiting.popleft())
        return ready

    def clear(self) -> int:
        """Drop everything; return how many there were."""
        num_dropped = len(self._waiting)
        self._waiting.clear()
        return num_dropped

    def _merge_deeper(self, capture: RawCapture) -> bool:
        for place in range(len(self._waiting) - 1, max(-1, len(self._waiting) - 200), -1):
            waiting = self._waiting[place]
            if waiting.action is capture.action and _same_place(waiting, capture):
                count = (waiting.count or 1) + (capture.count or 1)
                self._waiting[place] = replace(waiting, count=count)
                return True
        return False
