"""What demonstrations do not have in common is told, not dropped without a word."""

from services.commands.routines import left_out


def test_each_step_left_out_is_told_with_its_share():
    step = {"action": "click", "role": "checkbox", "label": "Breakfast", "coverage": 2 / 3}
    [line] = left_out({"left_out": [step]})
    assert line.startswith("left out: click checkbox Breakfast, in 67% of the demonstrations")


def test_nothing_left_out_says_nothing():
    assert list(left_out({"left_out": None})) == list(left_out({})) == []
