import json
import random

import pytest

from shared.errors import ContractError
from shared.schemas import SnapshotElement, Text
from shared.screen import (
    Sighting,
    check_post_condition,
    check_screen,
    learn_post_condition,
    learn_screen,
    mask,
)
from tests.unit.agent_trainer.club import FIELDS, Club, Recorder, find
from tests.unit.shared.test_encoding import shuffled


def watched(seed=3, num=5):
    """Return what the demonstrations of one club teach: (screen, post-condition)."""
    rng = random.Random(seed)  # noqa: S311
    recorder = Recorder(Club(seed), "s")
    sightings, finals = [], []
    for record in rng.sample(recorder.club.records, num):
        trace = recorder.demonstrate(record, rng)
        for event in trace.events:
            shot = recorder.snapshots[event.snapshot]
            slot = next(
                (k for k, v in record.items() if event.value and event.value.clear == v), None
            )
            sightings.append(Sighting(shot, record, event.element.index, slot))
        final = recorder.snapshots[trace.final_snapshot]
        sightings.append(Sighting(final, record))
        finals.append((final, record))
    screen = learn_screen("http://club.test/applicants", sightings)
    end = learn_post_condition(finals)
    return json.loads(json.dumps(screen)), json.loads(json.dumps(end))


SCREEN, END = watched()


def at_form(**changes):
    club = Club(88, **changes)
    club.open = club.records[1]
    club.url = "/enrol"
    return club


def after(record=None, **changes):
    """Return another club after the chore was done there."""
    club = at_form(**changes)
    club.form, club.agreed = dict(record or club.open), True
    club.saved.append(dict(club.form))
    club.url = "/members"
    return club


@pytest.mark.parametrize("url", ["/applicants", "/applicants/9", "/enrol"])
def test_other_records_orders_and_ids_are_fine(url):
    club = at_form()
    club.url = url
    screen, _ = shuffled(club.screen())
    assert check_screen(SCREEN, screen, club.open) is None
    assert check_screen(SCREEN, screen, dict(club.open)) is None


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"extra_field": "Cost centre"}, "cost centre"),
        ({"save_label": "Enrol and mail everybody"}, "enrol and mail everybody"),
        ({"town_label": "Billing country"}, "billing country"),
        ({"dialog": True}, "entrance fee"),
    ],
)
def test_a_change_that_matters_is_named(changes, names):
    club = at_form(**changes)
    assert names in check_screen(SCREEN, club.screen(), club.open)


def test_a_page_never_seen_is_named():
    club = at_form()
    club.url = "/news"
    assert "/news" in check_screen(SCREEN, club.screen(), club.open)


def test_a_choice_that_is_not_offered_is_named():
    club = at_form()
    club.sports = [f"{sport} (old)" for sport in club.sports]
    assert "does not offer the value of sport" in check_screen(SCREEN, club.screen(), club.open)


def test_a_record_that_is_not_on_the_list_is_named():
    club = at_form()
    club.url = "/applicants"
    strange = {**club.open, "member": "Nobody Here"}
    assert "shows the value of member" in check_screen(SCREEN, club.screen(), strange)


def test_an_alert_is_named():
    club = at_form()
    screen = club.screen()
    alert = SnapshotElement(index=9000, role="alert", text=Text(clear="Phone is not valid"))
    screen = screen.model_copy(update={"elements": (*screen.elements, alert)})
    assert "phone is not valid" in check_screen(SCREEN, screen, club.open)


def test_a_field_that_became_required_is_named():
    club = at_form()
    screen = club.screen()
    box = find(screen, "checkbox", "Rules were accepted")
    elements = [
        e.model_copy(update={"states": ("required",)}) if e.index == box else e
        for e in screen.elements
    ]
    changed = screen.model_copy(update={"elements": tuple(elements)})
    assert "is now required" in check_screen(SCREEN, changed, club.open)


def test_the_result_is_confirmed_for_other_records_and_orders():
    club = after()
    screen, _ = shuffled(club.screen())
    assert check_post_condition(END, screen, club.open) is None


@pytest.mark.parametrize("slot", FIELDS)
def test_one_wrong_value_is_not_confirmed(slot):
    club = at_form()
    saved = {**club.open, slot: "Chess" if club.open["sport"] != "Chess" else "Judo"}
    club = after(saved)
    assert slot in check_post_condition(END, club.screen(), club.open)


def test_the_result_of_another_record_is_not_confirmed():
    club = after()
    other = next(r for r in club.records if r["code"] != club.open["code"])
    assert check_post_condition(END, club.screen(), other)


def test_values_spread_over_two_rows_are_not_one_result():
    club = after()
    mixed = dict(club.records[3], **{k: club.open[k] for k in ("member", "phone")})
    club.saved.append(mixed)
    assert check_post_condition(END, club.screen(), club.open)


def test_another_page_is_not_the_end():
    club = at_form()
    assert "/enrol" in check_post_condition(END, club.screen(), club.open)


def test_schemas_of_another_make_are_refused():
    club = at_form()
    with pytest.raises(ContractError):
        check_screen({"start_url": 3}, club.screen())
    with pytest.raises(ContractError):
        check_post_condition({}, club.screen(), {})
    with pytest.raises(ContractError, match="after its last step"):
        learn_post_condition([])


def test_no_value_of_the_record_is_kept():
    kept = json.dumps([SCREEN, END]).casefold()
    rng = random.Random(3)  # noqa: S311
    for record in rng.sample(Club(3).records, 5):
        assert record["member"].casefold() not in kept
        assert record["phone"] not in kept
        assert record["code"].casefold() not in kept


def test_masking_keeps_words_and_hides_values():
    assert mask("Order 12 of Ann", [("who", "ann")]) == "order # of <who>"
    assert mask("Order 3", [("n", "3")]) == mask("Order 14", [("n", "3")])
