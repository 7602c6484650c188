"""Parameters, constants and where values came from."""

import random

from services.task_learner.dataflow import Screen, find_flow, parameter_values, trace_values
from shared.schemas import Action, Level, ParameterSource, Snapshot
from tests.unit.task_learner import ui_logs


def trace(name, amount, *, shown=True, level=Level.VALUES, currency="EUR"):
    log = ui_logs.Log(random.Random(1), level=level)  # noqa: S311
    log.show("desk/card", [("definition", "Name", name if shown else "somebody else")])
    log.add(Action.CLICK, "desk/list", "link", name=name, selector="table>link")
    log.add(Action.EDIT, "desk/form", "textbox", label="Full name", value=name)
    log.add(Action.EDIT, "desk/form", "textbox", label="E-mail", value=amount)
    log.add(Action.EDIT, "desk/form", "textbox", label="Currency", value=currency)
    screens = {d: Screen(Snapshot.model_validate_json(s)) for d, s in log.snapshots.items()}
    return trace_values(log.events, screens)


def test_varying_values_are_parameters_and_equal_ones_share_one():
    traces = [trace("Ada Abel", "100"), trace("Bo Born", "200")]
    flow = find_flow(4, traces)
    assert flow.of_step == ("full_name", "full_name", "e_mail", None)
    assert flow.constants == (None, None, None, "EUR")
    assert parameter_values(flow, traces[0]) == {"full_name": "Ada Abel", "e_mail": "100"}


def test_a_value_that_stood_on_the_screen_before_comes_from_there():
    flow = find_flow(4, [trace("Ada Abel", "100"), trace("Bo Born", "200")])
    name, mail = flow.parameters
    assert (name.source, name.label, name.role, name.document) == (
        ParameterSource.SCREEN, "Name", "definition", "desk/card",
    )  # fmt: skip
    assert mail.source is ParameterSource.TYPED


def test_a_value_seen_too_seldom_counts_as_typed():
    traces = [trace(f"Person {i}", str(i), shown=i < 3) for i in range(6)]
    assert find_flow(4, traces).parameters[0].source is ParameterSource.TYPED


def test_hashes_are_compared_where_no_clear_value_is_kept():
    traces = [trace(n, "1", level=Level.STRUCTURE) for n in ("Ada Abel", "Bo Born the second")]
    flow = find_flow(4, traces)
    assert flow.of_step == ("full_name", "full_name", None, None)
    assert flow.constants == (None,) * 4  # too short to be compared: nothing is guessed


def test_one_demonstration_makes_parameters_of_what_was_entered():
    flow = find_flow(4, [trace("Ada Abel", "100")])
    assert flow.of_step == ("full_name", "full_name", "e_mail", "currency")
