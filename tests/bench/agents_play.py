"""Plays trained modules on live pages in Chromium: observe, encode, decide in the sandbox, act.

The pages are those of the PyPI package `miniwob`, served from one address whatever the task, with
`mode=test`. Observation, encoding, sandbox and acting are the runner's own; an episode ends with
the page, whose raw reward 1 is success.
"""

import asyncio
import dataclasses
import importlib.util
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from playwright.async_api import Page

from services.agent_runner.actuators.browser import BrowserActuator
from services.agent_runner.sandbox import CALL_OK, Sandbox
from shared.encoding import HistoryStep
from shared.errors import ActuatorError, WatError
from shared.manifest import Manifest, Status
from shared.module import parse, sign, verify
from shared.reading import Reader
from shared.signing import SigningKey

_START = """([seed]) => {
  Math.seedrandom(seed);
  core.setDataMode && core.setDataMode("test");
  core.startEpisodeReal();
  return core.EPISODE_MAX_TIME;
}"""
STATE = "() => [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL, WOB_REWARD_REASON]"
# The harness's own display, which the recordings leave out too.
_HIDDEN = "#reward-display, #click-canvas { display: none !important }"
_MAX_STEPS = 40
_MAX_SHOWN = 60

Change = Callable[[Page, int], Awaitable[None]]  # changes the page of a seed's episode


@dataclasses.dataclass
class Episode:
    """What came of one seed; `steps` is what the viewer shows."""

    seed: int
    reward: float
    ended: str
    num_steps: int
    min_margin: float
    wall_s: float
    steps: list[dict[str, Any]]
    encoding_ms: float | None = None  # of the median decision
    acting_ms: float | None = None

    @property
    def success(self) -> bool:
        """Tell whether the page paid the full raw reward."""
        return self.reward == 1

    def is_reported_done(self, least_margin: float) -> bool:
        """Tell whether a run would say `done`: it acted to the page's end and was always sure.

        A page that ended by its time limit was ended by nobody.
        """
        ended = self.ended == "finished" or self.ended.startswith("page")
        return ended and "timed out" not in self.ended and self.min_margin >= least_margin


class Pages:
    """Serves one page at a time under one address."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("miniwob")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "html"
        self.names = frozenset(file.stem for file in (folder / "miniwob").glob("*.html"))
        self._shown = ""
        pages = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def translate_path(self, path: str) -> str:
                wanted = path.partition("?")[0]
                if wanted == "/miniwob/page.html":
                    wanted = f"/miniwob/{pages._shown}.html"
                return super().translate_path(wanted)

            def send_head(self) -> Any:
                if self.path.startswith("/miniwob/page.html"):  # another page under one address
                    del self.headers["If-Modified-Since"]
                return super().send_head()

            def end_headers(self) -> None:
                self.send_header("Cache-Control", "no-store")
                super().end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, name: str) -> str:
        """Serve this page from now on; return its address."""
        self._shown = name
        return f"{self.origin}/miniwob/page.html"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Noted:
    allowed_ops: tuple[str, ...] = ()

    def perform(self, op: str, element: int, slot: str | None, key: str | None) -> int:
        """Accept: the decision is acted on afterwards."""
        return CALL_OK


class Mind:
    """A module with what it needs to read a screen."""

    def __init__(self, module: bytes) -> None:
        key = SigningKey.generate()
        manifest: Manifest = parse(module).manifest
        verified = verify(
            sign(module, key), granted=manifest.capabilities, trusted_keys=[key.public]
        )
        self.manifest = manifest
        host = _Noted()
        host.allowed_ops = manifest.capabilities
        self.sandbox = Sandbox(verified, host)
        self.sandbox.load()
        self.reader = Reader(manifest)

    def close(self) -> None:
        """Free the sandbox."""
        self.sandbox.close()


class Player:
    """One Chromium in which all modules play, one after the other."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._profile = tempfile.TemporaryDirectory(prefix="wat-play-", ignore_cleanup_errors=True)
        self._actuator: BrowserActuator | None = None
        self._starts = 0

    async def play(
        self, name: str, module: bytes, seeds: Iterable[int], change: Change | None = None
    ) -> AsyncIterator[Episode]:
        """Play one module on a page, one episode for each seed.

        With `change` each episode has a page of its own, which is changed after it has begun.
        """
        mind, is_first = Mind(module), True
        try:
            for seed in seeds:
                page = await self.begin(name, seed, anew=is_first or change is not None)
                if change is not None:
                    await change(page, seed)
                assert self._actuator is not None
                yield await _episode(mind, self._actuator, seed)
                is_first = False
        finally:
            mind.close()

    async def begin(self, name: str, seed: int, *, anew: bool) -> Page:
        """Begin an episode, on a page that is loaded anew or goes on; return the page."""
        actuator = await self._opened(self._pages.show(name), anew=anew)
        await actuator._page.evaluate(_START, [str(seed)])
        await asyncio.sleep(0.05)
        return actuator._page

    async def _opened(self, url: str, *, anew: bool) -> BrowserActuator:
        if self._actuator is not None and self._actuator._stop is not None:
            await self.close()  # a dialog or a new tab ended it
        fresh = self._actuator is None
        if self._actuator is None:
            self._starts += 1
            self._actuator = await BrowserActuator.start(
                [self._pages.origin], profile_dir=Path(self._profile.name) / str(self._starts)
            )
        if fresh or anew:
            await self._actuator.open(url)
            await self._actuator._page.wait_for_load_state()  # its scripts begin an episode then
            await self._actuator._page.add_style_tag(content=_HIDDEN)
        return self._actuator

    @property
    def page(self) -> Page:
        """Return the page that is shown."""
        assert self._actuator is not None
        return self._actuator._page

    async def close(self) -> None:
        """Close the browser; the next episode starts another."""
        if self._actuator is not None:
            await self._actuator.close()
            self._actuator = None

    async def end(self) -> None:
        """Close the browser and delete its profile."""
        await self.close()
        self._profile.cleanup()


