"""What an agent-runner says of modules it is handed, and how it lets go of what is forgotten."""

import asyncio

from prometheus_client import generate_latest

from services.agent_runner import runs
from services.agent_runner.catalog import Verdict
from services.agent_runner.runner import RunAsked
from shared.bus import Effects
from shared.reading import ENCODINGS
from shared.schemas import ForgetRange, ModelKind, ModelStatus, RoutineStatus, RunMark
from shared.signing import SigningKey
from shared.topics import Room
from tests.unit.agent_runner.conftest import card, make_module, routine

MIA = {"customer": "Mia Neu", "city": "Rom"}


def verdict(room, routine_id="routine-1"):
    return room.logic.catalog.agents[routine_id].verdict


def reason(room, routine_id="routine-1"):
    return room.logic.catalog.agents[routine_id].reason


def runner_files(room):
    return [p for p in (room.folder / "artifacts" / "agent-runner").glob("??/*") if p.is_file()]


async def test_a_sound_module_is_ok_and_kept_as_a_copy(room):
    assert verdict(room) is Verdict.OK
    assert [path.read_bytes() for path in runner_files(room)] == [room.module]


async def test_a_truncated_module_is_refused_with_the_reason_and_stops_nothing_else(room):
    await room.trainer.hand_over(room.module[:-100], routine_id="routine-2")
    await room.until(lambda: "routine-2" in room.logic.catalog.agents)
    assert verdict(room, "routine-2") is Verdict.REFUSED
    assert reason(room, "routine-2")
    assert (await room.done(MIA, name=None, routine_id="routine-1")).state == "done"


async def test_a_module_that_is_not_there_is_refused(room):
    await room.trainer.publish(card("f" * 64, "routine-2"))
    await room.until(lambda: "routine-2" in room.logic.catalog.agents)
    assert verdict(room, "routine-2") is Verdict.REFUSED
    assert "is gone" in reason(room, "routine-2")


async def test_the_module_of_another_routine_is_refused(room):
    await room.trainer.hand_over(room.module, routine_id="routine-2")
    await room.until(lambda: "routine-2" in room.logic.catalog.agents)
    assert "is of routine routine-1" in reason(room, "routine-2")


async def test_a_foreign_key_is_refused_until_the_user_trusts_it(room):
    foreign = SigningKey.generate()
    await room.learn(await make_module(foreign))
    assert verdict(room) is Verdict.REFUSED
    assert foreign.public.hex() in reason(room)
    await room.logic.trust(foreign.public.hex(), "a colleague")
    assert (await room.done(MIA)).state == "done"
    await room.logic.distrust(foreign.public.hex())
    assert verdict(room) is Verdict.REFUSED


async def test_a_run_asked_for_before_its_key_was_distrusted_fails(room):
    foreign = SigningKey.generate()
    await room.learn(await make_module(foreign))
    await room.logic.trust(foreign.public.hex(), "a colleague")
    run = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA]))
    await room.logic.distrust(foreign.public.hex())
    await room.logic.approve(run.run_id, "once")
    assert (await room.ended(run.run_id)).state == "failed"
    assert room.desk.acts == []


async def test_a_card_for_another_version_is_stale_and_says_retrain(room):
    for place, versions in enumerate(
        ({"encoding": max(ENCODINGS) + 1}, {"abi": 99, "emitter": 1}, {"status": "stale"})
    ):
        routine_id = f"stale-{place}"
        await room.trainer.publish(card("f" * 64, routine_id, reason="train it again", **versions))
        await room.until(lambda routine_id=routine_id: routine_id in room.logic.catalog.agents)
        assert verdict(room, routine_id) is Verdict.STALE
        assert "train it again" in reason(room, routine_id)


async def test_an_adapter_is_no_agent(room):
    await room.trainer.publish(card(None, "adapter-1", kind=ModelKind.ADAPTER))
    await room.trainer.publish(card(None, "routine-9", status=ModelStatus.FAILED))
    await room.until(lambda: "routine-9" in room.logic.catalog.agents)
    assert "adapter-1" not in room.logic.catalog.agents
    assert verdict(room, "routine-9") is Verdict.UNAVAILABLE


async def test_verdicts_keys_and_names_outlive_a_restart(room):
    foreign = SigningKey.generate()
    await room.logic.trust(foreign.public.hex(), "a colleague")
    await room.crash()
    await room.begin()
    assert verdict(room) is Verdict.OK
    assert room.logic.catalog.find(routine_id=None, name="Enter an order")
    assert [key.name for key in room.logic.catalog.trusted_keys()] == [
        "module-signing",
        "a colleague",
    ]


async def test_a_deleted_model_takes_its_runs_their_evidence_and_its_module_along(room):
    run = await room.done(MIA)
    assert len(runner_files(room)) == 2
    await room.trainer.publish(card(None, status=ModelStatus.DELETED))
    await room.until(lambda: not runner_files(room))
    assert runs.list_runs(room.logic.port.store, None, 10) == []
    assert run.run_id in {mark.run_id for mark in await room.published(RunMark)}


async def test_a_deleted_routine_takes_its_runs_along(room):
    await room.done(MIA)
    effects = Effects(Room.TASK_LEARNER)
    effects.publish(routine(status=RoutineStatus.DELETED, id="routine-1-2"))
    await room.learner.commit(effects)
    await room.until(lambda: not runs.list_runs(room.logic.port.store, None, 10))


async def test_forgetting_everything_leaves_no_value_in_any_table_or_file(room):
    planted = {"customer": "Planted Person", "city": "Rom"}
    await room.done(planted)
    effects = Effects(Room.USER_MONITOR)
    effects.publish(ForgetRange(id="all", time_ms=room.clock.time_ms(), user_id="user"))
    await room.monitor.commit(effects)
    await room.until(lambda: len(runner_files(room)) == 1)
    store = room.logic.port.store
    tables = [row[0] for row in store.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = [store.query(f"SELECT * FROM {table}") for table in tables]
    assert "Planted" not in str(rows)


async def test_a_run_under_way_that_is_forgotten_leaves_nothing(room):
    room.desk.pause = asyncio.Event()
    await room.logic.ask(RunAsked(name="Enter an order", records=[MIA], approve="once"))
    await room.desk.under_way.wait()
    effects = Effects(Room.USER_MONITOR)
    effects.publish(ForgetRange(id="all", time_ms=room.clock.time_ms(), user_id="user"))
    await room.monitor.commit(effects)
    await room.until(lambda: not runs.list_runs(room.logic.port.store, None, 10))
    room.desk.pause.set()
    await room.until(lambda: room.desk.acts and not room.logic._active)
    assert room.desk.acts == ["type_text Customer"]
    assert room.logic.port.store.query("SELECT * FROM jobs") == []
    await room.until(lambda: len(runner_files(room)) == 1)
    assert room.logic.port.store.query("SELECT * FROM steps") == []


async def test_values_reach_the_application_and_no_log_or_metric(room, caplog):
    caplog.set_level("DEBUG")
    await room.done({"customer": "Planted Person", "city": "Plantedville"})
    assert room.desk.orders == [{"Customer": "Planted Person", "City": "Plantedville"}]
    assert "Planted" not in caplog.text
    assert b"Planted" not in generate_latest()
