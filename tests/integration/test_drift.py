"""The changes to pages of the agents' benchmark: they change what is seen, not what is paid."""

import re

import pytest

pytest.importorskip("miniwob")

from tests.bench.agents_drift import CHANGES, SCRIPT, pays
from tests.bench.agents_play import Pages, Player

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]

TASK, SEED = "login-user", 3


@pytest.fixture
async def player():
    pages = Pages()
    player = Player(pages)
    yield player
    await player.end()
    pages.close()


async def solution_on(player):
    """Return the steps that solve the page, by the numbers that its elements are given."""
    page = await player.begin(TASK, SEED, anew=True)
    await page.evaluate(SCRIPT)
    numbers = await page.evaluate(
        "() => { drift.stamp(); return ['username', 'password', 'subbtn'].map("
        "(id) => document.getElementById(id).dataset.k); }"
    )
    name, secret = re.findall(r'"([^"]+)"', await page.evaluate("core.getUtterance()"))
    press = {"op": "click", "at": numbers[2], "x": 0.5, "y": 0.5}
    typed = zip(numbers, (name, secret), strict=False)
    return [*({"op": "fill", "at": at, "value": value} for at, value in typed), press]


async def test_a_solution_is_paid_on_every_changed_page_and_half_of_it_on_none(player):
    solution = await solution_on(player)
    for change in ("none", *CHANGES):
        assert await pays(player, TASK, SEED, solution, change), change
        assert not await pays(player, TASK, SEED, solution[1:], change), change


async def test_names_are_others_for_who_reads_the_page_and_the_same_for_its_scripts(player):
    page = await player.begin(TASK, SEED, anew=True)
    before = await page.evaluate("document.body.outerHTML")
    await page.evaluate(SCRIPT)
    await page.evaluate("drift.apply('names')")
    after = await page.evaluate("document.body.outerHTML")
    assert 'id="username"' in before
    assert 'id="username"' not in after
    assert await page.evaluate("document.querySelector('#username').id") == "username"
    written = await page.evaluate(
        "() => { const area = document.getElementById('area');"
        " area.insertAdjacentHTML('beforeend', '<b class=\"fresh\">x</b>');"
        " const found = document.querySelector('#area .fresh');"
        " return [found.className, found.matches('.fresh'), found.classList.contains('fresh'),"
        " found.outerHTML]; }"
    )
    assert written[:3] == ["fresh", True, True]
    assert 'class="fresh"' not in written[3]
