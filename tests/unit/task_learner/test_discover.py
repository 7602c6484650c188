"""Routines are found in unsegmented logs, and nothing is found where there is none."""

import random
from pathlib import Path

import pytest

from services.task_learner.discover import discover
from services.task_learner.segment import Vocabulary
from services.task_learner.stream import Stream
from shared.schemas import UiEvent
from tests.unit.task_learner import ui_logs
from tests.unit.task_learner.logs import actions_of

CLAIM = ["New claim", "E-mail", "Full name", "Town", "Amount", "Currency", "Submit claim"]
MAIL = ["Sender", "Status", "Remark", "Scanned", "File letter"]


def found_in(events):
    actions = actions_of(events)
    stream = Stream(5_000, Vocabulary())
    if not stream.rebuild(actions):
        return []
    return [
        ([t.label for t in f.pattern.tokens if not t.label.startswith("@")], len(f.executions))
        for f in discover(actions, stream.vocabulary, stream.threads(actions))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_routine_is_found_among_detours_typos_and_other_work(seed):
    assert found_in(ui_logs.person(seed, claims=12).events) == [(CLAIM, 12)]


@pytest.mark.parametrize("seed", range(5))
def test_a_routine_done_back_to_back_has_the_right_phase(seed):
    assert found_in(ui_logs.person(seed, claims=12, work=0).events) == [(CLAIM, 12)]


@pytest.mark.parametrize("seed", range(5))
def test_two_mixed_routines_are_found_each_in_its_own_right(seed):
    log = ui_logs.person(seed, claims=12, mails=9)
    assert found_in(log.events) == [(CLAIM, 12), (MAIL, 9)]


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_found_in_a_shuffled_log(seed):
    log = ui_logs.person(seed, claims=20, mails=15)
    assert found_in(ui_logs.shuffled(log)) == []


def test_reading_and_searching_over_and_over_are_no_routine():
    log = ui_logs.person(1, claims=0, mails=0)
    for _ in range(40):
        ui_logs.peek(log)
    assert found_in(log.events) == []


def test_an_empty_log_has_no_routine():
    assert found_in([]) == []


def test_the_recorded_log_holds_eight_claims_and_six_letters():
    log = Path(__file__).parents[2] / "data" / "desk_log.jsonl"
    events = [UiEvent.model_validate_json(line) for line in log.read_text().splitlines()]
    assert found_in(events) == [(CLAIM, 8), (MAIL, 6)]


def test_rounds_are_told_apart_where_one_execution_holds_many():
    actions = actions_of(ui_logs.person(3, claims=12, work=0).events)
    vocabulary = Vocabulary.of(actions)
    submits = [i for i, a in enumerate(actions) if vocabulary.token(a).label == "Submit claim"]
    threads = [(0, 0) if i <= submits[0] else (1, 0) for i in range(len(actions))]
    [finding] = discover(actions, vocabulary, threads)
    labels = [t.label for t in finding.pattern.tokens if not t.label.startswith("@")]
    assert (labels, len(finding.executions)) == (CLAIM, 12)


def labels_of(finding):
    return [t.label for t in finding.pattern.tokens]


def test_what_most_did_next_but_not_all_is_no_last_step():
    log = ui_logs.Log(random.Random(1))  # noqa: S311
    fields = ["Full name", "Town", "Amount", "Currency", "Street", "E-mail", "Remark", "Phone"]
    threads = []
    for number in range(7):
        ui_logs.other_work(log, 3)
        threads += [None] * (len(actions_of(log.events)) - len(threads))
        for label in fields:
            log.edit("desk/claim", label, f"{label} {number}")
        log.button("desk/claim", "Submit claim")
        if number != 3:
            log.link("desk/done", ui_logs.person_name(log.rng), f"main>list>link[{number}]")
        threads += [(number, 0)] * (len(actions_of(log.events)) - len(threads))
    actions = actions_of(log.events)
    [finding] = discover(actions, Vocabulary.of(actions), threads)
    assert labels_of(finding) == [*fields, "Submit claim"]
    assert len(finding.executions) == 7


def test_a_loop_that_was_cut_elsewhere_begins_where_other_work_comes_between():
    log = ui_logs.Log(random.Random(1))  # noqa: S311
    threads = []
    for number in range(8):
        for label in ("Open", "New"):
            log.button("desk/claims", label)
            log.pause(1, 1)
        log.pause(9, 9)  # a pause alone would let the loop begin here
        threads += [(number, 0)] * (len(actions_of(log.events)) - len(threads))
        for label in ("Full name", "Town", "Amount"):
            log.edit("desk/claim", label, f"{label} {number}")
            log.pause(1, 1)
        log.button("desk/claim", "Submit claim")
        threads += [(number + 1, 0)] * (len(actions_of(log.events)) - len(threads))
        for other in range(4):
            log.button("desk/news", f"Story {log.rng.randrange(99)} {'abcd'[other]}")
            log.pause(1, 1)
        threads += [None] * (len(actions_of(log.events)) - len(threads))
    actions = actions_of(log.events)
    [finding] = discover(actions, Vocabulary.of(actions), threads)
    assert labels_of(finding) == ["Open", "New", "Full name", "Town", "Amount", "Submit claim"]
    assert len(finding.executions) == 8
