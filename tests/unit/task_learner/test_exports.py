"""Exports are what other tools' readers take them for."""

import json
import sysconfig
from pathlib import Path
from xml.etree import ElementTree

import pytest
import r4pm
from bpmn_io import check
from r4pm import bindings

from services.task_learner.exports import EXPORTS
from services.task_learner.exports.pictures import to_picture
from services.task_learner.synthesis import learn
from shared.errors import MiningError
from shared.schemas import (
    Action,
    Element,
    Level,
    Origin,
    Parameter,
    ParameterSource,
    Routine,
    RoutineStatus,
    Source,
    Step,
    Text,
    Trace,
    UiEvent,
)

APP = "https://desk.test"


def event(number, action, role, *, name=None, label=None, value=None):
    return UiEvent(
        id=f"e{number}", time_ms=1_700_000_000_000 + number * 1500, user_id="ada",
        source=Source.BROWSER, session="s", seq=number, action=action, application=APP,
        level=Level.VALUES, document=f"{APP}/form",
        element=Element(role=role, label=label, name=name and Text(clear=name)),
        value=value and Text(clear=value),
    )  # fmt: skip


def trace(number, who):
    return Trace(
        trace_id=f"t{number}", routine_id="r1", user_id="ada", parameters={"name": who},
        events=(
            event(number * 10, Action.CLICK, "link", name=who),
            event(number * 10 + 1, Action.EDIT, "textbox", label='Name "full" <all>', value=who),
            event(number * 10 + 2, Action.CLICK, "button", name="Save & send"),
        ),
    )  # fmt: skip


TRACES = [trace(1, "Zoë <b>Lee</b>"), trace(2, "Bo\x0bEk & Co")]
SURNAME = learn(["name"], [(["Ada Abel"], "Abel"), (["Bo Born"], "Born"), (["Cy Ott"], "Ott")])
ROUTINE = Routine(
    id="r1-1", time_ms=1_700_000_000_000, routine_id="r1", revision=1, user_id="ada",
    name='Save "it" & go <on>', origin=Origin.MINED, status=RoutineStatus.PROPOSED,
    level=Level.VALUES, applications=(APP,), support=2, coverage=0.5, median_ms=3000,
    steps=(
        Step(action=Action.CLICK, application=APP, role="link", parameter="name"),
        Step(action=Action.EDIT, application=APP, role="textbox", label='Name "full" <all>',
             parameter="surname"),
        Step(action=Action.SELECT, application=APP, role="combobox", label="Currency",
             constant="EUR", coverage=0.6),
        Step(action=Action.CLICK, application=APP, role="button", label="Save & send"),
    ),
    parameters=(
        Parameter(name="name", source=ParameterSource.SCREEN, value_class="text"),
        Parameter(name="surname", source=ParameterSource.TYPED, value_class="text",
                  programme=SURNAME),
    ),
)  # fmt: skip


def made(form, routine=ROUTINE, traces=TRACES):
    return EXPORTS[form].make(routine, traces)


def test_bpmn_is_read_without_a_complaint_and_has_a_diagram():
    xml = made("bpmn").decode()
    report = check(xml)
    assert report.ok, report.errors
    assert not report.warnings
    tree = ElementTree.fromstring(xml)  # noqa: S314 - our own
    names = [n.get("name") for n in tree.iter() if n.tag.endswith("}userTask")]
    assert names == [
        "Click <name>", 'Enter <surname> in Name "full" <all>', "Choose EUR in Currency",
        "Click Save & send",
    ]  # fmt: skip
    tags = [n.tag.rpartition("}")[2] for n in tree.iter()]
    assert tags.count("exclusiveGateway") == 2  # round the step that is seldom done
    assert tags.count("BPMNShape") == 8
    assert tags.count("BPMNEdge") == tags.count("sequenceFlow") == 8
    [start] = [n.get("name") for n in tree.iter() if n.tag.endswith("}startEvent")]
    assert start == "given: name"  # the surname follows from it


@pytest.mark.parametrize(("form", "suffix"), [("xes", ".xes")])
def test_xes_is_read_by_a_process_mining_tool(form, suffix, tmp_path):
    path = tmp_path / f"log{suffix}"
    path.write_bytes(made(form))
    log = r4pm.import_item("EventLog", str(path))
    projected = r4pm.convert_item(log, "EventLogActivityProjection")
    assert bindings.get_num_cases(projected) == 2
    assert bindings.get_num_variants(projected) == 1
    assert set(bindings.get_projection_activities(projected)) == {
        "Click link", 'Enter Name "full" <all>', "Click Save & send",
    }  # fmt: skip


def test_xes_keeps_what_was_entered_but_in_no_name_of_an_activity():
    tree = ElementTree.fromstring(made("xes"))  # noqa: S314 - our own
    strings = [(s.get("key"), s.get("value")) for s in tree.iter() if s.tag == "string"]
    assert ("value", "Zoë <b>Lee</b>") in strings
    assert ("parameter:name", "BoEk & Co") in strings  # XML has no such character
    activities = {v for e in tree.iter("event") for k, v in
                  ((s.get("key"), s.get("value")) for s in e) if k == "concept:name"}  # fmt: skip
    assert not any("Lee" in activity for activity in activities)


def test_ocel_is_read_by_a_process_mining_tool(tmp_path):
    path = tmp_path / "log.json"
    path.write_bytes(made("ocel"))
    linked = bindings.slim_link_ocel(ocel=r4pm.import_item("OCEL", str(path)))
    assert bindings.num_events(ocel=linked) == 6
    log = json.loads(path.read_text())
    known = {o["id"] for o in log["objects"]}
    assert {o["type"] for o in log["objects"]} == {"routine", "execution", "application"}
    for item in (*log["events"], *log["objects"]):
        assert {r["objectId"] for r in item["relationships"]} <= known
    declared = {t["name"]: {a["name"] for a in t["attributes"]} for t in log["eventTypes"]}
    assert all({a["name"] for a in e["attributes"]} <= declared[e["type"]] for e in log["events"])


def test_mermaid_escapes_what_a_page_wrote():
    text = made("mermaid").decode()
    assert text.startswith("flowchart TD\n")
    assert '  s3["Click Save #amp; send"]' in text
    assert '  s1["Enter #lt;surname#gt; in Name #quot;full#quot; #lt;all#gt;"]' in text
    assert "  s1 -.-> s3" in text


def test_pictures_are_drawn():
    svg = made("svg").decode()
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    shown = " ".join(t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "Click Save & send" in shown
    assert 'Save "it" & go <on>' in shown
    assert made("png").startswith(b"\x89PNG\r\n\x1a\n")


def test_a_label_is_no_part_of_the_drawing_programme():
    evil = ROUTINE.model_copy(update={"name": 'x"]; b [image="/etc/passwd" \\'})
    assert "passwd" in made("svg", evil).decode()  # as a text
    assert "<image" not in made("svg", evil).decode()


def test_a_picture_that_cannot_be_drawn_is_said(monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(Path("/nowhere")))
    with pytest.raises(MiningError, match="ask for mermaid"):
        to_picture(ROUTINE, "svg")


def test_a_routine_without_a_trace_is_exported_too():
    for form in EXPORTS:
        assert made(form, traces=[])
