"""What one record goes through, against an application in memory."""

import asyncio
import json

import pytest

from services.agent_runner import runs
from services.agent_runner.runner import RunAsked
from services.task_learner.synthesis import learn
from shared.bus import Effects
from shared.errors import ActuatorError, StepRefused, StepUnverified
from shared.module import ActionEntry
from shared.schemas import Parameter, ParameterSource, RunMark, RunOutcome, RunState
from shared.topics import Room
from tests.unit.agent_runner.conftest import MOVES, SHOWN, make_module, routine
from tests.unit.agent_runner.desk import START_URL, Desk, DeskScreen
from tests.unit.agent_runner.memory import Move, called, demonstrate, memorise

MIA = {"customer": "Mia Neu", "city": "Rom"}
AL = {"customer": "Al Um", "city": "Bonn"}


def steps(room, run, index=0):
    return runs.steps_of(room.logic.port.store, run.run_id, index)


def records(room, run):
    return runs.list_records(room.logic.port.store, run.run_id, -1, 100)


async def test_an_agent_does_records_it_has_never_seen(room):
    run = await room.done(MIA, AL)
    assert (run.state, run.reason) == (RunState.DONE, None)
    assert room.desk.orders == [
        {"Customer": "Mia Neu", "City": "Rom"},
        {"Customer": "Al Um", "City": "Bonn"},
    ]


SURNAME = learn(["customer"], [(["Ada Abel"], "ABEL"), (["Bo Ek"], "EK"), (["Cy Ott"], "OTT")])


async def test_what_follows_from_other_values_is_computed_and_typed(room):
    await room.learn(await make_module(room.trainer.key, programmes={"city": SURNAME}))
    run = await room.done({"customer": "Mia Neu"}, {"customer": "Al Um", "city": "Bonn"})
    assert (run.state, run.reason) == (RunState.DONE, None)
    assert [order["City"] for order in room.desk.orders] == ["NEU", "Bonn"]


async def test_what_follows_from_the_screen_is_computed_there(room):
    shown = [
        await demonstrate(DeskScreen(Desk(prefilled=v["customer"])), START_URL, MOVES, v)
        for v in SHOWN
    ]
    await room.learn(
        memorise(shown, room.trainer.key, start_url=START_URL, slots=("customer", "city"),
                 programmes={"city": SURNAME})
    )  # fmt: skip
    effects = Effects(Room.TASK_LEARNER)
    read = Parameter(
        name="customer", source=ParameterSource.SCREEN, value_class="text", label="City",
        role="textbox",
    )  # fmt: skip
    effects.publish(routine(parameters=(read,), revision=2))
    await room.learner.commit(effects)
    await room.until(lambda: room.logic.catalog.routines["routine-1"].revision == 2)
    room.desk.prefilled = "Mia Neu"
    run = await room.logic.ask(RunAsked(name="Enter an order", from_screen=True, approve="once"))
    run = await room.ended(run.run_id)
    assert (run.state, run.reason) == (RunState.DONE, None)
    assert room.desk.orders == [{"Customer": "Mia Neu", "City": "NEU"}]


async def test_a_module_with_permuted_weights_does_nothing_right(room):
    await room.learn(await make_module(room.trainer.key, permute=1))
    run = await room.done(MIA, AL, keep_going=True)
    assert run.state is not RunState.DONE
    assert room.desk.orders == []


async def test_every_step_of_the_evidence_says_what_was_seen_decided_and_done(room):
    run = await room.done(MIA)
    (record,) = records(room, run)
    shown = runs.evidence_steps(room.logic.port.store, room.logic.artifacts, run.run_id, record)
    assert [(s.status, s.op, s.role, s.label, s.slot, s.came) for s in shown] == [
        ("acted", "type_text", "textbox", "Customer", "customer", "done"),
        ("acted", "type_text", "textbox", "City", "city", "done"),
        ("acted", "click", "button", "Save", None, "done"),
        ("finished", None, None, None, None, None),
    ]
    assert all(step.margin > 1.5 and len(step.screen) == 64 for step in shown)
    assert record.num_steps == 3
    (outcome,) = await room.published(RunOutcome)
    assert (outcome.state, outcome.evidence, outcome.num_steps) == ("done", record.evidence, 3)


