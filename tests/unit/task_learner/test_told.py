"""Routines that a sentence on the screen tells."""

from dataclasses import replace

import pytest

from services.task_learner.segment import Vocabulary
from services.task_learner.told import find_told
from shared.schemas import Text
from tests.unit.task_learner.pages import Pages


def found_in(pages):
    return find_told(pages.actions(), Vocabulary(), pages.sight)


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_chore_of_varying_length_is_found_with_all_that_each_execution_did(interleaved):
    pages = Pages(0).work(("choose", "write"), 25, interleaved)
    by_words = {finding.told_by: finding for finding in found_in(pages)}
    assert set(by_words) == {
        ("tick", "and", "press", "save"),
        ("enter", "the", "name", "into", "field", "then", "send", "it", "off"),
    }
    chosen = by_words["tick", "and", "press", "save"]
    assert [t.role for t in chosen.pattern.tokens] == ["checkbox", "button"]
    for execution in chosen.executions:
        assert len({pages.truth[i] for i in execution.indices}) == 1
    done = {pages.truth[e.indices[0]]: len(e.indices) for e in chosen.executions}
    wanted = {c: pages.truth.count(c) for c in pages.truth if c[0] == "choose"}
    assert sum(done.get(c) == n for c, n in wanted.items()) >= 0.9 * len(wanted)


def test_values_that_no_sentence_names_are_parameters_of_another_routine():
    pages = Pages(1).work(("write",), 25)
    pages.events = [
        event if event.value is None
        else event.model_copy(update={"value": Text(clear=f"other {i}")})
        for i, event in enumerate(pages.events)
    ]  # fmt: skip
    assert found_in(pages) == []


def test_without_a_sentence_nothing_is_told():
    assert found_in(Pages(2, told=False).work(("choose", "write"), 25)) == []


def test_a_few_executions_are_no_evidence():
    assert found_in(Pages(3).work(("write",), 4)) == []


def test_a_text_that_is_itself_clicked_is_no_sentence():
    pages = Pages(4).work(("write",), 25)
    first = [
        replace(a, event=a.event.model_copy(update={
            "element": a.event.element.model_copy(update={"index": 0}), "value": None,
        }))
        for a in pages.actions()
    ]  # fmt: skip
    assert find_told(first, Vocabulary(), pages.sight) == []


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_told_in_a_shuffled_log(seed):
    pages = Pages(seed).work(("choose", "write"), 200)
    times = [event.time_ms for event in pages.events]
    pages.rng.shuffle(pages.events)
    pages.events = [
        event.model_copy(update={"time_ms": time_ms})
        for event, time_ms in zip(pages.events, times, strict=True)
    ]
    assert found_in(pages) == []


def test_only_the_newest_actions_are_looked_at():
    pages = Pages(5).work(("write",), 1_100)
    [finding] = found_in(pages)
    assert finding.begin > 0
    assert min(e.indices[0] for e in finding.executions) >= finding.begin
