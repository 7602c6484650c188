"""Pages that have drifted: the same task with other names, boxes, labels, looks, size or order.

A change counts for a task only where a scripted solution, replayed on the changed page, is still
paid by the page's own reward. The solution is not written by hand: it is what an agent did on the
unchanged page when it was paid, recorded as trusted events on numbered elements.
"""

import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import Error, Page

from tests.bench.agents_play import STATE, Player

SCRIPT = Path(__file__).with_suffix(".js").read_text()
CHANGES = ("names", "nesting", "labels", "theme", "size", "order")
_PAUSE_S = 0.25  # pages with animations take a moment before the next step counts
_SOLUTIONS = 2  # of different seeds, all of which a change must leave paid


def change_of(seed: int) -> str:
    """Return the change that a seed's episode meets: in turn, so that all are met alike."""
    return CHANGES[seed % len(CHANGES)]


async def drift(page: Page, seed: int) -> None:
    """Change the page of a seed's episode."""
    await page.evaluate(SCRIPT)
    await page.evaluate("name => drift.apply(name)", change_of(seed))


async def unpaid(player: Player, name: str, module: bytes, seeds: list[int]) -> dict[str, str]:
    """Return the changes to leave out for a task, and why; the agent solves `seeds`."""
    solutions = []
    for seed in seeds:
        solution = await _solution(player, name, module, seed)
        if solution and await pays(player, name, seed, solution, "none"):
            solutions.append((seed, solution))
        if len(solutions) == _SOLUTIONS:
            break
    if not solutions:
        return dict.fromkeys(CHANGES, "no solution could be replayed on the unchanged page")
    return {
        change: "a solution is not paid"
        for change in CHANGES
        for seed, solution in solutions
        if not await pays(player, name, seed, solution, change)
    }


async def _solution(
    player: Player, name: str, module: bytes, seed: int
) -> list[dict[str, Any]] | None:
    async def record(page: Page, _: int) -> None:
        await page.evaluate(SCRIPT)
        await page.evaluate("() => { drift.stamp(); drift.record(); }")

    async for episode in player.play(name, module, [seed], record):
        if episode.success:
            done: list[dict[str, Any]] = await player.page.evaluate("() => drift.done()")
            return done
    return None


async def pays(
    player: Player, name: str, seed: int, solution: list[dict[str, Any]], change: str
) -> bool:
    """Tell whether a solution, replayed on a page with this change, gets the full raw reward."""
    page = await player.begin(name, seed, anew=True)
    await page.evaluate(SCRIPT)
    await page.evaluate("name => { drift.stamp(); drift.apply(name); }", change)
    try:
        for step in solution:
            if step["op"] == "click":
                x, y = await page.evaluate("step => drift.place(step.at, step.x, step.y)", step)
                await page.mouse.click(x, y)
            else:
                field = page.locator(f'[data-k="{step["at"]}"]')
                if step["op"] == "select":
                    await field.select_option(step["value"], timeout=2000)
                else:
                    await field.fill(step["value"], timeout=2000)
            await asyncio.sleep(_PAUSE_S)
        done, reward, _ = await page.evaluate(STATE)
    except Error:
        return False
    return bool(done) and reward == 1