async def test_an_intent_is_durable_before_its_act_and_holds_no_value(room):
    seen = []
    room.desk.hooks["click Save"] = lambda: seen.extend(
        room.logic.port.store.query("SELECT evidence FROM steps ORDER BY step_index")
    )
    await room.done(MIA)
    assert [json.loads(row[0]).get("came") for row in seen] == ["done", "done", None]
    assert "Mia" not in str(seen)


async def test_a_mark_on_the_target_is_durable_before_the_first_act_and_closed_at_the_end(room):
    before = []
    room.desk.hooks["type_text Customer"] = lambda: before.extend(
        room.logic.port.store.query("SELECT value FROM records")
    )
    run = await room.done(MIA)
    assert [json.loads(row[0])["target"]["endpoint"] for row in before] == ["desk"]
    marks = await room.published(RunMark)
    assert {mark.run_id for mark in marks} == {run.run_id}
    assert [mark.end_boottime_ms is None for mark in marks] == [True, False]
    assert marks[-1].start_boottime_ms <= marks[-1].end_boottime_ms


async def test_a_page_that_changed_stops_the_run_with_the_reason(room):
    room.desk.extra_field = "Cost centre"
    run = await room.done(MIA, AL)
    assert run.state is RunState.STOPPED
    assert "cost centre" in run.reason
    assert [r.state for r in records(room, run)] == ["stopped", "cancelled"]
    assert room.desk.acts == []


async def test_keep_going_goes_on_after_a_record_that_stopped(room):
    room.desk.hooks["type_text City"] = lambda: setattr(room.desk, "extra_field", "Cost centre")
    run = room.done(MIA, AL, keep_going=True)
    room.desk.hooks["type_text City"] = lambda: (_ for _ in ()).throw(StepRefused("it is covered"))
    ended = await run
    assert [r.state for r in records(room, ended)] == ["stopped", "stopped"]
    assert room.desk.acts == ["type_text Customer", "type_text Customer"]
    assert ended.state is RunState.STOPPED
    assert "it is covered" in ended.reason


async def test_a_screen_it_does_not_know_makes_it_abstain(room):
    room.desk.prefilled = "Genf"
    run = await room.done(MIA)
    assert run.state is RunState.STOPPED
    assert "not sure" in run.reason
    assert room.desk.acts == ["type_text Customer"]


async def test_an_act_that_changed_nothing_is_not_repeated(room):
    save = Move(ActionEntry(op="click"), called("Save"))
    module = await make_module(
        room.trainer.key, lambda: Desk(save_does_nothing=True), (*MOVES, save), never_ends=True
    )
    await room.learn(module)
    room.desk.save_does_nothing = True
    run = await room.done(MIA)
    assert run.state is RunState.STOPPED
    assert "changed nothing" in run.reason
    assert room.desk.acts.count("click Save") == 1


async def test_finished_is_not_done_until_the_result_is_read_back(room):
    await room.learn(await make_module(room.trainer.key, ends_on="http://desk.test/thanks"))
    run = await room.done(MIA)
    assert run.state is RunState.STOPPED
    assert "not confirmed" in run.reason


async def test_a_step_that_was_refused_stops_the_record(room):
    room.desk.hooks["click Save"] = lambda: (_ for _ in ()).throw(StepRefused("it is covered"))
    run = await room.done(MIA)
    assert (run.state, run.reason) == (RunState.STOPPED, "record 1: it is covered")
    assert [step.came for step in steps(room, run)] == ["done", "done", "refused"]


@pytest.mark.parametrize("error", [StepUnverified("unseen"), ActuatorError("a dialog")])
async def test_a_save_in_doubt_is_done_where_the_result_shows(room, error):
    room.desk.after["click Save"] = error
    run = await room.done(MIA)
    assert run.state is RunState.DONE
    assert len(room.desk.orders) == 1


@pytest.mark.parametrize("error", [StepUnverified("unseen"), ActuatorError("a dialog")])
async def test_a_save_in_doubt_is_handed_to_the_user_where_no_result_shows(room, error):
    room.desk.after["click Save"] = error
    room.desk.save_shows_nothing = True
    run = await room.done(MIA)
    assert run.state is RunState.IN_DOUBT
    assert "look at the page" in run.reason
    assert room.desk.acts.count("click Save") == 1


async def test_a_field_in_doubt_is_read_back_before_the_run_goes_on(room):
    room.desk.after["type_text City"] = StepUnverified("unseen")
    run = await room.done(MIA)
    assert run.state is RunState.DONE
    assert room.desk.acts.count("type_text City") == 1


