"""Demonstrations -> arrays: encoded decisions one after the other, split by session.

Axes: M element rows of all decisions, E decisions, F features of an element, G of the context.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from services.agent_trainer.augment import vary
from services.agent_trainer.demonstrations import Chore, Demonstration, State
from services.agent_trainer.paint import paint
from shared.encoding import Encoded, HistoryStep, encode
from shared.encoding_goal import Page, encode_goal, step_on
from shared.errors import TrainingError
from shared.goal import find_goal

__all__ = ["STEPS", "Dataset", "build", "decisions", "split", "variants"]

STEPS = 16  # features are multiples of 1/16 in x: kept as bytes, which is a quarter of the memory


@dataclass(frozen=True)
class Dataset:
    """Encoded decisions. `row` and `action` are -1 where the chore is finished."""

    x_MF: NDArray[np.uint8]
    g_EG: NDArray[np.float32]
    starts_E: NDArray[np.int64]  # first element row of each decision
    counts_E: NDArray[np.int64]
    row_E: NDArray[np.int64]  # the target among the decision's own rows
    action_E: NDArray[np.int64]

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """Return all that it holds."""
        return (
            self.x_MF, self.g_EG, self.starts_E, self.counts_E, self.row_E, self.action_E,
        )  # fmt: skip

    @property
    def num_decisions(self) -> int:
        """Return E."""
        return len(self.g_EG)

    def observation(self, e: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return x (N, F) and g (G) of one decision."""
        rows = slice(self.starts_E[e], self.starts_E[e] + self.counts_E[e])
        return self.x_MF[rows].astype(np.float32) / np.float32(STEPS), self.g_EG[e]

    def joined(self, other: "Dataset") -> "Dataset":
        """Return both one after the other."""
        counts = np.concatenate([self.counts_E, other.counts_E])
        return Dataset(
            x_MF=np.concatenate([self.x_MF, other.x_MF]),
            g_EG=np.concatenate([self.g_EG, other.g_EG]),
            starts_E=np.cumsum(counts) - counts,
            counts_E=counts,
            row_E=np.concatenate([self.row_E, other.row_E]),
            action_E=np.concatenate([self.action_E, other.action_E]),
        )


@dataclass(frozen=True)
class _Decision:
    x_NF: NDArray[np.float32]
    g_G: NDArray[np.float32]
    row: int
    action: int


def decisions(demonstration: Demonstration, chore: Chore) -> list[_Decision]:
    """Encode one demonstration. Raises TrainingError for a target that is no candidate."""
    found = []
    for state, encoded in _encoded(demonstration, chore):
        if not encoded.elements:
            continue  # a last screen without any control: the post-condition speaks for it
        if state.target is not None and state.target not in encoded.elements:
            raise TrainingError(
                "an element that was acted on is not among the first "
                f"{len(encoded.elements)} of its screen: show the routine on a smaller list"
            )
        row = encoded.elements.index(state.target) if state.target is not None else -1
        action = chore.actions.index(state.action) if state.action is not None else -1
        x = np.frombuffer(encoded.x, np.float32).reshape(len(encoded.elements), -1)
        found.append(_Decision(x, np.frombuffer(encoded.g, np.float32), row, action))
    return found


def _encoded(demonstration: Demonstration, chore: Chore) -> Iterator[tuple[State, Encoded]]:
    if chore.reading is None:
        slots = [(name, demonstration.values[name]) for name in chore.slots]
        for state in demonstration.states:
            yield state, encode(state.snapshot, slots, state.history)
        return
    history: list[HistoryStep] = []
    goal, controls, meanings = chore.reading.goal, chore.reading.controls, chore.reading.meanings
    words = goal.vocabulary if goal else ()
    for state in demonstration.states:
        page = Page(state.snapshot, goal)
        yield state, encode_goal(page, words, history, controls=controls, meanings=meanings)
        if state.target is not None and state.action is not None:
            history.append(step_on(page, state.target, state.action.op, state.action.slot))


