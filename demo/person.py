"""A person at the order desk: turns requests into orders, and does this and that in between.

Sees what is on the screen (labels, link texts, headings), never ids, and knows nothing of the
application or of whoever watches. Returns a diary, the truth a test compares against.
"""

import random
import time
from dataclasses import dataclass

from playwright.async_api import Locator, Page

from demo import words
from demo.hands import Hands

CHORE = "order"
_CARD = {
    "Customer": "Name",
    "E-mail": "E-mail",
    "City": "City",
    "Article": "Article wanted",
    "Quantity": "How many",
    "Reference": "Request no.",
}
_TERMS = "Customer accepted the terms"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something the person did: the chore with its record, or something else."""

    what: str
    start_ms: int
    end_ms: int
    record: dict[str, str]
    habits: tuple[str, ...] = ()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Person:
    """Somebody who works on one page, a little differently each time."""

    def __init__(self, page: Page, seed: int = 0, pace: float = 1.0) -> None:
        """Work on this page; the seed decides the habits, `pace` scales every delay."""
        self._page = page
        self._rng: random.Random = words.chance(seed, "person")
        self._hands = Hands(page, self._rng, pace)
        self._habits: list[str] = []

    async def work(self, url: str, num: int = 12) -> list[Entry]:
        """Open the order desk and do the chore `num` times, with other work in between."""
        await self._page.goto(url)
        diary: list[Entry] = []
        for left in range(num, 0, -1):
            diary.append(await self._order())
            if left > 1 and self._rng.random() < 0.5:
                diary.append(await self._something_else())
        return diary

    async def _go(self, where: str) -> None:
        menu = self._page.get_by_role("navigation", name="Main")
        await self._hands.click(menu.get_by_role("link", name=where, exact=True))
        await self._heading(where).wait_for()
        await self._hands.pause()

    def _heading(self, text: str) -> Locator:
        return self._page.get_by_role("heading", level=1, name=text, exact=True)

    def _sometimes(self, habit: str, share: float) -> bool:
        if self._rng.random() < share:
            self._habits.append(habit)
            return True
        return False

    async def _order(self) -> Entry:
        self._habits = []
        start_ms = _now_ms()
        if not await self._heading("Requests").is_visible():
            await self._go("Requests")
        name = await self._pick()
        await self._open(name)
        if self._sometimes("detour", 0.12):
            await self._read_news()
            await self._go("Requests")
            await self._open(name)
        if self._sometimes("double-click", 0.15):
            await self._hands.click(self._fact(self._rng.choice(list(_CARD.values()))), count=2)
        await self._hands.click(self._page.get_by_role("link", name="New order", exact=True))
        await self._heading("New order").wait_for()
        await self._hands.pause("think")
        record = {label: await self._hands.read(self._fact(fact)) for label, fact in _CARD.items()}
        await self._fill_in(record)
        if self._sometimes("blank", 0.2):
            await self._hands.click_blank()
        await self._hands.click(self._page.get_by_role("button", name="Save", exact=True))
        await self._hands.read(self._page.get_by_role("status"))
        await self._hands.pause("think")
        return Entry(CHORE, start_ms, _now_ms(), record, tuple(self._habits))

    async def _pick(self) -> str:
        """Choose one of the next few requests that wait."""
        rows = self._page.get_by_role("row").filter(has_text="New")
        waiting = await rows.get_by_role("link").all_inner_texts()
        await self._hands.pause("think")
        return self._rng.choice(waiting[:4])

    async def _open(self, name: str) -> None:
        await self._hands.click(self._page.get_by_role("link", name=name, exact=True))
        await self._heading(name).wait_for()
        await self._hands.pause("think")

    def _fact(self, term: str) -> Locator:
        shown = self._page.get_by_role("term").get_by_text(term, exact=True)
        return shown.locator("xpath=following-sibling::dd[1]")

    async def _fill_in(self, record: dict[str, str]) -> None:
        """Fill the fields from top to bottom, as they are arranged on the screen."""
        labels = await self._page.locator("form label").all_inner_texts()
        tabbing = self._sometimes("tab", 0.35)
        if not tabbing and self._sometimes("other-order", 0.15):
            self._rng.shuffle(labels)
        if self._sometimes("blank", 0.15):
            await self._hands.click_blank()
        for place, label in enumerate(labels):
            if tabbing and place:
                await self._hands.press("Tab")
            await self._fill_one(label, record.get(label, ""), clicking=not (tabbing and place))
            await self._hands.pause()

    async def _fill_one(self, label: str, text: str, *, clicking: bool) -> None:
        control = self._page.get_by_label(label, exact=True)
        if label == _TERMS:
            await (self._hands.click(control) if clicking else self._hands.press("Space"))
            return
        if label == "Article":
            await self._hands.choose(control, text, clicking=clicking)
            return
        if clicking:
            await self._hands.click(control)
        if await self._hands.type(text):
            self._habits.append("slip")

    async def _something_else(self) -> Entry:
        start_ms = _now_ms()
        ways = (self._write_note, self._search, self._read_news, self._look_at_orders, self._filter)
        way = self._rng.choice(ways)
        await way()
        if self._rng.random() < 0.3:
            await self._hands.pause("away")
        return Entry(way.__name__.strip("_"), start_ms, _now_ms(), {})

    async def _write_note(self) -> None:
        await self._go("Notes")
        note = words.note(self._rng)
        await self._hands.click(self._page.get_by_label("New note"))
        await self._hands.type(note)
        await self._hands.click(self._page.get_by_role("button", name="Add note"))
        await self._hands.read(self._page.get_by_role("listitem").filter(has_text=note).first)

    async def _search(self) -> None:
        await self._go("Archive")
        await self._hands.click(self._page.get_by_label("Search the archive"))
        await self._hands.type(self._rng.choice(words.ARCHIVE).lower().rsplit(maxsplit=1)[-1])
        if self._rng.random() < 0.5:
            await self._hands.press("Enter")
        else:
            await self._hands.click(self._page.get_by_role("button", name="Search", exact=True))
        await self._hands.read(self._page.get_by_text("hit"))
        await self._hands.pause("read")

    async def _read_news(self) -> None:
        await self._go("News")
        headline, _ = self._rng.choice(words.NEWS)
        await self._hands.click(self._page.get_by_role("link", name=headline))
        await self._hands.read(self._page.get_by_role("article"))
        await self._hands.pause("read")

    async def _look_at_orders(self) -> None:
        await self._go("Orders")
        await self._hands.pause("read")
        await self._hands.click_blank()

    async def _filter(self) -> None:
        """Look something up in the list of requests, and leave it at that."""
        await self._go("Requests")
        await self._hands.click(self._page.get_by_label("Filter"))
        letters = self._rng.choice(words.CITIES)[:3].lower()
        await self._hands.type(letters, slips=0)
        await self._hands.pause("read")
        for _ in letters:
            await self._hands.press("Backspace")
