"""A person's hands on an X display: pointer and keys through the XTEST extension."""

import time

import Xlib.display
import Xlib.X
import Xlib.XK
from Xlib.ext import xtest

_NAMES = {" ": "space", "\t": "Tab", "\n": "Return", ".": "period", "-": "minus"}


class Hands:
    def __init__(self, name):
        self._display = Xlib.display.Display(name)
        self._root = self._display.screen().root

    def close(self):
        self._display.close()

    def click(self, x, y, button=1):
        xtest.fake_input(self._display, Xlib.X.MotionNotify, x=x, y=y)
        self._display.sync()
        time.sleep(0.05)
        xtest.fake_input(self._display, Xlib.X.ButtonPress, button)
        xtest.fake_input(self._display, Xlib.X.ButtonRelease, button)
        self._display.sync()
        time.sleep(0.1)

    def type(self, text, pause_s=0.01):
        for char in text:
            self.press(_NAMES.get(char, char))
            time.sleep(pause_s)

    def press(self, *names):
        codes = [self._display.keysym_to_keycode(Xlib.XK.string_to_keysym(n)) for n in names]
        assert all(codes), names
        for code in codes:
            xtest.fake_input(self._display, Xlib.X.KeyPress, code)
        for code in reversed(codes):
            xtest.fake_input(self._display, Xlib.X.KeyRelease, code)
        self._display.sync()

    def window(self, title, timeout_s=300.0):
        """Wait for a mapped window whose title contains `title`; raise it; return its middle."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            found = self._find(self._root, title)
            if found is not None:
                found.configure(stack_mode=Xlib.X.Above)
                found.set_input_focus(Xlib.X.RevertToPointerRoot, Xlib.X.CurrentTime)
                self._display.sync()
                size = found.get_geometry()
                place = found.translate_coords(self._root, 0, 0)
                left, top = -place.x, -place.y
                return left + size.width // 2, top + size.height // 2
            time.sleep(0.05)
        raise TimeoutError(f"no window {title!r}")

    def _find(self, window, title, depth=0):
        for child in window.query_tree().children:
            shown = child.get_attributes().map_state == Xlib.X.IsViewable
            named = self._title(child)
            if shown and named and title in named:
                return child
            if depth < 3 and (found := self._find(child, title, depth + 1)) is not None:
                return found
        return None

    def _title(self, window):
        atom = self._display.intern_atom
        held = window.get_full_property(atom("_NET_WM_NAME"), atom("UTF8_STRING"))
        name = held.value if held is not None else window.get_wm_name()
        return name.decode(errors="replace") if isinstance(name, bytes) else name
