"""Acts on one tab of a Chromium, through input events that the page sees as a person's.

Reads the element tree, acts on elements of the last reading only, and reads fields back after
filling them. Leaves no origin that it was not given. Does not cover: frames of other sites,
pointer paths (drag and drop), uploads, downloads, and
secret fields, into which nothing goes but what the page itself shows.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from playwright.async_api import Dialog, Download, Page, Request

from services.agent_runner.actuators import Performed
from services.agent_runner.actuators.fields import DATE_FORMS, date_parts, holds, option_reading
from shared.errors import ActuatorError, StepRefused, StepUnverified
from shared.manifest import Op
from shared.page import Browser, BrowserError, PageElement, PageTree, Tab, application_of
from shared.schemas.base import Text
from shared.schemas.raw_events import Box, Level, Snapshot, SnapshotElement, Target
from shared.texts import classify, document_of

__all__ = ["BrowserActuator", "in_words", "origin_of", "snapshot_of"]

_QUIET_MS = 100  # a page that has not changed for this long stands still
_POLL_S = 0.02
_HOVER_S = 0.7  # menus that open under the pointer wait 0.3 s, then slide for as long
_LOADING = ("document", "xhr", "fetch", "script", "stylesheet")  # answers that change a page
_MAX_KEYED_CHARS = 256  # longer or multi-line texts are put in at once, as an input method does
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Reading = dict[str, Any]
"""What a function of page.js says about an element; `why` where it cannot be used."""


def origin_of(url: str) -> str:
    """Return scheme, host and port of a web address, or "" for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
        return ""
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{host}"


def in_words(item: PageElement) -> str:
    """Name an element as a person would."""
    name = item.name or item.label or item.text
    return f'{item.role} "{name}"' if name else f"a {item.role} without a name"


def _text(clear: str | None) -> Text | None:
    return Text(cls=classify(clear), clear=clear or None) if clear else None


def _element(item: PageElement, index: int) -> SnapshotElement:
    x_px, y_px, width_px, height_px = item.box
    return SnapshotElement(
        index=index,
        parent=item.parent,
        role=item.role,
        tag=item.tag,
        element_id=item.id,
        name=_text(item.name),
        label=item.label,
        text=None if item.secret else _text(item.text),
        value=None if item.secret else _text(item.value),
        states=item.states,
        options=tuple(Text(cls=classify(option), clear=option or None) for option in item.options),
        classes=item.classes or None,
        colour=item.colour,
        box=Box(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px),
    )


def snapshot_of(tree: PageTree) -> Snapshot:
    """Turn a reading into a snapshot at level `values`."""
    return Snapshot(
        application=application_of(tree.url),
        level=Level.VALUES,
        document=document_of(tree.url),
        title=_text(tree.title),
        elements=tuple(_element(item, index) for index, item in enumerate(tree.items)),
    )


