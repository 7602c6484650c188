"""Traces -> demonstrations: what was on the screen, what had been done, what was done next.

An action on an element becomes one of a few operations on a candidate of `shared.encoding`. Values
that were entered become slots: a parameter of the routine, or a constant where all traces entered
the same. Fields that were filled one after the other on one page are put into one order, the same
for all traces, and the screens between are rebuilt: people vary the order, and an agent that
learned "any of them" would never be sure. Pure: reads and writes nothing.

Does not cover: hot-keys, drag and drop, and steps in windows that show no elements.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from urllib.parse import urlsplit, urlunsplit

from services.agent_trainer.steps import Control, Step, read_steps
from shared.encoding import (
    MAX_SLOTS,
    NUM_CONTEXT_FEATURES,
    NUM_ELEMENT_FEATURES,
    HistoryStep,
    Tree,
    label_of,
    normalise,
    step_of,
)
from shared.encoding_figures import SHAPE_TAGS, tells_figure
from shared.encoding_goal import NUM_GOAL_CONTEXT, NUM_GOAL_ELEMENT
from shared.errors import TrainingError, WatError
from shared.goal import Reading
from shared.manifest import ActionEntry
from shared.schemas import Routine, Snapshot, SnapshotElement, Text, Trace
from shared.screen import Sighting

__all__ = ["NO_RESULT", "Chore", "Demonstration", "State", "read_chore"]

NO_RESULT = (
    "no trace shows the screen after its last step, so success could not be told: "
    "show the routine again and wait for the result"
)
_RARE_SHARE = 0.34  # a step of fewer traces is a detour, from 4 traces on
_RARE_FROM = 4
_STYLE_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NUMBERED = re.compile(r"\d+(?:st|nd|rd|th)$|\d{1,2}:\d{2}")


@dataclass(frozen=True)
class State:
    """One decision: the screen before, what had been done, and what was done on which element.

    `action` None means that the chore was finished.
    """

    snapshot: Snapshot
    history: tuple[HistoryStep, ...]
    target: int | None
    action: ActionEntry | None


@dataclass(frozen=True)
class Demonstration:
    """One trace as decisions; `values` has constants too."""

    trace_id: str
    session: str
    values: Mapping[str, str]
    states: tuple[State, ...]
    final: Snapshot | None
    sightings: tuple[Sighting, ...]  # every screen as it really was


@dataclass(frozen=True)
class Chore:
    """All of a routine's demonstrations, and what they have in common."""

    demonstrations: tuple[Demonstration, ...]
    slots: tuple[str, ...]
    constants: Mapping[str, str]
    actions: tuple[ActionEntry, ...]
    start_url: str
    left_out: tuple[str, ...]  # why a trace was not used
    reading: Reading | None = None  # encoding 4

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the numbers of an element's and of the context's features."""
        if self.reading is None:
            return NUM_ELEMENT_FEATURES, NUM_CONTEXT_FEATURES
        return NUM_GOAL_ELEMENT, NUM_GOAL_CONTEXT

    def unvaried(self, demonstration: Demonstration) -> Mapping[str, str]:
        """Return the values that must stay as they are: the same each time, or with a meaning."""
        if self.reading is None:
            return self.constants
        return {**self.constants, **_meant(demonstration)}


def _meant(demonstration: Demonstration) -> dict[str, str]:
    """Return the slots whose value says more than its letters: a number, a date, an icon's name."""
    style = {
        token.casefold()
        for state in demonstration.states[:1]
        for element in state.snapshot.elements
        for name in (element.element_id or "", *(element.classes or ()))
        for token in _STYLE_WORD.findall(name)
    }
    drawn = any(e.tag in SHAPE_TAGS or e.colour for e in demonstration.states[0].snapshot.elements)
    return {
        name: value
        for name, value in demonstration.values.items()
        if not any(c.isalpha() for c in value)
        or _NUMBERED.match(value)
        or set(normalise(value).split()) & style
        or (drawn and tells_figure(value))
    }


