import pytest

from services.commands.naming import pick, short
from shared.errors import ConflictError, NotFound

ITEMS = [
    {"id": "abc1" * 8, "name": "Copy an order"},
    {"id": "abd2" * 8, "name": "File a letter"},
    {"id": "ffff" * 8, "name": "file a letter"},
]


def named(wanted: str) -> str:
    return str(pick(ITEMS, wanted, "routine", ("id",), "name")["id"])


@pytest.mark.parametrize("wanted", ["abc1" * 8, "abc", "Copy an order", "COPY AN ORDER"])
def test_an_item_is_named_by_its_id_a_beginning_or_its_name(wanted):
    assert named(wanted) == "abc1" * 8


def test_an_exact_name_comes_before_one_that_differs_in_case():
    assert named("file a letter") == "ffff" * 8


@pytest.mark.parametrize("wanted", ["ab", "FILE A LETTER"])
def test_what_could_be_several_is_asked_back_with_the_choices(wanted):
    with pytest.raises(ConflictError, match=r"abd2abd2 \(File a letter\).*give more"):
        named(wanted)


def test_what_fits_none_says_what_there_is():
    with pytest.raises(NotFound, match=r"no routine x: there are abc1abc1 \(Copy an order\)"):
        named("x")
    with pytest.raises(NotFound, match="there is none at all"):
        pick([], "x", "routine", ("id",))


def test_a_second_id_names_an_item_too():
    cards = [{"id": "m1", "subject_id": "r1"}, {"id": "m2", "subject_id": "r2"}]
    assert pick(cards, "r2", "model", ("id", "subject_id"))["id"] == "m2"


def test_a_short_id_is_enough_to_name_its_item():
    assert named(short("abd2" * 8)) == "abd2" * 8
