"""The agent-runner as it is built, on a log, in a real Chromium, on the order desk.

The module knows two demonstrations by heart; the desk it then works on has other customers, another
order of list, fields and choices, and other ids.
"""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.app import App
from services.agent_runner import runs
from services.agent_runner.actuators.browser import BrowserActuator
from services.agent_runner.runner import RunAsked, Runner
from services.agent_runner.runs import RunRow
from services.serve import build_service
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Bus, Effects, open_bus
from shared.clock import SystemClock
from shared.encoding import FIELD_ROLES
from shared.module import ActionEntry
from shared.schemas import RunMark, RunState, decode
from shared.settings import CommonSettings
from shared.signing import SigningKey
from shared.topics import Room, Topic
from tests.unit.agent_runner.conftest import card
from tests.unit.agent_runner.memory import Lesson, Move, Pick, demonstrate, memorise

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SLOTS = {
    "customer": "Customer",
    "e_mail": "E-mail",
    "city": "City",
    "article": "Article",
    "quantity": "Quantity",
    "reference": "Reference",
}
TYPED = [slot for slot in SLOTS if slot != "article"]


def named(role: str, name: str) -> Pick:
    return lambda e, _: e.role == role and e.name is not None and e.name.clear == name


def field(label: str) -> Pick:
    return lambda e, _: e.role in FIELD_ROLES and e.label == label


MOVES = (
    Move(ActionEntry(op="click"), lambda e, v: named("link", v["customer"])(e, v)),
    Move(ActionEntry(op="click"), named("link", "New order")),
    *(Move(ActionEntry(op="type_text", slot=slot), field(SLOTS[slot])) for slot in TYPED),
    Move(ActionEntry(op="select_option", slot="article"), field(SLOTS["article"])),
    Move(ActionEntry(op="click"), field("Customer accepted the terms")),
    Move(ActionEntry(op="click"), named("button", "Save")),
)


def by_slot(record: dict[str, str]) -> dict[str, str]:
    return {slot: record[label] for slot, label in SLOTS.items()}


@dataclass(frozen=True)
class Taught:
    """A module that was taught on the desk, and where the desk stood."""

    module: bytes
    key_dir: Path
    port: int

    @contextmanager
    def desk(self, variant: str, **options: object) -> Iterator[App]:
        with App(3, variant, port=self.port, **options) as app:
            yield app


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("taught")
    key = SigningKey.load_or_create(folder / "keys")

    async def teach(app: App) -> list[Lesson]:
        screen = await BrowserActuator.start([app.url], profile_dir=folder / "browser")
        try:
            return [
                await demonstrate(screen, app.url, MOVES, by_slot(record))
                for record in app.records(2)
            ]
        finally:
            await screen.close()

    with App(3, "watch") as app:
        lessons = asyncio.run(teach(app))
        module = memorise(lessons, key, start_url=app.url, slots=tuple(SLOTS))
        return Taught(module, folder / "keys", int(app.url.rsplit(":", 1)[1].strip("/")))


@dataclass
class Runs:
    """A running room."""

    logic: Runner
    folder: Path

    async def done(self, records: list[dict[str, str]], **asked: object) -> RunRow:
        fields = {"routine_id": "routine-1", "records": records, "approve": "once", **asked}
        run = await self.logic.ask(RunAsked(**fields))
        jobs = "SELECT 1 FROM jobs WHERE id = ? AND state IN ('asked', 'running')"
        async with asyncio.timeout(300):
            while self.logic.port.store.query(jobs, (run.run_id,)):
                await asyncio.sleep(0.05)
        return runs.get_run(self.logic.port.store, run.run_id)

    def records(self, run: RunRow) -> list[runs.RecordRow]:
        return runs.list_records(self.logic.port.store, run.run_id, -1, 100)


async def publish(taught: Taught, bus: Bus, folder: Path) -> None:
    """Hand the module over as the trainer does."""
    (folder / "keys").symlink_to(taught.key_dir)
    trainer = await bus.open_port(Room.AGENT_TRAINER, (), ARTIFACT_TABLE, "")
    effects = Effects(Room.AGENT_TRAINER)
    artifacts = Artifacts(folder / "artifacts", Room.AGENT_TRAINER)
    effects.publish(card(artifacts.put(taught.module, effects)))
    await trainer.commit(effects)


async def running(taught: Taught, folder: Path, **settings: object) -> AsyncIterator[Runs]:
    common = CommonSettings(data_dir=folder, config_dir=folder / "config", user_id="user")
    clock = SystemClock()
    bus = open_bus(common.bus, folder, clock)
    await publish(taught, bus, folder)
    service = build_service(Room.AGENT_RUNNER, common, clock, **settings)
    await service.open(bus, "")
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    async with asyncio.timeout(300):
        while "routine-1" not in service.logic.catalog.agents:
            await asyncio.sleep(0.02)
    yield Runs(service.logic, folder)
    stop.set()
    await task
    await bus.close()


@pytest.fixture
async def room(taught: Taught, tmp_path: Path) -> AsyncIterator[Runs]:
    async for found in running(taught, tmp_path):
        yield found


async def test_records_it_has_never_seen_are_done_on_a_rearranged_desk(room, taught):
    with taught.desk("act") as app:
        records = app.records(2)
        run = await room.done([by_slot(record) for record in records])
        assert (run.state, run.reason) == (RunState.DONE, None)
        assert app.orders() == [app.expected(record) for record in records]
    profile = room.folder / "agent-browser"
    assert stat.S_IMODE(profile.stat().st_mode) == 0o700
    messages = await room.logic.port.read(Topic.RUNS, 0, 0, 100)
    marks = [r for r in (decode(m.value, m.headers) for m in messages) if isinstance(r, RunMark)]
    assert marks[0].end_boottime_ms is None
    assert marks[-1].end_boottime_ms is not None
    assert isinstance(decode(messages[0].value, messages[0].headers), RunMark)


