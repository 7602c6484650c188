"""Parameters, constants and where values came from."""

import json
import random
from dataclasses import asdict, replace

from services.task_learner.dataflow import (
    Screen,
    StepValue,
    find_flow,
    parameter_values,
    trace_values,
)
from shared.schemas import Action, Level, ParameterSource, Snapshot
from shared.schemas.programmes import PREVIOUS
from shared.transforms import complete, run
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


PEOPLE = [
    ("Ada Abel", "3 Elm St, Ayr, QLD 4807"), ("Bo Born", "19 Oak Road, Hay, NSW 2711"),
    ("Cleo Cole", "1 Bay Dr, South Hay, NSW 2711"), ("Dov Dahl", "77 Fig St, Roma, QLD 4455"),
    ("Eli Eads", "5 Ash Way, Cue, WA 6640"),
]  # fmt: skip


def visit(place, *, number=None, level=Level.VALUES):
    """Look at a card and type into a form what follows from it."""
    name, address = PEOPLE[place]
    log = ui_logs.Log(random.Random(1), level=level)  # noqa: S311
    log.show("desk/card", [("definition", "Name", name), ("definition", "Address", address)])
    log.add(Action.CLICK, "desk/list", "link", name=name, selector="table>link")
    log.add(Action.EDIT, "desk/form", "textbox", label="Surname", value=name.split()[1].upper())
    log.add(Action.EDIT, "desk/form", "textbox", label="Town", value=address.split(", ")[1])
    if number is not None:
        log.add(Action.EDIT, "desk/form", "textbox", label="Number", value=number)
    screens = {d: Screen(Snapshot.model_validate_json(s)) for d, s in log.snapshots.items()}
    return trace_values(log.events, screens)


def test_a_value_made_from_what_stood_on_the_screen_is_computed():
    traces = [visit(place) for place in range(5)]
    flow = find_flow(3, traces)
    name, surname, town, address = flow.parameters
    assert (surname.name, surname.programme.inputs) == ("surname", (name.name,))
    assert (town.name, town.programme.inputs) == ("town", ("address",))
    assert (address.source, address.label, address.role, address.document) == (
        ParameterSource.SCREEN, "Address", "definition", "desk/card",
    )  # fmt: skip
    assert parameter_values(flow, traces[1]) == {
        name.name: "Bo Born", "surname": "BORN", "town": "Hay",
        "address": "19 Oak Road, Hay, NSW 2711",
    }  # fmt: skip
    new = {name.name: "Fay Finn", "address": "8 Elm Rd, West Ayr, QLD 4807"}
    programmes = {p.name: p.programme for p in flow.parameters if p.programme is not None}
    assert complete(new, programmes) == {**new, "surname": "FINN", "town": "West Ayr"}


def test_a_programme_that_holds_is_kept_and_none_is_looked_for_unasked():
    traces = [visit(place) for place in range(5)]
    first = find_flow(3, traces[:4])
    assert find_flow(3, traces, first.parameters, search=False) == first
    assert not any(p.programme for p in find_flow(3, traces, search=False).parameters)


def test_a_programme_that_holds_no_more_is_dropped():
    traces = [visit(place) for place in range(5)]
    first = find_flow(3, traces)
    elsewhere = [
        [v and replace(v, key=f"Q{n}", clear=f"Q{n}") if v and v.label == "Town" else v for v in t]
        for n, t in enumerate(traces)
    ]
    town = next(p for p in find_flow(3, elsewhere, first.parameters).parameters
                if p.name == "town")  # fmt: skip
    assert town.programme is None


def test_a_number_that_counts_up_is_told_from_the_one_before():
    traces = [visit(place, number=f"R-{place + 41:04}") for place in range(5)]
    number = next(p for p in find_flow(4, traces).parameters if p.name == "number")
    assert run(number.programme, {PREVIOUS: "R-0099"}) == "R-0100"


def test_nothing_is_computed_from_two_traces_or_from_hashes():
    assert not any(p.programme for p in find_flow(3, [visit(0), visit(1)]).parameters)
    hashed = [visit(place, level=Level.STRUCTURE) for place in range(5)]
    assert not any(p.programme for p in find_flow(3, hashed).parameters)


def test_values_survive_being_written_down():
    values = visit(0)
    written = json.loads(json.dumps([v and asdict(v) for v in values]))
    assert [v and StepValue.load(v) for v in written] == values
