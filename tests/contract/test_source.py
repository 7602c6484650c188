"""What every source promises, and what the browser promises beside it."""

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from services.agent_runner.actuators.browser import BrowserActuator
from services.user_monitor.capture import BrowserSpec, ReplaySpec, open_source
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor
from shared.clock import FakeClock, SystemClock
from shared.errors import CaptureError
from shared.schemas import Action, Level, UiEvent
from shared.schemas.raw_events import Source as SourceKind

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def person(served):
    """A context of the watched browser, driven by somebody else than the source."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(served.url)
        yield browser.contexts[0]
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def watched(served, person, site):
    """A form in a watched tab; `watched.done()` returns what was captured, once."""
    source = await open_source(BrowserSpec(attach_url=served.url), SystemClock())
    watched = Watched(source)
    watched.page = await person.new_page()
    await watched.page.goto(f"{site}/form.html")
    # The other client may be done before the source has got hold of the new tab.
    await watched.until(lambda capture: capture.action is Action.NAVIGATE)
    yield watched
    await source.close()
    await watched.collecting


class Watched:
    def __init__(self, source):
        self.source = source
        self.captured = []
        self.news = asyncio.Event()
        self.collecting = asyncio.create_task(self._collect())

    async def _collect(self):
        async for capture in self.source.captures():
            self.captured.append(capture)
            self.news.set()

    async def until(self, fits):
        """Return the first capture that fits, once it is there."""
        async with asyncio.timeout(300):
            while not (found := next(filter(fits, self.captured), None)):
                self.news.clear()
                await self.news.wait()
        return found

    async def done(self):
        """Close the tab and return what came before."""
        await self.page.close()
        await self.until(lambda capture: capture.action is Action.CLOSE)
        return self.captured

    async def actions(self):
        """Return (action, name of the element, value) of what a person did."""
        quiet = (Action.OPEN, Action.CLOSE, Action.NAVIGATE)
        return [
            (c.action.value, c.element and c.element.untrusted_name, c.untrusted_value)
            for c in await self.done()
            if c.action not in quiet
        ]


def states_of(snapshot, name):
    return next(e.states for e in snapshot.elements if e.untrusted_name == name)


def one(captured, action):
    [found] = [c for c in captured if c.action is action]
    return found


# -- every source ----------------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param("browser", marks=pytest.mark.browser), "replay"])
def opened(request, tmp_path):
    """What opens a source of one kind, and the person that a live one watches."""
    if request.param == "browser":
        served = request.getfixturevalue("served")
        person = request.getfixturevalue("person")
        spec = BrowserSpec(attach_url=served.url)
        return SimpleNamespace(open=lambda: open_source(spec, SystemClock()), person=person)
    log = tmp_path / "log.jsonl"
    events = [
        UiEvent(
            id=str(seq),
            time_ms=1000 + seq,
            user_id="u",
            source=SourceKind.REPLAY,
            session="s",
            seq=seq,
            action=action,
            application="app",
            level=Level.VALUES,
        )
        for seq, action in enumerate((Action.OPEN, Action.CLOSE))
    ]
    log.write_text("".join(f"{event.model_dump_json()}\n" for event in events))
    return SimpleNamespace(open=lambda: open_source(ReplaySpec(log), FakeClock()), person=None)


async def test_captures_come_in_the_order_of_time(opened):
    source = await opened.open()
    page = await opened.person.new_page() if opened.person else None
    captured = []
    async for capture in source.captures():
        captured.append(capture)
        if capture.action is Action.OPEN and page is not None:
            await page.close()
        elif capture.action is Action.CLOSE:
            await source.close()
    assert [c.action for c in captured] == [Action.OPEN, Action.CLOSE]
    assert captured[0].time_ms <= captured[1].time_ms


async def test_close_ends_the_captures_and_may_be_repeated(opened):
    source = await opened.open()
    await source.close()
    await source.close()
    async with asyncio.timeout(300):
        assert [c async for c in source.captures()] == []


async def test_a_live_session_is_new_at_each_start_and_a_replays_is_not(opened):
    first, second = await opened.open(), await opened.open()
    assert first.session
    assert (first.session == second.session) == (first.kind is SourceKind.REPLAY)
    await first.close()
    await second.close()


# -- the browser -----------------------------------------------------------------------------------


@pytest.mark.browser
class TestBrowser:
    async def test_a_field_is_one_edit_with_its_final_value(self, watched):
        page = watched.page
        await page.click("#n")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("Grce")
        await page.keyboard.press("Backspace")
        await page.keyboard.type("ace")
        await page.keyboard.press("Tab")
        await page.keyboard.type("first")
        await page.keyboard.press("Enter")
        await page.keyboard.type("second")
        await page.click("#city")
        await page.keyboard.type("Rome")
        assert await watched.actions() == [
            ("click", "Full name", None),
            ("edit", "Full name", "Grcace"),
            ("edit", "Remarks", "first\nsecond"),
            ("click", "City", None),
            ("edit", "City", "Rome"),  # the tab was closed while it was being written in
        ]

    async def test_what_was_typed_and_undone_is_no_edit(self, watched):
        await watched.page.click("#n")
        await watched.page.keyboard.press("End")
        await watched.page.keyboard.type("x")
        await watched.page.keyboard.press("Backspace")
        assert await watched.actions() == [("click", "Full name", None)]

    async def test_half_a_character_stops_nothing(self, watched):
        await watched.page.evaluate(
            "document.body.prepend(Object.assign(document.createElement('p'),"
            " {textContent: 'a'.repeat(199) + '\\u{1F600} and more'}))"
        )
        await watched.page.click("#n")
        captured = await watched.done()
        texts = {e.untrusted_text for e in one(captured, Action.CLICK).snapshot.elements}
        assert "a" * 199 + "\N{REPLACEMENT CHARACTER}" in texts

    async def test_a_label_that_is_a_rows_header_is_known_as_data(self, watched):
        await watched.page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<table><tr><th scope=row>Anna Muster"
            "</th><td><button id=there>Open</button><span>Berlin</span></td></tr></table>')"
        )
        await watched.page.click("#there")
        elements = one(await watched.done(), Action.CLICK).snapshot.elements
        labelled = [e for e in elements if e.untrusted_label == "Anna Muster"]
        assert labelled
        assert all(e.label_is_data for e in labelled)

    async def test_a_snapshot_shows_the_page_before_the_action(self, watched):
        page = watched.page
        await page.click("#n")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("new")
        await page.click("#city")
        captured = await watched.done()
        first, second = [c for c in captured if c.action is Action.CLICK]
        edit = one(captured, Action.EDIT)
        assert edit.element.untrusted_value == "old"
        # Nothing tells which field is meant: the focus is where it was before.
        assert "focused" not in states_of(edit.snapshot, "Full name")
        assert edit.snapshot == first.snapshot
        assert second.snapshot.elements[edit.element.index].untrusted_value == "new"
        for capture in (first, edit, second):
            assert capture.snapshot.elements[capture.element.index].untrusted_name in (
                "Full name",
                "City",
            )

    async def test_enter_comes_after_the_edit_and_brings_no_click_of_its_own(self, watched):
        await watched.page.click("#city")
        await watched.page.keyboard.type("Rome")
        await watched.page.keyboard.press("Enter")
        assert [action for action, _, _ in await watched.actions()] == ["click", "edit", "key"]
        key = one(watched.captured, Action.KEY)
        assert key.keys == "Enter"
        assert key.element.untrusted_value == "Rome"

    async def test_a_labels_click_is_one_click_with_the_new_state(self, watched):
        await watched.page.get_by_text("Express").click()
        await watched.page.get_by_text("Large").click()
        await watched.page.get_by_text("Express").click()
        assert await watched.actions() == [
            ("click", "Express", "true"),
            ("click", "Large", "true"),
            ("click", "Express", "false"),
        ]

    async def test_a_list_tells_the_option_once(self, watched):
        page = watched.page
        await page.focus("#s")
        for key in ("Space", "ArrowDown", "ArrowDown", "Enter"):  # in the open list
            await page.keyboard.press(key)
        await page.keyboard.press("ArrowDown")  # in the closed one
        await page.keyboard.press("Tab")
        assert await watched.actions() == [("select", "Country", "Denmark")]
        choice = one(watched.captured, Action.SELECT)
        assert choice.element.untrusted_value == "Austria"
        assert "Chile" in choice.element.untrusted_options

    async def test_double_clicks_hot_keys_and_keys(self, watched):
        page = watched.page
        await page.dblclick("h1")
        await page.keyboard.press("Control+Shift+k")
        await page.keyboard.press("Escape")
        actions = [(c.action, c.keys) for c in await watched.done()]
        assert (Action.DOUBLE_CLICK, None) in actions
        assert (Action.HOT_KEY, "Control+Shift+K") in actions
        assert (Action.KEY, "Escape") in actions

    async def test_a_button_pressed_by_key_is_a_click(self, watched):
        await watched.page.focus("#save")
        await watched.page.keyboard.press("Enter")
        await watched.page.keyboard.press("Space")
        assert await watched.actions() == [("click", "Save", None)] * 2

    async def test_copied_text_is_the_value(self, watched):
        page = watched.page
        await page.click("td:has-text('Berlin')", click_count=3)
        await page.keyboard.press("Control+c")
        await page.click("#city")
        await page.keyboard.press("Control+v")
        await page.keyboard.press("Tab")
        copies = [c for c in await watched.done() if c.action is Action.COPY]
        assert [(c.untrusted_value.strip(), c.element.untrusted_label) for c in copies] == [
            ("Berlin", "City")
        ]
        edit = one(watched.captured, Action.EDIT)
        assert edit.untrusted_value.strip() == "Berlin"
        assert not [c for c in watched.captured if c.action in (Action.HOT_KEY, Action.PASTE)]

    async def test_a_click_is_on_the_control_around_it(self, watched):
        await watched.page.get_by_role("button", name="Shadow").click()
        await watched.page.click("small")
        clicks = [c.element for c in await watched.done() if c.action is Action.CLICK]
        assert [(e.untrusted_role, e.untrusted_name) for e in clicks] == [
            ("button", "Shadow"),
            ("link", "Second page"),
        ]
        assert clicks[1].untrusted_selector == "navigation/link:2"

    async def test_what_the_page_does_by_itself_is_not_told(self, watched):
        await watched.page.evaluate(
            """save.click(); n.focus(); n.value = "by script";
               n.dispatchEvent(new Event("input", { bubbles: true })); city.focus();
               dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }))"""
        )
        assert await watched.actions() == []

    async def test_navigations_tell_what_caused_them_and_show_the_new_page(self, watched, site):
        await watched.page.click("#two")
        await watched.page.get_by_role("heading", name="Second").click()
        captured = await watched.done()
        typed, followed = [c for c in captured if c.action is Action.NAVIGATE]
        assert (typed.untrusted_url, typed.caused) == (f"{site}/form.html", False)
        assert (followed.untrusted_url, followed.caused) == (f"{site}/two.html", True)
        assert followed.untrusted_title == "Two"
        assert followed.snapshot.elements[0].untrusted_name == "Second"

    async def test_secret_values_never_leave_the_page(self, watched):
        page = watched.page
        await page.fill("#p", "typed-into-password")
        await page.click("#show")  # now it is a text field
        await page.click("#p")
        await page.keyboard.press("End")
        await page.keyboard.type("-more")
        await page.keyboard.press("Control+a")
        await page.keyboard.press("Control+c")
        await page.fill("#cc", "5500005555555559")
        await page.click("#city")
        told = repr(await watched.done())
        assert "Password" in told
        for secret in ("hunter2", "typed-into", "-more", "4111111111111111", "5500005555555559"):
            assert secret not in told
        edits = [c for c in watched.captured if c.action is Action.EDIT]
        assert [(c.element.untrusted_label, c.element.is_secret) for c in edits] == [
            ("Password", True),
            ("Password", True),
            ("Card", True),
        ]

    async def test_the_page_can_neither_see_nor_call_what_watches_it(self, watched):
        names = "['watEmit', 'wat'].map((name) => name in globalThis || typeof globalThis[name])"
        assert await watched.page.evaluate(names) == ["undefined", "undefined"]

    async def test_a_tab_that_was_open_before_is_watched(self, served, person, site):
        page = await person.new_page()
        await page.goto(f"{site}/form.html")
        watched = Watched(await open_source(BrowserSpec(attach_url=served.url), SystemClock()))
        watched.page = page
        await page.click("#save")
        assert await watched.actions() == [("click", "Save", None)]
        await watched.source.close()
        await watched.collecting

    async def test_frames_of_the_same_site_are_watched(self, watched, site):
        await watched.page.evaluate(
            """(url) => new Promise((resolve) => {
                 const frame = document.createElement("iframe");
                 frame.src = url; frame.onload = resolve; document.body.prepend(frame);
               })""",
            f"{site}/two.html",
        )
        await watched.page.frames[1].click("h1")
        click = one(await watched.done(), Action.CLICK)
        assert (click.untrusted_url, click.element.untrusted_name) == (f"{site}/two.html", "Second")

    async def test_capture_and_actuator_read_the_same_tree(self, watched, served, site):
        page = watched.page
        await page.fill("#city", "Rome")
        opened = await watched.until(lambda capture: capture.action is Action.OPEN)
        actuator = await BrowserActuator.start(
            [site], attach_url=served.url, surface=opened.target.surface
        )
        observed = await actuator.observe()
        await page.get_by_role("button", name="Shadow").click()
        click = one(
            [c for c in await watched.done() if c.action is not Action.NAVIGATE], Action.CLICK
        )
        assert click.target == actuator.target
        await actuator.close()
        allowed = Allowance(Level.VALUES, frozenset({"phone"}))
        assert Redactor(b"key").snapshot(click, allowed) == observed

    async def test_times_are_those_of_the_action_on_both_clocks(self, watched):
        clock = SystemClock()
        before_ms, boot_ms = clock.time_ms(), clock.boottime_ms()
        await watched.page.click("#save")
        click = one(await watched.done(), Action.CLICK)
        assert before_ms <= click.time_ms <= clock.time_ms()
        assert boot_ms - 5 <= click.boottime_ms <= clock.boottime_ms()

    async def test_recording_ends_visibly_when_nobody_reads(self, watched, monkeypatch):
        monkeypatch.setattr("services.user_monitor.capture.browser._MAX_WAITING", 3)
        watched.collecting.cancel()
        await asyncio.gather(watched.collecting, return_exceptions=True)
        for _ in range(6):
            await watched.page.click("#save")
        with pytest.raises(CaptureError, match="recording stopped"):
            await watched._collect()
        watched.collecting = asyncio.create_task(asyncio.sleep(0))

    async def test_a_launched_browser_is_watched_over_its_pipe(self, tmp_path, site):
        spec = BrowserSpec(
            profile_dir=tmp_path / "profile", start_url=f"{site}/form.html", headless=True
        )
        source = await open_source(spec, SystemClock())
        captures = source.captures()
        async with asyncio.timeout(300):
            arrival = await anext(captures)
        assert (arrival.action, arrival.untrusted_title) == (Action.NAVIGATE, "Form")
        assert (tmp_path / "profile").stat().st_mode & 0o777 == 0o700
        # Nobody else can open a debugging session: not a process of it listens anywhere.
        processes = [p for p in Path("/proc").glob("[0-9]*") if _names(p, tmp_path / "profile")]
        held = {inode for process in processes for inode in _sockets(process)}
        assert held
        assert not held & _listening()
        assert not (tmp_path / "profile" / "DevToolsActivePort").exists()
        await source.close()


def _names(process: Path, text: Path) -> bool:
    try:
        return str(text).encode() in (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def _sockets(process: Path) -> set[str]:
    """Return the inodes of a process's sockets."""
    found = set()
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed just now
            link = str(descriptor.readlink())
            if link.startswith("socket:["):
                found.add(link[8:-1])
    return found


def _listening() -> set[str]:
    """Return the inodes of sockets that wait for connections over TCP."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return {fields[9] for fields in lines if fields[3] == "0A"}
