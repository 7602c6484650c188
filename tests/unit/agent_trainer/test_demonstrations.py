import pytest

from services.agent_trainer.demonstrations import read_chore
from shared.errors import ArtifactError, TrainingError
from shared.schemas import Action, Text
from tests.unit.agent_trainer.club import FIELDS, ORIGIN, demonstrations, routine


def chore(num=6, change=None, **changes):
    """Read a club's chore; `change` edits each event, or drops it by returning None."""
    traces, snapshots = demonstrations(num)
    if change is not None:
        traces = [
            t.model_copy(update={"events": tuple(e for e in map(change, t.events) if e)})
            for t in traces
        ]
    return read_chore(routine(traces, **changes), traces, snapshots.__getitem__)


def named(state):
    element = next(e for e in state.snapshot.elements if e.index == state.target)
    return state.action.op, state.action.slot, element.label or element.name.clear


def field(state, label):
    return next(e for e in state.snapshot.elements if e.label == label and e.role != "definition")


def test_every_trace_becomes_the_same_steps_in_one_order():
    found = [
        [named(s)[:2] for s in d.states if s.target is not None and s.action.slot]
        for d in chore().demonstrations
    ]
    assert len(found) == 6
    assert sorted(found[0]) == sorted(
        ("select_option" if slot == "sport" else "type_text", slot) for slot in FIELDS
    )
    assert all(steps == found[0] for steps in found)


def test_screens_between_fields_show_what_is_filled_by_then():
    for demonstration in chore().demonstrations:
        filling = [s for s in demonstration.states if s.action and s.action.slot]
        for i, state in enumerate(filling):
            for j, other in enumerate(filling):
                label = named(other)[2]
                shown = field(state, label).value.clear
                wanted = demonstration.values[other.action.slot] if j < i else ""
                assert shown == wanted


def test_history_grows_by_one_step_a_state_and_the_last_state_is_finished():
    for demonstration in chore().demonstrations:
        assert [len(s.history) for s in demonstration.states] == list(
            range(len(demonstration.states))
        )
        assert demonstration.states[-1].action is None
        assert demonstration.states[-1].target is None


def test_a_picture_taken_late_does_not_give_the_answer_away():
    traces, snapshots = demonstrations(6)

    def late(event):
        if event.action is not Action.EDIT:
            return event
        shot = snapshots[event.snapshot]
        elements = tuple(
            e.model_copy(update={"value": event.value}) if e.index == event.element.index else e
            for e in shot.elements
        )
        digest = f"{len(snapshots):064d}"
        snapshots[digest] = shot.model_copy(update={"elements": elements})
        return event.model_copy(update={"snapshot": digest})

    traces = [t.model_copy(update={"events": tuple(map(late, t.events))}) for t in traces]
    found = read_chore(routine(traces), traces, snapshots.__getitem__)
    for demonstration in found.demonstrations:
        for state in demonstration.states:
            if state.action and state.action.op == "type_text":
                assert not field(state, named(state)[2]).value.clear


def test_what_is_always_the_same_becomes_a_constant():
    def always_judo(event):
        if event.action is Action.SELECT:
            return event.model_copy(update={"value": Text(clear="Judo")})
        return event

    def without_sport(routine_fields):
        return tuple(p for p in routine_fields if p.name != "sport")

    traces, snapshots = demonstrations(5)
    traces = [t.model_copy(update={"events": tuple(map(always_judo, t.events))}) for t in traces]
    asked = routine(traces)
    asked = asked.model_copy(update={"parameters": without_sport(asked.parameters)})
    found = read_chore(asked, traces, snapshots.__getitem__)
    assert dict(found.constants) == {"constant_1": "Judo"}
    assert any(a.slot == "constant_1" and a.op == "select_option" for a in found.actions)


def test_a_value_from_nowhere_is_said_with_its_field():
    traces, snapshots = demonstrations(5)
    asked = routine(traces)
    asked = asked.model_copy(
        update={"parameters": tuple(p for p in asked.parameters if p.name != "phone")}
    )
    with pytest.raises(TrainingError, match="phone"):
        read_chore(asked, traces, snapshots.__getitem__)