def build(
    demonstrations: Iterable[Demonstration],
    chore: Chore,
    max_rows: int,
    max_candidates: int | None = None,
) -> Dataset:
    """Encode demonstrations, at most as many decisions as fit into `max_rows` element rows.

    With `max_candidates` a decision among more keeps a random sample of so many, the right one in
    it: a long screen's other elements are alike, and more variants teach more.
    """
    rng = np.random.default_rng(0)
    kept: list[_Decision] = []
    num_rows = 0
    for demonstration in demonstrations:
        new = [_thinned(d, max_candidates, rng) for d in decisions(demonstration, chore)]
        num_rows += sum(len(d.x_NF) for d in new)
        if kept and num_rows > max_rows:
            break
        kept += new
    counts = np.array([len(d.x_NF) for d in kept], np.int64)
    num_features, num_context = chore.sizes
    x = np.concatenate([d.x_NF for d in kept] or [np.zeros((0, num_features), np.float32)])
    g = np.stack([d.g_G for d in kept]) if kept else np.zeros((0, num_context), np.float32)
    return Dataset(
        x_MF=np.rint(x * STEPS).astype(np.uint8),
        g_EG=g,
        starts_E=np.cumsum(counts) - counts,
        counts_E=counts,
        row_E=np.array([d.row for d in kept], np.int64),
        action_E=np.array([d.action for d in kept], np.int64),
    )


def _thinned(decision: _Decision, size: int | None, rng: np.random.Generator) -> _Decision:
    num = len(decision.x_NF)
    if size is None or num <= size:
        return decision
    kept = rng.permutation(num)[:size]
    if decision.row >= 0 and decision.row not in kept:
        kept[0] = decision.row
    kept.sort()
    row = int(np.searchsorted(kept, decision.row)) if decision.row >= 0 else -1
    return _Decision(decision.x_NF[kept], decision.g_G, row, decision.action)


def variants(
    demonstrations: Sequence[Demonstration], chore: Chore, number: int, seed: int
) -> Iterable[Demonstration]:
    """Yield every demonstration as it was, then `number` variants of each, turn about.

    Colours that a recording lacks are drawn in both.
    """
    rng = Random(seed)  # noqa: S311  data, not secrets
    source = chore.reading.goal if chore.reading is not None else None
    yield from (paint(demonstration, source, rng) for demonstration in demonstrations)
    for _ in range(number):
        for demonstration in demonstrations:
            yield _varied(paint(demonstration, source, rng), chore, rng)


def _varied(demonstration: Demonstration, chore: Chore, rng: Random) -> Demonstration:
    unvaried = chore.unvaried(demonstration)
    if chore.reading is None or chore.reading.goal is None:
        return vary(demonstration, unvaried, rng)
    goal = find_goal(demonstration.states[0].snapshot, chore.reading.goal)
    told = (goal.text.clear or "") if goal is not None and goal.text is not None else ""
    # Where the instruction has numbers, those on the screen answer to them.
    numbers = any(c.isdigit() for c in told)
    return vary(
        demonstration, unvaried, rng, keeps_numbers=numbers, told=told,
        keeps_words=chore.reading.meanings,
    )  # fmt: skip


def split(
    demonstrations: Sequence[Demonstration], seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return (to train on, held out): whole sessions from 3 sessions on, else one demonstration."""
    rng = Random(seed)  # noqa: S311
    sessions = sorted({d.session for d in demonstrations})
    if len(sessions) < 3:
        held = {rng.randrange(len(demonstrations))}
        indices = [i in held for i in range(len(demonstrations))]
    else:
        rng.shuffle(sessions)
        picked: set[str] = set()
        for session in sessions[: len(sessions) // 2]:
            picked.add(session)
            if sum(d.session in picked for d in demonstrations) >= len(demonstrations) / 5:
                break
        indices = [d.session in picked for d in demonstrations]
    pairs = list(zip(demonstrations, indices, strict=True))
    return [d for d, held in pairs if not held], [d for d, held in pairs if held]
