"""Plays trained modules on live pages in Chromium: observe, encode, decide in the sandbox, act.

The pages are those of the PyPI package `miniwob`, served from one address whatever the task, with
`mode=test`. Observation, encoding, sandbox and acting are the runner's own; an episode ends with
the page, whose raw reward 1 is success.
"""

import asyncio
import dataclasses
import importlib.util
import tempfile
import threading
import time
from collections.abc import Iterable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

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
_STATE = "() => [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL, WOB_REWARD_REASON]"
# The harness's own display, which the recordings leave out too.
_HIDDEN = "#reward-display, #click-canvas { display: none !important }"
_MAX_STEPS = 40
_MAX_SHOWN = 60


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

    @property
    def success(self) -> bool:
        """Tell whether the page paid the full raw reward."""
        return self.reward == 1


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

    async def play(self, name: str, module: bytes, seeds: Iterable[int]) -> list[Episode]:
        """Play one module on a page, one episode for each seed."""
        mind, found = Mind(module), []
        url = self._pages.show(name)
        try:
            for seed in seeds:
                actuator = await self._opened(url, anew=not found)
                found.append(await _episode(mind, actuator, seed))
        finally:
            mind.close()
        return found

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
            await self._actuator._page.add_style_tag(content=_HIDDEN)
        return self._actuator

    async def close(self) -> None:
        """Close the browser; the next episode starts another."""
        if self._actuator is not None:
            await self._actuator.close()
            self._actuator = None


def decision_us(module: bytes, num_elements: int = 32, repeats: int = 300) -> float:
    """Return the median time of one metered module call on a synthetic screen, in microseconds."""
    mind = Mind(module)
    network, rng = mind.manifest.network, np.random.default_rng(0)
    x = (rng.random((num_elements, network.num_features)) < 0.06).astype(np.float32)
    g = (rng.random(network.num_context) < 0.15).astype(np.float32)
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        mind.sandbox.step(x, g)
        took.append((time.perf_counter() - began) * 1e6)
    mind.close()
    return float(np.median(took))


async def _episode(mind: Mind, actuator: BrowserActuator, seed: int) -> Episode:
    page = actuator._page
    limit_ms = await page.evaluate(_START, [str(seed)])
    began = time.monotonic()
    await asyncio.sleep(0.05)
    steps: list[dict[str, Any]] = []
    history: list[HistoryStep] = []
    slots: dict[str, str] | None = None
    ended, min_margin, last, waited = "out of steps", 1e6, None, 0
    while len(steps) < _MAX_STEPS:
        done, _, why = await page.evaluate(_STATE)
        if done:
            ended = f"page: {why}" if why else "page"
            break
        if time.monotonic() - began > limit_ms / 1000 + 1:
            ended = "time"
            break
        try:
            snapshot = await actuator.observe()
            if slots is None:
                slots = {**mind.manifest.constants, **mind.reader.told(snapshot)}
            encoded = mind.reader.encode(snapshot, slots, history)
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
            await actuator.perform(outcome.op, index, text=text, key=outcome.key)
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
    done, reward, why = await page.evaluate(_STATE)
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
    )


def _shown(element: Any) -> str:
    texts = [
        t.clear for t in (element.name, element.text, element.value) if t is not None and t.clear
    ]
    style = ".".join(element.classes or ())
    mark = f"#{element.element_id}" if element.element_id else ""
    return f"{element.tag}{mark}{'.' + style if style else ''} {' | '.join(texts)[:60]}"
