"""Use a page as hands do: the mouse moves and presses, keys go down and up, typos get corrected.

Everything is a trusted input event at a place on the screen. `pace` scales every pause and delay:
1 is a person's speed, 0.05 suits a test.
"""

import asyncio
import random
import string

from playwright.async_api import Locator, Page

_PAUSE_S = {"glance": (0.15, 0.5), "think": (0.5, 1.6), "read": (1.5, 4.0), "away": (4.0, 12.0)}
_KEY_S = (0.05, 0.16)
_NEIGHBOURS = "qwertyuiopasdfghjklzxcvbnm"
_PLAIN = frozenset(string.ascii_letters)
_BLANK = """([x, y]) => {
  const found = document.elementFromPoint(x, y);
  return ["HTML", "BODY", "MAIN"].includes(found?.tagName);
}"""


class Hands:
    """Mouse and keyboard of one person on one page."""

    def __init__(self, page: Page, rng: random.Random, pace: float = 1.0) -> None:
        """Use this page at this pace; `rng` decides what varies."""
        self.page = page
        self.rng = rng
        self.pace = pace

    async def pause(self, kind: str = "glance") -> None:
        """Wait as long as a glance, a thought, some reading or a moment away takes."""
        await self._wait(*_PAUSE_S[kind])

    async def _wait(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(least_s, most_s) * self.pace)

    async def read(self, seen: Locator) -> str:
        """Wait until it can be seen and return its text."""
        await seen.wait_for()
        return (await seen.inner_text()).strip()

    async def point(self, seen: Locator) -> None:
        """Scroll until it is in view, then move the mouse to some place on it."""
        await seen.wait_for()
        x, y, width, height = await self._bring_into_view(seen)
        at_x = x + width * self.rng.uniform(0.25, 0.75)
        at_y = y + height * self.rng.uniform(0.3, 0.7)
        await self.page.mouse.move(at_x, at_y, steps=self.rng.randint(3, 7))

    async def _bring_into_view(self, seen: Locator) -> tuple[float, float, float, float]:
        screen_px = await self.page.evaluate("innerHeight")
        for _ in range(20):
            box = await seen.bounding_box()
            if box is None:
                raise RuntimeError(f"nothing to see of {seen}")
            middle = box["y"] + box["height"] / 2
            if 0 < middle < screen_px:
                return box["x"], box["y"], box["width"], box["height"]
            await self.page.mouse.wheel(0, middle - screen_px * self.rng.uniform(0.4, 0.6))
            # The wheel moves the page on a later frame, at any pace.
            await asyncio.sleep(0.05)
        raise RuntimeError(f"cannot scroll to {seen}")

    async def click(self, seen: Locator, count: int = 1) -> None:
        """Click on it, or double-click."""
        await self.point(seen)
        await self.pause()
        for number in range(1, count + 1):
            await self.page.mouse.down(click_count=number)
            await self._wait(0.03, 0.09)
            await self.page.mouse.up(click_count=number)

    async def click_blank(self) -> None:
        """Click where there is nothing, if there is such a place."""
        width, height = await self.page.evaluate("[innerWidth, innerHeight]")
        for _ in range(12):
            spot = (self.rng.uniform(4, width - 24), self.rng.uniform(60, height - 10))
            if await self.page.evaluate(_BLANK, list(spot)):
                await self.page.mouse.move(*spot, steps=4)
                await self.page.mouse.down()
                await self.page.mouse.up()
                return

    async def press(self, key: str) -> None:
        """Press one named key."""
        await self.page.keyboard.down(key)
        await self._wait(*_KEY_S)
        await self.page.keyboard.up(key)

    async def type(self, text: str, slips: float = 0.02) -> int:
        """Type into whatever has the focus; return how many slips were made and corrected."""
        num_slips = 0
        for char in text:
            if char in _PLAIN and self.rng.random() < slips:
                num_slips += 1
                await self._slip()
            await self.page.keyboard.type(char)
            await self._wait(*_KEY_S)
        return num_slips

    async def _slip(self) -> None:
        num_wrong = self.rng.randint(1, 2)
        for wrong in self.rng.sample(_NEIGHBOURS, num_wrong):
            await self.page.keyboard.type(wrong)
            await self._wait(*_KEY_S)
        await self.pause()
        for _ in range(num_wrong):
            await self.press("Backspace")

    async def choose(self, choice: Locator, text: str, *, clicking: bool) -> None:
        """Choose in a native list by typing what is wanted; without a click it has the focus.

        Raises:
            RuntimeError: there is no such choice.
        """
        chosen = choice.locator("option:checked")
        for _ in range(3):
            if clicking:
                await self.click(choice)
                await self.pause()
            for char in text:
                await self.press("Space" if char == " " else char)
            if clicking:
                await self.press("Enter")
            # Type-ahead forgets after a second: on a busy machine it may need a second try.
            if await chosen.inner_text() == text:
                return
            await asyncio.sleep(1.1)
        raise RuntimeError(f"cannot choose {text!r}")
