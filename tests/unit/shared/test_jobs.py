"""Long work as rows: asked once, worked off beside the loop, through crash and cancel."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import jobs
from shared.errors import BusUnavailable, ConflictError, NotFound, TrainingError
from tests.contract.records import run_outcome
from tests.unit.shared.rooms import House

JOB = "outcome-ann-0"
STATES = "SELECT state, attempts, error FROM jobs ORDER BY id"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(jobs, "_BACKOFF_S", 0.002)
    monkeypatch.setattr(jobs, "_IDLE_S", 0.02)
    house = House(tmp_path)
    yield house
    await house.close()


async def begun(house: House) -> None:
    async with asyncio.timeout(300):
        await house.logic.work_began.wait()


async def test_a_job_ends_together_with_its_effects(house: House):
    house.logic.work_may_end.set()
    await house.ask_work(run_outcome(0))
    await house.start()
    await house.until(STATES, [("done", 1, None)])
    assert house.query("SELECT id FROM seen") == [(JOB,)]


async def test_asked_twice_is_one_job(house: House):
    house.logic.work_may_end.set()
    await house.ask_work(run_outcome(0), run_outcome(0))
    await house.start()
    await house.until(STATES, [("done", 1, None)])
    await house.ask_work(run_outcome(0), run_outcome(1))
    await house.until(STATES, [("done", 1, None)] * 2)
    assert house.logic.works == [JOB, "outcome-ann-1"]


async def test_records_are_handled_while_a_job_is_under_way(house: House):
    await house.ask_work(run_outcome(0))
    await house.start()
    await begun(house)
    await house.send("good")
    await house.until("SELECT seq FROM seen", [(0,)])
    assert house.query(STATES) == [("running", 1, None)]


async def test_a_job_that_a_crash_cut_off_is_done_after_the_restart(house: House):
    await house.ask_work(run_outcome(0))
    await house.start()
    await begun(house)
    # What kill -9 leaves: the row as it stands now, after which nothing is written.
    await house.crash()
    await house.restart()
    house.logic.work_may_end.set()
    await house.until("SELECT state FROM jobs", [("done",)])
    assert house.logic.works == [JOB]


async def test_a_row_left_running_is_asked_again_and_after_five_crashes_failed(house: House):
    await house.start()
    columns = "(id, kind, payload, state, attempts, asked_ms, updated_ms)"
    values = "('a', 'count', '{\"index\": 1}', 'running', 4, 0, 0), " \
             "('b', 'count', '{\"index\": 2}', 'running', 5, 0, 0)"  # fmt: skip
    from shared.bus import Effects

    effects = Effects(house.logic.room)
    effects.write(f"INSERT INTO jobs{columns} VALUES {values}")
    await house.service.port.commit(effects)
    await house.stop()
    await house.restart()
    house.logic.work_may_end.set()
    ended = "the process ended each time while this ran"
    await house.until(STATES, [("done", 5, None), ("failed", 5, ended)])
    assert house.logic.works == ["a"]


async def test_a_stop_is_no_failure_of_the_job(house: House):
    await house.ask_work(run_outcome(0))
    await house.start()
    await begun(house)
    await house.stop()
    await house.restart()
    house.logic.work_may_end.set()
    await house.until(STATES, [("done", 1, None)])


async def test_a_failure_says_why_and_is_final(house: House):
    house.logic.failures = [TrainingError("too few traces: show it twice more")]
    await house.ask_work(run_outcome(0))
    await house.start()
    await house.until(STATES, [("failed", 1, "too few traces: show it twice more")])


async def test_what_may_pass_is_tried_again(house: House):
    house.logic.failures = [BusUnavailable("away"), ZeroDivisionError("private")]
    house.logic.work_may_end.set()
    await house.ask_work(run_outcome(0))
    await house.start()
    await house.until(STATES, [("done", 3, None)])


async def test_the_fifth_unexpected_failure_is_final(house: House):
    house.logic.failures = [ZeroDivisionError("private")] * 9
    await house.ask_work(run_outcome(0))
    await house.start()
    await house.until(STATES, [("failed", 5, "unexpected ZeroDivisionError")])


async def test_a_job_that_waits_to_be_tried_again_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jobs, "_BACKOFF_S", 3600)
    house.logic.failures = [BusUnavailable("away")]
    house.logic.work_may_end.set()
    await house.ask_work(run_outcome(0), run_outcome(1))
    await house.start()
    await house.until("SELECT state FROM jobs ORDER BY id", [("asked",), ("done",)])


async def test_a_running_job_is_cancelled(house: House):
    await house.ask_work(run_outcome(0), run_outcome(1))
    await house.start()
    await begun(house)
    await house.service.jobs.cancel(JOB)
    house.logic.work_may_end.set()
    await house.until(STATES, [("cancelled", 1, "cancelled by the user"), ("done", 1, None)])


async def test_a_job_that_waits_is_cancelled(house: House):
    await house.ask_work(run_outcome(0), run_outcome(1))
    await house.start()
    await begun(house)
    await house.service.jobs.cancel("outcome-ann-1")
    house.logic.work_may_end.set()
    await house.until("SELECT state FROM jobs ORDER BY id", [("done",), ("cancelled",)])
    assert house.logic.works == [JOB]


async def test_what_has_ended_cannot_be_cancelled(house: House):
    house.logic.work_may_end.set()
    await house.ask_work(run_outcome(0))
    await house.start()
    await house.until("SELECT state FROM jobs", [("done",)])
    with pytest.raises(ConflictError, match="is done"):
        await house.service.jobs.cancel(JOB)
    with pytest.raises(NotFound):
        await house.service.jobs.cancel("no-such-job")
