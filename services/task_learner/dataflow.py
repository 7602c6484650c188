"""Where the values of a routine's steps come from: parameters and constants.

A value that changes from trace to trace is a parameter; steps whose values are equal in every
trace share one. It came from the screen if it stood there, at the same kind of place, before it was
used; otherwise it was typed from the user's head. Equality is tested on what the privacy filter
left, a clear text or its hash. Reads and writes nothing.

Does not cover: values computed from others (part of a text, another format).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.task_learner.actions import is_data, value_of
from shared.schemas import Parameter, ParameterSource, Snapshot, Text, UiEvent

__all__ = ["Flow", "Place", "Screen", "StepValue", "find_flow", "parameter_values", "trace_values"]

SEEN_SHARE = 0.8
"""Share of traces in which a value must have stood at its source."""

_MAX_PLACES = 12  # kept per value and trace: a value standing everywhere has no source

Place = tuple[str | None, str, str | None]
"""Label, role and document of an element that shows a value."""


class Screen:
    """The texts of one snapshot, by what equality is tested on, and where elements stand."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.places: dict[str, list[Place]] = defaultdict(list)
        self._roles: dict[int, tuple[str, int | None]] = {}
        for element in snapshot.elements:
            self._roles[element.index] = (element.role, element.parent)
            place: Place = (element.label, element.role, snapshot.document)
            for text in (element.text, element.value, element.name):
                key = _key(text)
                if key is not None and place not in self.places[key]:
                    self.places[key].append(place)

    def place(self, index: int) -> str | None:
        """Return the roles from the outermost element to this one, or None for no such element."""
        path: list[str] = []
        at: int | None = index
        while at is not None and at in self._roles and len(path) < 32:
            role, at = self._roles[at]
            path.append(role)
        return ">".join(reversed(path)) or None


@dataclass(frozen=True)
class StepValue:
    """The value one step carried in one trace, and where it had stood before."""

    key: str | None
    clear: str | None
    cls: str
    label: str | None
    role: str
    document: str | None
    chosen: bool  # clicked on, not entered
    seen: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Flow:
    """A routine's parameters; for each step its parameter's name or its constant value."""

    parameters: tuple[Parameter, ...]
    of_step: tuple[str | None, ...]
    constants: tuple[str | None, ...]


def trace_values(
    events: Sequence[UiEvent | None], screens: Mapping[str, Screen]
) -> list[StepValue | None]:
    """Return the value each event carries, None for no event; `screens` by snapshot digest.

    An event's own screen counts as earlier, but for the field it enters the value into.
    """
    shown: dict[str, list[Place]] = defaultdict(list)
    values: list[StepValue | None] = [None] * len(events)
    done: set[str] = set()
    order = sorted(
        (e.time_ms, e.seq, step) for step, e in enumerate(events) if e is not None
    )  # steps may be out of the pattern's order
    for _, _, step in order:
        event = events[step]
        assert event is not None
        own = screens.get(event.snapshot) if event.snapshot is not None else None
        element = event.element
        field: Place | None = None
        if element is not None:
            field = (element.label, element.role, event.document)
        if own is not None and event.snapshot not in done:
            done.add(str(event.snapshot))
            for text_key, places in own.places.items():
                shown[text_key] += [p for p in places if p not in shown[text_key]]
        text = value_of(event)
        if text is None or element is None:
            continue
        chosen, key = is_data(event), _key(text)
        seen = tuple(p for p in shown.get(key, ()) if chosen or p != field) if key else ()
        values[step] = StepValue(
            key, text.clear, text.cls, element.label, element.role, event.document, chosen,
            seen[:_MAX_PLACES],
        )  # fmt: skip
    return values