@pytest.mark.parametrize("change", range(6))
async def test_a_page_that_changed_in_a_way_that_matters_stops_the_agent(room, taught, change):
    with taught.desk("changed", change=change) as app:
        run = await room.done([by_slot(app.records(1)[0])])
        assert run.state is RunState.STOPPED, run.reason
        assert run.reason
        assert app.orders() == []


async def test_a_dry_run_needs_no_approval_ends_before_it_saves_and_saves_nothing(room, taught):
    with taught.desk("act") as app:
        run = await room.done([by_slot(app.records(1)[0])], dry_run=True, approve=None)
        assert run.state is RunState.DONE, run.reason
        (record,) = room.records(run)
        assert "ended at click on button 'Save'" in record.reason
        assert record.num_steps == len(MOVES)
        assert app.orders() == []


async def test_the_kill_switch_closes_the_browser_and_saves_nothing(room, taught):
    with taught.desk("act") as app:
        asked = await room.logic.ask(
            RunAsked(
                routine_id="routine-1",
                records=[by_slot(record) for record in app.records(3)],
                approve="once",
            )
        )
        async with asyncio.timeout(300):
            while not room.logic.port.store.query("SELECT 1 FROM steps LIMIT 1 OFFSET 2"):
                await asyncio.sleep(0.01)
        await room.logic.stop_all()
        steps = room.logic.port.store.query("SELECT count(*) FROM steps")
        await asyncio.sleep(0.5)
        assert room.logic.port.store.query("SELECT count(*) FROM steps") == steps
        assert app.orders() == []
        run = runs.get_run(room.logic.port.store, asked.run_id)
        assert run.state in (RunState.CANCELLED, RunState.IN_DOUBT, RunState.STOPPED)


async def test_a_missing_browser_fails_the_record_and_says_how_to_get_one(
    taught: Taught, tmp_path: Path
):
    async for room in running(taught, tmp_path, browser="/nowhere/chromium"):
        values = dict.fromkeys(SLOTS, "x")
        run = await room.done([values, values])
        assert run.state is RunState.FAILED
        assert "/nowhere/chromium" in run.reason
        assert [r.state for r in room.records(run)] == [RunState.FAILED, RunState.CANCELLED]


SERVE = """
import asyncio, sys
from shared.clock import SystemClock
from shared.settings import CommonSettings, load
from shared.topics import Room
from services.serve import build_service, serve

common = load(CommonSettings)
common.make_folders()
clock = SystemClock()
service = build_service(Room.AGENT_RUNNER, common, clock)
asyncio.run(serve([service], common, clock, 0, lambda address: print(address, flush=True)))
"""


class Process:
    """The room in a process of its own, to be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> httpx.AsyncClient:
        environment = {
            **os.environ,
            "WAT_DATA_DIR": str(self._folder),
            "WAT_CONFIG_DIR": str(self._folder / "config"),
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(300):
            address = (await self._process.stdout.readline()).decode().strip()
        token = (self._folder / "config" / "token").read_text().strip()
        return httpx.AsyncClient(
            base_url=f"{address}/v1/agent-runner/", headers={"Authorization": f"Bearer {token}"}
        )

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()


async def until(
    rest: httpx.AsyncClient, run_id: str, condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    async with asyncio.timeout(300):
        while True:
            shown: dict[str, Any] = (await rest.get(f"runs/{run_id}")).json()
            if condition(shown):
                return shown
            await asyncio.sleep(0.02)


async def test_a_run_whose_process_is_killed_is_handed_to_the_user_and_repeats_nothing(
    taught: Taught, tmp_path: Path
):
    bus = open_bus(f"log:{tmp_path / 'log'}", tmp_path, SystemClock())
    await publish(taught, bus, tmp_path)
    process = Process(tmp_path)
    with taught.desk("act") as app:
        rest = await process.start()
        async with asyncio.timeout(300):
            while not (await rest.get("models")).json()["items"]:
                await asyncio.sleep(0.05)
        body = {
            "routine_id": "routine-1",
            "records": [by_slot(record) for record in app.records(2)],
            "approve": "once",
        }
        run_id = (await rest.post("runs", json=body)).json()["run_id"]
        await until(rest, run_id, lambda run: len(run["records"]["items"][0]["steps"]) >= 4)
        await process.kill()
        await rest.aclose()
        rest = await process.start()
        run = await until(rest, run_id, lambda run: run["ended_ms"] is not None)
        await rest.aclose()
        await process.kill()
        assert run["state"] == "in-doubt", run["reason"]
        assert "interrupted" in run["reason"]
        assert app.orders() == []
        first, second = run["records"]["items"]
        indices = [step["step_index"] for step in first["steps"]]
        assert indices == list(range(len(indices)))
        assert second["state"] == "cancelled"
    messages = await bus.read(Topic.RUNS, 0, 0, 100)
    found = [decode(message.value, message.headers) for message in messages]
    marks = [record for record in found if isinstance(record, RunMark)]
    opened = {(m.target, m.start_boottime_ms) for m in marks}
    assert opened == {(m.target, m.start_boottime_ms) for m in marks if m.end_boottime_ms}
    await bus.close()
