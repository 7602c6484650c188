"""Where the values of a routine's steps come from: parameters and constants.

A value that changes from trace to trace is a parameter; steps whose values are equal in every
trace share one. It came from the screen if it stood there, at the same kind of place, before it was
used; else it may follow from other parameters, from what stood at such places, or from its own
value the time before, by a programme that holds on the traces (`synthesis`); otherwise it was typed
from the user's head. Equality is tested on what the privacy filter left, a clear text or its hash;
programmes are learned from clear texts alone. Reads and writes nothing.

Does not cover: values from places that show several at once, or that no screen showed. Long,
because what a trace's values are and what all traces' values say of each other is read together.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.task_learner.actions import is_data, value_of
from services.task_learner.synthesis import learn
from shared.schemas import Parameter, ParameterSource, Snapshot, Text, UiEvent
from shared.schemas.programmes import PREVIOUS, Programme
from shared.texts import classify
from shared.transforms import counts, run

__all__ = ["Flow", "Place", "Screen", "StepValue", "find_flow", "parameter_values", "trace_values"]

SEEN_SHARE = 0.8
"""Share of traces in which a value must have stood at its source."""

MIN_COMPUTED = 3
"""Traces that a programme must hold on at least."""

_MAX_PLACES = 12  # kept per value and trace: a value standing everywhere has no source
_MAX_NEAR = 12  # other places kept per value and trace, from which it may have been made
_MAX_NEAR_CHARS = 300
_MAX_INPUTS = 10

Place = tuple[str | None, str, str | None]
"""Label, role and document of an element that shows a value."""


class Screen:
    """The texts of one snapshot, by what equality is tested on, and where elements stand."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.places: dict[str, list[Place]] = defaultdict(list)
        self.texts: dict[Place, str | None] = {}  # clear; None where a place shows several
        self._roles: dict[int, tuple[str, int | None]] = {}
        for element in snapshot.elements:
            self._roles[element.index] = (element.role, element.parent)
            place: Place = (element.label, element.role, snapshot.document)
            for text in (element.text, element.value, element.name):
                key = _key(text)
                if key is not None and place not in self.places[key]:
                    self.places[key].append(place)
                if key is not None and text is not None and text.clear and element.label:
                    known = self.texts.setdefault(place, key)
                    self.texts[place] = key if known == key else None

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
    near: tuple[tuple[Place, str], ...] = ()  # places whose text it may have been made from

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> "StepValue":
        """Read what `dataclasses.asdict` and JSON made of one."""
        near = tuple((_place(place), text) for place, text in raw.get("near", ()))
        return cls(**{**raw, "seen": tuple(map(_place, raw["seen"])), "near": near})


@dataclass(frozen=True)
class Flow:
    """A routine's parameters; for each step its parameter's name or its constant value."""

    parameters: tuple[Parameter, ...]
    of_step: tuple[str | None, ...]
    constants: tuple[str | None, ...]
    sources: tuple[tuple[str, Place], ...] = ()  # parameters that are only read, and where


def trace_values(
    events: Sequence[UiEvent | None], screens: Mapping[str, Screen]
) -> list[StepValue | None]:
    """Return the value each event carries, None for no event; `screens` by snapshot digest.

    An event's own screen counts as earlier, but for the field it enters the value into.
    """
    shown: dict[str, list[Place]] = defaultdict(list)
    texts: dict[Place, str | None] = {}
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
            texts.update(own.texts)
        text = value_of(event)
        if text is None or element is None:
            continue
        chosen, key = is_data(event), _key(text)
        seen = tuple(p for p in shown.get(key, ()) if chosen or p != field) if key else ()
        values[step] = StepValue(
            key, text.clear, text.cls, element.label, element.role, event.document, chosen,
            seen[:_MAX_PLACES], _near(text.clear, texts, field) if not chosen else (),
        )  # fmt: skip
    return values


