"""What a seed decides about the order desk, without a server or a browser."""

import re

import pytest

from demo import layout, words

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_arranges_the_same_desk(seed):
    assert layout.arrange(seed, "act") == layout.arrange(seed, "act")


@pytest.mark.parametrize("seed", SEEDS)
def test_acting_meets_other_customers_other_order_and_other_ids(seed):
    watch, act = layout.arrange(seed, "watch"), layout.arrange(seed, "act")

    def people(desk):
        return {request.values["customer"] for request in desk.requests}

    assert not people(watch) & people(act)
    assert watch.fields != act.fields
    assert watch.articles != act.articles
    assert watch.ids != act.ids


def test_an_id_names_another_element_in_another_variant():
    meanings = {}
    for seed in SEEDS:
        for key, name in layout.arrange(seed, "act").ids.items():
            meanings.setdefault(name, set()).add(key)
    assert max(len(keys) for keys in meanings.values()) > 3


@pytest.mark.parametrize("variant", layout.VARIANTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_list_has_a_name_that_begins_with_another(seed, variant):
    desk = layout.arrange(seed, variant)
    names = [request.values["customer"] for request in desk.requests]
    assert len(set(names)) == layout.NUM_REQUESTS
    assert any(a != b and b.startswith(a) for a in names for b in names)
    chores = layout.chores(seed, desk, 5)
    assert any(name.startswith(c.values["customer"] + "-") for c in chores for name in names)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_awkward_but_never_padded_or_doubled(seed):
    values = [
        value
        for variant in layout.VARIANTS
        for request in layout.arrange(seed, variant).requests
        for value in request.values.values()
    ]
    assert any("'" in value for value in values)
    assert any(not value.isascii() for value in values)
    assert all(value == " ".join(value.split()) and value for value in values)
    mails = [value for value in values if "@" in value]
    assert all(re.fullmatch(r"[a-z0-9.'_-]+@[a-z.]+", mail) for mail in mails)


def test_ten_seeds_meet_every_change_and_each_says_what_changed():
    said = {layout.arrange(seed, "changed").change for seed in SEEDS}
    assert len(said) == layout.NUM_CHANGES
    assert "" not in said


@pytest.mark.parametrize("change", range(layout.NUM_CHANGES))
def test_a_change_alters_the_page_and_nothing_else(change):
    plain = layout.arrange(4, "changed", change)
    other = layout.arrange(4, "changed", (change + 1) % layout.NUM_CHANGES)
    assert (plain.ids, plain.requests) == (other.ids, other.requests)
    shown = (plain.fields, plain.articles, plain.save, plain.question)
    assert shown != (other.fields, other.articles, other.save, other.question)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="watch, act, changed"):
        layout.arrange(0, "other")


def test_no_article_begins_with_another():
    # Typing in a native list must lead to one choice.
    assert not any(a != b and b.startswith(a) for a in words.ARTICLES for b in words.ARTICLES)