async def test_the_kill_switch_cuts_off_the_act_under_way_and_nothing_follows(room):
    room.desk.pause = asyncio.Event()
    asked = await room.logic.ask(
        RunAsked(name="Enter an order", records=[MIA, AL], approve="once", keep_going=True)
    )
    await room.desk.under_way.wait()
    await room.logic.stop_run(asked.run_id)
    acts = list(room.desk.acts)
    run = await room.ended(asked.run_id)
    assert room.desk.acts == acts == []
    assert not room.screens[-1].open_
    assert run.state in (RunState.CANCELLED, RunState.IN_DOUBT)
    assert records(room, run)[1].state is RunState.CANCELLED


async def test_a_run_stopped_between_steps_is_cancelled(room):
    stopping = []
    room.desk.hooks["type_text City"] = lambda: stopping.append(
        asyncio.ensure_future(room.logic.stop_all())
    )
    run = await room.done(MIA)
    await asyncio.gather(*stopping)
    assert run.state is RunState.CANCELLED
    assert "click Save" not in room.desk.acts


async def test_a_run_cut_off_in_a_step_is_handed_to_the_user_and_not_repeated(room):
    room.desk.pause = asyncio.Event()
    asked = await room.logic.ask(
        RunAsked(name="Enter an order", records=[MIA, AL], approve="once", keep_going=False)
    )
    await room.desk.under_way.wait()
    await room.crash()
    room.desk.pause = None
    await room.begin()
    run = await room.ended(asked.run_id)
    assert run.state is RunState.IN_DOUBT
    assert "during step 1 (type_text on textbox 'Customer')" in run.reason
    assert room.desk.acts == []
    marks = await room.published(RunMark)
    assert all(
        any(m.end_boottime_ms and m.start_boottime_ms == mark.start_boottime_ms for m in marks)
        for mark in marks
    )


async def test_a_run_cut_off_after_a_save_that_shows_is_done_without_repeating_it(room):
    await room.learn(await make_module(room.trainer.key, lambda: Desk(one_page=True)))
    room.desk.one_page = True
    cut = asyncio.Event()
    room.desk.after["click Save"] = cut
    asked = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA, AL], approve="once"))
    await cut.wait()
    await room.crash()
    room.desk.after.clear()
    await room.begin()
    run = await room.ended(asked.run_id)
    assert (run.state, run.reason) == (RunState.DONE, None)
    assert records(room, run)[0].reason == "interrupted, then confirmed by reading back"
    assert [order["Customer"] for order in room.desk.orders] == ["Mia Neu", "Al Um"]


async def test_a_run_cut_off_whose_page_cannot_be_looked_at_stays_in_doubt(room):
    cut = asyncio.Event()
    room.desk.after["click Save"] = cut
    asked = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA], approve="once"))
    await cut.wait()
    await room.crash()
    room.desk.after.clear()
    room.desk.away = True
    await room.begin()
    run = await room.ended(asked.run_id)
    assert run.state is RunState.IN_DOUBT
    assert "interrupted, and not read back: the application does not answer" in run.reason
    assert len(room.desk.orders) == 1


async def test_a_run_cut_off_before_its_first_act_begins_anew(room):
    cut = asyncio.Event()
    room.desk.opening = cut
    asked = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA], approve="once"))
    await cut.wait()
    await room.crash()
    room.desk.opening = None
    await room.begin()
    assert (await room.ended(asked.run_id)).state is RunState.DONE
    assert len(room.desk.orders) == 1


async def test_a_run_cut_off_long_ago_does_not_go_on_by_itself(room, monkeypatch):
    cut = asyncio.Event()
    room.desk.after["click Save"] = cut
    asked = await room.logic.ask(RunAsked(name="Enter an order", records=[MIA, AL], approve="once"))
    await cut.wait()
    await room.crash()
    room.desk.after.clear()
    now_ms = room.clock.time_ms
    monkeypatch.setattr(room.clock, "time_ms", lambda: now_ms() + 11 * 60_000)
    await room.begin()
    run = await room.ended(asked.run_id)
    assert run.state is RunState.IN_DOUBT
    assert "was cut off and 11 min have passed" in run.reason
    assert [order["Customer"] for order in room.desk.orders] == ["Mia Neu"]