async def _episode(mind: Mind, actuator: BrowserActuator, seed: int) -> Episode:
    page = actuator._page
    limit_ms = await page.evaluate("core.EPISODE_MAX_TIME")
    began = time.monotonic()
    steps: list[dict[str, Any]] = []
    encoding_ms: list[float] = []
    acting_ms: list[float] = []
    history: list[HistoryStep] = []
    slots: dict[str, str] | None = None
    ended, min_margin, last, waited = "out of steps", 1e6, None, 0
    while len(steps) < _MAX_STEPS:
        done, _, why = await page.evaluate(STATE)
        if done:
            ended = f"page: {why}" if why else "page"
            break
        if time.monotonic() - began > limit_ms / 1000 + 1:
            ended = "time"
            break
        try:
            snapshot = await actuator.observe()
            looked = time.perf_counter()
            if slots is None:
                slots = {**mind.manifest.constants, **mind.reader.told(snapshot)}
            encoded = mind.reader.encode(snapshot, slots, history)
            encoding_ms.append((time.perf_counter() - looked) * 1e3)
            if not encoded.elements:
                await asyncio.sleep(0.1)
                waited += 1
                ended = "nothing to act on"
                if waited > 20:
                    break
                continue
            x = np.frombuffer(encoded.x, np.float32).reshape(len(encoded.elements), -1)
            outcome = mind.sandbox.step(x, np.frombuffer(encoded.g, np.float32))
            if outcome.status != Status.ACTED or outcome.op is None:
                steps.append({"status": int(outcome.status), "margin": round(outcome.margin, 2)})
                ended = "abstained" if outcome.status == Status.ABSTAINED else "finished"
                break
            index = encoded.elements[outcome.element]
            screen = frozenset(
                (e.index, str(e.text), str(e.value), e.states) for e in snapshot.elements
            )
            decided = (index, outcome.op, outcome.slot, outcome.key, screen)
            if decided == last:  # what changed nothing is not repeated: wait for the page
                waited += 1
                if waited > 15:
                    ended = "it changed nothing"
                    break
                await asyncio.sleep(0.1)
                continue
            last, waited = decided, 0
            element = next(e for e in snapshot.elements if e.index == index)
            text = slots.get(outcome.slot) if outcome.slot is not None else None
            steps.append({
                "op": outcome.op, "slot": outcome.slot, "text": text,
                "margin": round(outcome.margin, 2),
                "element": _shown(element), "num": len(encoded.elements),
                "saw": [_shown(e) for e in snapshot.elements[:_MAX_SHOWN]],
            })  # fmt: skip
            min_margin = min(min_margin, outcome.margin)
            if outcome.slot is not None and not text:
                ended = "a slot without a value"
                break
            history.append(mind.reader.step(snapshot, index, outcome.op, outcome.slot))
            acted = time.perf_counter()
            await actuator.perform(outcome.op, index, text=text, key=outcome.key)
            acting_ms.append((time.perf_counter() - acted) * 1e3)
            await actuator.settle(300)
        except ActuatorError as error:
            steps.append({"note": str(error)[:200]})
            last = None
            if len(steps) > 1 and "note" in steps[-2]:
                ended = "refused"
                break
        except WatError as error:
            ended = str(error)[:200]
            break
    done, reward, why = await page.evaluate(STATE)
    if done:
        ended = f"page: {why}" if why else "page"
    took = time.monotonic() - began
    return Episode(
        seed,
        reward if done else 0.0,
        ended,
        len(steps),
        round(min_margin, 2),
        round(took, 2),
        steps,
        round(statistics.median(encoding_ms), 2) if encoding_ms else None,
        round(statistics.median(acting_ms), 2) if acting_ms else None,
    )


def _shown(element: Any) -> str:
    texts = [
        t.clear for t in (element.name, element.text, element.value) if t is not None and t.clear
    ]
    style = ".".join(element.classes or ())
    mark = f"#{element.element_id}" if element.element_id else ""
    return f"{element.tag}{mark}{'.' + style if style else ''} {' | '.join(texts)[:60]}"