def _near(
    value: str | None, texts: Mapping[Place, str | None], field: Place | None
) -> tuple[tuple[Place, str], ...]:
    """Return the places a value may have been made from, those first that share most with it."""
    if not value:
        return ()
    words = set(_words(value))
    found = [
        (place, text) for place, text in texts.items()
        if text and len(text) <= _MAX_NEAR_CHARS and place != field
    ]  # fmt: skip
    found.sort(key=lambda entry: (-len(words & set(_words(entry[1]))), str(entry[0])))
    return tuple(found[:_MAX_NEAR])


def _words(text: str) -> list[str]:
    return re.findall(r"\d+|[^\W\d_]+", text.casefold())


def find_flow(
    num_steps: int,
    traces: Sequence[Sequence[StepValue | None]],
    known: Sequence[Parameter] = (),
    search: bool = True,
) -> Flow:
    """Return what the steps of all traces carry; `traces` are rows of `num_steps` values.

    Programmes of the `known` parameters that still hold are kept; others are looked for only where
    `search` says so, which may take a tenth of a second for each typed parameter.
    """
    columns = [[trace[step] for trace in traces] for step in range(num_steps)]
    keys = [[v.key if v is not None else None for v in column] for column in columns]
    of_step: list[str | None] = [None] * num_steps
    constants: list[str | None] = [None] * num_steps
    varying = []
    for step, column in enumerate(keys):
        found = {k for k in column if k is not None}
        if not found or sum(k is not None for k in column) < SEEN_SHARE * len(traces):
            continue  # too seldom there to say anything
        if len(found) > 1 or (len(traces) == 1 and _is_open(columns, step)):
            varying.append(step)
        else:
            constants[step] = next(v.clear for v in columns[step] if v is not None and v.key)
    parameters: list[Parameter] = []
    for group in _equal(varying, keys):
        parameter = _parameter(group, columns, {p.name for p in parameters})
        parameters.append(parameter)
        for step in group:
            of_step[step] = parameter.name
    flow = Flow(tuple(parameters), tuple(of_step), tuple(constants))
    return _with_programmes(flow, traces, {p.name: p for p in known}, search)


def _with_programmes(
    flow: Flow,
    traces: Sequence[Sequence[StepValue | None]],
    before: Mapping[str, Parameter],
    search: bool,
) -> Flow:
    """Find out which typed parameters follow from others, each from those before it alone."""
    rows = [parameter_values(flow, trace) for trace in traces]
    typed = [p for p in flow.parameters if p.source is ParameterSource.TYPED]
    if not search and not any(before[p.name].programme for p in typed if p.name in before):
        return flow
    parameters: list[Parameter] = []
    sources: dict[str, Place] = {}
    read_already = {(p.label, p.role, p.document) for p in flow.parameters}
    taken = {p.name for p in flow.parameters}
    for parameter in flow.parameters:
        if parameter.source is ParameterSource.SCREEN:
            parameters.append(parameter)
            continue
        steps = [step for step, name in enumerate(flow.of_step) if name == parameter.name]
        values = [_entered([trace[step] for step in steps]) for trace in traces]
        inputs: dict[str, list[str]] = {
            p.name: [row.get(p.name, "") for row in rows] for p in flow.parameters
            if p.source is ParameterSource.SCREEN or p in parameters
        }  # fmt: skip
        places = {p: n for n, p in sources.items()}
        for place in _shared_places(values):
            if place in read_already:
                continue
            name = places.get(place) or _name_at(place, before, taken | set(inputs))
            inputs[name] = [dict(v.near).get(place, "") if v is not None else "" for v in values]
            places[place] = name
        old = before[parameter.name].programme if parameter.name in before else None
        if old is not None and _holds(old, inputs, values):
            programme: Programme | None = old
        else:
            programme = _programme(inputs, values) if search else None
        if programme is not None:
            for place, name in places.items():
                if name in programme.inputs and name not in sources:
                    sources[name] = place
                    taken.add(name)
            parameter = parameter.model_copy(update={"programme": programme})
        parameters.append(parameter)
    read = [
        Parameter(
            name=name, source=ParameterSource.SCREEN, label=place[0], role=place[1],
            document=place[2], value_class=_class_at(place, traces),
        )
        for name, place in sources.items()
    ]  # fmt: skip
    return Flow((*parameters, *read), flow.of_step, flow.constants, tuple(sources.items()))