class BrowserActuator:
    """One tab. Whatever a dialog, a new tab or a foreign address asks for ends the run."""

    def __init__(
        self, browser: Browser, tab: Tab, allowed_origins: Iterable[str], *, own_tab: bool
    ) -> None:
        self._browser = browser
        self._tab = tab
        self._page: Page = tab.page
        self._own_tab = own_tab
        self._allowed = frozenset(map(origin_of, allowed_origins)) - {""}
        self._tree: PageTree | None = None
        self._stop: str | None = None  # why acting cannot go on
        self._loading: set[Request] = set()
        self._stirred_s = time.monotonic()
        self._guards: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        allowed_origins: Iterable[str],
        *,
        profile_dir: Path | None = None,
        attach_url: str | None = None,
        surface: str | None = None,
        executable: str | None = None,
        headless: bool = True,
    ) -> Self:
        """Launch a browser in `profile_dir`, or attach and open a tab (or take `surface`).

        `surface` is the CDP target id of an open tab. Errors: NoBrowser, ActuatorError.
        """
        if attach_url:
            browser = await Browser.attach(attach_url)
        elif profile_dir:
            browser = await Browser.launch(profile_dir, executable=executable, headless=headless)
        else:
            raise ActuatorError("a browser needs a profile_dir to launch or an attach_url")
        try:
            tab = await _tab_of(browser, surface)
            own_tab = browser.attached and surface is None
            actuator = cls(browser, tab, allowed_origins, own_tab=own_tab)
            await actuator._guard()
        except BaseException as error:
            await browser.close()
            if isinstance(error, BrowserError):
                raise ActuatorError(f"the tab cannot be used: {error}") from error
            raise
        return actuator

    @property
    def target(self) -> Target:
        """Return browser instance and tab."""
        return Target(endpoint=self._browser.endpoint, surface=self._tab.target_id)

    async def open(self, url: str) -> None:
        """Show `url` and settle. Errors: ActuatorError."""
        self._check()
        if origin_of(url) not in self._allowed:
            raise ActuatorError(
                f"{origin_of(url) or url[:200]} is not among the allowed origins: "
                f"{', '.join(sorted(self._allowed)) or 'none'}"
            )
        self._begin()
        try:
            await self._page.goto(url, wait_until="domcontentloaded")
        except BrowserError as error:
            self._check()
            raise ActuatorError(f"{url[:200]} does not open: {_brief(error)}") from error
        await self.settle()
        self._check()

    async def observe(self) -> Snapshot:
        """Return the visible element tree. Errors: ActuatorError."""
        return snapshot_of(await self.read())

    async def read(self) -> PageTree:
        """Read the tree that `perform`'s indices mean from now on. Errors: ActuatorError."""
        self._check()
        for attempt in range(2):
            try:
                self._tree = await self._tab.read()
                break
            except BrowserError as error:  # it was being left; its successor can be read
                self._check()
                if attempt:
                    raise ActuatorError(f"the page cannot be read: {_brief(error)}") from error
                await self.settle()
        assert self._tree is not None
        self._check_origin(self._tree.url)
        return self._tree

    async def perform(
        self, op: Op, element: int, *, text: str | None = None, key: str | None = None
    ) -> Performed:
        """Do one step on an element of the last observation, and read fields back.

        Errors: StepRefused, StepUnverified, ActuatorError.
        """
        self._check()
        item = self.item(element)
        self._check_origin(self._page.url)
        try:
            note = await self._do(op, item, element, text, key)
        except BrowserError as error:
            self._check()
            raise StepUnverified(f"{op} on {in_words(item)}: {_brief(error)}") from error
        self._check()
        return Performed(note)

    def item(self, element: int) -> PageElement:
        """Return an element of the last observation. Errors: StepRefused."""
        items = self._tree.items if self._tree else ()
        if not 0 <= element < len(items):
            raise StepRefused(f"element {element} is not in the last observation")
        return items[element]

    async def follow(self, element: int) -> str | None:
        """Open a plain link of this origin and return its address; None: it is not one.

        Plain: a GET in the same tab, without a handler in the page's source. Errors: ActuatorError.
        """
        reading: Reading = await self._tab.call("link", self._token(), element)
        href: str | None = reading.get("href")
        if href is None or origin_of(href) != origin_of(self._page.url):
            return None
        await self.open(href)
        return href

    async def settle(self, timeout_ms: int = 3000) -> bool:
        """Wait until nothing loads and the page has not changed for 100 ms; tell whether so."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < deadline_s and self._stop is None:
            if self._loads_nothing():
                with contextlib.suppress(BrowserError):  # being left: look again
                    quiet = await self._tab.call("quiet")
                    # What the page began to load before it answered is known by now.
                    is_still = quiet["ready"] != "loading" and quiet["idle_ms"] >= _QUIET_MS
                    if is_still and self._loads_nothing():
                        return True
            await asyncio.sleep(_POLL_S)
        return False

    def _loads_nothing(self) -> bool:
        since_ms = (time.monotonic() - self._stirred_s) * 1000
        return not self._loading and since_ms >= _QUIET_MS

    async def close(self) -> None:
        """Close what was opened here: the browser, or the tab in another's."""
        self._stop = self._stop or "the screen was let go"
        if self._own_tab:
            with contextlib.suppress(BrowserError):
                await self._page.close()
        for task in self._guards:
            task.cancel()
        await self._browser.close()

    # -- what may end a run ----------------------------------------------------------------------

    async def _guard(self) -> None:
        page = self._page
        page.on("dialog", self._on_dialog)
        page.on("popup", self._on_popup)
        page.on("download", self._on_download)
        page.on("crash", lambda _: self._end("the page crashed"))
        page.on("close", lambda _: self._end("the tab was closed"))
        page.on("request", self._on_request)
        page.on("requestfinished", self._on_answer)
        page.on("requestfailed", self._on_answer)
        session = self._tab.session
        session.on("Fetch.requestPaused", lambda event: self._spawn(self._on_paused(event)))
        await session.send(
            "Fetch.enable", {"patterns": [{"urlPattern": "*", "resourceType": "Document"}]}
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._guards.add(task)
        task.add_done_callback(self._guards.discard)

    def _end(self, reason: str) -> None:
        self._stop = self._stop or reason

    def _check(self) -> None:
        if self._stop is not None:
            raise ActuatorError(self._stop)

    def _check_origin(self, url: str) -> None:
        if origin_of(url) not in self._allowed:
            raise ActuatorError(
                f"the page is now at {origin_of(url) or url[:100]}, which is not allowed"
            )

    async def _on_dialog(self, dialog: Dialog) -> None:
        self._end(f'the page asked ({dialog.type}): "{dialog.message[:200]}"; it was not accepted')
        with contextlib.suppress(BrowserError):
            await dialog.dismiss()

    async def _on_popup(self, popup: Page) -> None:
        self._end(f"the page opened another tab: {origin_of(popup.url) or 'an empty one'}")
        with contextlib.suppress(BrowserError):
            await popup.close()

    async def _on_download(self, download: Download) -> None:
        self._end("the page started a download; it was cancelled")
        with contextlib.suppress(BrowserError):
            await download.cancel()

    def _on_request(self, request: Request) -> None:
        if request.resource_type in _LOADING:
            self._loading.add(request)

    def _on_answer(self, request: Request) -> None:
        if request in self._loading:
            self._loading.remove(request)
            self._stirred_s = time.monotonic()

    async def _on_paused(self, event: dict[str, Any]) -> None:
        """Let a document load, unless it would take this tab to an origin that is not allowed."""
        session, request_id = self._tab.session, event["requestId"]
        origin = origin_of(event["request"]["url"])
        with contextlib.suppress(BrowserError):
            if event["frameId"] == self._tab.target_id and origin not in self._allowed:
                self._end(f"the page wanted to leave for {origin}, which is not allowed")
                await session.send(
                    "Fetch.failRequest", {"requestId": request_id, "errorReason": "Aborted"}
                )
            else:
                await session.send("Fetch.continueRequest", {"requestId": request_id})

    # -- steps -----------------------------------------------------------------------------------

    def _token(self) -> str:
        assert self._tree is not None
        return self._tree.token

    def _begin(self) -> None:
        """Count from now on what loads because of the step; what polls anyway is left out."""
        self._loading.clear()
        self._stirred_s = time.monotonic()

    async def ask(self, function: str, element: int) -> Reading:
        """Ask the page about an element of the last observation. Errors: StepRefused."""
        item = self.item(element)
        try:
            reading: Reading = await self._tab.call(function, self._token(), element)
        except BrowserError as error:
            self._check()
            raise StepRefused(f"{in_words(item)}: the page is being left") from error
        if "why" in reading:
            raise StepRefused(f"{in_words(item)} is {reading['why']}")
        return reading

    async def _do(
        self, op: Op, item: PageElement, element: int, text: str | None, key: str | None
    ) -> str:
        match op:
            case "click" | "double_click":
                await self._click(item, element, count=1 if op == "click" else 2)
                return f"{op.replace('_', '-')} on {in_words(item)}"
            case "hover":
                await self._hover(element)
                return f"pointed at {in_words(item)}"
            case "press_key":
                assert key is not None
                await self.ask("focus", element)
                self._begin()
                await self._page.keyboard.press(key)
                return f"pressed {key} in {in_words(item)}"
            case "type_text":
                assert text is not None
                return await self._type(item, element, text)
            case "select_option":
                assert text is not None
                return await self._select(item, element, text)

    async def _click(self, item: PageElement, element: int, count: int = 1) -> None:
        point = await self.ask("locate", element)
        await self._page.mouse.move(point["x"], point["y"])
        point = await self._hovered(element)
        self._begin()
        await self._page.mouse.click(point["x"], point["y"], click_count=count)

    async def _hover(self, element: int) -> None:
        """Rest the pointer on an element until something changes: menus open after a while."""
        point = await self.ask("locate", element)
        self._begin()
        began_s = time.monotonic()
        await self._page.mouse.move(point["x"], point["y"])
        while time.monotonic() - began_s < _HOVER_S:
            await asyncio.sleep(_POLL_S)
            quiet = await self._tab.call("quiet")
            if quiet["idle_ms"] < (time.monotonic() - began_s) * 1000 - _POLL_S * 1000:
                return

    async def check_secret(self, field: Reading, item: PageElement, text: str) -> None:
        """Refuse to fill a secret field with what the page does not show itself: StepRefused."""
        if field["secret"] and not await self._tab.call("shows", text):
            raise StepRefused(
                f"{in_words(item)} is a secret field, which takes only what the page itself shows"
            )

    async def _hovered(self, element: int) -> Reading:
        """Find the element again under the pointer: what that brings up may lie over it.

        An icon's other picture may still be loading: it gets half a second. Errors: StepRefused.
        """
        for _ in range(24):
            try:
                return await self.ask("locate", element)
            except StepRefused as error:
                if "visible" not in str(error):
                    raise
                await asyncio.sleep(_POLL_S)
        return await self.ask("locate", element)

    async def _type(self, item: PageElement, element: int, text: str) -> str:
        field = await self.ask("field", element)
        if field["tag"] == "select":
            raise StepRefused(f"{in_words(item)} is a list: an option is chosen, not typed")
        await self.check_secret(field, item, text)
        kind = field["type"] if field["tag"] == "input" else ""
        if kind in ("color", "range"):
            raise StepRefused(f"{in_words(item)} is a {kind} field, which takes no text")
        if kind in DATE_FORMS:
            return await self._type_date(item, element, kind, text)
        if not field["focused"]:
            await self._click(item, element)
        if not (await self.ask("field", element))["focused"]:
            await self.ask("focus", element)
        self._begin()
        keyboard = self._page.keyboard
        await keyboard.press("ControlOrMeta+a")
        if not text:
            await keyboard.press("Delete")
        elif len(text) > _MAX_KEYED_CHARS or not text.isprintable():
            await keyboard.insert_text(text)
        else:
            await keyboard.type(text)
        if field["secret"]:
            reading = await self._tab.call("holds", self._token(), element, text)
            if not reading.get("holds"):
                raise StepUnverified(f"{in_words(item)} holds something else than was typed")
        else:
            await self._read_back(item, element, lambda held: holds(held, text, kind))
        return f"typed into {in_words(item)}"

    async def _type_date(self, item: PageElement, element: int, kind: str, text: str) -> str:
        """Type digits in the order the browser's locale wants, which only trying tells."""
        form, orders = DATE_FORMS[kind]
        parts = date_parts(form, text)
        if parts is None:
            raise StepRefused(f"{in_words(item)} takes an ISO 8601 {kind}, which the value is not")
        await self.ask("locate", element)  # covered, disabled
        held = None
        for order in orders:
            await self._tab.call("blur")
            await self.ask("focus", element)
            self._begin()
            await self._page.keyboard.press("Delete")
            for place, letter in enumerate(order):
                await self._page.keyboard.type(parts[letter])
                if letter == "Y" and place + 1 < len(order):  # a year may have six digits
                    await self._page.keyboard.press("ArrowRight")
            held = (await self.ask("field", element))["value"]
            if held == text.strip():
                return f"typed into {in_words(item)}"
        raise StepUnverified(f"{in_words(item)} holds something else than was typed")

    async def _select(self, item: PageElement, element: int, text: str) -> str:
        """Choose by keys in the open list: one change event, as a person causes it."""
        field = await self.ask("field", element)
        if field["tag"] != "select":
            raise StepRefused(f"{in_words(item)} is not a list to choose an option from")
        options: list[Reading] = field["options"]
        wanted = option_reading(options, text, in_words(item))
        if field["multiple"]:
            return await self._add_option(item, element, wanted, options[wanted]["selected"])
        now = next((i for i, option in enumerate(options) if option["selected"]), None)
        note = f"chose an option of {in_words(item)}"
        if now == wanted:
            return f"{note} (it was chosen already)"
        await self.ask("locate", element)  # covered, disabled
        await self.ask("focus", element)
        self._begin()
        keyboard = self._page.keyboard
        await keyboard.press("Space")
        await keyboard.press("Home")
        enabled = [i for i, option in enumerate(options) if not option["disabled"]]
        for _ in range(enabled.index(wanted)):
            await keyboard.press("ArrowDown")
        await keyboard.press("Enter")
        chosen = options[wanted]["text"]
        await self._read_back(item, element, lambda held: held == chosen)
        return note

    async def _add_option(
        self, item: PageElement, element: int, wanted: int, selected: bool
    ) -> str:
        """Choose an option beside those that are chosen, as a person does with Control held."""
        note = f"chose an option of {in_words(item)} too"
        if selected:
            return f"{note} (it was chosen already)"
        await self.ask("locate", element)  # covered, disabled
        point = await self._tab.call("option", self._token(), element, wanted)
        if "why" in point:
            raise StepRefused(f"{in_words(item)} is {point['why']}")
        self._begin()
        await self._page.keyboard.down("ControlOrMeta")
        try:
            await self._page.mouse.click(point["x"], point["y"])
        finally:
            await self._page.keyboard.up("ControlOrMeta")
        if not (await self.ask("field", element))["options"][wanted]["selected"]:
            raise StepUnverified(f"{in_words(item)} holds something else than was chosen")
        return note

    async def _read_back(
        self, item: PageElement, element: int, fits: Callable[[str], bool]
    ) -> None:
        """Look up to half a second for what a field holds. Errors: StepUnverified."""
        held = ""
        for _ in range(25):
            self._check()
            try:
                held = (await self.ask("field", element))["value"] or ""
            except StepRefused as error:
                raise StepUnverified(f"{error} after it was filled in") from error
            if fits(held):
                return
            await asyncio.sleep(_POLL_S)
        raise StepUnverified(f"{in_words(item)} holds something else than was filled in")


async def _tab_of(browser: Browser, surface: str | None) -> Tab:
    """Return the asked tab, the launched browser's first, or a new one. Errors: ActuatorError."""
    if surface is not None:
        for context in browser.contexts:
            for page in context.pages:
                tab = await Tab.open(page)
                if tab.target_id == surface:
                    return tab
        raise ActuatorError("the tab to act on is not open any more")
    pages = browser.context.pages
    return await Tab.open(
        pages[0] if pages and not browser.attached else await browser.context.new_page()
    )


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
