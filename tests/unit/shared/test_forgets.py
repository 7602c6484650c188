import pytest

from shared.forget import _may_hold
from shared.schemas import ForgetRange, Source
from tests.contract.records import ui_event


def forget(**fields):
    return ForgetRange(**{"id": "f", "time_ms": 1_000, "user_id": "ann", **fields})


@pytest.mark.parametrize(
    ("fields", "covered"),
    [
        ({"source": Source.REPLAY, "session": "s1", "first_seq": 3, "last_seq": 5}, {3, 4, 5}),
        ({"session": "s1", "first_seq": 8}, {8, 9}),
        ({"session": "s1", "last_seq": 1}, {0, 1}),
        ({"source": Source.BROWSER, "session": "s1"}, set()),
        ({"session": "s2"}, set()),
        ({"session": ""}, set()),
        ({"session": "s1", "user_id": "bob"}, set()),
    ],
)
def test_a_range_covers_its_events_and_no_others(fields, covered):
    found = {seq for seq in range(10) if forget(**fields).covers(ui_event(seq), 0)}
    assert found == covered


def test_everything_is_what_stood_on_the_topic_before():
    everything = forget()
    assert everything.covers(ui_event(1), 1_000)
    assert not everything.covers(ui_event(1), 1_001)
    assert not everything.covers(ui_event(1, user="bob"), 1)


@pytest.mark.parametrize(
    ("value", "goes"),
    [
        (b'{"source": "replay", "session": "s1", "seq": 4}', True),
        (b'{"source": "replay", "session": "s1", "seq": 6}', False),
        (b'{"source": "window", "session": "s1", "seq": 4}', False),
        (b'{"routine_id": "r", "name": "Submit claim"}', True),
        (b"torn", True),
        (b"[]", True),
    ],
)
def test_a_dead_letter_goes_where_it_may_hold_what_is_forgotten(value, goes):
    named = forget(source=Source.REPLAY, session="s1", first_seq=3, last_seq=5)
    assert _may_hold(value, [named]) is goes
