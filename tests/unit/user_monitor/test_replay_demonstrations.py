import json
from io import BytesIO

import pytest

from services.user_monitor.capture.replay_demonstrations import read_demonstrations
from shared.errors import CaptureError
from shared.schemas.raw_events import Action


def dom(tag, ref, *children, **more):
    box = {"left": 0, "top": 60, "width": 20, "height": 10, "classes": "", "id": ""}
    return {"tag": tag, "ref": ref, "children": list(children), **box, **more}


def state(tree, kind=None, time=0, **more):
    return {"time": time, "action": kind and {"type": kind, **more}, "dom": tree}


def page(*children, **more):
    return dom("BODY", 1, dom("FORM", 2, *children, id="mturk_form"), **more)


def line(*states, utterance="Choose bo and send it", **more):
    known = {"task": "t9", "batch": "b9", "session": "s9", "demo": 9, "reward": 0.5}
    return json.dumps({**known, "utterance": utterance, "states": list(states), **more}).encode()


def captures(*states, **more):
    return list(read_demonstrations(BytesIO(line(*states, **more))))


def box(name, ref, checked=False, target=None, classes=""):
    tagged = {target: {"recordingTarget": True}}
    return dom(
        "LABEL", ref,
        dom("INPUT_checkbox", ref + 1, value=checked, **tagged.get("box", {})),
        dom("t", -ref, text=name),
        classes=classes, **tagged.get("label", {}),
    )  # fmt: skip


def test_a_click_on_a_label_is_one_on_its_control():
    pressed = page(box("bo", 10, target="label"))
    synthetic = page(box("bo", 10, target="box"))
    found = captures(
        state(pressed), state(pressed, "mousedown", 5), state(pressed, "mouseup", 6),
        state(pressed, "click", 6), state(synthetic, "click", 6),
    )  # fmt: skip
    assert [(c.action, c.element.untrusted_role, c.untrusted_value) for c in found] == [
        (Action.CLICK, "checkbox", "true")
    ]
    assert found[0].element.untrusted_name == "bo"


def test_typing_is_one_edit_with_the_final_value_on_the_screen_before():
    def shows(value):
        return page(dom("INPUT_text", 3, value=value, recordingTarget=True))

    found = captures(
        state(shows("")), state(shows(""), "keydown", 1, keyCode=66), state(shows("b"), "keyup", 2),
        state(shows("b"), "keydown", 3, keyCode=79), state(shows("bo"), "keyup", 4),
    )  # fmt: skip
    assert [(c.action, c.untrusted_value) for c in found] == [(Action.EDIT, "bo")]
    assert found[0].snapshot.elements[found[0].element.index].untrusted_value == ""


def test_the_value_of_a_password_field_is_never_read():
    def shows(value):
        return page(dom("INPUT_password", 3, value=value, recordingTarget=True))

    (found,) = captures(
        state(shows("")), state(shows(""), "keydown", keyCode=66), state(shows("hush"), "keyup")
    )
    assert found.element.is_secret
    assert "hush" not in repr(found)


def test_the_instruction_is_an_element_of_each_snapshot():
    tree = page(dom("BUTTON", 3, text="Send", recordingTarget=True))
    (found,) = captures(state(tree), state(tree, "mousedown"), state(tree, "click"))
    assert found.snapshot.elements[0].untrusted_text == "Choose bo and send it"
    assert found.element.untrusted_name == "Send"


def test_how_the_pointer_changes_what_it_is_on_is_not_shown():
    def tree(colour, *, pointed):
        classes = "swatch ui-state-hover" if pointed else "swatch"
        return page(dom("DIV", 3, bgColor=colour, classes=classes, recordingTarget=pointed))

    (found,) = captures(
        state(tree("rgb(1, 2, 3)", pointed=False)),
        state(tree("rgb(9, 9, 9)", pointed=True), "mousedown"),
        state(tree("rgb(9, 9, 9)", pointed=True), "click"),
    )
    assert found.element.untrusted_classes == ("swatch",)
    assert found.element.untrusted_colour == "rgb(1, 2, 3)"


def test_a_press_that_ends_the_task_is_a_click():
    tree = page(dom("INPUT_text", 3, value="", recordingTarget=True))
    found = captures(state(tree), state(tree, "mousedown"))
    assert [c.action for c in found] == [Action.CLICK]


def test_the_option_that_the_instruction_names_was_chosen():
    options = [dom("OPTION", 5, text="al"), dom("OPTION", 6, text="bo")]
    listed = page(
        dom("SELECT", 4, *options, height=60, recordingTarget=True), dom("BUTTON", 7, text="Send")
    )
    found = captures(state(listed), state(listed, "mousedown"))
    assert [(c.action, c.untrusted_value) for c in found] == [(Action.SELECT, "bo")]
    assert found[0].element.untrusted_options == ("al", "bo")


def test_what_the_recording_says_of_itself_stays_out():
    tree = page(dom("BUTTON", 3, text="Send", recordingTarget=True))
    found = repr(captures(state(tree), state(tree, "click"), taskName="t9", rawReward=1))
    assert not any(label in found for label in ("t9", "b9", "s9", "reward"))


