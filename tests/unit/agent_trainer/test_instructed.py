import pytest

from services.agent_trainer.dataset import decisions
from services.agent_trainer.instructed import read_instructed
from shared.errors import TrainingError
from shared.schemas import (
    Action,
    Box,
    Element,
    Level,
    Origin,
    Routine,
    RoutineStatus,
    Shown,
    Snapshot,
    SnapshotElement,
    Source,
    Text,
    Trace,
    UiEvent,
)

NAMES = ("ana", "bo", "cy", "dee", "eli", "flo")


def screen(goal, value=None, checked=()):
    def element(index, tag, role, text=None, **more):
        return SnapshotElement(
            index=index, tag=tag, role=role, text=text and Text(clear=text), **more
        )

    return Snapshot(
        application="app", level=Level.VALUES,
        elements=(
            element(0, "div", "generic", goal, element_id="task"),
            element(1, "input", "textbox", value=Text(cls="empty"), element_id="who"),
            element(2, "input", "checkbox", states=checked, name=Text(clear="Urgent")),
            element(3, "button", "button", "Send", name=Text(clear="Send")),
            element(4, "div", "generic"),
        ),
    )  # fmt: skip


def event(seq, action, index, value=None, **more):
    role = ("generic", "textbox", "checkbox", "button", "generic")[index]
    return UiEvent(
        id=f"{seq}", time_ms=seq, user_id="u", source=Source.REPLAY, session="s", seq=seq,
        action=action, application="app", level=Level.VALUES,
        element=Element(role=role, index=index), value=value and Text(clear=value),
        snapshot="0" * 64, **more,
    )  # fmt: skip


def read(*traces, needs_result=False):
    """Each trace: the instruction, and events."""
    screens = {}
    made = []
    for number, (goal, *events) in enumerate(traces):
        digest = f"{number:064x}"
        screens[digest] = screen(goal)
        own = tuple(e.model_copy(update={"snapshot": digest}) for e in events)
        made.append(
            Trace(trace_id=f"t{number}", routine_id="r", user_id="u", events=own, parameters={})
        )
    return read_instructed(routine(made), made, screens.__getitem__, needs_result=needs_result)


def routine(traces):
    return Routine(
        id="r", time_ms=0, routine_id="r", revision=1, user_id="u", name="send",
        origin=Origin.MINED, status=RoutineStatus.APPROVED, level=Level.VALUES,
        applications=("app",), steps=(), parameters=(), support=len(traces), coverage=1,
        median_ms=1,
    )  # fmt: skip


def sending(name, *extra):
    return (
        f"Write to {name} and press Send",
        *extra,
        event(5, Action.EDIT, 1, name),
        event(9, Action.CLICK, 3),
    )


def acts(chore):
    return [
        [(s.action.op, s.action.slot, s.target) for s in d.states] for d in chore.demonstrations
    ]


def test_what_was_typed_is_a_span_of_the_instruction():
    chore = read(*map(sending, NAMES))
    assert chore.reading.goal.element_id == "task"
    assert acts(chore) == [[("type_text", "goal_1", 1), ("click", None, 3)]] * len(NAMES)
    assert [d.values["goal_1"] for d in chore.demonstrations] == list(NAMES)


def test_a_secret_is_known_by_where_it_stands():
    def secret(name):
        start = len("Write to ")
        shown = Shown(index=0, start=start, end=start + len(name))
        goal, *_, press = sending(name)
        return goal, event(5, Action.EDIT, 1, shown=shown), press

    chore = read(*map(secret, NAMES))
    assert acts(chore)[0][0] == ("type_text", "goal_1", 1)


def test_a_click_that_only_focuses_a_field_is_no_step():
    chore = read(*(sending(name, event(1, Action.CLICK, 1)) for name in NAMES))
    assert len(acts(chore)[0]) == 2


def test_a_click_on_a_field_that_is_not_filled_is_a_step():
    chore = read(*((f"Look at {name} now", event(1, Action.CLICK, 1)) for name in NAMES))
    assert acts(chore)[0] == [("click", None, 1)]


