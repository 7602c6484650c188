"""What a run mark says about events: own, held or free."""

import pytest

from services.task_learner.marks import GRACE_MS, Marks, Verdict
from shared.schemas import Action, RunMark, Source, Target, UiEvent

HERE = Target(endpoint="b1", surface="t1")


def mark(end=None, renewed=1_000, run="r1", **more):
    fields = {"boot_id": "boot", "lease_ms": 10_000, **more}
    return RunMark(
        id="m", time_ms=0, user_id="ada", run_id=run, target=HERE, start_boottime_ms=1_000,
        renewed_boottime_ms=renewed, end_boottime_ms=end, **fields,
    )  # fmt: skip


def event(at, target=HERE, boot="boot"):
    return UiEvent(
        id="e", time_ms=0, user_id="ada", source=Source.BROWSER, session="s", seq=0, boot_id=boot,
        boottime_ms=at, action=Action.CLICK, application="app", target=target,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("at", "verdict"),
    [
        (999, Verdict.FREE),
        (1_000, Verdict.OWN),
        (5_000 + GRACE_MS, Verdict.OWN),
        (5_001 + GRACE_MS, Verdict.FREE),
    ],
)
def test_a_closed_mark_owns_what_lies_in_it(at, verdict):
    marks = Marks()
    marks.add(mark(end=5_000))
    assert marks.judge(event(at)) is verdict


def test_an_open_mark_holds_until_its_lease_has_run_out():
    marks = Marks()
    marks.add(mark())
    assert marks.judge(event(2_000)) is Verdict.HELD
    assert marks.judge(event(11_001)) is Verdict.FREE
    assert marks.judge(event(2_000), now_boottime_ms=20_000) is Verdict.OWN


def test_other_targets_boots_and_events_without_a_place_flow():
    marks = Marks()
    marks.add(mark(end=5_000))
    assert marks.judge(event(2_000, Target(endpoint="b1", surface="t2"))) is Verdict.FREE
    assert marks.judge(event(2_000, boot="earlier")) is Verdict.FREE
    assert marks.judge(event(2_000, target=None)) is Verdict.FREE


def test_a_closed_mark_is_not_opened_by_an_older_state():
    marks = Marks()
    marks.add(mark(end=5_000, renewed=4_000))
    marks.add(mark(renewed=9_000))
    assert marks.judge(event(8_000)) is Verdict.FREE


def test_two_marks_of_one_run_are_both_kept():
    marks = Marks()
    marks.add(mark(end=5_000))
    marks.add(mark(end=5_000).model_copy(update={"target": Target(endpoint="b1", surface="t2")}))
    assert marks.judge(event(2_000)) is Verdict.OWN
