"""Nothing is done that was not granted, and a grant taken back counts at once."""

import asyncio

import pytest

from services.agent_runner import grants, runs
from services.agent_runner.runner import RunAsked
from shared.errors import ConflictError, ContractError, NotFound
from shared.schemas import RunState
from tests.unit.agent_runner.conftest import make_module

MIA = {"customer": "Mia Neu", "city": "Rom"}
ORIGIN = "http://desk.test"


async def ask(room, **changes):
    fields = {"name": "Enter an order", "records": [MIA], **changes}
    return await room.logic.ask(RunAsked(**fields))


async def state(room, run):
    return runs.get_run(room.logic.port.store, run.run_id).state


async def test_a_run_waits_until_it_is_approved_and_says_what_it_needs(room):
    run = await ask(room)
    assert run.state is RunState.WAITING
    assert grants.in_words(room.logic.lacking(run)) == f"click, type_text on {ORIGIN}"
    assert room.desk.acts == []
    await room.logic.approve(run.run_id, "once")
    assert (await room.ended(run.run_id)).state is RunState.DONE


async def test_an_approval_for_once_serves_no_other_run(room):
    await room.done(MIA, approve="once")
    assert (await ask(room)).state is RunState.WAITING


async def test_an_approval_for_always_stands_until_it_is_revoked(room):
    await room.done(MIA, approve="always")
    again = await ask(room)
    assert again.state is RunState.ASKED
    await room.ended(again.run_id)
    (grant,) = grants.list_grants(room.logic.port.store, None, 10)
    await room.logic.revoke(grant.grant_id)
    assert (await ask(room)).state is RunState.WAITING


async def test_a_standing_grant_is_for_these_very_bytes(room):
    await room.done(MIA, approve="always")
    await room.learn(await make_module(room.trainer.key, name="Enter an order, better"))
    assert (await ask(room, name=None, routine_id="routine-1")).state is RunState.WAITING


async def test_a_run_that_was_approved_for_other_bytes_does_not_begin(room):
    run = await ask(room)
    await room.learn(await make_module(room.trainer.key, name="Enter an order, better"))
    await room.logic.approve(run.run_id, "once")
    ended = await room.ended(run.run_id)
    assert ended.state is RunState.FAILED
    assert "trained again" in ended.reason
    assert room.desk.acts == []


async def test_a_part_of_the_powers_is_not_enough_and_the_rest_is_named(room):
    await room.logic.grant(routine_id="routine-1", name=None, ops=["type_text"], origins=None)
    run = await ask(room)
    assert grants.in_words(room.logic.lacking(run)) == f"click on {ORIGIN}"


async def test_a_grant_taken_back_in_the_middle_stops_the_next_step(room):
    grant = await room.logic.grant(routine_id="routine-1", name=None, ops=None, origins=None)
    room.desk.pause = asyncio.Event()
    run = await ask(room)
    await room.desk.under_way.wait()
    await room.logic.revoke(grant.grant_id)
    room.desk.pause.set()
    ended = await room.ended(run.run_id)
    assert ended.state is RunState.FAILED
    assert f"may not type_text on {ORIGIN}" in ended.reason
    assert f"wat approve {run.run_id}" in ended.reason
    assert room.desk.acts == ["type_text Customer"]


async def test_a_grant_taken_back_while_the_intent_is_written_allows_that_step_no_more(
    room, monkeypatch
):
    grant = await room.logic.grant(routine_id="routine-1", name=None, ops=None, origins=None)
    commit = room.logic.port.commit

    async def slow(effects, positions=None):
        if any(sql.startswith("INSERT INTO steps") for sql, _ in effects.writes):
            monkeypatch.setattr(room.logic.port, "commit", commit)
            await room.logic.revoke(grant.grant_id)
        await commit(effects, positions)

    monkeypatch.setattr(room.logic.port, "commit", slow)
    run = await ask(room)
    ended = await room.ended(run.run_id)
    assert ended.state is RunState.STOPPED
    assert f"may not type_text on {ORIGIN}" in ended.reason
    assert room.desk.acts == []


async def test_powers_that_the_agent_does_not_need_are_not_granted(room):
    for wrong in ({"ops": ["press_key"]}, {"origins": ["http://bank.test"]}):
        asked = {"ops": None, "origins": None, **wrong}
        with pytest.raises(ContractError, match="does not need"):
            await room.logic.grant(routine_id="routine-1", name=None, **asked)


async def test_a_rejected_run_is_cancelled_and_cannot_be_approved(room):
    run = await ask(room)
    await room.logic.reject(run.run_id)
    assert await state(room, run) is RunState.CANCELLED
    with pytest.raises(ConflictError, match="waits for no approval"):
        await room.logic.approve(run.run_id, "once")


async def test_the_kill_switch_ends_what_waits_and_what_is_asked_for(room):
    waiting = await ask(room)
    room.desk.pause = asyncio.Event()
    first = await ask(room, approve="once")
    second = await ask(room, approve="once")
    await room.desk.under_way.wait()
    assert set(await room.logic.stop_all()) == {waiting.run_id, first.run_id, second.run_id}
    for run in (waiting, first, second):
        await room.ended(run.run_id)
    assert await state(room, second) is RunState.CANCELLED
    assert await state(room, waiting) is RunState.CANCELLED
    assert room.desk.acts == []


async def test_a_run_that_begins_while_it_is_being_stopped_does_nothing(room, monkeypatch):
    commit, begun = room.logic.port.commit, asyncio.Event()
    work = room.service.jobs._work

    async def late(job, port):
        await begun.wait()
        return await work(job, port)

    async def slow(effects, positions=None):
        if any("cancelled" in params for sql, params in effects.writes if "UPDATE runs" in sql):
            begun.set()
            await asyncio.sleep(0.2)  # a disk that takes its time: the run begins meanwhile
        await commit(effects, positions)

    monkeypatch.setattr(room.service.jobs, "_work", late)
    run = await ask(room, records=[MIA, MIA], approve="once")
    monkeypatch.setattr(room.logic.port, "commit", slow)
    await room.logic.stop_run(run.run_id)
    assert (await room.ended(run.run_id)).state is RunState.CANCELLED
    assert room.desk.acts == []


async def test_stopping_a_run_that_has_ended_is_harmless(room):
    run = await room.done(MIA)
    assert (await room.logic.stop_run(run.run_id)).state is RunState.DONE


async def test_wrong_records_start_nothing(room):
    with pytest.raises(ContractError, match="unknown town and missing city"):
        await ask(room, records=[{"customer": "Mia", "town": "Rom"}])
    with pytest.raises(ContractError, match="not both"):
        await ask(room, parameters=MIA)
    assert runs.list_runs(room.logic.port.store, None, 10) == []


async def test_a_limit_leaves_out_the_rest(room):
    run = await room.done(MIA, {**MIA, "city": "Bonn"}, limit=1)
    assert (run.num_records, run.state) == (1, RunState.DONE)
    assert [order["City"] for order in room.desk.orders] == ["Rom"]


async def test_an_agent_that_is_not_there_is_named_with_those_that_are(room):
    with pytest.raises(NotFound, match="no agent for Pay: there are Enter an order"):
        await ask(room, name="Pay")
