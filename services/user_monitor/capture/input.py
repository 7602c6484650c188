"""Watches mouse and keyboard of an X display; no character is ever kept.

Reads: X RECORD events through pynput, whose callbacks classify a key and let its character go.
Writes nothing. Events that a program injects (XSendEvent) are passed over.
Does not cover: what field a key goes to (X11 does not say), and native Wayland windows.
"""

import asyncio
import os
import queue
import secrets
import threading
from collections.abc import AsyncIterator
from typing import Any, Self

from services.user_monitor.capture import InputSpec, RawCapture, SourceKind
from services.user_monitor.capture.strokes import Signal, SignalKind, Strokes
from services.user_monitor.capture.window import Windows
from shared.clock import Clock
from shared.errors import CaptureError, NoDisplay

__all__ = ["InputSource"]

_SETTLE_S = 0.3
_CHECK_S = 5.0
_MODIFIERS = {
    "ctrl": "Control", "ctrl_l": "Control", "ctrl_r": "Control", "alt": "Alt", "alt_l": "Alt",
    "alt_r": "Alt", "cmd": "Meta", "cmd_l": "Meta", "cmd_r": "Meta", "shift": "Shift",
    "shift_l": "Shift", "shift_r": "Shift",
}  # fmt: skip
_NAMED = {
    "enter": "Enter", "tab": "Tab", "esc": "Escape", "home": "Home", "end": "End",
    "page_up": "PageUp", "page_down": "PageDown", "up": "ArrowUp", "down": "ArrowDown",
    "left": "ArrowLeft", "right": "ArrowRight", "insert": "Insert", "menu": "ContextMenu",
    "print_screen": "PrintScreen", "pause": "Pause", **{f"f{n}": f"F{n}" for n in range(1, 21)},
}  # fmt: skip
_EDITING = {"backspace", "delete", "space"}
_IN_HOT_KEYS = {"backspace": "Backspace", "delete": "Delete", "space": "Space"}
_ISO_LEFT_TAB = 0xFE20  # the X keysym of Tab with Shift
_ORDER = ("Control", "Alt", "Shift", "Meta")


