"""What a dry replay says of executions that are known, and the bounds it puts on it."""

import pytest

from services.task_learner.automatability import Replayed, beta_quantile, dry_replay
from services.task_learner.dataflow import StepValue, find_flow

WEEK_MS = 7 * 24 * 3_600_000
CARD = ("Name", "definition", "desk/card")


def value(text, *, seen=True):
    return StepValue(text, text, "text", "Name", "textbox", "desk/form", False,
                     (CARD,) if seen else ())  # fmt: skip


def execution(n, order=(0, 1, 2), *, name=None, seen=True, constant="EUR", start_ms=None):
    values = [value(name or f"Person {n}", seen=seen), value(constant, seen=False), None]
    start_ms = n * 60_000 if start_ms is None else start_ms
    return Replayed(order, values, start_ms, start_ms + 30_000)


def replay(executions, fills=(None, None, None)):
    flow = find_flow(3, [e.values for e in executions])
    return dry_replay(
        executions,
        flow,
        named=[True, True, False],
        fills=fills,
        num_side_effects=1,
        median_ms=30_000,
    )


def test_what_is_always_the_same_is_foretold():
    found = replay([execution(n) for n in range(8)])
    assert (found.num_held_out, found.step_rate, found.run_rate) == (2, 1.0, 1.0)
    assert (found.branching, found.values, found.trigger) == (1.0, 1.0, 1.0)
    assert found.selectors == pytest.approx(2 / 3)
    assert found.num_side_effects == 1
    assert found.step_low > 0.9
    assert found.run_low < 1 == found.run_rate  # two executions prove little


def test_values_that_only_the_user_knows_are_not_foretold():
    found = replay([execution(n, seen=False) for n in range(8)])
    assert found.values == 0.5
    assert found.branching == 1.0
    assert found.step_rate == pytest.approx(3 / 4)  # of two values, a step without, and the end
    assert found.run_rate == 0
    assert found.step_low < 0.8


def test_a_routine_done_in_any_order_is_not_foretold():
    orders = [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1)] * 4
    found = replay([execution(n, order) for n, order in enumerate(orders)])
    assert found.step_low < 0.8
    assert found.branching < 0.8


def test_the_order_in_which_fields_of_one_page_are_filled_does_not_matter():
    orders = [(0, 1, 2), (1, 0, 2)] * 6
    executions = [execution(n, order) for n, order in enumerate(orders)]
    assert replay(executions, fills=("form", "form", None)).branching == 1
    assert replay(executions, fills=("form", "other", None)).branching < 1


def test_a_constant_that_changes_later_is_a_miss_of_what_was_held_out():
    found = replay([execution(n, constant="USD" if n == 11 else "EUR") for n in range(12)])
    assert found.values < 1
    assert found.run_rate == pytest.approx(2 / 3)


def test_one_execution_does_not_foretell_itself():
    strange = [execution(n, (0, 1, 2) if n else (2, 1, 0)) for n in range(5)]
    assert replay(strange).step_low < replay([execution(n) for n in range(5)]).step_low


def test_time_saved_counts_weeks_and_what_would_succeed():
    found = replay([execution(n, start_ms=n * WEEK_MS // 2) for n in range(9)])
    assert found.saves_ms_a_week == pytest.approx(9 * 30_000 / 4, rel=0.01)


def test_too_few_executions_say_nothing():
    assert replay([execution(n) for n in range(2)]) is None


@pytest.mark.parametrize(
    ("p", "a", "b", "x"),
    [
        (0.3, 1, 1, 0.3),  # uniform
        (0.2, 5, 1, 0.2 ** (1 / 5)),
        (0.2, 1, 4, 1 - 0.8 ** (1 / 4)),
        (0.5, 7, 7, 0.5),
        (0.5, 0.5, 0.5, 0.5),
        (0.25, 0.5, 0.5, 0.5 - 0.5**1.5),  # arcsine law: sin²(pi p / 2)
        (0.1, 40.5, 2.5, 0.8941),  # two million draws of numpy
    ],
)
def test_quantiles_of_the_beta_distribution(p, a, b, x):
    assert beta_quantile(p, a, b) == pytest.approx(x, abs=2e-4 if a == 40.5 else 1e-6)
