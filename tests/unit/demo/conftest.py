import os
import shutil

import pytest
from playwright.async_api import async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")


@pytest.fixture
async def page():
    """A page of a headless browser, as wide as a small laptop's."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=flags)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        yield page
        await browser.close()
