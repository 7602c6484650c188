"""Watches a Chromium: what a person does in its tabs, with the element tree before it.

Reads the tabs of a browser it launches, or attaches to. Writes nothing. Values of secret fields
never leave the page's process. Not covered: frames of other sites, the browser's own buttons
and dialogs, and what happens in a new tab during its first milliseconds.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Self

from playwright.async_api import BrowserContext, Dialog, Page

from services.user_monitor.capture import (
    BrowserSpec,
    RawCapture,
    RawElement,
    RawSnapshot,
    SourceKind,
)
from shared.clock import Clock
from shared.errors import CaptureError, ConfigError
from shared.page import (
    Browser,
    BrowserError,
    PageElement,
    PageMessage,
    Tab,
    application_of,
    selector_of,
)
from shared.schemas.raw_events import Action, Box, Target

__all__ = ["BrowserSource"]

_log = logging.getLogger(__name__)

_MAX_WAITING = 2_000  # captures; each may hold a snapshot of some 100 KB
_CAUSED_WITHIN_MS = 3_000  # a navigation this soon after an action in its tab follows from it


class BrowserSource:
    """Yield what a person does in one browser. Closing a launched one ends it."""

    kind = SourceKind.BROWSER

    def __init__(self, browser: Browser, clock: Clock, *, headless: bool) -> None:
        self.session = secrets.token_hex(16)
        self._browser = browser
        self._clock = clock
        self._headless = headless
        self._waiting: asyncio.Queue[RawCapture | CaptureError | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_action_ms: dict[str, int] = {}  # by target id
        self._ended = False

    @property
    def endpoint(self) -> str:
        """Return the name of the browser instance, as targets hold it."""
        return self._browser.endpoint

    @classmethod
    async def open(cls, spec: BrowserSpec, clock: Clock) -> Self:
        """Launch or attach, and watch every tab. Errors: NoBrowser, ConfigError."""
        if spec.attach_url:
            browser = await Browser.attach(spec.attach_url)
        elif spec.profile_dir:
            browser = await Browser.launch(
                spec.profile_dir, executable=spec.executable, headless=spec.headless
            )
        else:
            raise ConfigError("a browser source needs a profile_dir to launch or an attach_url")
        source = cls(browser, clock, headless=spec.headless)
        try:
            for context in browser.contexts:
                await source._watch_context(context)
            if spec.start_url and browser.context.pages:
                await browser.context.pages[0].goto(spec.start_url)
        except BrowserError as error:
            await source.close()
            raise CaptureError(f"the browser cannot be watched: {error}") from error
        return source

    async def captures(self) -> AsyncIterator[RawCapture]:
        """Yield in order of arrival; end when the browser does.

        Errors: CaptureError where captures would have been lost.
        """
        while (item := await self._waiting.get()) is not None:
            if isinstance(item, CaptureError):
                raise item
            yield item

    async def close(self) -> None:
        """Let go of the browser, ending one that was launched. Closing twice is harmless."""
        self._end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._browser.close()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._waiting.put_nowait(None)

    def _put(self, item: RawCapture | CaptureError) -> None:
        if self._ended:
            return
        if self._waiting.qsize() >= _MAX_WAITING:
            item = CaptureError(
                f"{_MAX_WAITING} browser events wait to be filtered: recording stopped so that "
                "none is lost unseen; start it again"
            )
        self._waiting.put_nowait(item)
        if isinstance(item, CaptureError):
            self._end()

    async def _watch_context(self, context: BrowserContext) -> None:
        context.on("page", self._on_page)
        context.on("close", lambda _: self._end())
        for page in context.pages:
            await self._watch_page(page, opened=False)

    def _on_page(self, page: Page) -> None:
        task = asyncio.create_task(self._watch_new_page(page))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_new_page(self, page: Page) -> None:
        try:
            await self._watch_page(page, opened=True)
        except BrowserError as error:
            if not page.is_closed():
                self._put(CaptureError("a new tab cannot be watched: recording stopped"))
                _log.warning("new tab cannot be watched", extra={"error": type(error).__name__})

    async def _watch_page(self, page: Page, *, opened: bool) -> None:
        page.on("dialog", self._on_dialog)
        tab = await Tab.open(page)
        target = Target(endpoint=self._browser.endpoint, surface=tab.target_id)
        page.on("close", lambda _: self._put(self._tab_event(Action.CLOSE, target, page)))
        if opened:
            self._put(self._tab_event(Action.OPEN, target, page))

        def on_message(message: PageMessage | CaptureError) -> None:
            if isinstance(message, PageMessage):
                self._put(self._capture(message, target))
            else:
                self._put(message)

        await tab.watch(on_message, is_new=opened)

    async def _on_dialog(self, dialog: Dialog) -> None:
        # Playwright answers dialogs nobody listens to; a person's own must stay for the person.
        if self._headless and not self._browser.attached:
            with contextlib.suppress(BrowserError):
                await dialog.dismiss()

    def _tab_event(self, action: Action, target: Target, page: Page) -> RawCapture:
        return RawCapture(
            action=action,
            untrusted_application=application_of(page.url),
            time_ms=self._clock.time_ms(),
            boottime_ms=self._clock.boottime_ms(),
            untrusted_url=page.url,
            target=target,
        )

    def _capture(self, message: PageMessage, target: Target) -> RawCapture:
        action = Action(message.action)
        last_ms = self._last_action_ms.get(target.surface)
        caused = False
        if action is Action.NAVIGATE:
            caused = last_ms is not None and message.t - last_ms <= _CAUSED_WITHIN_MS
        elif action is not Action.SCROLL:
            self._last_action_ms[target.surface] = message.t
        element = _element_of(message)
        secret = element is not None and element.is_secret
        age_ms = max(0, self._clock.time_ms() - message.t)
        return RawCapture(
            action=action,
            untrusted_application=application_of(message.url),
            time_ms=message.t,
            boottime_ms=self._clock.boottime_ms() - age_ms,
            untrusted_title=message.title,
            untrusted_url=message.url,
            element=element,
            untrusted_value=None if secret else message.value,
            shown=message.shown,
            keys=message.keys,
            count=message.count,
            target=target,
            snapshot=None
            if message.items is None
            else RawSnapshot(tuple(_raw(item) for item in message.items)),
            caused=caused,
        )


def _element_of(message: PageMessage) -> RawElement | None:
    if message.index is not None and message.items is not None:
        return _raw(message.items[message.index], selector_of(message.items, message.index))
    return _raw(message.element) if message.element else None


def _raw(item: PageElement, untrusted_selector: str | None = None) -> RawElement:
    x_px, y_px, width_px, height_px = item.box
    return RawElement(
        untrusted_role=item.role,
        index=item.index,
        parent=item.parent,
        untrusted_tag=item.tag,
        untrusted_id=item.id,
        untrusted_selector=untrusted_selector,
        untrusted_name=item.name,
        name_is_control=item.control,
        untrusted_label=item.label,
        label_is_data=item.row_label,
        untrusted_text=None if item.secret else item.text,
        untrusted_value=None if item.secret else item.value,
        is_secret=item.secret,
        states=item.states,
        untrusted_options=item.options,
        untrusted_classes=item.classes,
        untrusted_colour=item.colour,
        box=Box(x_px=x_px, y_px=y_px, width_px=width_px, height_px=height_px),
    )