def test_demonstrations_follow_each_other_in_time():
    tree = page(dom("BUTTON", 3, text="Send", recordingTarget=True))
    one = line(state(tree), state(tree, "click", 400))
    times = [c.time_ms for c in read_demonstrations(BytesIO(one + b"\n\n" + one))]
    assert times[1] - times[0] == 1400


@pytest.mark.parametrize("bad", [b"[]", b"{}", b'{"utterance": "a", "states": [{}]}', b"x"])
def test_a_bad_line_is_named(bad):
    with pytest.raises(CaptureError, match="line 1 is no demonstration"):
        list(read_demonstrations(BytesIO(bad)))


def test_a_choice_of_which_nothing_was_recorded_is_one_without_a_value():
    closed = page(dom("SELECT", 4, recordingTarget=True), dom("BUTTON", 7, text="Send"))
    found = captures(state(closed), state(closed, "mousedown"))
    assert [(c.action, c.untrusted_value) for c in found] == [(Action.SELECT, None)]


def menu(opened=(), target=None):
    """A list with a list in it, each shown from its own number on."""

    def entry(ref, name, *children):
        wrapper = dom("DIV", ref + 1, dom("t", -ref, text=name), recordingTarget=ref == target)
        return dom("LI", ref, wrapper, *children)

    deepest = [dom("UL", 30, entry(32, "cy"))] if 30 in opened else []
    inner = [dom("UL", 20, entry(22, "bo", *deepest))] if 20 in opened else []
    return page(dom("UL", 10, entry(12, "al", *inner)))


def test_what_opened_before_the_first_press_was_pointed_at():
    found = captures(
        state(menu()),
        state(menu((20, 30), 32), "mousedown", 5),
        state(menu((20, 30), 32), "click", 6),
    )
    assert [c.action for c in found] == [Action.HOVER, Action.HOVER, Action.CLICK]
    names = [
        {e.untrusted_text for e in c.snapshot.elements if e.untrusted_tag in ("div", "li")}
        for c in found
    ]
    assert [len(n & {"al", "bo", "cy"}) for n in names] == [1, 2, 3]


def test_what_a_click_opened_was_not_pointed_at():
    found = captures(
        state(menu()), state(menu((), 12), "mousedown", 1), state(menu((), 12), "click", 2),
        state(menu((20,), 22), "mousedown", 5), state(menu((20,), 22), "click", 6),
    )  # fmt: skip
    assert [c.action for c in found] == [Action.CLICK, Action.CLICK]


def test_several_options_of_a_list_are_several_choices():
    options = [
        dom("OPTION", 5, text="al"),
        dom("OPTION", 6, text="bo"),
        dom("OPTION", 8, text="cy"),
    ]
    shown = page(
        dom("SELECT", 4, *options, height=60, recordingTarget=True), dom("BUTTON", 7, text="Send")
    )
    send = page(dom("SELECT", 4, *options, height=60),
                dom("BUTTON", 7, text="Send", recordingTarget=True))  # fmt: skip
    found = captures(
        state(shown), state(shown, "mousedown", 1), state(shown, "click", 2),
        state(send, "mousedown", 3), state(send, "click", 4), utterance="Choose al, cy and send",
    )  # fmt: skip
    assert [c.untrusted_value for c in found if c.action is Action.SELECT] == ["al", "cy"]


def test_the_arrows_of_a_number_field_edit_it():
    def shows(value, on="field"):
        return page(
            dom("INPUT_number", 3, value=value, recordingTarget=on == "field"),
            dom("BUTTON", 7, text="Send", recordingTarget=on == "button"),
        )

    found = captures(
        state(shows("")), state(shows(""), "mousedown", 1), state(shows("1"), "click", 2),
        state(shows("1"), "mousedown", 3), state(shows("2"), "click", 4),
        state(shows("2", "button"), "mousedown", 5), state(shows("2", "button"), "click", 6),
    )  # fmt: skip
    assert [(c.action, c.untrusted_value) for c in found] == [
        (Action.EDIT, "2"), (Action.CLICK, None),
    ]  # fmt: skip


@pytest.mark.parametrize(("inside", "seen"), [
    ((dom("SPAN", 4, text="Ana", recordingTarget=True),), [("li", "Ana")]),
    ((dom("SPAN", 4, text="Ana", recordingTarget=True), dom("SPAN", 5, text="9")),
     [("li", None), ("span", "Ana"), ("span", "9")]),
    ((dom("LABEL", 4, text="Ana", recordingTarget=True),), [("li", None), ("label", "Ana")]),
    ((dom("DIV", 4, text="Ana", id="ui-id-4", recordingTarget=True),),
     [("li", None), ("div", "Ana")]),
])  # fmt: skip
def test_one_plain_wrapper_lends_its_text_as_on_a_live_page(inside, seen):
    tree = page(dom("LI", 3, *inside))
    [found] = captures(state(tree), state(tree, "mousedown", 5))
    assert [(e.untrusted_tag, e.untrusted_text) for e in found.snapshot.elements[1:]] == seen
    assert found.element.untrusted_text == "Ana"
