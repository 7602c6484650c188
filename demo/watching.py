"""A person's own browser, watched by the product with the person's consent."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from playwright.async_api import Page, async_playwright

from demo.stack import Stack
from shared.page import ServedBrowser

__all__ = ["watched"]


@asynccontextmanager
async def watched(
    stack: Stack, *, headed: bool = False, keep: Sequence[str] = ("email",)
) -> AsyncIterator[Page]:
    """Open a browser, allow it to be watched, and hand out its page; at the end stop watching.

    `keep` names kinds of personal data that the consent lets stand.
    """
    browser = await ServedBrowser.start(stack.folder / "person", headless=not headed)
    try:
        async with async_playwright() as playwright:
            person = await playwright.chromium.connect_over_cdp(browser.url)
            page = person.contexts[0].pages[0]
            consent = {
                "source": "browser", "level": "values", "keep": list(keep),
                "attach_url": browser.url,
            }  # fmt: skip
            await stack.ask("POST", "user-monitor/consents", consent)
            recording = {"source": "browser", "attach_url": browser.url}
            await stack.ask("POST", "user-monitor/recording/start", recording)
            yield page
            await page.goto("about:blank")  # the last result has been seen
            await stack.ask("POST", "user-monitor/recording/stop", {"source": "browser"})
            await person.close()
    finally:
        await browser.close()
