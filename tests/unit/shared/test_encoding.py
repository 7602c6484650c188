import random
import subprocess
import sys

import pytest

from shared.encoding import (
    HASHED_ELEMENT_FEATURES,
    MAX_CANDIDATES,
    MAX_SLOTS,
    NUM_CONTEXT_FEATURES,
    NUM_ELEMENT_FEATURES,
    HistoryStep,
    at_words,
    candidate_of,
    encode,
    label_of,
    path_of,
    step_of,
)
from shared.manifest import MAX_ELEMENTS
from shared.schemas import Level, Snapshot, SnapshotElement, Text
from tests.unit.agent_trainer.club import FIELDS, Club, find

ORDERED = tuple(FIELDS)


def club_at_form(seed=4):
    club = Club(seed)
    club.open = club.records[2]
    club.url = "/enrol"
    return club


def slots_of(record):
    return [(name, record[name]) for name in ORDERED]


def rows_of(encoded):
    width = NUM_ELEMENT_FEATURES
    return {
        index: tuple(encoded.x[i * width : (i + 1) * width])
        for i, index in enumerate(encoded.elements)
    }


def shuffled(snapshot, seed=1):
    """Give every element another id and index, and siblings another order."""
    rng = random.Random(seed)  # noqa: S311
    new = {e.index: i for i, e in enumerate(rng.sample(snapshot.elements, len(snapshot.elements)))}
    moved = [
        e.model_copy(
            update={
                "index": new[e.index], "element_id": f"x{rng.random()}",
                "parent": None if e.parent is None else new[e.parent],
            }
        )
        for e in snapshot.elements
    ]  # fmt: skip
    rng.shuffle(moved)
    return snapshot.model_copy(update={"elements": tuple(moved)}), new


def text_page(*elements):
    return Snapshot(
        application="a", level=Level.VALUES, document="http://h/p",
        elements=tuple(
            SnapshotElement(index=i, **{"parent": None, **e}) for i, e in enumerate(elements)
        ),
    )  # fmt: skip


def test_shapes_fit_and_limits_equal_those_of_the_module():
    club = club_at_form()
    encoded = encode(club.screen(), slots_of(club.open), [])
    assert len(encoded.x) == len(encoded.elements) * NUM_ELEMENT_FEATURES
    assert len(encoded.g) == NUM_CONTEXT_FEATURES
    assert MAX_CANDIDATES == MAX_ELEMENTS


@pytest.mark.parametrize("page", ["list", "form"])
def test_ids_indices_and_order_change_no_feature(page):
    club = club_at_form() if page == "form" else Club(4)
    screen, slots = club.screen(), slots_of(club.records[2])
    moved, new = shuffled(screen)
    before, after = encode(screen, slots, []), encode(moved, slots, [])
    assert before.g == after.g
    assert {new[i]: row for i, row in rows_of(before).items()} == rows_of(after)


def test_another_record_on_the_same_page_gives_the_same_numbers():
    club = club_at_form()
    sport = next(s for s in club.sports if s != club.open["sport"])
    other = {name: f"Qx{i} value" for i, name in enumerate(ORDERED)} | {"sport": sport}
    one = encode(club.screen(), slots_of(club.open), [])
    club.open = other
    two = encode(club.screen(), slots_of(other), [])
    assert one.x == two.x
    assert one.g == two.g


def test_a_longer_text_that_begins_alike_is_not_the_value():
    page = text_page(
        {"role": "link", "name": Text(clear="Ann Lee")},
        {"role": "link", "name": Text(clear="Ann Lee-Fox")},
        {"role": "link", "name": Text(clear="Ann Leeds")},
    )
    equal, contains, neither = (
        row for row in rows_of(encode(page, [("n", "ann  lee")], [])).values()
    )
    assert len({equal, contains, neither}) == 3
    assert at_words("ann lee", "to ann lee, today")
    assert not at_words("ann lee", "ann leeds")


def test_values_are_not_hashed_as_words():
    page = text_page({"role": "button", "name": Text(clear="Open Ann")})
    hashed = slice(HASHED_ELEMENT_FEATURES.start, HASHED_ELEMENT_FEATURES.stop)
    with_ann = rows_of(encode(page, [("n", "Ann")], []))[0][hashed]
    page = text_page({"role": "button", "name": Text(clear="Open Bob")})
    with_bob = rows_of(encode(page, [("n", "Bob")], []))[0][hashed]
    assert with_ann == with_bob
    assert any(with_ann)


def test_where_the_pointer_or_focus_is_does_not_show():
    page = text_page({"role": "button", "name": Text(clear="Go"), "states": ("focused",)})
    calm = text_page({"role": "button", "name": Text(clear="Go")})
    assert encode(page, [], []).x == encode(calm, [], []).x


def test_what_was_done_shows_in_element_and_context():
    club = club_at_form()
    screen, slots = club.screen(), slots_of(club.open)
    element = screen.elements[find(screen, "textbox", "Phone")]
    before = encode(screen, slots, [])
    after = encode(screen, slots, [step_of(element, "type_text", "phone")])
    changed = [i for i, row in rows_of(after).items() if row != rows_of(before)[i]]
    assert changed == [element.index]
    assert before.g != after.g


def test_a_click_in_a_row_stands_for_the_rows_only_control():
    club = Club(4)
    screen = club.screen()
    link = screen.elements[find(screen, "link", club.records[0]["member"])]
    cell = next(e for e in screen.elements if e.label == "Town" and e.index > link.index)
    assert candidate_of(screen, cell.index) == link.index
    heading = next(e for e in screen.elements if e.role == "heading")
    assert candidate_of(screen, heading.index) is None
    assert candidate_of(screen, 9999) is None


def test_the_longest_list_keeps_the_row_that_matters():
    rows = [{"role": "button", "name": Text(clear=f"b {i}")} for i in range(MAX_CANDIDATES + 88)]
    rows.append({"role": "button", "name": Text(clear="Wanted")})
    encoded = encode(text_page(*rows), [("n", "wanted")], [])
    assert len(encoded.elements) == MAX_CANDIDATES
    assert len(rows) - 1 in encoded.elements
    assert list(encoded.elements) == sorted(encoded.elements)


def test_more_slots_than_fit_and_texts_of_no_value_are_harmless():
    slots = [(f"s{i}", "") for i in range(MAX_SLOTS + 5)]
    encoded = encode(text_page({"role": "link"}), slots, [HistoryStep("click", "link")])
    assert encoded.elements == (0,)


def test_a_page_without_controls_has_no_candidates():
    encoded = encode(text_page({"role": "heading", "text": Text(clear="Done")}), [], [])
    assert encoded.elements == ()
    assert len(encoded.x) == 0
    assert any(encoded.g)


def test_the_port_of_an_application_does_not_matter():
    assert path_of("http://127.0.0.1:8000/orders/#") == path_of("http://127.0.0.1:9/orders/#")
    assert path_of(None) == path_of("http://h") == "/"


def test_parents_that_loop_are_survived():
    loop = text_page({"role": "row", "parent": 1}, {"role": "row", "parent": 0})
    assert encode(loop, [("n", "v")], []).elements == ()
    assert label_of(loop.elements[0]) == ""


def test_equal_in_every_process_whatever_its_hash_seed():
    code = (
        "from tests.unit.agent_trainer.club import Club, FIELDS\n"
        "from shared.encoding import encode\n"
        "c = Club(4); r = c.records[2]\n"
        "e = encode(c.screen(), [(n, r[n]) for n in FIELDS], [])\n"
        "import hashlib; print(hashlib.sha256(e.x.tobytes() + e.g.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
