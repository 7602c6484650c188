"""A real agent module without training: weights by hand that know a demonstration by heart.

Each decision of a demonstration becomes one unit that fires on exactly that observation; slots
stand for values, so the module does other records as well. Whatever it has not seen leaves all
scores equal, and it abstains. `permute` shuffles the weights, `ends_on` falsifies the page that
the chore is said to end on, `never_ends` has it go on for ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.agent_runner.actuators import Actuator
from shared.encoding import (
    ENCODING_VERSION,
    NUM_CONTEXT_FEATURES,
    NUM_ELEMENT_FEATURES,
    HistoryStep,
    encode,
    step_of,
)
from shared.module import ActionEntry, Manifest, Network, capabilities_of, emit, sign
from shared.schemas import Programme, Snapshot, SnapshotElement
from shared.screen import Sighting, learn_post_condition, learn_screen
from shared.signing import SigningKey

Pick = Callable[[SnapshotElement, Mapping[str, str]], bool]


@dataclass(frozen=True)
class Move:
    """One step of a demonstration: what is done, on the one element that `pick` accepts."""

    action: ActionEntry
    pick: Pick


@dataclass
class Lesson:
    """One demonstration."""

    values: dict[str, str]
    states: list[tuple[Snapshot, tuple[HistoryStep, ...], int | None, ActionEntry | None]] = field(
        default_factory=list
    )

    @property
    def sightings(self) -> list[Sighting]:
        return [
            Sighting(snapshot, self.values, target, action.slot if action else None)
            for snapshot, _, target, action in self.states
        ]


def called(name: str) -> Pick:
    """Pick the element of this label or name."""
    return lambda e, _: name in (e.label, e.name.clear if e.name else None)


async def demonstrate(
    screen: Actuator, url: str, moves: Sequence[Move], values: dict[str, str]
) -> Lesson:
    """Do the chore by hand through the actuator and note every decision."""
    lesson, history = Lesson(values), []
    await screen.open(url)
    for move in moves:
        snapshot = await screen.observe()
        (element,) = [e for e in snapshot.elements if move.pick(e, values)]
        action = move.action
        lesson.states.append((snapshot, tuple(history), element.index, action))
        history.append(step_of(element, action.op, action.slot))
        text = values[action.slot] if action.slot else None
        await screen.perform(action.op, element.index, text=text, key=action.key)
        await screen.settle()
    lesson.states.append((await screen.observe(), tuple(history), None, None))
    return lesson


def _unit(pattern: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights and bias that give 1 before ReLU on `pattern` and below 0 elsewhere."""
    binary = np.isin(pattern, (0, 1))
    weights = np.where(binary, 2 * pattern - 1, 0).astype(np.float32) * 2
    return weights, 1 - float(weights @ pattern)


def memorise(
    lessons: Sequence[Lesson],
    key: SigningKey,
    *,
    start_url: str,
    slots: Sequence[str],
    routine_id: str = "routine-1",
    name: str = "Enter an order",
    constants: Mapping[str, str] | None = None,
    programmes: Mapping[str, Programme] | None = None,
    precision: str = "f32",
    permute: int | None = None,
    ends_on: str | None = None,
    never_ends: bool = False,
) -> bytes:
    """Return the signed module that knows `lessons`."""
    actions = sorted(
        {action for lesson in lessons for *_, action in lesson.states if action},
        key=lambda a: (a.op, a.slot or "", a.key or ""),
    )
    acts: dict[bytes, tuple[np.ndarray, int]] = {}
    ends: dict[bytes, np.ndarray] = {}
    for lesson in lessons:
        known = [(slot, lesson.values[slot]) for slot in slots]
        for snapshot, history, target, action in lesson.states:
            encoded = encode(snapshot, known, history)
            g = np.array(encoded.g, np.float32)
            if target is None or action is None:
                ends[g.tobytes()] = g
                continue
            x = np.array(encoded.x, np.float32).reshape(-1, NUM_ELEMENT_FEATURES)
            pattern = np.concatenate([x[encoded.elements.index(target)], g])
            acts[pattern.tobytes()] = pattern, actions.index(action)
    network = Network(
        num_features=NUM_ELEMENT_FEATURES,
        num_context=NUM_CONTEXT_FEATURES,
        num_actions=len(actions),
        element=(len(acts),),
        context=(len(ends),),
        score=(),
    )
    weights = {n: np.zeros(s, np.float32) for n, s in network.parameter_shapes().items()}
    for unit, (pattern, action) in enumerate(acts.values()):
        weights["element.0.weight"][unit], weights["element.0.bias"][unit] = _unit(pattern)
        weights["scores.weight"][action, unit] = 10
    for unit, g in enumerate(ends.values()):
        own, bias = _unit(g)
        weights["context.0.weight"][unit, 2 * len(acts) :] = own
        weights["context.0.bias"][unit] = bias
        weights["finish.weight"][0, unit] = 0 if never_ends else 10
    weights["finish.bias"][0] = -1
    if permute is not None:
        rng = np.random.default_rng(permute)
        weights = {n: rng.permutation(w.ravel()).reshape(w.shape) for n, w in weights.items()}
    finals = [(lesson.states[-1][0], lesson.values) for lesson in lessons]
    if ends_on is not None:
        finals = [(final.model_copy(update={"document": ends_on}), v) for final, v in finals]
    manifest = Manifest(
        encoding=ENCODING_VERSION,
        routine_id=routine_id,
        routine_revision=1,
        name=name,
        actions=tuple(actions),
        slots=tuple(slots),
        constants=dict(constants or {}),
        programmes=dict(programmes or {}),
        network=network,
        precision=precision,
        margin_threshold=1.5,
        capabilities=capabilities_of(actions),
        screen_schema=learn_screen(start_url, [s for lesson in lessons for s in lesson.sightings]),
        post_condition=learn_post_condition(finals),
        data_digest="0" * 64,
        git_revision="test",
    )
    return sign(emit(manifest, weights), key)
