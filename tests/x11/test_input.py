"""Input and window sources on a real X server, with a synthetic pointer and keyboard."""

import asyncio
import gc
import subprocess

import pytest

from services.user_monitor.capture import InputSpec, WindowSpec, open_source
from shared.clock import SystemClock
from shared.errors import NoDisplay
from shared.schemas import Action

pytestmark = pytest.mark.x11


class Watching:
    """Collect what a source yields."""

    def __init__(self, spec):
        self._spec = spec
        self.captures = []
        self.arrived = asyncio.Event()

    async def __aenter__(self):
        self.source = await open_source(self._spec, SystemClock())
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_):
        await self.end()

    async def _collect(self):
        async for capture in self.source.captures():
            self.captures.append(capture)
            self.arrived.set()

    async def end(self):
        await self.source.close()
        await self._task
        return self.captures


@pytest.fixture
def xterm(display):
    command = ["xterm", "-T", "letters", "-class", "Editor", "-geometry", "60x10+100+100", "-e"]
    process = subprocess.Popen([*command, "sh", "-c", "read line; sleep 600"])
    yield
    process.kill()
    process.wait()


async def test_keys_become_counts_and_names_of_navigation_keys(hands, xterm):
    middle = await asyncio.to_thread(hands.window, "letters")
    async with Watching(InputSpec()) as watching:
        await asyncio.to_thread(hands.click, *middle)
        await asyncio.to_thread(hands.type, "dear ann")
        await asyncio.to_thread(hands.press, "Control_L", "a")
        await asyncio.to_thread(hands.press, "Shift_L", "Tab")
        await asyncio.to_thread(hands.press, "Return")
        await asyncio.sleep(0.3)
        captures = await watching.end()
    seen = [(c.action, c.count, c.keys) for c in captures]
    assert seen == [
        (Action.CLICK, None, None),
        (Action.EDIT, 8, None),
        (Action.HOT_KEY, 1, "Control+a"),
        (Action.KEY, 1, "Shift+Tab"),
        (Action.KEY, 1, "Enter"),
    ]
    assert {c.untrusted_application for c in captures} == {"Editor"}
    assert {c.untrusted_title for c in captures} == {"letters"}
    assert {c.untrusted_value for c in captures} == {None}
    box = captures[0].element.box
    assert box.x_px > 0
    assert box.y_px > 0
    assert captures[0].target.endpoint == watching.source._windows.name


async def test_scrolls_and_double_clicks_are_known(hands, xterm):
    middle = await asyncio.to_thread(hands.window, "letters")
    async with Watching(InputSpec()) as watching:
        for button in (4, 5, 1, 1):
            await asyncio.to_thread(hands.click, *middle, button)
        await asyncio.sleep(0.3)
        actions = [c.action for c in await watching.end()]
    assert actions == [Action.SCROLL, Action.SCROLL, Action.CLICK, Action.DOUBLE_CLICK]


async def test_the_active_window_is_followed(hands, xterm):
    await asyncio.to_thread(hands.window, "letters")
    async with Watching(WindowSpec(poll_ms=20)) as watching:
        await watching.arrived.wait()
        second = await asyncio.create_subprocess_exec(
            "xterm", "-T", "numbers", "-class", "Sheet", "-e", "sleep 600"
        )
        try:
            await asyncio.to_thread(hands.window, "numbers")
            while len(watching.captures) < 2:
                watching.arrived.clear()
                await watching.arrived.wait()
        finally:
            second.kill()
            await second.wait()
        first, last = watching.captures[0], watching.captures[1]
    assert (first.action, first.untrusted_application) == (Action.FOCUS, "Editor")
    assert (last.untrusted_application, last.untrusted_title) == ("Sheet", "numbers")


# python-xlib leaves the sockets of a failed attempt to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spec", [InputSpec(), WindowSpec()])
async def test_a_missing_display_is_said_in_words(monkeypatch, spec):
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(NoDisplay, match=":4711"):
        await open_source(spec, SystemClock())
    gc.collect()