def _name_at(place: Place, before: Mapping[str, Parameter], taken: set[str]) -> str:
    """Return the name the place had before, or a new one."""
    for name, parameter in before.items():
        if place == (parameter.label, parameter.role, parameter.document) and name not in taken:
            return name
    return _name(place[0] or place[1], taken)


def _entered(values: Sequence[StepValue | None]) -> StepValue | None:
    there = [v for v in values if v is not None and v.clear]
    return next((v for v in there if not v.chosen), None)


def _shared_places(values: Sequence[StepValue | None]) -> list[Place]:
    """Return places that showed a text before the value in enough traces, the likeliest first."""
    there = [v for v in values if v is not None]
    counts: Counter[Place] = Counter()
    likely: Counter[Place] = Counter()
    for value in there:
        words = set(_words(value.clear or ""))
        for place, text in value.near:
            counts[place] += 1
            likely[place] += bool(words & set(_words(text)))
    enough = [p for p, n in counts.items() if n >= SEEN_SHARE * len(there)]
    return sorted(enough, key=lambda p: (-likely[p], str(p)))[:_MAX_INPUTS]


def _programme(
    inputs: Mapping[str, Sequence[str]], values: Sequence[StepValue | None]
) -> Programme | None:
    """Return a programme that holds on nearly all traces, which are in the order of time."""
    there = [(row, v.clear) for row, v in enumerate(values) if v is not None and v.clear]
    least = _least(len(there))
    if len(there) < least:
        return None
    before = [((there[at - 1][1],), text) for at, (_, text) in enumerate(there) if at > 0]
    if all(any(c.isdigit() for c in text) for _, text in there):
        counted = learn([PREVIOUS], before)
        if counted is not None and counts(counted) and counted.verified >= _least(len(before)):
            return counted
    names = list(inputs)
    programme = learn(names, [([inputs[n][row] for n in names], text) for row, text in there])
    return programme if programme is not None and programme.verified >= least else None


def _holds(
    programme: Programme, inputs: Mapping[str, Sequence[str]], values: Sequence[StepValue | None]
) -> bool:
    right, num, last = 0, 0, ""
    for row, value in enumerate(values):
        if value is None or not value.clear:
            continue
        given = {n: inputs[n][row] for n in programme.inputs if n in inputs} | {PREVIOUS: last}
        right += run(programme, given) == value.clear.strip()
        last, num = value.clear, num + 1
    return right >= _least(num - (PREVIOUS in programme.inputs))


def _least(num: int) -> float:
    return max(MIN_COMPUTED, SEEN_SHARE * num)


def _class_at(place: Place, traces: Sequence[Sequence[StepValue | None]]) -> str:
    found = {
        classify(text) for trace in traces for v in trace if v is not None
        for at, text in v.near if at == place
    }  # fmt: skip
    return found.pop() if len(found) == 1 else "text"


def _place(raw: Sequence[str | None]) -> Place:
    label, role, document = raw
    return label, role or "", document


def parameter_values(flow: Flow, trace: Sequence[StepValue | None]) -> dict[str, str]:
    """Return the parameters' values in one trace; a hash where no clear value was kept."""
    values: dict[str, str] = {}
    for name, value in zip(flow.of_step, trace, strict=True):
        if name is None or value is None:
            continue
        text = value.clear if value.clear is not None else value.key
        if text is not None:
            values.setdefault(name, text)
    for source, place in flow.sources:
        read = (dict(v.near).get(place) for v in trace if v is not None)
        if (text := next(filter(None, read), None)) is not None:
            values.setdefault(source, text)
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