def read_chore(
    routine: Routine,
    traces: Sequence[Trace],
    snapshot_of: Callable[[str], Snapshot],
    *,
    needs_result: bool = True,
) -> Chore:
    """Return the routine's demonstrations. Raises TrainingError where nothing can be learnt.

    `snapshot_of` maps an artifact's digest to the snapshot and raises WatError without one. Long:
    it is the order in which everything below happens.
    """
    read: list[tuple[Trace, list[Step], Snapshot | None]] = []
    left_out: list[str] = []
    for trace in traces:
        try:
            raws = read_steps(trace, snapshot_of)
            if not raws:
                raise TrainingError("nothing in it can be acted on")
            final = snapshot_of(trace.final_snapshot) if trace.final_snapshot else None
            read.append((trace, raws, final))
        except WatError as error:
            left_out.append(str(error))
    if len(read) < 2:
        reasons = "; ".join(sorted(set(left_out))[:3]) or "show it more often"
        raise TrainingError(
            f"{len(read)} of {len(traces)} traces can be learnt from, at least 2 must: {reasons}"
        )
    if needs_result and not any(final for _, _, final in read):
        raise TrainingError(NO_RESULT)
    _drop_detours(read)
    parameters = [p.name for p in routine.parameters]
    values = [{name: trace.parameters.get(name, "") for name in parameters} for trace, _, _ in read]
    constants = _find_slots(read, values)
    slots = _choose_slots(parameters, constants, read)
    rank = _field_order([raws for _, raws, _ in read])
    demonstrations = tuple(
        _demonstration(
            trace, raws, final, {n: {**own, **constants}[n] for n in slots}, routine, rank
        )
        for (trace, raws, final), own in zip(read, values, strict=True)
    )
    actions = sorted(
        {s.action for d in demonstrations for s in d.states if s.action is not None},
        key=lambda a: (a.op, a.slot or "", a.key or ""),
    )
    start_url = _start_url([raws[0] for _, raws, _ in read])
    kept = {name: value for name, value in constants.items() if name in slots}
    return Chore(demonstrations, slots, kept, tuple(actions), start_url, tuple(left_out))


def _demonstration(
    trace: Trace,
    raws: Sequence[Step],
    final: Snapshot | None,
    values: Mapping[str, str],
    routine: Routine,
    rank: Mapping[Control, float],
) -> Demonstration:
    session = next((r.session for r in routine.traces if r.trace_id == trace.trace_id), "")
    sightings = [Sighting(r.snapshot, values, r.target, r.slot) for r in raws]
    if final is not None:
        sightings.append(Sighting(final, values))
    states = _states(_in_one_order(raws, rank), final)
    return Demonstration(trace.trace_id, session, values, states, final, tuple(sightings))


def _drop_detours(read: list[tuple[Trace, list[Step], Snapshot | None]]) -> None:
    if len(read) < _RARE_FROM:
        return
    support = Counter(control for _, raws, _ in read for control in {r.control for r in raws})
    for place, (trace, raws, final) in enumerate(read):
        kept = [r for r in raws if support[r.control] >= _RARE_SHARE * len(read)]
        read[place] = (trace, kept, final)
    read[:] = [entry for entry in read if entry[1]]


def _find_slots(
    read: list[tuple[Trace, list[Step], Snapshot | None]], values: Sequence[Mapping[str, str]]
) -> dict[str, str]:
    """Give every entering step its slot, in place; return the constants that were made.

    Raises TrainingError where what is entered comes from nowhere.
    """
    entered: dict[Control, list[tuple[str, Mapping[str, str]]]] = defaultdict(list)
    for (_, raws, _), own in zip(read, values, strict=True):
        for raw in raws:
            if raw.value is not None:
                entered[raw.control].append((raw.value, own))
    slot_of: dict[Control, str] = {}
    constants: dict[str, str] = {}
    for control, found in entered.items():
        matches = Counter(
            name for value, own in found for name, given in own.items()
            if normalise(given) == normalise(value)
        )  # fmt: skip
        name, count = matches.most_common(1)[0] if matches else ("", 0)
        different = {normalise(value) for value, _ in found}
        if count >= 0.8 * len(found) and not (len(different) == 1 and count < len(found)):
            slot_of[control] = name
        elif len(different) == 1:
            constant = f"constant_{len(constants) + 1}"
            slot_of[control], constants[constant] = constant, found[0][0]
        else:
            raise TrainingError(
                f"what is entered in “{control[3]}” is no parameter of the routine and changes "
                f"({count} of {len(found)} agree): show it more often, or leave the field out"
            )
    for place, (trace, raws, final) in enumerate(read):
        read[place] = (trace, [replace(r, slot=slot_of.get(r.control)) for r in raws], final)
    return constants


def _choose_slots(
    parameters: Sequence[str],
    constants: Mapping[str, str],
    read: Sequence[tuple[Trace, list[Step], Snapshot | None]],
) -> tuple[str, ...]:
    used = {r.slot for _, raws, _ in read for r in raws if r.slot}
    names = [*parameters, *constants]
    if len(names) > MAX_SLOTS:
        names = [n for n in names if n in used] + [n for n in names if n not in used]
    if len(used) > MAX_SLOTS:
        raise TrainingError(
            f"the routine enters {len(used)} values, an agent can hold {MAX_SLOTS}: split it"
        )
    return tuple(names[:MAX_SLOTS])


