"""Which actions belong to one case, told by what screens show."""

import pytest

from services.task_learner.cases import Looked, cases, led
from tests.unit.task_learner.pages import Pages


def looked(pages):
    return [Looked(a.event.time_ms, a.token, pages.sight(a)) for a in pages.actions()]


def groups(labels):
    """Return the sets of actions that are one case."""
    found = {}
    for i, label in enumerate(labels):
        found.setdefault(label, set()).add(i)
    return set(map(frozenset, found.values()))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_each_case_is_found_whole_and_alone(seed, interleaved, told):
    pages = Pages(seed, told).work(("choose", "write"), 25, interleaved)
    found = cases(looked(pages))
    wanted = groups(pages.truth)
    assert len(groups([f[0] for f in found]) & wanted) >= 0.9 * len(wanted)


def test_the_chores_of_one_page_are_two_types():
    pages = Pages(1).work(("choose", "write"), 20, interleaved=True)
    kinds = {}
    for (kind, _), (_, number) in zip(pages.truth, cases(looked(pages)), strict=True):
        kinds.setdefault(kind, set()).add(number)
    assert all(len(numbers) == 1 for numbers in kinds.values())
    assert kinds["choose"] != kinds["write"]


def test_a_case_is_named_by_its_first_action_and_unseen_screens_by_nothing():
    pages = Pages(2).work(("write",), 10)
    seen = looked(pages)
    labels = cases([None, *seen[:4], None, *seen[4:]])
    assert labels[0] is None
    assert labels[5] is None
    assert labels[1] is not None
    assert labels[1][0] == 1


def test_nothing_comes_of_nothing():
    assert cases([]) == []
    assert cases([None, None]) == [None, None]


def test_screens_of_ever_other_layouts_do_not_make_ever_more_families():
    layouts = [frozenset(f"{n} {place}" for place in range(10)) for n in range(300)]
    found = led(layouts, 0.5, 100)
    assert found[:100] == list(range(100))
    assert set(found[100:]) == {100}
