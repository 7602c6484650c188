"""Watches which window of an X display is active, as the window manager says (EWMH).

Reads: properties of the root and of windows, by polling. Writes nothing.
Does not cover: Wayland's own windows (only those of XWayland), and what happens in a window.
Source: Extended Window Manager Hints 1.5 (_NET_ACTIVE_WINDOW, _NET_CLIENT_LIST, _NET_WM_NAME);
without a window manager the window with the input focus counts.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from services.user_monitor.capture import RawCapture, SourceKind, WindowSpec
from shared.clock import Clock
from shared.errors import CaptureError, NoDisplay
from shared.schemas.raw_events import Action, Target

__all__ = ["WindowSeen", "WindowSource", "Windows"]

_MAX_DEPTH = 20

T = TypeVar("T")


@dataclass(frozen=True)
class WindowSeen:
    """One top-level window as the display shows it."""

    window_id: int
    untrusted_application: str
    untrusted_title: str
    x_px: int
    y_px: int

    def target(self, display: str) -> Target:
        """Return it as run marks name it."""
        return Target(endpoint=display, surface=f"{self.window_id:#x}")


class Windows:
    """Answers what window is where. Not thread-safe: one thread at a time."""

    def __init__(self, display: Any, name: str) -> None:
        self.name = name
        self._display = display
        self._root = display.screen().root
        self._atoms = {
            atom: display.intern_atom(atom)
            for atom in ("_NET_ACTIVE_WINDOW", "_NET_CLIENT_LIST", "_NET_WM_NAME", "UTF8_STRING")
        }

    @classmethod
    def open(cls, display: str | None) -> Self:
        """Connect to a display (None: $DISPLAY). Raises NoDisplay."""
        import Xlib.display
        import Xlib.error

        name = display or os.environ.get("DISPLAY", "")
        try:
            return cls(Xlib.display.Display(name), name)
        except (Xlib.error.DisplayError, Xlib.error.XError, OSError) as error:
            raise NoDisplay(
                f"X display {name or '(DISPLAY is not set)'} cannot be opened: start the service "
                "in the desktop session, or set DISPLAY and XAUTHORITY"
            ) from error

    def active(self) -> WindowSeen | None:
        """Return the active window. Raises CaptureError where the display is gone."""
        return self._guarded(self._active)

    def at_pointer(self) -> WindowSeen | None:
        """Return the window under the pointer. Raises CaptureError."""
        return self._guarded(self._at_pointer)

    def listed(self) -> dict[int, str]:
        """Return the managed windows: id -> application. Raises CaptureError."""
        return self._guarded(self._listed) or {}

    def close(self) -> None:
        """Disconnect."""
        self._guarded(self._display.close)

    def _guarded(self, look: Callable[[], T]) -> T | None:
        import Xlib.error

        try:
            return look()
        except (Xlib.error.BadWindow, Xlib.error.BadDrawable, Xlib.error.BadMatch):
            return None  # the window went away while it was looked at
        except (Xlib.error.ConnectionClosedError, Xlib.error.XError, OSError) as error:
            raise CaptureError(f"X display {self.name} is gone: start recording again") from error

    def _active(self) -> WindowSeen | None:
        named = self._root.get_full_property(self._atoms["_NET_ACTIVE_WINDOW"], 0)
        if named is not None and named.value and named.value[0]:
            return self._seen(self._display.create_resource_object("window", named.value[0]))
        focused = self._display.get_input_focus().focus
        if hasattr(focused, "query_tree"):
            return self._top_level(focused)
        return self._at_pointer()  # the focus follows the pointer

    def _at_pointer(self) -> WindowSeen | None:
        window, below = self._root, self._root.query_pointer().child
        found = None
        for _ in range(_MAX_DEPTH):
            if not hasattr(below, "query_pointer"):
                break
            window = below
            if window.get_wm_class():
                found = window
                break
            below = window.query_pointer().child
        return self._seen(found) if found is not None else None

    def _listed(self) -> dict[int, str]:
        named = self._root.get_full_property(self._atoms["_NET_CLIENT_LIST"], 0)
        ids = list(named.value) if named is not None else []
        windows = (self._display.create_resource_object("window", i) for i in ids)
        return {w.id: self._application(w) for w in windows}

    def _top_level(self, window: Any) -> WindowSeen | None:
        """Climb from a window to the one that bears the application's name."""
        for _ in range(_MAX_DEPTH):
            if window.id == self._root.id:
                return None
            if window.get_wm_class():
                return self._seen(window)
            window = window.query_tree().parent
        return None

    def _seen(self, window: Any) -> WindowSeen:
        place = self._root.translate_coords(window, 0, 0)
        return WindowSeen(
            window.id, self._application(window), self._title(window), -place.x, -place.y
        )

    def _application(self, window: Any) -> str:
        named = window.get_wm_class()  # (instance, class)
        return str(named[1] or named[0]) if named else "unknown"

    def _title(self, window: Any) -> str:
        named = window.get_full_property(self._atoms["_NET_WM_NAME"], self._atoms["UTF8_STRING"])
        if named is not None:
            value = named.value
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        plain = window.get_wm_name()
        return plain.decode(errors="replace") if isinstance(plain, bytes) else plain or ""


