"""Chromium as monitor and runner share it: opening one, and the script that reads its pages.

`page.js` runs in an isolated world of each page, which the page itself can neither see nor call.
It reads the same element tree for whoever watches and for whoever acts, so an agent meets what
it was trained on. Chromium is launched over a pipe, in a profile of its own with mode 0700;
attaching to a running one goes through its open debugging port, which every local account can
reach: whoever calls `attach` has asked the user.

Reads pages. Writes nothing but the browser's profile. Not covered: frames of other sites (their
processes), closed shadow roots, other browsers than those of the Chromium family.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from playwright.async_api import (
    Browser as RemoteBrowser,
)
from playwright.async_api import (
    BrowserContext,
    CDPSession,
    Page,
    Playwright,
    async_playwright,
)
from playwright.async_api import Error as BrowserError
from pydantic import Field, ValidationError

from shared.errors import CaptureError, NoBrowser
from shared.schemas.base import Frozen
from shared.schemas.raw_events import Shown

__all__ = [
    "Browser",
    "BrowserError",
    "PageElement",
    "PageMessage",
    "PageTree",
    "ServedBrowser",
    "Tab",
    "application_of",
    "find_browser",
    "selector_of",
]

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "chrome",
    "microsoft-edge",
    "brave-browser",
    "chromium-headless-shell",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_FLAGS = (
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_VIEW = {"width": 1280, "height": 900}
_START_TIMEOUT_S = 30.0


class PageElement(Frozen):
    """One element as page.js describes it; every text is the page's own and unfiltered."""

    index: int | None = None  # None: it is not in the tree it comes with
    parent: int | None = None
    role: str
    tag: str = ""
    id: str | None = None
    name: str | None = None
    control: bool = False  # the name is a control's
    row_label: bool = False  # the label is a row's header
    label: str | None = None
    text: str | None = None
    value: str | None = None
    secret: bool = False
    states: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    colour: str | None = None
    box: tuple[float, float, float, float]  # x, y, width, height in CSS pixels


class PageTree(Frozen):
    """The visible elements of a page, in document order; `token` names this reading."""

    token: str = ""
    url: str
    title: str
    items: tuple[PageElement, ...]


class PageMessage(Frozen):
    """What the watching script reports of one action."""

    action: str
    t: int = Field(description="milliseconds since the Unix epoch")
    url: str
    title: str
    items: tuple[PageElement, ...] | None = None  # the tree before the action
    index: int | None = None
    element: PageElement | None = None  # where the tree does not hold it
    value: str | None = None
    shown: Shown | None = None
    keys: str | None = None
    count: int | None = None


