"""Somebody who triages tickets, with a look at the rota or the closed ones now and then."""

import time

from playwright.async_api import Locator, Page

from demo.hands import Hands
from demo.person import Entry
from demo.words import chance

CHORE = "triage"
_PLACES = {"Category": "Looks like", "Urgency": "Promised for"}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Triager:
    """Works on one page of the help desk."""

    def __init__(self, page: Page, seed: int = 0, pace: float = 1.0) -> None:
        self._page = page
        self._rng = chance("triager", seed)
        self._hands = Hands(page, self._rng, pace)

    async def work(self, url: str, num: int = 12) -> list[Entry]:
        """Close `num` tickets; return the diary."""
        await self._page.goto(url)
        diary = []
        for left in range(num, 0, -1):
            diary.append(await self._triage())
            if left > 1 and self._rng.random() < 0.4:
                diary.append(await self._look_around())
        return diary

    def _heading(self, text: str) -> Locator:
        return self._page.get_by_role("heading", level=1, name=text, exact=True)

    async def _go(self, where: str) -> None:
        await self._hands.click(self._page.get_by_role("link", name=where, exact=True))
        await self._heading(where).wait_for()

    async def _triage(self) -> Entry:
        start_ms = _now_ms()
        if not await self._heading("Inbox").is_visible():
            await self._go("Inbox")
        tickets = self._page.get_by_role("tabpanel", name="Open").get_by_role("link")
        number = self._rng.choice(await tickets.all_inner_texts())
        await self._hands.click(self._page.get_by_role("link", name=number, exact=True))
        await self._heading(number).wait_for()
        await self._hands.pause("read")
        record = await self._understand(number)
        await self._hands.click(self._page.get_by_role("button", name="Triage…"))
        await self._hands.pause("think")
        await self._fill_in(record)
        await self._hands.read(self._page.get_by_role("status"))
        await self._hands.pause("think")
        return Entry(CHORE, start_ms, _now_ms(), record)

    async def _understand(self, number: str) -> dict[str, str]:
        record = {"Ticket": number}
        for label, place in _PLACES.items():
            shown = self._page.get_by_role("term").get_by_text(place, exact=True)
            record[label] = await self._hands.read(shown.locator("xpath=following-sibling::dd"))
        record["Summary"] = await self._hands.read(self._page.locator("main p").first)
        return record

    async def _fill_in(self, record: dict[str, str]) -> None:
        """Answer from top to bottom; now and then Enter in the last line of text ends it."""
        asked = await self._page.locator("dialog form > *").all_inner_texts()
        texts = [text.strip().split("\n")[0] for text in asked]
        for text in texts:
            if text == "Category":
                choice = self._page.get_by_label("Category")
                await self._hands.choose(choice, record["Category"], clicking=True)
            elif text == "Urgency":
                await self._hands.click(self._page.get_by_label(record["Urgency"], exact=True))
            elif text == "Summary":
                await self._hands.click(self._page.get_by_label("Summary"))
                await self._hands.type(record["Summary"])
                if texts.index(text) == 3 and self._rng.random() < 0.3:
                    await self._hands.press("Enter")
                    return
            elif text == "Tell the sender":
                await self._hands.click(self._page.get_by_label("Tell the sender"))
            await self._hands.pause()
        await self._hands.click(self._page.get_by_role("button", name="Close ticket"))

    async def _look_around(self) -> Entry:
        start_ms = _now_ms()
        if self._rng.random() < 0.5:
            await self._go("Rota")
            await self._hands.pause("read")
        else:
            await self._go("Inbox")
            await self._hands.click(self._page.get_by_role("tab", name="Closed"))
            await self._hands.pause("read")
            await self._hands.click(self._page.get_by_role("tab", name="Open"))
        await self._hands.click_blank()
        return Entry("look_around", start_ms, _now_ms(), {})