def find_flow(num_steps: int, traces: Sequence[Sequence[StepValue | None]]) -> Flow:
    """Return what the steps of all traces carry; `traces` are rows of `num_steps` values."""
    columns = [[trace[step] for trace in traces] for step in range(num_steps)]
    keys = [[v.key if v is not None else None for v in column] for column in columns]
    of_step: list[str | None] = [None] * num_steps
    constants: list[str | None] = [None] * num_steps
    varying = []
    for step, column in enumerate(keys):
        known = {k for k in column if k is not None}
        if not known or sum(k is not None for k in column) < SEEN_SHARE * len(traces):
            continue  # too seldom there to say anything
        if len(known) > 1 or (len(traces) == 1 and _is_open(columns, step)):
            varying.append(step)
        else:
            constants[step] = next(v.clear for v in columns[step] if v is not None and v.key)
    parameters: list[Parameter] = []
    for group in _equal(varying, keys):
        parameter = _parameter(group, columns, {p.name for p in parameters})
        parameters.append(parameter)
        for step in group:
            of_step[step] = parameter.name
    return Flow(tuple(parameters), tuple(of_step), tuple(constants))


def parameter_values(flow: Flow, trace: Sequence[StepValue | None]) -> dict[str, str]:
    """Return the parameters' values in one trace; a hash where no clear value was kept."""
    values: dict[str, str] = {}
    for name, value in zip(flow.of_step, trace, strict=True):
        if name is None or value is None:
            continue
        text = value.clear if value.clear is not None else value.key
        if text is not None:
            values.setdefault(name, text)
    return values


def _is_open(columns: Sequence[Sequence[StepValue | None]], step: int) -> bool:
    """Tell whether the value of a single demonstration is for the user to give each time.

    What was entered is; what was clicked on only where it was entered elsewhere too.
    """
    value = columns[step][0]
    if value is None or not value.chosen:
        return True
    return any(
        other[0] is not None and other[0].key == value.key and not other[0].chosen
        for place, other in enumerate(columns)
        if place != step
    )


def _equal(steps: Sequence[int], keys: Sequence[Sequence[str | None]]) -> list[list[int]]:
    """Group steps whose values are equal in all traces that have both."""
    groups: list[list[int]] = []
    for step in steps:
        for group in groups:
            pairs = [
                (a, b) for a, b in zip(keys[group[0]], keys[step], strict=True)
                if a is not None and b is not None
            ]  # fmt: skip
            if pairs and len(pairs) >= 0.5 * len(keys[step]) and all(a == b for a, b in pairs):
                group.append(step)
                break
        else:
            groups.append([step])
    return groups


def _parameter(
    group: Sequence[int], columns: Sequence[Sequence[StepValue | None]], taken: set[str]
) -> Parameter:
    values = [v for step in group for v in columns[step] if v is not None]
    entered = [v for v in values if not v.chosen]
    label = next((v.label for v in entered or values if v.label), None)
    role = (entered or values)[0].role
    name = _name(label or role or "value", taken)
    classes = {v.cls for v in values}
    value_class = classes.pop() if len(classes) == 1 else "text"
    place = _source(group, columns)
    if place is None:
        return Parameter(
            name=name, source=ParameterSource.TYPED, value_class=value_class, label=label
        )
    return Parameter(
        name=name, source=ParameterSource.SCREEN, value_class=value_class, label=place[0],
        role=place[1], document=place[2],
    )  # fmt: skip


def _source(group: Sequence[int], columns: Sequence[Sequence[StepValue | None]]) -> Place | None:
    """Return the kind of place where the value stood in enough traces before its first use."""
    firsts = []
    for row in zip(*(columns[step] for step in group), strict=True):
        there = [v for v in row if v is not None]
        if there:
            firsts.append(next((v for v in there if not v.chosen), there[0]))
    counts = Counter(place for v in firsts for place in v.seen)
    enough = {p: c for p, c in counts.items() if c >= SEEN_SHARE * len(firsts)}
    if not enough:
        return None
    own = Counter(
        (v.label, v.role, v.document)
        for step in group
        for v in columns[step]
        if v is not None and v.chosen
    )
    # Of several places a labelled one, then the one that was clicked on, then the commonest.
    best: Place = max(enough, key=lambda p: (p[0] is not None, own[p], enough[p], str(p)))
    return best


def _name(label: str, taken: set[str]) -> str:
    words = re.findall(r"\w+", label.lower())
    name = "_".join(words)[:60].strip("_") or "value"
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _key(text: Text | None) -> str | None:
    if text is None or text.key is None:
        return None
    return " ".join(text.key.split()) or None
