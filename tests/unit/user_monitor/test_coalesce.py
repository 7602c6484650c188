import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.user_monitor.capture import RawCapture, RawElement
from services.user_monitor.coalesce import Intake, Pressure, merge
from shared.schemas import Action


def capture(action, time_ms, **fields):
    return RawCapture(action, fields.pop("application", "app"), time_ms, **fields)


def test_scroll_steps_of_one_place_become_one():
    merged = merge(capture(Action.SCROLL, 0, count=2), capture(Action.SCROLL, 500, count=3))
    assert (merged.count, merged.time_ms) == (5, 0)


@pytest.mark.parametrize(
    "second",
    [
        capture(Action.SCROLL, 5_000),
        capture(Action.SCROLL, 10, application="other"),
        capture(Action.CLICK, 10),
        capture(Action.SCROLL, 10, element=RawElement("list", untrusted_selector="a/b")),
    ],
)
def test_what_is_later_or_elsewhere_stays_apart(second):
    assert merge(capture(Action.SCROLL, 0), second) is None


def test_counted_strokes_merge_but_values_never_do():
    assert merge(capture(Action.EDIT, 0, count=4), capture(Action.EDIT, 9, count=2)).count == 6
    value = capture(Action.EDIT, 0, untrusted_value="a")
    assert merge(value, capture(Action.EDIT, 9, untrusted_value="b")) is None


def test_clicks_never_merge():
    assert merge(capture(Action.CLICK, 0), capture(Action.CLICK, 1)) is None


def test_the_newest_waits_while_more_may_merge_into_it():
    intake = Intake(10)
    intake.put(capture(Action.CLICK, 0))
    intake.put(capture(Action.SCROLL, 10))
    assert [c.action for c in intake.take(20, 10)] == [Action.CLICK]
    assert [c.action for c in intake.take(2_000, 10)] == [Action.SCROLL]


def test_shedding_drops_light_captures_first_and_heavy_ones_never():
    intake = Intake(100)
    for n in range(80):
        assert intake.put(capture(Action.CLICK, n)) is Pressure.NORMAL
    assert intake.put(capture(Action.SCROLL, 81, application="b")) is Pressure.SHEDDING
    for n in range(20):
        assert intake.put(capture(Action.CLICK, 100 + n)) is Pressure.NORMAL
    assert intake.put(capture(Action.CLICK, 200)) is Pressure.OVERFLOW
    assert len(intake) == 100


def test_from_half_full_a_light_capture_merges_over_what_lies_between():
    intake = Intake(10)
    intake.put(capture(Action.SCROLL, 0))
    for n in range(5):
        intake.put(capture(Action.CLICK, n))
    assert intake.put(capture(Action.SCROLL, 50_000)) is Pressure.NORMAL
    assert len(intake) == 6


HEAVY = [Action.CLICK, Action.DOUBLE_CLICK, Action.EDIT, Action.COPY, Action.PASTE, Action.HOT_KEY]


@given(st.lists(st.sampled_from([*HEAVY, Action.SCROLL, Action.FOCUS]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_heavy_capture_is_lost_unless_overflow_says_so(actions):
    intake, told = Intake(100), []
    for n, action in enumerate(actions):
        value = f"v{n}" if action is Action.EDIT else None
        if intake.put(capture(action, n * 10, untrusted_value=value)) is not Pressure.NORMAL:
            told.append(action)
    kept = [c.action for c in intake.take(10**9, 1000, everything=True)]
    assert [a for a in kept if a in HEAVY] == [a for a in actions if a in HEAVY]
    assert told == []