class WindowSource:
    """Yield a focus event for each change of active window or title; opened and closed windows."""

    kind = SourceKind.WINDOW

    def __init__(self, windows: Windows, clock: Clock, poll_ms: int) -> None:
        self.session = secrets.token_hex(16)
        self._windows = windows
        self._clock = clock
        self._poll_s = poll_ms / 1000
        self._closing = asyncio.Event()
        self._active: WindowSeen | None = None
        self._listed: dict[int, str] = {}

    @classmethod
    async def open(cls, spec: WindowSpec, clock: Clock) -> Self:
        """Connect to the display. Raises NoDisplay."""
        windows = await asyncio.to_thread(Windows.open, spec.display)
        source = cls(windows, clock, spec.poll_ms)
        source._listed = await asyncio.to_thread(windows.listed)
        return source

    async def captures(self) -> AsyncIterator[RawCapture]:
        """Yield changes until `close`. Raises CaptureError where the display is gone."""
        try:
            while not self._closing.is_set():
                for capture in await asyncio.to_thread(self._changes):
                    yield capture
                try:
                    await asyncio.wait_for(self._closing.wait(), self._poll_s)
                except TimeoutError:
                    continue
        finally:
            self._closing.set()
            self._windows.close()

    async def close(self) -> None:
        """Stop watching."""
        self._closing.set()

    def _changes(self) -> list[RawCapture]:
        captures = []
        listed = self._windows.listed()
        for window_id in listed.keys() - self._listed.keys():
            captures.append(self._capture(Action.OPEN, window_id, listed[window_id], None))
        for window_id in self._listed.keys() - listed.keys():
            captures.append(self._capture(Action.CLOSE, window_id, self._listed[window_id], None))
        self._listed = listed
        seen = self._windows.active()
        before = self._active
        if seen is not None and (
            before is None
            or (seen.window_id, seen.untrusted_title) != (before.window_id, before.untrusted_title)
        ):
            title = seen.untrusted_title
            captures.append(
                self._capture(Action.FOCUS, seen.window_id, seen.untrusted_application, title)
            )
        self._active = seen
        return captures

    def _capture(
        self, action: Action, window_id: int, application: str, title: str | None
    ) -> RawCapture:
        return RawCapture(
            action=action,
            untrusted_application=application,
            time_ms=self._clock.time_ms(),
            boottime_ms=self._clock.boottime_ms(),
            untrusted_title=title,
            target=Target(endpoint=self._windows.name, surface=f"{window_id:#x}"),
        )
