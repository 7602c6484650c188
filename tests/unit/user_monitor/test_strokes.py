import pytest

from services.user_monitor.capture.input import _Keyboard
from services.user_monitor.capture.strokes import Signal, SignalKind, Strokes
from services.user_monitor.capture.window import WindowSeen
from shared.schemas import Action

HERE = WindowSeen(7, "Editor", "letter", 100, 50)
THERE = WindowSeen(8, "Vault", "secrets", 0, 0)


class Key:
    """A key as pynput names it."""

    def __init__(self, name=None, char=None):
        self.name = name
        self.char = char
        if name is None:
            del self.name


def typed(time_ms):
    return Signal(SignalKind.TYPED, time_ms, time_ms)


def summary(captures):
    return [(c.action, c.untrusted_application, c.count or c.keys) for c in captures]


def test_strokes_become_one_edit_with_a_count():
    strokes = Strokes(":1")
    for n in range(5):
        assert strokes.signal(typed(n), HERE) == []
    enter = Signal(SignalKind.KEY, 6, 6, keys="Enter")
    edit, key = strokes.signal(enter, HERE)
    assert (edit.action, edit.count, edit.untrusted_value) == (Action.EDIT, 5, None)
    assert (key.action, key.keys) == (Action.KEY, "Enter")


def test_a_stroke_during_a_change_of_window_counts_nowhere():
    strokes = Strokes(":1")
    strokes.signal(typed(0), HERE)
    strokes.signal(typed(1), HERE)
    done = strokes.signal(typed(2), THERE)
    assert summary(done) == [(Action.EDIT, "Editor", 1)]  # the second's aftermath was elsewhere
    assert strokes.settle(None, 9) == []


def test_idle_closes_a_count():
    strokes = Strokes(":1")
    strokes.signal(typed(0), HERE)
    assert strokes.settle(HERE, 500) == []
    assert summary(strokes.settle(HERE, 1_500)) == [(Action.EDIT, "Editor", 1)]
    assert not strokes.is_counting


def test_a_click_has_its_place_in_the_window():
    click = Signal(SignalKind.CLICK, 0, 0, x_px=130, y_px=70)
    (capture,) = Strokes(":1").signal(click, HERE)
    assert (capture.element.box.x_px, capture.element.box.y_px) == (30, 20)
    assert capture.target.surface == "0x7"


def test_two_clicks_at_one_place_are_a_click_and_a_double_click():
    strokes = Strokes(":1")
    times = (0, 200, 400)
    actions = [strokes.signal(Signal(SignalKind.CLICK, t, t), HERE)[0].action for t in times]
    assert actions == [Action.CLICK, Action.DOUBLE_CLICK, Action.CLICK]


@pytest.mark.parametrize("char", ["a", "Z", "7", "ß", "@", " "])
def test_a_typed_character_leaves_no_trace(char):
    assert _Keyboard().pressed(Key(char=char)) == (SignalKind.TYPED, None)


def test_shift_and_altgr_still_type():
    keyboard = _Keyboard()
    keyboard.pressed(Key("shift"))
    keyboard.pressed(Key("alt_gr"))
    assert keyboard.pressed(Key(char="A")) == (SignalKind.TYPED, None)


def test_a_modifier_makes_a_hot_key_until_it_is_released():
    keyboard = _Keyboard()
    assert keyboard.pressed(Key("ctrl_l")) is None
    assert keyboard.pressed(Key(char="c")) == (SignalKind.KEY, "Control+c")
    assert keyboard.pressed(Key(char="@")) == (SignalKind.TYPED, None)
    keyboard.released(Key("ctrl_l"))
    assert keyboard.pressed(Key(char="c")) == (SignalKind.TYPED, None)
    assert keyboard.pressed(Key("backspace")) == (SignalKind.TYPED, None)
    assert keyboard.pressed(Key("tab")) == (SignalKind.KEY, "Tab")
