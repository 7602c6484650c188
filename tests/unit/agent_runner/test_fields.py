import pytest

from services.agent_runner.actuators.fields import (
    DATE_FORMS,
    date_parts,
    holds,
    option_reading,
)
from shared.errors import StepRefused


def test_parts_of_a_time_are_those_of_both_clocks():
    form, _ = DATE_FORMS["time"]
    assert date_parts(form, "17:05") == {"H": "17", "m": "05", "h": "05", "p": "PM"}
    assert date_parts(form, "00:30") == {"H": "00", "m": "30", "h": "12", "p": "AM"}
    assert date_parts(form, "5 pm") is None


@pytest.mark.parametrize(
    ("held", "text", "kind", "same"),
    [
        ("a  b", "a b", "", True),
        ("1.5", "1.50", "number", True),
        ("15", "1.5", "number", False),
        ("1.5", "1.50", "", False),
        ("abc", "abcd", "", False),
    ],
)
def test_a_field_holds_the_text_or_another(held, text, kind, same):
    assert holds(held, text, kind) is same


def test_an_option_is_found_by_its_text_and_never_guessed():
    options = [{"text": t, "disabled": t == "C"} for t in ("A", "b", "B", "C", "D", "D")]
    assert option_reading(options, "B", "list") == 2
    assert option_reading(options, "a", "list") == 0
    for text in ("C", "D", "E"):
        with pytest.raises(StepRefused):
            option_reading(options, text, "list")
