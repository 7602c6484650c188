import random
from dataclasses import replace

from services.agent_trainer.augment import vary
from services.agent_trainer.demonstrations import read_chore
from shared.encoding import HASHED_ELEMENT_FEATURES, encode
from tests.unit.agent_trainer.club import demonstrations, routine


def chore():
    traces, snapshots = demonstrations(4)
    return read_chore(routine(traces), traces, snapshots.__getitem__)


def varied(seed=1):
    found = chore()
    before = found.demonstrations[0]
    return found, before, vary(before, found.constants, random.Random(seed))  # noqa: S311


def texts(state):
    return {t.clear for e in state.snapshot.elements for t in (e.name, e.text, e.value) if t}


def test_every_value_changes_alike_on_all_screens_and_in_the_history():
    _, before, after = varied()
    for name, value in before.values.items():
        assert after.values[name] != value or name == "visits"
    for old, new in zip(before.states, after.states, strict=True):
        for name, value in before.values.items():
            if len(value) > 3:
                assert (value in texts(old)) == (after.values[name] in texts(new))
                assert value not in texts(new)
        assert before.values["member"] not in {s.name for s in new.history}


def test_steps_and_targets_stay():
    _, before, after = varied()
    for old, new in zip(before.states, after.states, strict=True):
        assert (old.target, old.action, len(old.history)) == (
            new.target, new.action, len(new.history),
        )  # fmt: skip


def test_features_of_a_form_stay_the_same():
    found, before, after = varied()
    for old, new in zip(before.states, after.states, strict=True):
        if old.action is None or old.action.slot is None:
            continue
        one = encode(old.snapshot, [(s, before.values[s]) for s in found.slots], old.history)
        two = encode(new.snapshot, [(s, after.values[s]) for s in found.slots], new.history)
        assert one.elements == two.elements
        assert one.x[: HASHED_ELEMENT_FEATURES.start] == two.x[: HASHED_ELEMENT_FEATURES.start]


def test_other_rows_change_and_some_resemble_the_right_one():
    found = chore()
    before = next(d for d in found.demonstrations if "/applicants" in d.states[0].snapshot.document)
    seen = set()
    for seed in range(8):
        after = vary(before, found.constants, random.Random(seed))  # noqa: S311
        member = after.values["member"]
        for text in texts(after.states[0]):
            if text != member and text.startswith(member):
                seen.add("begins alike")
        if texts(before.states[0]) & texts(after.states[0]) >= {"New", "Applicants"}:
            seen.add("what every row has stays")
    assert seen == {"begins alike", "what every row has stays"}


def test_constants_stay():
    found = chore()
    kept = {"sport": found.demonstrations[0].values["sport"]}
    after = vary(found.demonstrations[0], kept, random.Random(2))  # noqa: S311
    assert after.values["sport"] == kept["sport"]


def test_the_same_seed_gives_the_same_variant():
    assert varied(7)[2] == varied(7)[2]


def test_words_whose_meaning_counts_stay():
    before = chore().demonstrations[0]
    known = replace(before, values={"one": "enormous", "two": "Zanqx"})
    after = vary(known, {}, random.Random(1), keeps_words=True)  # noqa: S311
    assert after.values["one"] == "enormous"
    assert after.values["two"] != "Zanqx"
