"""Joining and splitting routines: what a person decides holds for later executions and restarts."""

import random

import pytest

from shared.errors import ConflictError, NotFound
from shared.schemas import Action, ForgetRange, RoutineStatus, Source
from tests.integration.test_task_learner import desk_in
from tests.unit.task_learner import ui_logs

pytestmark = pytest.mark.timeout(300)


def bookings(num, without, *, log=None):
    """Book guests in; in some of the bookings a box stays unticked.

    Not in the first ones: what 80 % have stays a step, but only what 90 % have becomes one.
    """
    log = log or ui_logs.Log(random.Random(5))  # noqa: S311
    for n in range(num):
        ui_logs.other_work(log, 3)
        log.show("desk/list", [])
        log.button("desk/list", "New visit")
        log.show("desk/visit", [])
        log.edit("desk/visit", "Guest", ui_logs.person_name(log.rng))
        log.edit("desk/visit", "Room", str(log.rng.randrange(100, 400)))
        if n not in without:
            log.add(Action.CLICK, "desk/visit", "checkbox", label="Breakfast")
        log.button("desk/visit", "Book")
        log.show("desk/booked", [])
        log.add(Action.NAVIGATE, "desk/booked", "")
        log.pause(3, 15)
    return log


def by_support(routines):
    return {r.name: r.support for r in routines if r.status is not RoutineStatus.IGNORED}


PARTS = {
    "with": "Book: visit (2 fields), with Breakfast",
    "without": "Book: visit (2 fields), without Breakfast",
}


async def split_bookings(desk, log):
    await desk.see(log)
    [routine] = await desk.live()
    step = [s.label for s in routine.steps].index("Breakfast")
    assert 0.8 < routine.steps[step].coverage < 1
    return routine, await desk.logic.split(routine.routine_id, step)


async def test_a_routine_is_split_by_a_step_that_some_executions_have(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = bookings(16, {9, 12, 14})
        whole, (having, lacking) = await split_bookings(desk, log)
        assert (having.support, lacking.support) == (13, 3)
        assert "Breakfast" in [s.label for s in having.steps]
        assert "Breakfast" not in [s.label for s in lacking.steps]
        shown = {r.routine_id: r for r in await desk.live()}
        assert shown[whole.routine_id].status is RoutineStatus.IGNORED
        ticked = [[e.element.label for e in desk.trace(t).events if e.element]
                  for t in lacking.traces]  # fmt: skip
        assert all("Breakfast" not in labels for labels in ticked)
        with pytest.raises(ConflictError, match="split already"):
            await desk.logic.split(whole.routine_id, 1)


async def test_later_executions_go_where_they_belong_also_after_a_restart(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = bookings(16, {9, 12, 14})
        await split_bookings(desk, log)
        await desk.restart()
        seen = len(log.events)
        bookings(6, {1, 2}, log=log)
        await desk.publish(log.events[seen:], log.snapshots)
        await desk.drain()
        assert by_support(await desk.live()) == {PARTS["with"]: 17, PARTS["without"]: 5}


async def test_what_was_split_stays_split_when_the_store_is_lost(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = bookings(16, {9, 12, 14})
        _, (having, _) = await split_bookings(desk, log)
        await desk.logic.decide(having.routine_id, name="Full board")
        tables = ("routines", "traces", "actions", "seen", "artifacts")
        await desk.service.port.store.write(
            lambda writer: [writer.execute(f"DELETE FROM {table}") for table in tables]
        )
        await desk.restart()
        assert not desk.logic.routines
        await desk.see(log)
        assert by_support(await desk.live()) == {"Full board": 13, PARTS["without"]: 3}


async def test_a_routine_is_joined_with_another_and_its_traces_follow(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12, mails=9))
        claim, mail = await desk.live()
        joined = await desk.logic.join(mail.routine_id, claim.routine_id)
        assert (joined.routine_id, joined.support) == (claim.routine_id, 21)
        await desk.restart()
        more = ui_logs.person(2, claims=9, mails=9, session="s2", now_ms=1_700_100_000_000)
        await desk.see(more)
        assert by_support(await desk.live()) == {claim.name: 39}
        for wrong in (mail.routine_id, claim.routine_id):
            with pytest.raises(ConflictError):
                await desk.logic.join(claim.routine_id, wrong)
        with pytest.raises(NotFound):
            await desk.logic.join(claim.routine_id, "nothing")


async def test_what_is_forgotten_is_forgotten_in_copies_too(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = bookings(16, {9, 12, 14})
        await split_bookings(desk, log)
        everything = ForgetRange(
            id="f", time_ms=log.now_ms, user_id="ada", source=None, session=None
        )
        await desk.publish([everything])
        await desk.drain()
        assert await desk.live() == []
        store = desk.service.port.store
        for table in ("routines", "traces", "artifacts"):
            assert store.query(f"SELECT count(*) FROM {table}") == [(0,)]
        one = ForgetRange(id="g", time_ms=1, user_id="ada", source=Source.BROWSER, session="s1",
                          first_seq=0, last_seq=1)  # fmt: skip
        await desk.publish([one])
        await desk.drain()


@pytest.mark.parametrize(
    ("step", "said"), [(0, "every execution has step 1"), (9, "has no step 10")]
)
async def test_a_split_that_tells_nothing_apart_is_refused(tmp_path, step, said):
    async with desk_in(tmp_path) as desk:
        await desk.see(bookings(16, {9, 12, 14}))
        [routine] = await desk.live()
        with pytest.raises(ConflictError, match=said):
            await desk.logic.split(routine.routine_id, step)


async def test_a_merge_is_undone_also_after_a_restart(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12, mails=9))
        claim, mail = await desk.live()
        await desk.logic.join(mail.routine_id, claim.routine_id)
        await desk.restart()
        back = await desk.logic.take_back(mail.routine_id)
        assert (back.routine_id, back.support, back.forwards) == (mail.routine_id, 9, None)
        assert back.status is mail.status
        await desk.restart()
        more = ui_logs.person(2, claims=9, mails=9, session="s2", now_ms=1_700_100_000_000)
        await desk.see(more)
        assert by_support(await desk.live()) == {claim.name: 21, mail.name: 18}
        with pytest.raises(ConflictError, match="neither joined nor split"):
            await desk.logic.take_back(mail.routine_id)


async def test_a_split_is_undone_and_can_be_made_again(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = bookings(16, {3, 9, 12})
        whole, parts = await split_bookings(desk, log)
        await desk.logic.take_back(whole.routine_id)
        [again] = await desk.live()
        assert (again.routine_id, again.support) == (whole.routine_id, 16)
        await desk.restart()
        assert set(desk.logic.routines) == {whole.routine_id}
        step = [s.label for s in again.steps].index("Breakfast")
        again_parts = await desk.logic.split(whole.routine_id, step)
        assert [(p.name, p.support) for p in again_parts] == [(p.name, p.support) for p in parts]
