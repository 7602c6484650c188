from random import Random

import pytest

from services.agent_trainer.demonstrations import Demonstration, State
from services.agent_trainer.paint import can_paint, paint
from shared.encoding_figures import colour_name
from shared.goal import GoalSource
from shared.manifest import ActionEntry
from shared.schemas import Box, Level, Snapshot, SnapshotElement, Text

WORDS = ("a", "circle", "click", "item", "on", "red", "blue")
SOURCE = GoalSource(role="generic", tag="div", element_id="task", vocabulary=WORDS)


def shown(goal, target=1, colour=None):
    def shape(index, tag):
        box = Box(x_px=20 * index, y_px=0, width_px=9, height_px=9)
        return SnapshotElement(index=index, role="generic", tag=tag, box=box, colour=colour)

    elements = (
        SnapshotElement(
            index=0, role="generic", tag="div", element_id="task", text=Text(clear=goal)
        ),
        shape(1, "circle"), shape(2, "circle"), shape(3, "rect"),
        SnapshotElement(index=4, role="button", tag="button", text=Text(clear="2")),
    )  # fmt: skip
    snapshot = Snapshot(application="app", level=Level.VALUES, elements=elements)
    state = State(snapshot, (), target, ActionEntry(op="click", slot=None, key=None))
    return Demonstration("t", "s", {}, (state,), None, ())


def colours(demonstration):
    elements = demonstration.states[0].snapshot.elements
    return {e.index: colour_name(e.colour)[0] for e in elements if e.colour}


@pytest.mark.parametrize("seed", range(20))
def test_only_what_was_chosen_fits_afterwards(seed):
    found = colours(paint(shown("Click on a red circle"), SOURCE, Random(seed)))  # noqa: S311
    assert found[1] == "red"
    assert found[2] != "red"
    assert set(found) == {1, 2, 3}


def test_colours_are_drawn_anew_each_time():
    rng = Random(1)  # noqa: S311
    drawn = {tuple(colours(paint(shown("Click on a red item"), SOURCE, rng)).items())
             for _ in range(9)}  # fmt: skip
    assert len(drawn) > 1


@pytest.mark.parametrize("demonstration", [
    shown("Click on a circle"), shown("Click on a red circle", target=4),
    shown("Click on a red circle", colour="rgb(255, 0, 0)"), shown("Click on a red circle", None),
])  # fmt: skip
def test_nothing_is_painted_without_need(demonstration):
    assert not can_paint(demonstration, SOURCE)
    assert paint(demonstration, SOURCE, Random(0)) is demonstration  # noqa: S311
