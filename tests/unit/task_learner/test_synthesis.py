"""What is learned from a few examples, what is refused, and what it says of new inputs."""

import json
import time

import pytest

from services.task_learner.synthesis import learn
from shared.schemas.programmes import PREVIOUS, Programme
from shared.transforms import describe, run


def learned(*examples):
    """Learn from (input or inputs, result) pairs; the inputs are called a, b, c …"""
    rows = [((x,) if isinstance(x, str) else x, result) for x, result in examples]
    programme = learn("abc"[: len(rows[0][0])], rows)
    assert programme is not None
    assert programme == Programme.model_validate(json.loads(programme.model_dump_json()))

    def of(*texts):
        return run(programme, dict(zip("abc", texts, strict=False)))

    return of


@pytest.mark.parametrize(
    ("examples", "asked", "expected"),
    [
        ([("Ann Lee", "Lee"), ("Bo Ek", "Ek"), ("Cy Ross", "Ross")], "Di Fox", "Fox"),
        ([("Ann Lee", "Lee, Ann"), ("Bo Ek", "Ek, Bo"), ("Cy Ross", "Ross, Cy")], "Di Fox",
         "Fox, Di"),
        ([("Ann Lee", "A. Lee"), ("Bo Ek", "B. Ek"), ("Cy Ross", "C. Ross")], "Di Fox", "D. Fox"),
        ([("ann@x.org", "ann"), ("bo.ek@y.com", "bo.ek"), ("cy@z.net", "cy")], "di@w.io", "di"),
        ([("12.03.2024", "2024-03-12"), ("01.11.2023", "2023-11-01"), ("31.01.2025", "2025-01-31")],
         "05.06.2022", "2022-06-05"),
        ([("3 March 2024", "03.03.2024"), ("14 June 2023", "14.06.2023"),
          ("1 May 2022", "01.05.2022")], "9 December 2021", "09.12.2021"),
        ([("1.234,50 €", "1234.50"), ("12,00 €", "12.00"), ("999.999,99 €", "999999.99")],
         "4.000,75 €", "4000.75"),
        ([("ORD-0042/B", "42"), ("ORD-0107/A", "107"), ("ORD-0009/C", "9")], "ORD-0311/A", "311"),
        ([("new york", "New York"), ("oslo", "Oslo"), ("san juan", "San Juan")], "la paz",
         "La Paz"),
        ([("+61 039 689 9324", "039-689-9324"), ("+61 043 512 4834", "043-512-4834"),
          ("+61 035 376 0669", "035-376-0669")], "+61 088 229 3282", "088-229-3282"),
        ([("3 Elm St, Ayr, QLD 4807", "QLD"), ("9 Oak Rd, Hay, NSW 2711", "NSW"),
          ("1 Bay Dr, Cue, WA 6640", "WA")], "7 Fig St, Roma, QLD 4455", "QLD"),
    ],
)  # fmt: skip
def test_three_examples_are_enough_for_what_people_do(examples, asked, expected):
    assert learned(*examples)(asked) == expected


def test_several_inputs_are_joined():
    of = learned((("Ann", "Lee"), "Ann Lee"), (("Bo", "Ek"), "Bo Ek"), (("Cy", "Ross"), "Cy Ross"))
    assert of("Di", "van der Berg") == "Di van der Berg"


def test_what_a_column_says_is_preferred_to_a_constant_that_merely_holds_so_far():
    of = learned(
        ("Kew, VIC 3101", "3101"), ("Ivanhoe, VIC 3101", "3101"), ("East Kew, VIC 3101", "3101")
    )
    assert of("Cue, WA 6640") == "6640"


def test_readings_that_disagree_say_nothing():
    of = learned(("03/04/2024", "2024-04-03"), ("05/06/2024", "2024-06-05"))
    assert of("13/02/2024") == "2024-02-13"
    either = learned(("04/04/2024", "2024-04-04"), ("05/05/2024", "2024-05-05"))
    assert either("04/06/2024") is None


def test_an_input_of_another_form_is_not_guessed_at():
    of = learned(("+1 555 123 4567", "555-123-4567"), ("+1 212 456 7890", "212-456-7890"),
                 ("+1 646 111 2222", "646-111-2222"))  # fmt: skip
    assert of("555 123 4567") is None
    assert of("") is None


def test_what_has_no_rule_is_not_learned():
    names = ["Ann", "Bo", "Cy", "Di", "Ed", "Flo"]
    codes = ["77121", "3x9", "k-88", "0042", "zz", "914"]
    assert learn(["a"], [((n,), c) for n, c in zip(names, codes, strict=True)]) is None
    assert learn(["a"], [(("Ann",), "A"), (("Ann",), "A")]) is None  # one example, seen twice


def test_two_kinds_of_input_are_told_apart_by_a_guard():
    of = learned(
        ("Ann Lee", "Lee"), ("Bo Ek", "Ek"), ("Cy Ross", "Ross"),
        ("Acme Corp.", "ACME CORP."), ("Bolt Ltd.", "BOLT LTD."), ("Cogs Inc.", "COGS INC."),
    )  # fmt: skip
    assert of("Di Fox") == "Fox"
    assert of("Dyne plc.") == "DYNE PLC."


def test_a_table_answers_only_what_it_has_seen():
    rows = [("Norway", "47"), ("Sweden", "46"), ("Finland", "358"), ("Norway", "47"),
            ("Sweden", "46"), ("Norway", "47"), ("Finland", "358")]  # fmt: skip
    of = learned(*rows)
    assert of("Sweden") == "46"
    assert of("Denmark") is None


def test_a_mistyped_value_among_many_does_not_spoil_it():
    people = [f"{a}nn {b}ox" for a in "ABCDEF" for b in "FGHKL"]
    rows = [((p,), p.split()[1]) for p in people]
    rows[7] = (rows[7][0], "Hx")
    programme = learn(["a"], rows)
    assert programme.verified == 29
    assert run(programme, {"a": "Di Fox"}) == "Fox"


def test_a_rule_that_fails_too_often_is_none():
    rows = [((f"Name{n} Last{n}",), f"Last{n}" if n % 4 else "other") for n in range(40)]
    assert learn(["a"], rows) is None


def test_counting_up_is_learned_from_the_value_before():
    rows = [((f"INV-{n:04}",), f"INV-{n + 1:04}") for n in (7, 8, 9, 10, 11)]
    programme = learn([PREVIOUS], rows)
    assert run(programme, {PREVIOUS: "INV-0099"}) == "INV-0100"
    assert describe(programme) == "counts up from the one before"


def test_long_and_strange_texts_do_not_hold_it_up():
    rows = [((" ".join(f"w{n}x{k}," for k in range(300)),), f"w{n}x7") for n in range(6)]
    started = time.perf_counter()
    learn(["a"], rows)
    assert time.perf_counter() - started < 60  # a guard against explosion, not a measurement
