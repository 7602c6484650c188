"""`wat demo`: a person does a chore, the product watches, learns, trains, and does it itself.

Everything shown is measured: the person works through real input events in a real Chromium, the
services run as `wat up` in a process of their own, and what the agent did is read back from the
application's database.
"""

import asyncio
import gzip
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo.app import App
from demo.person import CHORE, Entry, Person
from demo.stack import Stack, StackError, values_of
from demo.view import View
from demo.watching import watched
from shared.errors import NoBrowser
from shared.page import find_browser

NUM_CHORES, NUM_RECORDS = 12, 5
_STAGES = {
    "start": "Start the services",
    "watch": "Watch a person work",
    "learn": "Find the routine",
    "train": "Train the agent",
    "dry": "Dry run",
    "act": "Do 5 records never seen",
    "changed": "Meet a changed page",
}
_NUM_WITHOUT_BROWSER = 4
_RECORDED = Path(__file__).parent / "recorded.jsonl.gz"
_MARKER = ".wat-demo"
_LEARN_S, _TRAIN_S, _RUN_S = 60.0, 180.0, 180.0


@dataclass
class Figures:
    """What was measured, in the order of the stages."""

    num_events: int = 0
    num_chores: int = 0
    watch_s: float = 0.0
    learn_s: float = 0.0
    support: int = 0
    train_s: float = 0.0
    size_bytes: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    run_s: float = 0.0
    num_right: int = 0
    num_wrong: int = 0
    stopped: bool = False
    stop_reason: str = ""
    model_id: str = ""
    routine_id: str = ""


async def main(
    *, seed: int, folder: Path, headed: bool = False, pace: float = 0.03, recorded: bool = False
) -> tuple[bool, Figures]:
    """Run the demonstration in `folder`, which is made anew; tell whether all of it held.

    Without a browser, or asked to, it replays a recorded log and ends with the trained agent.
    Raises StackError.
    """
    _empty(folder)
    figures = Figures()
    settings = {
        "WAT_AGENT_TRAINER_AUTO_TRAIN": "true",
        "WAT_AGENT_RUNNER_HEADLESS": "false" if headed else "true",
    }
    missing = "asked to replay a recorded log" if recorded else _missing_browser()
    stages = dict(list(_STAGES.items())[: _NUM_WITHOUT_BROWSER if missing else None])
    with View(f"WasmAgentTrainer · demo, seed {seed}", stages) as view:
        view.begin("start")
        began = time.monotonic()
        async with Stack(folder, settings) as stack:
            view.end("start", f"ready at {stack.address} in {time.monotonic() - began:.1f} s")
            if missing:
                await _replay(stack, view, figures, missing)
                card = await _train(stack, view, figures, await _learn(stack, view, figures))
            else:
                with App(seed, "watch") as app:
                    port = urlsplit(app.url).port or 0
                    await _watch(stack, app, view, figures, seed, headed, pace)
                routine = await _learn(stack, view, figures)
                card = await _train(stack, view, figures, routine)
                with App(seed, "act", port=port) as app:
                    await _act(stack, app, view, figures, routine)
                with App(seed, "changed", port=port) as app:
                    await _meet_change(stack, app, view, figures, routine)
    view.summary(_measured(figures), _closer(folder, figures, card))
    acted = figures.num_right == NUM_RECORDS and not figures.num_wrong and figures.stopped
    return acted or bool(missing), figures


