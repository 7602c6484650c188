"""Tokens hold what makes steps equal, never the data."""

import random

from services.task_learner.actions import mask, normalise
from shared.schemas import Action
from tests.unit.task_learner import ui_logs
from tests.unit.task_learner.logs import actions_of


def log():
    return ui_logs.Log(random.Random(1))  # noqa: S311


def test_numbers_dates_and_ids_are_masked():
    assert mask("Invoice 4711 of 2024-05-01") == "Invoice # of #"
    assert mask("/a/3f2504e0-4f89-11d3-9a0c-0305e82c3301/b") == "/a/#/b"


def test_a_links_text_is_kept_apart_from_its_token():
    desk = log()
    desk.add(Action.CLICK, "desk/claims", "link", name="Ada Abel", selector="table>row[3]>link")
    token, text = normalise(desk.events[0])
    assert "Ada" not in "".join(token)
    assert "3" not in token.label
    assert text == "Ada Abel"


def test_repeated_edits_of_a_field_are_one_with_the_last_value():
    desk = log()
    for value in ("a", "ab", "abc"):
        desk.add(Action.EDIT, "desk/claim", "textbox", label="Town", value=value)
    [action] = actions_of(desk.events)
    assert action.event.value.clear == "abc"


def test_a_click_in_a_field_is_part_of_filling_it_before_and_after():
    desk = log()
    desk.add(Action.CLICK, "desk/claim", "textbox", label="Town")
    desk.add(Action.EDIT, "desk/claim", "textbox", label="Town", value="Ke")
    desk.add(Action.CLICK, "desk/claim", "textbox", label="Town")
    desk.add(Action.EDIT, "desk/claim", "textbox", label="Town", value="Kent")
    [action] = actions_of(desk.events)
    assert (action.event.action, action.event.value.clear) == (Action.EDIT, "Kent")


def test_a_click_in_a_field_that_is_not_filled_is_a_step_for_it_may_open_something():
    desk = log()
    desk.add(Action.CLICK, "desk/claim", "textbox", label="Day")
    desk.add(Action.CLICK, "desk/claim", "link", name="17")
    assert [a.token.role for a in actions_of(desk.events)] == ["textbox", "link"]


def test_each_option_of_a_list_with_several_is_a_step():
    desk = log()
    for value in ("Ana", "Bo", "Bo"):
        desk.add(Action.SELECT, "desk/claim", "listbox", label="Guests", value=value)
    desk.add(Action.SELECT, "desk/claim", "combobox", label="Town", value="Kent")
    desk.add(Action.SELECT, "desk/claim", "combobox", label="Town", value="Lund")
    values = [a.event.value.clear for a in actions_of(desk.events)]
    assert values == ["Ana", "Bo", "Lund"]


def test_focus_scroll_copy_tab_and_caused_page_loads_are_no_steps():
    desk = log()
    desk.add(Action.CLICK, "desk/claim", "button", name="Send")
    desk.add(Action.NAVIGATE, "desk/done", "")
    desk.add(Action.FOCUS, "desk/claim", "textbox", label="Town")
    desk.add(Action.COPY, "desk/claim", "textbox", label="Town")
    desk.add(Action.HOT_KEY, "desk/claim", "textbox", label="Town", keys="Control+C")
    desk.add(Action.KEY, "desk/claim", "textbox", label="Town", keys="Tab")
    desk.add(Action.SCROLL, "desk/claim", "")
    assert [a.token.label for a in actions_of(desk.events)] == ["Send"]