def test_an_even_number_of_toggles_is_none():
    toggles = event(1, Action.CLICK, 2), event(2, Action.CLICK, 3), event(3, Action.CLICK, 2)
    assert [t for _, _, t in acts(read(*(sending(n, *toggles) for n in NAMES)))[0]] == [3, 1, 3]


def test_only_controls_are_candidates_where_only_they_were_used():
    chore = read(*map(sending, NAMES))
    assert chore.reading.controls
    assert all(len(d.x_NF) == 3 for d in decisions(chore.demonstrations[0], chore))


def test_what_only_looks_like_something_is_a_candidate_where_it_was_used():
    chore = read(*((f"Look at {name} now", event(1, Action.CLICK, 4)) for name in NAMES))
    assert not chore.reading.controls


def test_a_value_that_is_told_nowhere_leaves_its_trace_out():
    odd = [sending(f"w{i}q") for i in range(16)]
    odd = [(f"Write to x and press Send{i}", *rest) for i, (_, *rest) in enumerate(odd)]
    chore = read(*map(sending, NAMES), *odd)
    assert chore.left_out


def test_without_a_result_it_fails_where_one_is_needed():
    with pytest.raises(TrainingError, match="after its last step"):
        read(*map(sending, NAMES), needs_result=True)


def drawn(goal, colour=None):
    box = {"box": Box(x_px=0, y_px=0, width_px=9, height_px=9)}
    shapes = tuple(
        SnapshotElement(index=i, role="generic", tag="circle", colour=colour, **box) for i in (1, 2)
    )
    task = SnapshotElement(
        index=0, role="generic", tag="div", element_id="task", text=Text(clear=goal)
    )
    count = SnapshotElement(index=3, role="button", tag="button", text=Text(clear="1"))
    return Snapshot(application="app", level=Level.VALUES, elements=(task, *shapes, count))


@pytest.mark.parametrize(("index", "kept"), [(3, 8), (1, 16)])
def test_a_recording_without_the_colour_that_is_told_is_left_out_unless_it_can_be_given_one(
    index, kept
):
    told = [drawn(f"Press on a {c} circle") for c in ("red", "blue") * 4]
    plain = [drawn("Press on a circle") for _ in range(8)]
    screens = {f"{i:064x}": screen for i, screen in enumerate((*told, *plain))}
    traces = [
        Trace(
            trace_id=digest, routine_id="r", user_id="u", parameters={},
            events=(event(1, Action.CLICK, index).model_copy(update={"snapshot": digest}),),
        )
        for digest in screens
    ]  # fmt: skip
    chore = read_instructed(routine(traces), traces, screens.__getitem__, needs_result=False)
    assert len(chore.demonstrations) == kept
    assert len(chore.left_out) == 16 - kept


def choosing(wanted, offered, chosen):
    labels = tuple(
        SnapshotElement(index=i, role="checkbox", tag="input", name=Text(clear=word), label=word)
        for i, word in enumerate(offered, start=1)
    )
    task = SnapshotElement(
        index=0, role="generic", tag="div", element_id="task",
        text=Text(clear=f"Choose words like {wanted} please"),
    )  # fmt: skip
    snapshot = Snapshot(application="app", level=Level.VALUES, elements=(task, *labels))
    return snapshot, 1 + offered.index(chosen)


@pytest.mark.parametrize("by_meaning", [True, False])
def test_that_words_were_chosen_by_their_meaning_is_found_out(by_meaning):
    told = [
        choosing("huge", ("gigantic", "water"), "gigantic"),
        choosing("afraid", ("table", "frightened"), "frightened"),
        choosing("rabbit", ("bunny", "quiet"), "bunny"),
    ]  # fmt: skip
    screens = {f"{i:064x}": screen for i, (screen, _) in enumerate(told)}
    traces = [
        Trace(
            trace_id=digest, routine_id="r", user_id="u", parameters={},
            events=(
                event(1, Action.CLICK, 2).model_copy(update={
                    "snapshot": digest,
                    "element": Element(role="checkbox", index=at if by_meaning else 3 - at),
                }),
            ),
        )
        for digest, (_, at) in zip(screens, told, strict=True)
    ]  # fmt: skip
    chore = read_instructed(routine(traces), traces, screens.__getitem__, needs_result=False)
    assert chore.reading.meanings is by_meaning
