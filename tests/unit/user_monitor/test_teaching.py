import pytest

from services.user_monitor.teaching import Teaching
from shared.errors import ConflictError


def test_showings_of_one_name_are_counted_and_told_apart():
    teaching, first = Teaching().begin("invoice", 10).end(20)
    teaching, second = teaching.begin("invoice", 30).end(40)
    assert (first.showing, second.showing) == (1, 2)
    assert teaching.at(15) == first
    assert teaching.at(25) is None
    assert teaching.at(40) == second


def test_an_open_demonstration_takes_all_that_follows():
    teaching = Teaching().begin("invoice", 10)
    assert teaching.at(10**12).name == "invoice"
    assert teaching.at(9) is None


def test_one_demonstration_at_a_time():
    with pytest.raises(ConflictError, match="open"):
        Teaching().begin("a", 1).begin("b", 2)
    with pytest.raises(ConflictError, match="no demonstration"):
        Teaching().end(1)


def test_it_survives_a_restart():
    teaching, _ = Teaching().begin("invoice", 10).end(20)
    assert Teaching.load(teaching.dump()).begin("invoice", 30).open.showing == 2