def _empty(folder: Path) -> None:
    """Remove what an earlier demonstration left; never anything else. Raises StackError."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise StackError(f"{folder} holds something else: name an empty folder, or remove it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    (folder / _MARKER).touch()


def _missing_browser() -> str:
    """Return how to get a browser where there is none, else nothing."""
    try:
        find_browser()
    except NoBrowser as error:
        return str(error)
    return ""


async def _replay(stack: Stack, view: View, figures: Figures, reason: str) -> None:
    """Feed in a log that was recorded of the same person at the same application."""
    view.begin("watch", reason)
    started = time.monotonic()
    content = gzip.decompress(_RECORDED.read_bytes()).decode()
    consent = {"source": "replay", "level": "values", "keep": ["email"]}
    await stack.ask("POST", "user-monitor/consents", consent)
    await stack.ask("POST", "user-monitor/replay", {"content": content, "format": "jsonl"})

    num_events = sum('"action":' in line for line in content.splitlines())

    async def published() -> int | None:
        found = len(await stack.all("user-monitor/events"))
        return found if found >= num_events else None

    figures.num_events = await stack.until("the log was not taken in", published, _LEARN_S)
    figures.num_chores, figures.watch_s = NUM_CHORES, time.monotonic() - started
    view.end("watch", f"{figures.num_events} recorded events replayed ({reason})")


async def _watch(
    stack: Stack, app: App, view: View, figures: Figures, seed: int, headed: bool, pace: float
) -> None:
    """Let the person work in a browser that the monitor attaches to, with consent."""
    view.begin("watch", "opening a browser")
    started = time.monotonic()
    async with watched(stack, headed=headed) as page:
        showing = asyncio.create_task(_show_events(stack, view, figures))
        try:
            diary = await Person(page, seed, pace).work(app.url, NUM_CHORES)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    figures.num_events = len(await stack.all("user-monitor/events"))
    figures.num_chores = sum(entry.what == CHORE for entry in diary)
    figures.watch_s = time.monotonic() - started
    view.end("watch", _diary_words(diary, figures))


def _diary_words(diary: Sequence[Entry], figures: Figures) -> str:
    others = len(diary) - figures.num_chores
    return f"{figures.num_events} events of {figures.num_chores} chores and {others} other things"


async def _show_events(stack: Stack, view: View, figures: Figures) -> None:
    """Show events as they arrive on the topic."""
    while True:
        async for event in stack.events(figures.num_events):
            element, value = event.get("element") or {}, event.get("value") or {}
            name = element.get("label") or (element.get("name") or {}).get("clear") or ""
            target = f"{element.get('role', '')} {name}".strip() or event.get("document") or ""
            view.event(event["action"], target, value.get("clear") or "")
            figures.num_events += 1
        view.update("watch", f"{figures.num_events} events on raw-events")
        await asyncio.sleep(0.5)


async def _learn(stack: Stack, view: View, figures: Figures) -> dict[str, Any]:
    view.begin("learn", "mining the unsegmented stream")
    started = time.monotonic()
    await _until_read(stack, "task-learner")
    routine = await stack.routine(NUM_CHORES * 3 // 4, _LEARN_S)
    figures.learn_s = time.monotonic() - started
    figures.support = routine["support"]
    figures.routine_id = routine["routine_id"]
    view.routine(f"“{routine['name']}”", [_step_words(step) for step in routine["steps"]])
    names = ", ".join(parameter["name"] for parameter in routine["parameters"])
    view.end("learn", f"“{routine['name']}”, seen {routine['support']} times, varies in {names}")
    return routine


async def _until_read(stack: Stack, room: str) -> None:
    """Wait until the room's support no longer grows."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 2.0:
        now = sum(line["support"] for line in await stack.all(f"{room}/routines"))
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.2)


def _step_words(step: dict[str, Any]) -> str:
    what = step.get("label") or step.get("role") or step.get("document") or ""
    value = step.get("parameter") and f" ← {step['parameter']}"
    constant = step.get("constant") and f" = {step['constant']}"
    return f"{step['action']} {what}{value or constant or ''}"


async def _train(
    stack: Stack, view: View, figures: Figures, routine: dict[str, Any]
) -> dict[str, Any]:
    """Wait for the last training that the routine set off by itself, and show how it goes."""
    view.begin("train", "waiting for the training to begin")
    started = time.monotonic()

    async def show(training: dict[str, Any]) -> None:
        await _follow(stack, view, training)

    card = await stack.agent(routine["routine_id"], _TRAIN_S, show)
    figures.train_s = time.monotonic() - started
    figures.size_bytes, figures.metrics = card["size_bytes"], card["metrics"]
    figures.model_id = card["id"]
    view.end("train", f"{card['size_bytes'] / 1024:.0f} KiB of WebAssembly ({card['precision']})")
    return card


