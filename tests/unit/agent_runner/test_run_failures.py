"""What a bad module does to a run, and what it leaves alone; and how old runs go."""

import asyncio

from services.agent_runner import runs
from services.agent_runner.gate import Gate
from services.agent_runner.retention import Retention
from services.agent_runner.runner import RunAsked
from services.agent_runner.work import ActiveRun, RunWork, Task
from shared import wasm
from shared.clock import FakeClock
from shared.errors import ActuatorError
from shared.module import OUTCOME, Layout, Status, VerifiedModule, parse
from shared.schemas import RunState
from shared.wasm import Function, Section
from tests.unit.agent_runner.desk import DeskScreen

MIA = {"customer": "Mia Neu", "city": "Rom"}


def with_body(module: bytes, body: str) -> VerifiedModule:
    """Return `module` with another `step`, as if it had passed every proof."""
    manifest = parse(module).manifest.model_copy(update={"probes": ()})
    layout = Layout(manifest.network, manifest.precision)
    step = Function("step", (), (), (), body)
    sections = [
        Section(wasm.TYPE, wasm.vector([step.type.encode()])),
        Section(wasm.FUNCTION, wasm.vector([b"\0"])),
        Section(wasm.MEMORY, wasm.vector([b"\1" + wasm.uleb(layout.num_pages) * 2])),
        Section(
            wasm.EXPORT,
            wasm.vector([wasm.name("memory") + b"\2\0", wasm.name("step") + b"\0\0"]),
        ),
        Section(wasm.CODE, wasm.vector([wasm.assemble(step, {})])),
    ]
    return VerifiedModule(wasm.encode(sections), manifest, layout, "", b"")


async def work(room, module):
    run = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA, MIA]))

    async def open_actuator(manifest, dry_run):
        return DeskScreen(room.desk)

    effects = await RunWork(
        run=run,
        task=Task(
            verify=lambda granted: module,
            parameters=lambda verified: (),
            max_steps=lambda: 9,
            open_actuator=open_actuator,
        ),
        active=ActiveRun(Gate()),
        port=room.logic.port,
        clock=room.clock,
        settings=room.logic.settings,
        artifacts=room.logic.artifacts,
    ).work()
    await room.logic.port.commit(effects)
    return runs.get_run(room.logic.port.store, run.run_id)


async def test_an_endless_loop_in_a_module_fails_its_record_and_nothing_else(room):
    looping = with_body(room.module, "loop i32.const 1 br_if 0 end")
    run = await work(room, looping)
    assert run.state is RunState.FAILED
    assert "used up its fuel" in run.reason or "took longer" in run.reason
    assert room.desk.acts == []
    assert (await room.done(MIA)).state is RunState.DONE


async def test_a_screen_that_cannot_be_opened_fails_its_record(room, monkeypatch):
    async def open_actuator(manifest, dry_run):
        raise ActuatorError("the tab cannot be used")

    monkeypatch.setattr(room.logic, "_open_actuator", open_actuator)
    run = await room.done({"customer": "Mia Neu", "city": "Rom"})
    assert run.state is RunState.FAILED
    assert run.reason == "record 1: the tab cannot be used"


async def test_a_module_that_lies_about_what_it_did_fails_its_record(room):
    acted = f"i32.const {OUTCOME} i32.const {Status.ACTED} i32.store 28"
    run = await work(room, with_body(room.module, acted))
    assert run.state is RunState.FAILED
    assert "differs from what the host saw" in run.reason
    assert room.desk.acts == []


async def test_a_run_goes_with_its_evidence_once_its_retention_is_over(room):
    run = await room.done(MIA)
    now_ms = room.clock.time_ms()
    stop = asyncio.Event()
    for days, kept in ((13, True), (15, False)):
        clock = FakeClock(now_ms=now_ms + days * 24 * 3600 * 1000)
        retention = Retention(room.logic.artifacts, clock, 14)
        letting_go = asyncio.create_task(retention.run(room.logic.port, stop))
        await asyncio.sleep(0.2)
        listed = runs.list_runs(room.logic.port.store, None, 10)
        assert [r.run_id for r in listed] == ([run.run_id] if kept else [])
        letting_go.cancel()
    holder = "SELECT 1 FROM artifacts WHERE holder = ?"
    assert room.logic.port.store.query(holder, (run.run_id,)) == []
