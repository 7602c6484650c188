import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.goal import MAX_SPANS, GoalSource, goal_slots, month_of, read_goal
from shared.schemas import Level, Snapshot, SnapshotElement, Text


def spans(text, *vocabulary):
    return read_goal(text, tuple(vocabulary)).spans


def test_what_is_quoted_is_a_span_whatever_is_in_it():
    assert spans('Enter "Ana and Bo" and press', "enter", "and", "press") == ("Ana and Bo",)


def test_words_that_are_no_vocabulary_run_together_until_a_comma():
    assert spans("Pick New York, oslo,rome now", "pick", "now") == ("New York", "oslo", "rome")


def test_a_span_knows_the_word_before_it():
    goal = read_goal(
        'the username "al" and the password "x9"', ("the", "username", "and", "password")
    )
    assert goal.before == ("username", "password")


def test_a_sign_that_belongs_to_the_value_stays():
    assert spans("posts by @ana and", "posts", "by", "and") == ("@ana",)


@pytest.mark.parametrize(
    ("text", "held"), [("7:05 PM", "19:05"), ("12:00 AM", "00:00"), ("9:30", "09:30")]
)
def test_a_time_is_told_as_fields_hold_it(text, held):
    assert read_goal(f"Enter {text} please", ("enter", "please")).slots()["time_1"] == held


def test_a_date_tells_month_and_day():
    goal = read_goal("Select 11/09/2016 please", ("select", "please"))
    assert (goal.month, goal.day) == (month_of("November 2016"), 9)


def test_a_number_and_an_ordinal_are_told():
    vocabulary = ("pick", "box", "the")
    assert read_goal("Pick -3 box", vocabulary).number == -3
    assert read_goal("Pick the 2nd box", vocabulary).ordinal == 2


def test_the_instruction_is_found_where_it_stands():
    def element(index, text, element_id):
        return SnapshotElement(
            index=index, role="generic", tag="div", element_id=element_id, text=Text(clear=text)
        )

    page = Snapshot(
        application="app", level=Level.VALUES,
        elements=(element(0, "Enter no", "other"), element(1, "Enter bo", "task")),
    )  # fmt: skip
    source = GoalSource(role="generic", tag="div", element_id="task", vocabulary=("enter",))
    assert goal_slots(page, source) == {"goal_1": "bo", "after_enter": "bo"}
    assert goal_slots(page, None) == {}


@given(st.text(max_size=80), st.lists(st.text(max_size=8), max_size=5))
def test_any_text_can_be_read(text, words):
    goal = read_goal(text, tuple(words))
    assert len(goal.spans) == len(goal.before) <= MAX_SPANS


def test_a_name_and_a_plain_word_are_two_spans():
    goal = read_goal("Forward Susanne the mail that Ana Lee sent", ("the", "mail", "sent"))
    assert goal.spans == ("Forward", "Susanne", "Ana Lee")


def test_a_path_of_menus_is_read_without_its_signs():
    assert read_goal("Select Ana>Bo>Cy", ("select",)).spans == ("Ana", "Bo", "Cy")


def test_a_span_is_also_known_by_the_word_before_it():
    words = ("send", "the", "mail", "to", "by")
    for sentence in ("Send the mail by Ana to Bo", "Send to Bo the mail by Ana"):
        slots = read_goal(sentence, words).slots()
        assert (slots["after_to"], slots["after_by"]) == ("Bo", "Ana")


def test_an_instruction_that_was_renamed_is_known_by_its_words():
    def shown(index, text):
        return SnapshotElement(index=index, role="generic", tag="p", text=Text(clear=text))

    words = ("enter", "the", "name", "and", "press", "send")
    source = GoalSource(role="generic", tag="div", element_id="task", vocabulary=words)
    page = Snapshot(
        application="app", level=Level.VALUES,
        elements=(shown(0, "Send the news"), shown(1, 'Enter the name "bo" and press Send')),
    )  # fmt: skip
    assert goal_slots(page, source)["goal_1"] == "bo"
    assert goal_slots(page.model_copy(update={"elements": (page.elements[0],)}), source) == {}


def test_words_that_only_join_others_are_no_data_unless_quoted():
    goal = read_goal('Reply to them with "with" and Them', ("reply",))
    assert goal.spans == ("with", "Them")
    assert goal.quoted == ("with",)
    assert goal.slots()["quoted_1"] == "with"


def test_all_words_of_the_vocabulary_before_a_span_lead_to_it():
    goal = read_goal("find horror movies directed by Ann", ("find", "movies", "directed"))
    assert dict(zip(goal.spans, goal.leading, strict=True)) == {
        "horror": ("find",), "Ann": ("movies", "directed", "by"),
    }  # fmt: skip