async def _follow(stack: Stack, view: View, training: dict[str, Any]) -> None:
    """Show one training's progress until it ends."""
    async for line in stack.follow(f"agent-trainer/trainings/{training['id']}/events"):
        said = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("event", "reason"))
        view.update("train", f"{line.get('event', '')} {said}")


async def _act(
    stack: Stack, app: App, view: View, figures: Figures, routine: dict[str, Any]
) -> None:
    """Let the agent do records it has never seen; the application's database is the judge."""
    records = app.records(NUM_RECORDS)
    rows = [values_of(routine, record) for record in records]
    view.begin("dry", "what it would do with the first record")
    dry = await stack.run(_asked(routine, rows[:1], dry_run=True), _RUN_S)
    if app.orders():
        raise StackError("the dry run changed something")
    steps = dry["records"]["items"][0]["num_steps"]
    view.end("dry", f"{steps} steps decided, nothing changed")
    view.records(list(rows[0]), [list(row.values()) for row in rows])
    view.begin("act")
    started = time.monotonic()
    run = await stack.run(_asked(routine, rows, keep_going=True), _RUN_S)
    figures.run_s = time.monotonic() - started
    saved = app.orders()
    for number, (record, done) in enumerate(zip(records, run["records"]["items"], strict=True)):
        right = app.expected(record) in saved and done["state"] == "done"
        figures.num_right += right
        said = "read back from the database" if right else done["reason"] or done["state"]
        view.record(number, "done" if right else "failed", said)
    figures.num_wrong = sum(order not in map(app.expected, records) for order in saved)
    figures.num_wrong += max(0, len(saved) - NUM_RECORDS)
    ok = figures.num_right == NUM_RECORDS and not figures.num_wrong
    view.end("act", f"{figures.num_right} of {NUM_RECORDS} right, {figures.num_wrong} wrong", ok=ok)


async def _meet_change(
    stack: Stack, app: App, view: View, figures: Figures, routine: dict[str, Any]
) -> None:
    """Change the page in a way that matters: the agent must stop and say why, and save nothing."""
    view.begin("changed", app.change)
    record = app.records(1)[0]
    run = await stack.run(_asked(routine, [values_of(routine, record)]), _RUN_S)
    done = run["records"]["items"][0]
    figures.stopped = done["state"] == "stopped" and not app.orders()
    figures.stop_reason = done["reason"] or done["state"]
    view.end("changed", f"{app.change} — stopped: {figures.stop_reason}", ok=figures.stopped)


def _asked(routine: dict[str, Any], rows: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    return {"routine_id": routine["routine_id"], "records": rows, **more}


def _measured(figures: Figures) -> list[tuple[str, str]]:
    shown = [
        ("Watched", f"{figures.num_events} events in {figures.watch_s:.1f} s"),
        ("Routine", f"{figures.support} of {figures.num_chores} chores found unlabelled, "
                    f"{figures.learn_s:.1f} s after the last event"),
        ("Agent", f"{figures.size_bytes} bytes, trained in {figures.train_s:.1f} s"),
    ]  # fmt: skip
    if figures.run_s:
        shown += [
            ("Records", f"{figures.num_right} of {NUM_RECORDS} right, {figures.num_wrong} wrong, "
                        f"{figures.run_s / NUM_RECORDS:.1f} s each"),
            ("Changed page", figures.stop_reason),
        ]  # fmt: skip
    held = {k: v for k, v in figures.metrics.items() if k.startswith("held_out_")}
    return shown + [(f"  {name.replace('_', ' ')}", f"{held[name]:.4g}") for name in sorted(held)]


def _closer(folder: Path, figures: Figures, card: dict[str, Any]) -> list[tuple[str, str]]:
    wat = Path(sys.executable).with_name("wat")
    variables = f"WAT_DATA_DIR={folder / 'data'} WAT_CONFIG_DIR={folder / 'config'}"
    digest = card["artifact"]
    module = folder / "data" / "artifacts" / "agent-trainer" / digest[:2] / digest
    return [
        ("Routine", f"{variables} {wat} routines show {figures.routine_id}"),
        ("Runs", f"{variables} {wat} runs list"),
        ("REST", f"{variables} {wat} up   (REST is at the address it prints)"),
        ("Module", str(module)),
    ]