def application_of(url: str) -> str:
    """Name the application of a page: host and port on the web, else the URL's scheme."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "unknown"
    if parts.scheme in ("http", "https") and parts.netloc:
        return parts.netloc.rpartition("@")[2].lower()
    return parts.scheme or "unknown"


def selector_of(items: tuple[PageElement, ...], index: int) -> str:
    """Return the path of role and position to an element, as in main/form/textbox:2.

    A position counts the elements of the same role under the same parent, from 1; 1 is left out.
    """
    steps: list[str] = []
    at: int | None = index
    while at is not None:
        item = items[at]
        place = sum(
            1
            for other in items[: at + 1]
            if other.parent == item.parent and other.role == item.role
        )
        steps.append(item.role if place == 1 else f"{item.role}:{place}")
        at = item.parent
    return "/".join(reversed(steps))


def find_browser(executable: str | None = None) -> str:
    """Return the path of a Chromium. Errors: NoBrowser, saying how to get one."""
    for name in (executable,) if executable else _NAMES:
        found = shutil.which(name)
        if found:
            return found
    if executable:
        raise NoBrowser(f"no browser at {executable}: give the path of a Chromium or Chrome")
    raise NoBrowser(
        "no Chromium found: install one (Debian and Ubuntu: `apt-get install chromium`, Fedora: "
        "`dnf install chromium`, macOS: `brew install --cask chromium`), or set its path"
    )


@cache
def _script(mode: Literal["watch", "act"], is_new: bool = False) -> str:
    source = files("shared").joinpath("page.js").read_text(encoding="utf-8")
    return f'(\n{source.rstrip().removesuffix(";")}\n)("{mode}", {json.dumps(is_new)})'


def _sandboxed() -> bool:
    return os.name == "nt" or os.geteuid() != 0  # Chromium's sandbox refuses to run as root


def _own_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


class Browser:
    """One open Chromium. `endpoint` names the instance, the same for all who attach to it."""

    def __init__(
        self,
        playwright: Playwright,
        context: BrowserContext,
        endpoint: str,
        remote: RemoteBrowser | None,
    ) -> None:
        self._playwright = playwright
        self._remote = remote
        self._closed = False
        self.context = context
        self.endpoint = endpoint

    @property
    def attached(self) -> bool:
        """Tell whether it belongs to somebody else."""
        return self._remote is not None

    @property
    def contexts(self) -> list[BrowserContext]:
        """Return every context, the private windows' too."""
        return self._remote.contexts if self._remote else [self.context]

    @classmethod
    async def launch(
        cls, profile_dir: Path, *, executable: str | None = None, headless: bool = False
    ) -> Self:
        """Start a Chromium over a pipe. Errors: NoBrowser."""
        found = find_browser(executable)
        _own_folder(profile_dir)
        playwright = await async_playwright().start()
        try:
            context = await playwright.chromium.launch_persistent_context(
                profile_dir,
                executable_path=found,
                headless=headless,
                chromium_sandbox=_sandboxed(),
                args=[*_FLAGS, *(["--disable-gpu"] if headless else [])],
                no_viewport=None if headless else True,
                viewport={"width": 1280, "height": 900} if headless else None,
                accept_downloads=not headless,
                timeout=_START_TIMEOUT_S * 1000,
            )
        except BrowserError as error:
            await playwright.stop()
            raise NoBrowser(f"{found} does not start: {_first_line(error)}") from error
        return cls(playwright, context, f"browser:{secrets.token_hex(16)}", None)

    @classmethod
    async def attach(cls, url: str) -> Self:
        """Connect to a Chromium that listens at `url`, as http://127.0.0.1:9222.

        Errors: NoBrowser.
        """
        playwright = await async_playwright().start()
        try:
            endpoint = await _endpoint_of(playwright, url)
            remote = await playwright.chromium.connect_over_cdp(
                url, timeout=_START_TIMEOUT_S * 1000
            )
        except (BrowserError, ValueError, KeyError) as error:
            await playwright.stop()
            raise NoBrowser(
                f"no Chromium answers at {url}: start one with --remote-debugging-port and a "
                f"--user-data-dir of its own ({_first_line(error)})"
            ) from error
        return cls(playwright, remote.contexts[0], endpoint, remote)

    async def close(self) -> None:
        """Close a launched browser, let go of an attached one. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(BrowserError):
            await (self._remote.close() if self._remote else self.context.close())
        await self._playwright.stop()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


async def _endpoint_of(playwright: Playwright, url: str) -> str:
    """Derive the instance's name from the id in its debugger address, equal for all clients."""
    request = await playwright.request.new_context()
    try:
        answer = await request.get(f"{url.rstrip('/')}/json/version", timeout=10_000)
        address: str = (await answer.json())["webSocketDebuggerUrl"]
    finally:
        await request.dispose()
    return f"browser:{address.rpartition('/')[2]}"


