"""Turns key and button signals into captures that hold no character. Pure.

Reads: signals, each with the window that was active or under the pointer. Writes: RawCaptures.
A key stroke that types is counted, and only where the same window is active before and after it.
"""

from dataclasses import dataclass
from enum import Enum, auto

from services.user_monitor.capture import RawCapture, RawElement
from services.user_monitor.capture.window import WindowSeen
from shared.schemas.raw_events import Action, Box

__all__ = ["Signal", "SignalKind", "Strokes"]

_DOUBLE_CLICK_MS, _DOUBLE_CLICK_PX = 400, 4
IDLE_MS = 1_000
"""A count is closed when no key has been struck for so long."""


class SignalKind(Enum):
    """What the keyboard or the mouse did; of a typed character only that it was one."""

    TYPED = auto()
    KEY = auto()  # a navigation key or hot-key, by name
    CLICK = auto()
    SCROLL = auto()


@dataclass(frozen=True)
class Signal:
    """One thing that keyboard or mouse did."""

    kind: SignalKind
    time_ms: int
    boottime_ms: int
    keys: str | None = None
    x_px: int = 0
    y_px: int = 0
    steps: int = 1


@dataclass
class _Count:
    """Strokes in one window that are being counted; the newest is not confirmed yet."""

    first: Signal
    window: WindowSeen
    num_confirmed: int
    pending: bool
    last_ms: int


class Strokes:
    """Collect signals of one display."""

    def __init__(self, display: str) -> None:
        self._display = display
        self._count: _Count | None = None
        self._click: tuple[Signal, WindowSeen] | None = None

    @property
    def is_counting(self) -> bool:
        """Say whether strokes wait for what follows."""
        return self._count is not None

    def signal(self, signal: Signal, window: WindowSeen | None) -> list[RawCapture]:
        """Take one signal; `window` is where it happened. Return what is complete by it."""
        if signal.kind is SignalKind.TYPED:
            return self._typed(signal, window)
        if signal.kind is SignalKind.KEY:
            # The key itself shows whether the window typed in is still the active one.
            done = self.settle(window, signal.time_ms, everything=True)
            return [*done, *self._key(signal, window)]
        # The pointer may be over another window than the one typed in: its count stays open.
        return self._pointed(signal, window)

    def settle(
        self, active: WindowSeen | None, now_ms: int, *, everything: bool = False
    ) -> list[RawCapture]:
        """Confirm the newest stroke if its window is still active; close a count that is over."""
        count = self._count
        if count is None:
            return []
        same = active is not None and active.window_id == count.window.window_id
        if count.pending:
            count.num_confirmed += 1 if same else 0
            count.pending = False
        if same and not everything and now_ms - count.last_ms < IDLE_MS:
            return []
        self._count = None
        if count.num_confirmed == 0:
            return []
        return [self._capture(Action.EDIT, count.first, count.window, num=count.num_confirmed)]

    def _typed(self, signal: Signal, window: WindowSeen | None) -> list[RawCapture]:
        done = self.settle(window, signal.time_ms)
        if window is None:
            return done
        if self._count is None:
            self._count = _Count(signal, window, 0, pending=True, last_ms=signal.time_ms)
        else:
            self._count.pending = True
            self._count.last_ms = signal.time_ms
        return done

    def _key(self, signal: Signal, window: WindowSeen | None) -> list[RawCapture]:
        if window is None or signal.keys is None:
            return []
        held = {"Control", "Alt", "Meta"} & set(signal.keys.split("+")[:-1])
        return [self._capture(Action.HOT_KEY if held else Action.KEY, signal, window, num=1)]

    def _pointed(self, signal: Signal, window: WindowSeen | None) -> list[RawCapture]:
        if window is None:
            return []
        if signal.kind is SignalKind.SCROLL:
            return [self._capture(Action.SCROLL, signal, window, num=signal.steps)]
        before, self._click = self._click, (signal, window)
        double = before is not None and self._is_double(before[0], before[1], signal, window)
        if double:
            self._click = None
        return [self._capture(Action.DOUBLE_CLICK if double else Action.CLICK, signal, window)]

    def _is_double(
        self, first: Signal, first_window: WindowSeen, second: Signal, window: WindowSeen
    ) -> bool:
        return (
            first_window.window_id == window.window_id
            and second.time_ms - first.time_ms <= _DOUBLE_CLICK_MS
            and abs(second.x_px - first.x_px) <= _DOUBLE_CLICK_PX
            and abs(second.y_px - first.y_px) <= _DOUBLE_CLICK_PX
        )

    def _capture(
        self, action: Action, signal: Signal, window: WindowSeen, num: int | None = None
    ) -> RawCapture:
        element = None
        if signal.kind is SignalKind.CLICK:
            x_px, y_px = signal.x_px - window.x_px, signal.y_px - window.y_px
            point = Box(x_px=x_px, y_px=y_px, width_px=0, height_px=0)
            element = RawElement(untrusted_role="generic", box=point)
        return RawCapture(
            action=action,
            untrusted_application=window.untrusted_application,
            time_ms=signal.time_ms,
            boottime_ms=signal.boottime_ms,
            untrusted_title=window.untrusted_title,
            element=element,
            keys=signal.keys,
            count=num,
            target=window.target(self._display),
        )
