"""Executions are aligned with their pattern: restarts, looks aside and corrections."""

import pytest

from services.task_learner.actions import Token
from services.task_learner.segment import BREAK_MS, Pattern, align, executions


def token(name):
    action = "edit" if name in "fg" else "click"
    return Token("app", "doc", "button", name, action)


PATTERN = Pattern(tuple(map(token, "sfge")))


def found(text, gap_ms=1000):
    tokens = [token(c) for c in text]
    return [e.steps for e in executions(PATTERN, tokens, [i * gap_ms for i in range(len(text))])]


@pytest.mark.parametrize(
    ("log", "steps"),
    [
        ("sfge", [(0, 1, 2, 3)]),
        ("sxfgye", [(0, 2, 3, 5)]),  # other work between
        ("sfsfge", [(2, 3, 4, 5)]),  # begun again
        ("sfsge", [(0, 1, 3, 4)]),  # a look aside in mid-form
        ("sfgfe", [(0, 3, 2, 4)]),  # a correction: the last entry counts
        ("sgfe", [(0, 2, 1, 3)]),  # another order
        ("sfgesfge", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ("xxe", []),
        ("e", []),
    ],
)
def test_executions(log, steps):
    assert found(log) == steps


def test_a_long_pause_ends_what_was_going_on():
    assert found("sfge", BREAK_MS + 1) == []


def test_alignment_takes_the_latest_longest_common_subsequence():
    assert align([1, 2, 3], [1, 1, 2, 9, 3]) == [1, 2, 4]
    assert align([1, 2], []) == [None, None]