class ServedBrowser:
    """A Chromium in a profile of its own that listens on a port for several clients to attach."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self.url = url

    @classmethod
    async def start(
        cls, profile_dir: Path, *, executable: str | None = None, headless: bool = False
    ) -> Self:
        """Start one on a free port of the loopback interface. Errors: NoBrowser."""
        found = find_browser(executable)
        _own_folder(profile_dir)
        note = profile_dir / "DevToolsActivePort"
        note.unlink(missing_ok=True)
        flags = [
            *_FLAGS,
            "--remote-debugging-port=0",
            f"--user-data-dir={profile_dir}",
            "--password-store=basic",
            f"--window-size={_VIEW['width']},{_VIEW['height']}",
            *(["--headless=new", "--disable-gpu"] if headless else []),
            *([] if _sandboxed() else ["--no-sandbox"]),
        ]
        process = await asyncio.create_subprocess_exec(
            found,
            *flags,
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        served = cls(process, "")
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not (port := _port_in(note)):
                    if process.returncode is not None:
                        raise NoBrowser(f"{found} ended at once, with status {process.returncode}")
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            await served.close()
            raise NoBrowser(f"{found} opened no port in {_START_TIMEOUT_S:.0f} s") from error
        served.url = f"http://127.0.0.1:{port}"
        return served

    async def close(self) -> None:
        """End the browser and its children. Closing twice is harmless."""
        if self._process.returncode is not None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 5.0)
                return


def _port_in(note: Path) -> int | None:
    try:
        return int(note.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None  # not written yet


class Tab:
    """One page with our script in an isolated world of its own."""

    def __init__(self, page: Page, session: CDPSession, target_id: str) -> None:
        self.page = page
        self.session = session
        self.target_id = target_id
        self._world: int | None = None  # execution context that `call` last used

    @classmethod
    async def open(cls, page: Page) -> Self:
        """Get hold of a page. Errors: BrowserError where it has gone."""
        session = await page.context.new_cdp_session(page)
        info = await session.send("Target.getTargetInfo")
        return cls(page, session, info["targetInfo"]["targetId"])

    async def watch(
        self, on_message: Callable[[PageMessage | CaptureError], None], *, is_new: bool
    ) -> None:
        """Report what a person does on the page, in all frames of its process, from now on.

        `is_new`: the tab has just been opened, so that what it shows has just arrived. What cannot
        be read is reported as an error: raised here, it would end in the browser's client, unseen.
        """

        def called(event: dict[str, Any]) -> None:
            if event["name"] == "watEmit":
                on_message(_parse_message(event["payload"]))

        self.session.on("Runtime.bindingCalled", called)
        await self.session.send("Page.enable")
        await self.session.send("Runtime.enable")
        world = "wat-watch"
        await self.session.send(
            "Runtime.addBinding", {"name": "watEmit", "executionContextName": world}
        )
        await self.session.send(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": _script("watch", is_new), "worldName": world, "runImmediately": True},
        )

    async def call(self, function: str, *arguments: str | int) -> Any:
        """Call one of the acting script's functions on the page as it is now.

        Errors: BrowserError where the page is going away.
        """
        listed = ", ".join(json.dumps(argument) for argument in arguments)
        for attempt in range(2):
            if self._world is None:
                self._world = await self._enter()
            try:
                answer = await self.session.send(
                    "Runtime.evaluate",
                    {
                        "expression": f"wat.toJson(wat.{function}({listed}))",
                        "contextId": self._world,
                        "returnByValue": True,
                    },
                )
            except BrowserError:
                self._world = None  # the page was left; its successor has another world
                if attempt:
                    raise
                continue
            if "exceptionDetails" in answer:
                raise BrowserError(f"page script: {answer['exceptionDetails'].get('text')}")
            return json.loads(answer["result"]["value"])
        raise AssertionError("unreachable")

    async def read(self) -> PageTree:
        """Read the visible element tree. Errors: BrowserError."""
        return PageTree.model_validate(await self.call("observe"))

    async def _enter(self) -> int:
        frame = (await self.session.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        world: int = (
            await self.session.send(
                "Page.createIsolatedWorld", {"frameId": frame, "worldName": "wat-act"}
            )
        )["executionContextId"]
        await self.session.send(
            "Runtime.evaluate", {"expression": _script("act"), "contextId": world}
        )
        return world


def _parse_message(payload: str) -> PageMessage | CaptureError:
    try:
        return PageMessage.model_validate_json(payload)
    except ValidationError:
        # Only a broken renderer can send this; its text must not reach a log.
        return CaptureError("a page sent a message that is not one of ours: recording stopped")