class _Keyboard:
    """Classifies keys on pynput's thread; remembers which modifiers are held, nothing else."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    def pressed(self, key: Any) -> tuple[SignalKind, str | None] | None:
        """Return what a key does, or None for a modifier and for keys that do nothing here."""
        name = getattr(key, "name", None)  # pynput.keyboard.Key; a KeyCode has none
        if getattr(key, "vk", None) == _ISO_LEFT_TAB:
            name = "tab"
        if name in _MODIFIERS:
            self._held.add(_MODIFIERS[name])
            return None
        commands = self._held - {"Shift"}
        if name in _NAMED or (name in _EDITING and commands):
            return SignalKind.KEY, self._joined(_NAMED.get(name) or _IN_HOT_KEYS[name])
        if name in _EDITING:
            return SignalKind.TYPED, None
        if name is not None:
            return None  # locks, media keys, AltGr
        char = getattr(key, "char", None)
        if commands and char and len(char) == 1 and char.isascii() and char.isalnum():
            return SignalKind.KEY, self._joined(char.lower())
        return SignalKind.TYPED, None

    def released(self, key: Any) -> None:
        """Forget a modifier that is let go."""
        self._held.discard(_MODIFIERS.get(getattr(key, "name", ""), ""))

    def _joined(self, key: str) -> str:
        return "+".join([*(m for m in _ORDER if m in self._held), key])


class InputSource:
    """Yield clicks, scrolls, navigation keys, hot-keys, and edits as a count of strokes."""

    kind = SourceKind.INPUT

    def __init__(self, windows: Windows, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.session = secrets.token_hex(16)
        self._windows = windows
        self._clock = clock
        self._loop = loop
        self._signals: queue.SimpleQueue[Signal | None] = queue.SimpleQueue()
        self._captures: asyncio.Queue[RawCapture | CaptureError | None] = asyncio.Queue()
        self._strokes = Strokes(windows.name)
        self._keyboard = _Keyboard()
        self._listeners: list[Any] = []
        self._worker = threading.Thread(target=self._work, name="input-source", daemon=True)
        self._closed = False

    @classmethod
    async def open(cls, spec: InputSpec, clock: Clock) -> Self:
        """Listen to the display. Raises NoDisplay."""
        if spec.display is not None and spec.display != os.environ.get("DISPLAY"):
            raise NoDisplay(
                f"display {spec.display} is not this process's own: start the service with "
                f"DISPLAY={spec.display}"
            )
        windows = await asyncio.to_thread(Windows.open, spec.display)
        source = cls(windows, clock, asyncio.get_running_loop())
        await asyncio.to_thread(source._listen)
        source._worker.start()
        return source

    async def captures(self) -> AsyncIterator[RawCapture]:
        """Yield until `close`. Raises CaptureError where the display is gone."""
        while (item := await self._captures.get()) is not None:
            if isinstance(item, CaptureError):
                raise item
            yield item

    async def close(self) -> None:
        """Stop listening; strokes counted so far are still yielded."""
        if self._closed:
            return
        self._closed = True
        for listener in self._listeners:
            listener.stop()  # its thread ends, with nothing reported, at the display's next event
        self._signals.put(None)

    def _listen(self) -> None:
        try:
            # Fails to import where there is no display.
            from pynput import keyboard, mouse
        except ImportError as error:
            raise NoDisplay("pynput finds no X display: set DISPLAY and XAUTHORITY") from error
        self._listeners = [
            keyboard.Listener(on_press=self._on_press, on_release=self._on_release),
            mouse.Listener(on_click=self._on_click, on_scroll=self._on_scroll),
        ]
        for listener in self._listeners:
            listener.start()
            listener.wait()

    def _on_press(self, key: Any, injected: bool) -> None:
        does = self._keyboard.pressed(key)
        if does is not None and not injected:
            kind, keys = does
            self._put(kind, keys=keys)

    def _on_release(self, key: Any, _: bool) -> None:
        self._keyboard.released(key)

    def _on_click(self, x: int, y: int, _: Any, pressed: bool, injected: bool) -> None:
        if pressed and not injected:
            self._put(SignalKind.CLICK, x_px=int(x), y_px=int(y))

    def _on_scroll(self, x: int, y: int, dx: int, dy: int, injected: bool) -> None:
        if not injected:
            steps = max(1, abs(dx) + abs(dy))
            self._put(SignalKind.SCROLL, x_px=int(x), y_px=int(y), steps=steps)

    def _put(self, kind: SignalKind, **details: Any) -> None:
        now_ms, boottime_ms = self._clock.time_ms(), self._clock.boottime_ms()
        self._signals.put(Signal(kind, now_ms, boottime_ms, **details))

    def _work(self) -> None:
        """Look up windows for signals; the only thread that talks to the display."""
        try:
            while True:
                wait_s = _SETTLE_S if self._strokes.is_counting else _CHECK_S
                try:
                    signal = self._signals.get(timeout=wait_s)
                except queue.Empty:
                    self._check_alive()
                    self._hand_over(self._settled())
                    continue
                if signal is None:
                    break
                pointed = signal.kind in (SignalKind.CLICK, SignalKind.SCROLL)
                active = self._windows.active()
                window = (self._windows.at_pointer() or active) if pointed else active
                self._hand_over(self._strokes.signal(signal, window))
            self._hand_over(self._settled(everything=True))
            self._windows.close()
            self._send(None)
        except CaptureError as error:
            self._send(error)

    def _settled(self, *, everything: bool = False) -> list[RawCapture]:
        if not self._strokes.is_counting:
            return []
        now_ms = self._clock.time_ms()
        return self._strokes.settle(self._windows.active(), now_ms, everything=everything)

    def _check_alive(self) -> None:
        if not self._closed and not all(listener.running for listener in self._listeners):
            raise CaptureError("the X display is gone: start recording again")

    def _hand_over(self, captures: list[RawCapture]) -> None:
        for capture in captures:
            self._send(capture)

    def _send(self, item: RawCapture | CaptureError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._captures.put_nowait, item)
        except RuntimeError:  # the loop has ended: nobody reads any more
            return
