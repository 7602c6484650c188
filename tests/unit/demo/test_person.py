"""Scripted people do their chores in a real browser, and the databases agree."""

import pytest

from demo.app import App
from demo.person import CHORE, Person
from tests.apps import tickets_person
from tests.apps.tickets import Tickets

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("variant", ["watch", "act"])
async def test_what_the_person_says_was_ordered_is_in_the_database(page, variant):
    with App(4, variant) as app:
        diary = await Person(page, seed=4, pace=0).work(app.url, num=4)
        done = [entry.record for entry in diary if entry.what == CHORE]
        assert app.orders() == [app.expected(record) for record in done]
    assert len({record["Customer"] for record in done}) == 4
    times = [at for entry in diary for at in (entry.start_ms, entry.end_ms)]
    assert times == sorted(times)


async def test_two_people_do_not_work_alike(page):
    diaries = []
    for seed in (1, 2):
        with App(0) as app:
            diaries.append(await Person(page, seed, pace=0).work(app.url, num=3))
    first, second = ([(e.what, e.habits) for e in diary] for diary in diaries)
    assert first != second


async def test_events_are_those_of_real_input(page):
    seen = []
    await page.expose_function("report", lambda *event: seen.append(event))
    await page.add_init_script(
        """for (const kind of ["mousedown", "click", "keydown", "input", "change"])
             addEventListener(kind, (e) => report(kind, e.isTrusted), true)"""
    )
    with App(2) as app:
        await Person(page, seed=2, pace=0).work(app.url, num=1)
    assert {kind for kind, _ in seen} == {"mousedown", "click", "keydown", "input", "change"}
    assert all(trusted for _, trusted in seen)


async def test_the_triager_closes_the_tickets_the_diary_names(page):
    with Tickets(5, "act") as app:
        diary = await tickets_person.Triager(page, seed=5, pace=0).work(app.url, num=4)
        done = [entry.record for entry in diary if entry.what == tickets_person.CHORE]
        assert app.closed() == [app.expected(record) for record in done]
    assert len(done) == 4