def _field_order(traces: Sequence[Sequence[Step]]) -> dict[Control, float]:
    """Return each filled control's mean place among the trace's filled controls, 0 to 1."""
    places: dict[Control, list[float]] = defaultdict(list)
    for raws in traces:
        fills = [r for r in raws if r.fills]
        for i, raw in enumerate(fills):
            places[raw.control].append(i / len(fills))
    return {control: mean(found) for control, found in places.items()}


def _in_one_order(raws: Sequence[Step], rank: Mapping[Control, float]) -> list[Step]:
    """Put each run of filled fields of one page into the common order and rebuild its screens."""
    ordered: list[Step] = []
    block: list[Step] = []
    for raw in (*raws, None):
        if raw is not None and raw.fills and (not block or _joins(block, raw)):
            block.append(raw)
            continue
        ordered += _rebuild(block, rank)
        block = [raw] if raw is not None and raw.fills else []
        if raw is not None and not raw.fills:
            ordered.append(raw)
    return ordered


def _joins(block: Sequence[Step], raw: Step) -> bool:
    return raw.control[0] == block[0].control[0] and _again(block[0].snapshot, raw) is not None


def _again(snapshot: Snapshot, raw: Step) -> int | None:
    """Return the index that the step's field has in another snapshot of the same page."""
    wanted = (raw.control[2], label_of(raw.element))
    same = [e.index for e in snapshot.elements if (e.role, label_of(e)) == wanted]
    return same[0] if len(same) == 1 else None


def _rebuild(block: Sequence[Step], rank: Mapping[Control, float]) -> list[Step]:
    if not block:
        return []
    first = block[0].snapshot
    at = {raw.control: index for raw in block if (index := _again(first, raw)) is not None}
    if len(set(at.values())) < len(block) or any(
        _controls(raw.snapshot) != _controls(first) for raw in block
    ):
        # A field filled twice, two under one label, or filling one changed the others.
        return list(block)
    elements = {e.index: e for e in first.elements}
    for raw in block:
        index = at[raw.control]
        elements[index] = _before(elements[index], raw)
    rebuilt = []
    for raw in sorted(block, key=lambda r: (rank[r.control], r.control)):
        index = at[raw.control]
        screen = first.model_copy(update={"elements": tuple(elements.values())})
        rebuilt.append(replace(raw, snapshot=screen, target=index))
        elements[index] = _after(elements[index], raw)
    return rebuilt


def _controls(snapshot: Snapshot) -> Counter[tuple[str, str]]:
    tree = Tree(snapshot)
    return Counter((tree.elements[i].role, label_of(tree.elements[i])) for i in tree.candidates)


def _before(element: SnapshotElement, raw: Step) -> SnapshotElement:
    # A picture taken late shows the result already; nobody enters what stands there.
    shown = element.value.clear if element.value else None
    if raw.value is not None and shown and normalise(shown) == normalise(raw.value):
        return element.model_copy(update={"value": Text(cls="empty", clear="")})
    return element


def _after(element: SnapshotElement, raw: Step) -> SnapshotElement:
    if raw.value is not None:
        return element.model_copy(update={"value": Text(clear=raw.value)})
    states = set(element.states) ^ {"checked"}
    return element.model_copy(update={"states": tuple(sorted(states))})


def _states(raws: Iterable[Step], final: Snapshot | None) -> tuple[State, ...]:
    history: tuple[HistoryStep, ...] = ()
    states = []
    for raw in raws:
        action = ActionEntry(op=raw.op, slot=raw.slot, key=raw.key)
        states.append(State(raw.snapshot, history, raw.target, action))
        history = (*history, step_of(raw.element, raw.op, raw.slot))
    if final is not None:
        states.append(State(final, history, None, None))
    return tuple(states)


def _start_url(firsts: Sequence[Step]) -> str:
    """Return where the chore begins. Raises TrainingError where each trace begins elsewhere."""
    urls = [raw.url for raw in firsts if raw.url]
    url, count = Counter(urls).most_common(1)[0] if urls else ("", 0)
    if count > 1:
        return url
    # An address without an id in it can be opened again, whatever the record.
    plain = [urlunsplit((*urlsplit(u)[:3], "", "")) for u in urls]
    lasting = [u for u in plain if not any(c.isdigit() for c in urlsplit(u).path)]
    if lasting:
        return Counter(lasting).most_common(1)[0][0]
    raise TrainingError(
        "each demonstration begins on another page: begin all of them on the same one"
    )
