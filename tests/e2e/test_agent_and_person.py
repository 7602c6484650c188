"""An agent works in one tab while the person does the same chore in another, and is killed once.

What the agent does must teach nobody: the routine's support grows by the person's chores alone.
"""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from demo.app import App
from demo.person import Person
from shared.page import ServedBrowser
from shared.topics import Room
from tests.torture.course import Course
from tests.torture.fleet import Fleet

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SEED = 4
NUM_FIRST, NUM_MORE = 9, 7
LEASE_S = 30.0


async def test_only_what_the_person_did_is_learned(tmp_path: Path) -> None:
    browser = await ServedBrowser.start(tmp_path / "person", headless=True)
    settings = {"WAT_AGENT_RUNNER_ATTACH": browser.url, "WAT_USER_ID": "desk"}
    fleet = Fleet(tmp_path / "stack", settings)
    course = Course(fleet, tmp_path)
    try:
        await fleet.start(one_process=False)
        with App(SEED, "watch") as app:
            async with async_playwright() as playwright:
                person = await playwright.chromium.connect_over_cdp(browser.url)
                page = person.contexts[0].pages[0]
                consent = {
                    "source": "browser", "level": "values", "keep": ["email"],
                    "attach_url": browser.url,
                }  # fmt: skip
                await fleet.ask("POST", Room.USER_MONITOR, "consents", consent)
                recording = {"source": "browser", "attach_url": browser.url}
                await fleet.ask("POST", Room.USER_MONITOR, "recording/start", recording)
                await Person(page, SEED, 0.02).work(app.url, NUM_FIRST)
                await page.goto("about:blank")
                before = await supported(course, NUM_FIRST)
                routine = await course.learned("desk")
                assert routine is not None
                await course.trained(routine["routine_id"])

                working = asyncio.create_task(agent_works(course, app, routine))
                chores = asyncio.create_task(Person(page, SEED + 1, 0.02).work(app.url, NUM_MORE))
                assert await asyncio.wait_for(working, 400)
                await chores
                await page.goto("about:blank")
                assert await supported(course, before + NUM_MORE) == before + NUM_MORE
                await asyncio.sleep(LEASE_S + 5)  # what was held for a mark is let go by then
                assert await supported(course, before) == before + NUM_MORE
                await person.close()
    finally:
        await fleet.close()
        await browser.close()


async def supported(course: Course, at_least: int) -> int:
    """Wait for this support of the desk's routine; return what it is."""
    async with asyncio.timeout(120):
        while True:
            routine = await course.learned("desk")
            if routine is not None and routine["support"] >= at_least:
                return int(routine["support"])
            await asyncio.sleep(0.3)


async def agent_works(course: Course, app: App, routine: dict[str, object]) -> bool:
    """Let the agent do records, its process killed during the second; tell whether it acted."""
    runner = course.fleet.of(Room.AGENT_RUNNER)
    ends = []
    for number, record in enumerate(app.records(3)):
        doing = asyncio.create_task(course.run(routine, record, dry=False))
        if number == 1:
            await asyncio.sleep(2.0)
            assert runner.kill()
        ends.append((await doing)["state"])
    assert runner.num_killed == 1
    return ends[0] == "done" and ends[2] == "done"