def test_a_detour_of_one_trace_is_left_out():
    traces, snapshots = demonstrations(6)
    first = traces[1].events[0]
    screen = snapshots[first.snapshot]
    news = next(e for e in screen.elements if e.name and e.name.clear == "News")
    element = first.element.model_copy(update={"index": news.index, "name": news.name})
    traces[1] = traces[1].model_copy(
        update={"events": (first.model_copy(update={"element": element}), *traces[1].events)}
    )
    found = read_chore(routine(traces), traces, snapshots.__getitem__)
    shown = [named(s)[2] for d in found.demonstrations for s in d.states if s.action]
    assert "News" not in shown


def test_clicks_that_move_the_focus_and_tabs_are_no_steps():
    def with_tab(event):
        return event.model_copy(update={"action": Action.KEY, "keys": "Tab"})

    traces, snapshots = demonstrations(4)
    traces = [
        t.model_copy(update={"events": (*t.events[:-1], with_tab(t.events[-2]), t.events[-1])})
        for t in traces
    ]
    found = read_chore(routine(traces), traces, snapshots.__getitem__)
    ops = {a.op for a in found.actions}
    assert ops == {"click", "type_text", "select_option"}


def test_enter_is_a_step():
    def enter(event):
        if event.action is Action.CLICK and event.element.role == "button":
            return event.model_copy(update={"action": Action.KEY, "keys": "Enter"})
        return event

    assert any(a.op == "press_key" and a.key == "Enter" for a in chore(change=enter).actions)


def test_a_hot_key_an_agent_cannot_press_is_said():
    def hot(event):
        if event.element.role == "button":
            return event.model_copy(update={"action": Action.HOT_KEY, "keys": "Control+s"})
        return event

    with pytest.raises(TrainingError, match=r"Control\+s"):
        chore(change=hot)


def test_steps_without_a_picture_are_said():
    with pytest.raises(TrainingError, match="no picture"):
        chore(change=lambda e: e.model_copy(update={"snapshot": None}))


def test_values_that_are_only_hashes_are_said():
    def hashed(event):
        if event.value is None:
            return event
        return event.model_copy(update={"value": Text(hash="abc")})

    with pytest.raises(TrainingError, match="allow `values`"):
        chore(change=hashed)


def test_a_missing_artifact_costs_its_trace_alone():
    traces, snapshots = demonstrations(4)
    del snapshots[traces[0].events[-1].snapshot]

    def snapshot_of(digest):
        if digest not in snapshots:
            raise ArtifactError("is gone")
        return snapshots[digest]

    found = read_chore(routine(traces), traces, snapshot_of)
    assert len(found.demonstrations) == 3
    assert found.left_out == ("is gone",)


def test_without_a_last_screen_nothing_can_be_confirmed():
    traces, snapshots = demonstrations(3)
    traces = [t.model_copy(update={"final_snapshot": None}) for t in traces]
    with pytest.raises(TrainingError, match="after its last step"):
        read_chore(routine(traces), traces, snapshots.__getitem__)


def test_one_trace_is_too_few():
    with pytest.raises(TrainingError, match="1 of 1 traces"):
        chore(num=1)


def test_where_it_begins_is_where_most_began():
    assert chore().start_url == f"{ORIGIN}/members"
    with pytest.raises(TrainingError, match="begin"):
        chore(change=lambda e: e.model_copy(update={"url": Text(clear=f"{ORIGIN}/x/{e.seq}")}))


def test_sessions_and_parameters_come_along():
    traces, snapshots = demonstrations(6, num_sessions=3)
    found = read_chore(routine(traces), traces, snapshots.__getitem__)
    assert {d.session for d in found.demonstrations} == {"session-0", "session-1", "session-2"}
    assert dict(found.demonstrations[0].values) == traces[0].parameters
