"""Colours for figures whose recording has none, so that the instruction explains what was chosen.

A recorder that knows no colours of drawings leaves "click on a red circle" without a reason, and a
choice without one is learnt by heart. Here what was acted on gets the colour that the instruction
names, what would fit it too another, and the rest any. Pure.
"""

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from services.agent_trainer.demonstrations import Demonstration
from shared.encoding_figures import COLOURS
from shared.encoding_goal import Page
from shared.goal import GoalSource, read_goal
from shared.schemas import Snapshot

__all__ = ["can_paint", "paint"]


def can_paint(demonstration: Demonstration, source: GoalSource | None) -> bool:
    """Tell whether colours are named, no figure has one, and one was acted on first."""
    state = demonstration.states[0]
    page = Page(state.snapshot, source)
    if source is None or not page.goal_text or state.target is None:
        return False
    figures = page.figures(read_goal(page.goal_text, source.vocabulary))
    colourless = all(not page.elements[i].colour for i in figures.all)
    return bool(figures.colours) and state.target in figures.all and colourless


def paint(demonstration: Demonstration, source: GoalSource | None, rng: Random) -> Demonstration:
    """Return the demonstration with colours drawn anew; as it is where `can_paint` says no."""
    if source is None or not can_paint(demonstration, source):
        return demonstration
    states = []
    for state in demonstration.states:
        page = Page(state.snapshot, source)
        figures = page.figures(read_goal(page.goal_text or "", source.vocabulary))
        named = sorted(figures.colours)
        others = sorted(COLOURS.keys() - figures.colours)
        chosen = {
            i: rng.choice(named) if i == state.target
            else rng.choice(others if i in figures.fitting else [*others, *named])
            for i in figures.all
        }  # fmt: skip
        states.append(replace(state, snapshot=_coloured(state.snapshot, chosen)))
    return replace(demonstration, states=tuple(states))


def _coloured(snapshot: Snapshot, chosen: Mapping[int, str]) -> Snapshot:
    elements = tuple(
        e.model_copy(update={"colour": "rgb({}, {}, {})".format(*COLOURS[chosen[e.index]])})
        if e.index in chosen
        else e
        for e in snapshot.elements
    )
    return snapshot.model_copy(update={"elements": elements})
