"""When the steps of a known routine give way to those of a new finding."""

from services.task_learner.actions import Token
from services.task_learner.discover import Finding
from services.task_learner.finder import _holds
from services.task_learner.segment import Execution, Pattern

FILL, SAVE, BACK = (Token("desk", "form", "button", name, "click") for name in ("a", "b", "c"))
KNOWN, LONGER = Pattern((FILL, SAVE)), Pattern((FILL, SAVE, BACK))


def found(pattern, num):
    steps = range(len(pattern.tokens))
    return tuple(Execution(tuple(10 * n + i for i in steps), len(steps)) for n in range(num))


def test_known_steps_hold_where_a_new_last_step_would_cost_executions():
    assert _holds(KNOWN, found(KNOWN, 12), Finding(LONGER, found(LONGER, 9), 99.0))


def test_known_steps_give_way_to_a_new_step_that_nearly_all_executions_have():
    assert not _holds(KNOWN, found(KNOWN, 12), Finding(LONGER, found(LONGER, 11), 99.0))


def test_known_steps_give_way_where_they_find_fewer_executions():
    assert not _holds(LONGER, found(LONGER, 9), Finding(KNOWN, found(KNOWN, 12), 99.0))
