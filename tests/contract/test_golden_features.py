"""Golden features: what an encoding version gave when it was released, it gives for ever."""

import json
from array import array
from pathlib import Path

import pytest

from shared import encoding
from shared.encoding import HistoryStep, encode
from shared.encoding_goal import (
    GOAL_ENCODING_VERSION,
    NUM_GOAL_CONTEXT,
    NUM_GOAL_ELEMENT,
    Page,
    encode_goal,
    step_on,
)
from shared.goal import GoalSource
from shared.schemas import Snapshot

DATA = Path(__file__).parents[1] / "data"
TOLD = json.loads((DATA / "encoding_v4.json").read_text())
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "encoding_v1.json").read_text())


def dense(pairs, size):
    numbers = array("f", bytes(4 * size))
    for i, value in pairs:
        numbers[i] = value
    return numbers


def test_the_golden_file_is_of_this_version():
    assert GOLDEN["version"] == encoding.ENCODING_VERSION
    assert GOLDEN["num_element_features"] == encoding.NUM_ELEMENT_FEATURES
    assert GOLDEN["num_context_features"] == encoding.NUM_CONTEXT_FEATURES


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["snapshot"]["document"])
def test_a_golden_screen_gives_its_numbers(case):
    snapshot = Snapshot.model_validate(case["snapshot"])
    history = [HistoryStep(*step) for step in case["history"]]
    found = encode(snapshot, [tuple(slot) for slot in case["slots"]], history)
    assert list(found.elements) == case["elements"]
    assert found.x == dense(case["x"], len(case["elements"]) * encoding.NUM_ELEMENT_FEATURES)
    assert found.g == dense(case["g"], encoding.NUM_CONTEXT_FEATURES)


def test_the_golden_file_of_encoding_4_is_of_this_version():
    assert TOLD["version"] == GOAL_ENCODING_VERSION
    assert (TOLD["num_element_features"], TOLD["num_context_features"]) == (
        NUM_GOAL_ELEMENT, NUM_GOAL_CONTEXT,
    )  # fmt: skip


@pytest.mark.parametrize("case", TOLD["cases"], ids=lambda c: c["name"])
def test_a_golden_screen_with_an_instruction_gives_its_numbers(case):
    snapshot = Snapshot.model_validate(case["snapshot"])
    source = GoalSource.model_validate(case["goal"])
    page = Page(snapshot, source)
    history = [step_on(page, index, op, slot) for index, op, slot in case["history"]]
    found = encode_goal(
        page, source.vocabulary, history,
        controls=case["controls"], meanings=case.get("meanings", False),
    )  # fmt: skip
    assert list(found.elements) == case["elements"]
    assert found.x == dense(case["x"], len(case["elements"]) * NUM_GOAL_ELEMENT)
    assert found.g == dense(case["g"], NUM_GOAL_CONTEXT)
