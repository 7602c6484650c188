"""Traces of a chore that a sentence on the screen tells -> demonstrations for encoding 4.

Finds the sentence: an element that stands on the first screen of nearly all traces, is no control,
and changes from trace to trace or names what was acted on. Its words that most traces share are
vocabulary; what is left are spans, and what was typed is one of them. Steps may be on anything that
shows something, not only on controls. Pure: reads and writes nothing.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from services.agent_trainer.demonstrations import NO_RESULT, Chore, Demonstration, State
from services.agent_trainer.paint import can_paint
from shared.encoding import FIELD_ROLES, MAX_SLOTS, normalise
from shared.encoding_figures import SHAPE_TAGS
from shared.encoding_goal import Page, is_control, meant_by
from shared.errors import TrainingError, WatError
from shared.goal import GoalSource, Reading, goal_key, goal_slots, read_goal
from shared.manifest import KEYS, MAX_ACTIONS, ActionEntry, Op
from shared.schemas import Action, Box, Routine, Snapshot, SnapshotElement, Trace, UiEvent
from shared.screen import Sighting

__all__ = ["read_instructed"]

_PRESENT_SHARE = 0.9  # of the first screens that show the sentence
_TEMPLATE_SHARE = 0.6  # of the sentences that have a word of the vocabulary
_KNOWN_SHARE, _KNOWN_FROM = 0.12, 3  # a word of so many, and of this many, is no name either
_CONTROLS_SHARE = 0.98  # of the steps on controls, from which on nothing else is a candidate
_MIN_WORDS = 2
_MEANT_SHARE, _CHOSEN_SHARE = 0.5, 0.5  # words a trace that are meant, and those acted on of them
_SURE_FROM, _SURE_SHARE = 8, 0.25  # demonstrations that are enough to leave the others out
_MAX_CONSTANTS = 12
_Kind = tuple[str, str, str | None]
_TOGGLES = frozenset(("checkbox", "switch"))


@dataclass(frozen=True)
class _Step:
    snapshot: Snapshot
    target: int
    op: Op
    identity: str
    value: str | None = None
    key: str | None = None


def read_instructed(
    routine: Routine,
    traces: Sequence[Trace],
    snapshot_of: Callable[[str], Snapshot],
    *,
    needs_result: bool = True,
) -> Chore:
    """Return the chore. Raises TrainingError where nothing can be learnt."""
    read: list[tuple[Trace, list[tuple[UiEvent, Snapshot]]]] = []
    left_out: list[str] = []
    for trace in traces:
        try:
            events = [(e, snapshot_of(e.snapshot)) for e in trace.events if e.snapshot is not None]
        except WatError as error:
            left_out.append(str(error))
            continue
        if events:
            read.append((trace, events))
    source = _find_source([events for _, events in read])
    steps: list[tuple[Trace, list[_Step]]] = []
    for trace, events in read:
        try:
            own = _read_steps(events, source)
            if own:
                steps.append((trace, own))
        except WatError as error:
            left_out.append(str(error))
    if len(steps) < 2:
        reasons = "; ".join(sorted(set(left_out))[:3]) or "show it more often"
        raise TrainingError(
            f"{len(steps)} of {len(traces)} traces can be learnt from, at least 2 must: {reasons}"
        )
    every = [step for _, own in steps for step in own]
    acting = sum(is_control(_element(s)) for s in every)
    reading = Reading(goal=source, controls=acting >= _CONTROLS_SHARE * len(every))
    if reading.controls:  # the others hit what does nothing
        steps = [(trace, [s for s in own if is_control(_element(s))]) for trace, own in steps]
        steps = [(trace, own) for trace, own in steps if own]
    if _chosen_by_meaning([own for _, own in steps], reading):
        reading = reading.model_copy(update={"meanings": True})
    return _chore(routine, steps, reading, left_out, snapshot_of, needs_result)


def _element(step: _Step) -> SnapshotElement:
    return next(e for e in step.snapshot.elements if e.index == step.target)


def _chosen_by_meaning(traces: Sequence[Sequence[_Step]], reading: Reading) -> bool:
    """Tell whether words that are like the instruction's, and not equal, were what was chosen."""
    meant = chosen = 0
    for own in traces:
        page = Page(own[0].snapshot, reading.goal)
        if reading.goal is None or not page.goal_text:
            continue
        goal = read_goal(page.goal_text, reading.goal.vocabulary)
        found = meant_by(page, goal, page.candidates(controls=reading.controls))
        pressed = [s.target for s in own if s.value is None]
        acted = {normalise(page.texts.get(target, "")) for target in pressed}
        acted |= {page.labels.get(target, "") for target in pressed}
        meant += len(found)
        chosen += len(found & acted)
    return meant >= _MEANT_SHARE * len(traces) and chosen >= _CHOSEN_SHARE * meant


def _find_source(traces: Sequence[Sequence[tuple[UiEvent, Snapshot]]]) -> GoalSource | None:
    texts: dict[_Kind, list[str]] = defaultdict(list)
    named: Counter[_Kind] = Counter()
    holders: Counter[_Kind] = Counter()  # what something was acted on in is no instruction
    entered: set[str] = set()
    for events in traces:
        first, seen = events[0][1], set()
        acted = {_said(event, snapshot) for event, snapshot in events} - {""}
        entered |= acted
        around = {goal_key(e) for event, snapshot in events for e in _around(event, snapshot)}
        holders.update(around)
        for element in first.elements:
            key = goal_key(element)
            text = element.text.clear if element.text else None
            if key in seen or not text or is_control(element) or element.role in FIELD_ROLES:
                continue
            seen.add(key)
            if len(re.findall(r"\w+", text)) >= _MIN_WORDS:
                texts[key].append(text)
                folded = normalise(text)
                named[key] += any(_within(name, folded) for name in acted)
    known = [
        k for k, found in texts.items()
        if len(found) >= _PRESENT_SHARE * len(traces) and holders[k] < 0.1 * len(traces)
    ]  # fmt: skip
    telling = [
        k for k in known
        if (len(set(texts[k])) > 1 and _template(texts[k])) or named[k] >= 0.5 * len(traces)
    ]  # fmt: skip
    if not telling or len(traces) < 2:
        return None
    role, tag, element_id = key = max(telling, key=lambda k: (named[k], len(texts[k][0])))
    words = _vocabulary(texts[key], entered)
    return GoalSource(role=role, tag=tag, element_id=element_id, vocabulary=tuple(sorted(words)))


def _around(event: UiEvent, snapshot: Snapshot) -> list[SnapshotElement]:
    """Return the element of an event and what it is in."""
    elements = {e.index: e for e in snapshot.elements}
    at = event.element.index if event.element is not None else None
    found: list[SnapshotElement] = []
    while at is not None and at in elements and elements[at] not in found:
        found.append(elements[at])
        at = elements[at].parent
    return found


def _template(texts: Sequence[str]) -> bool:
    """Tell whether texts share words, as sentences of one kind do."""
    counts = Counter(word for text in texts for word in set(_folded(text)))
    return any(count >= _TEMPLATE_SHARE * len(texts) for count in counts.values())


def _vocabulary(texts: Sequence[str], entered: Collection[str]) -> set[str]:
    """Return the words that are no data: of most texts, or of several and never acted on."""
    counts = Counter(word for text in texts for word in set(_folded(text)))
    quoted = Counter(
        word for text in texts for part in re.findall(r'"([^"]*)"', text) for word in _folded(part)
    )
    least = max(_KNOWN_FROM, _KNOWN_SHARE * len(texts))
    return {
        word.casefold() for word, count in counts.items()
        if count >= _TEMPLATE_SHARE * len(texts)
        or (
            count >= least and quoted[word] < count / 2 and word.isalpha() and word.islower()
            and word not in entered
        )
    }  # fmt: skip


def _folded(text: str) -> list[str]:
    # A word that is written large inside a sentence is a name.
    words = [w.strip('.,;:!?()[]"') for part in text.split() for w in re.split(r"[,>]", part)]
    return [w.casefold() if i == 0 or not w[:1].isupper() else w for i, w in enumerate(words) if w]


def _said(event: UiEvent, snapshot: Snapshot) -> str:
    if event.value is not None and event.value.clear and event.action is Action.EDIT:
        return normalise(event.value.clear)
    index = event.element.index if event.element is not None else None
    for element in snapshot.elements:
        if element.index == index:
            for text in (element.name, element.text):
                if text is not None and text.clear:
                    return normalise(text.clear)
    return ""


def _within(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _read_steps(
    events: Sequence[tuple[UiEvent, Snapshot]], source: GoalSource | None
) -> list[_Step]:
    """Return one trace's steps. Raises TrainingError for what an agent cannot do."""
    steps: list[_Step] = []
    pages: dict[int, Page] = {}
    for at, (event, snapshot) in enumerate(events):
        page = pages.setdefault(id(snapshot), Page(snapshot, source))
        index = event.element.index if event.element is not None else None
        target = _target(page, index)
        if target is None:
            if event.action in (Action.EDIT, Action.SELECT):
                raise TrainingError("a field that was filled is not in the picture of its screen")
            continue
        op = _operation(event)
        if op is None or (op == "click" and _only_focuses(events, at, page, target)):
            continue
        value = None
        if op in ("type_text", "select_option"):
            value = _entered(event, snapshot)
            if value is None and op == "select_option" and event.value is None:
                value = _only_span(events[0][1], source)
            if value is None:
                raise TrainingError("a value that was entered is kept as a hash only")
        step = _Step(snapshot, target, op, page.keys[target], value, event.keys)
        if steps and _repeats(steps[-1], step, pages):
            continue
        steps.append(step)
    toggled = Counter(s.identity for s in steps if _element(s).role in _TOGGLES)
    even = {identity for identity, count in toggled.items() if count % 2 == 0}
    return [s for s in steps if s.identity not in even]


def _entered(event: UiEvent, snapshot: Snapshot) -> str | None:
    """Return what was entered; of a secret field what stands where its value was seen."""
    if event.value is not None and event.value.clear is not None:
        return event.value.clear
    shown = event.shown
    if shown is None:
        return None
    element = next((e for e in snapshot.elements if e.index == shown.index), None)
    text = element.text.clear if element is not None and element.text is not None else None
    return text[shown.start : shown.end] if text else None


def _only_span(first: Snapshot, source: GoalSource | None) -> str | None:
    """Return the one value that the instruction names, if it is one.

    Browsers do not always tell which option of a native list was chosen.
    """
    spans = {n: v for n, v in goal_slots(first, source).items() if n.startswith("goal_")}
    return next(iter(spans.values())) if len(spans) == 1 else None


def _repeats(last: _Step, step: _Step, pages: dict[int, Page]) -> bool:
    """Tell whether it does again what has changed nothing."""
    if (last.identity, last.op, last.value, last.key) != (
        step.identity, step.op, step.value, step.key,
    ):  # fmt: skip
        return False
    one, other = last.snapshot, step.snapshot
    return [(e.text, e.value, e.states) for e in one.elements] == [
        (e.text, e.value, e.states) for e in other.elements
    ]


def _target(page: Page, index: int | None) -> int | None:
    """Return the candidate an event was on: the element, what it is in, or the one thing in it."""
    if index is None or index not in page.elements:
        return None
    candidates = set(page.candidates(controls=False))
    at, seen = index, set()
    while at not in seen:
        seen.add(at)
        if at in candidates:
            return _text_in(page, at)
        parent = page.elements[at].parent
        if parent is None or parent not in page.elements:
            break
        at = parent
    inside = [c for c in candidates if page.elements[c].parent == index]
    return min(inside) if len(inside) == 1 else None


def _text_in(page: Page, index: int) -> int:
    """Return the text that is drawn in the middle of a shape without one, else the shape.

    A text says which of several shapes is meant, and pages take a click on either.
    """
    shape = page.elements[index]
    if shape.tag not in SHAPE_TAGS or page.texts.get(index) or shape.box is None:
        return index
    x, y = _middle(shape.box)
    near = [
        (abs(_middle(e.box)[0] - x) + abs(_middle(e.box)[1] - y), e.index)
        for e in page.shown
        if e.tag in ("text", "tspan") and page.texts[e.index] and e.box is not None
    ]
    distance, text = min(near, default=(0.0, index))
    return text if distance <= max(shape.box.width_px, shape.box.height_px) / 4 else index


def _middle(box: Box) -> tuple[float, float]:
    return box.x_px + box.width_px / 2, box.y_px + box.height_px / 2


def _operation(event: UiEvent) -> Op | None:
    match event.action:
        case Action.CLICK:
            return "click"
        case Action.EDIT:
            return "type_text"
        case Action.SELECT:
            return "select_option"
        case Action.HOVER:
            return "hover"
        case Action.KEY if event.keys in KEYS and event.keys != "Tab":
            return "press_key"
    return None


def _only_focuses(
    events: Sequence[tuple[UiEvent, Snapshot]], at: int, page: Page, target: int
) -> bool:
    """Tell whether a click only leads into a field that is filled next."""
    if page.elements[target].role not in FIELD_ROLES - _TOGGLES - {"radio"}:
        return False
    own = events[at][0].element
    for event, _ in events[at + 1 :]:
        other = event.element
        if other is None or own is None:
            continue
        same = (other.role, other.element_id, other.label) == (own.role, own.element_id, own.label)
        if event.action in (Action.EDIT, Action.SELECT):
            return same
        if other.role in ("button", "link"):
            return False
    return False


def _chore(
    routine: Routine,
    read: Sequence[tuple[Trace, list[_Step]]],
    reading: Reading,
    left_out: list[str],
    snapshot_of: Callable[[str], Snapshot],
    needs_result: bool,
) -> Chore:
    constants: dict[str, str] = {}
    entered = [
        (s.value, goal_slots(own[0].snapshot, reading.goal))
        for _, own in read
        for s in own
        if s.value is not None
    ]
    explains = Counter(n for value, slots in entered for n in _equal(value, slots))
    unknown = Counter(v for v, slots in entered if _slot(v, slots, explains) is None)
    for value, _ in unknown.most_common(_MAX_CONSTANTS):
        constants[f"constant_{len(constants) + 1}"] = value
    demonstrations = []
    for trace, own in read:
        values = {**goal_slots(own[0].snapshot, reading.goal), **constants}
        states = []
        for step in own:
            slot = _slot(step.value, values, explains) if step.value is not None else None
            if step.value is not None and slot is None:
                break
            action = ActionEntry(op=step.op, slot=slot, key=step.key)
            states.append(State(step.snapshot, (), step.target, action))
        else:
            final = snapshot_of(trace.final_snapshot) if trace.final_snapshot else None
            if final is not None:
                states.append(State(final, (), None, None))
            session = next((r.session for r in routine.traces if r.trace_id == trace.trace_id), "")
            sightings = tuple(Sighting(s.snapshot, values, s.target) for s in own)
            demonstrations.append(
                Demonstration(trace.trace_id, session, values, tuple(states), final, sightings)
            )
            continue
        left_out.append("a value that was entered is neither told nor the same each time")
    sure = [d for d in demonstrations if not _lacks(d, reading.goal)]
    if len(sure) >= max(_SURE_FROM, _SURE_SHARE * len(demonstrations)):
        left_out += ["its screen lacks what the instruction tells of it"] * (
            len(demonstrations) - len(sure)
        )
        demonstrations = sure
    if needs_result and not any(d.final for d in demonstrations):
        raise TrainingError(NO_RESULT)
    if len(demonstrations) < 2:
        raise TrainingError("fewer than 2 traces can be learnt from: show it more often")
    return _with_actions(demonstrations, constants, reading, left_out, read)


def _lacks(demonstration: Demonstration, source: GoalSource | None) -> bool:
    """Tell whether the instruction tells of figures what the recording does not have: a colour.

    Such a choice looks like chance, and would be learnt by heart, unless colours can be given.
    """
    page = Page(demonstration.states[0].snapshot, source)
    if source is None or not page.goal_text:
        return False
    figures = page.figures(read_goal(page.goal_text, source.vocabulary))
    return not figures.sure and not can_paint(demonstration, source)


def _with_actions(
    demonstrations: Sequence[Demonstration],
    constants: dict[str, str],
    reading: Reading,
    left_out: Sequence[str],
    read: Sequence[tuple[Trace, list[_Step]]],
) -> Chore:
    counts = Counter(s.action for d in demonstrations for s in d.states if s.action is not None)
    actions = tuple(sorted(
        (a for a, _ in counts.most_common(MAX_ACTIONS)),
        key=lambda a: (a.op, a.slot or "", a.key or ""),
    ))  # fmt: skip
    used = sorted({a.slot for a in actions if a.slot is not None})[:MAX_SLOTS]
    kept = [d for d in demonstrations if all(s.action in (*actions, None) for s in d.states)]
    slots = tuple(used)
    demonstrations = [replace(d, values={**dict.fromkeys(slots, ""), **d.values}) for d in kept]
    urls = Counter(e.url.clear for t, _ in read for e in t.events if e.url and e.url.clear)
    return Chore(
        tuple(demonstrations),
        slots,
        {name: value for name, value in constants.items() if name in slots},
        actions,
        urls.most_common(1)[0][0] if urls else "",
        tuple(left_out),
        reading,
    )


def _equal(value: str, values: Mapping[str, str]) -> list[str]:
    wanted = normalise(value)
    return [name for name, given in values.items() if normalise(given) == wanted]


def _slot(value: str, values: Mapping[str, str], explains: Mapping[str, int]) -> str | None:
    """Return the slot that was entered: one that is equal, else one that was entered in part.

    Of several the one that explains most of all values: sentences of one kind differ in order.
    """
    wanted = normalise(value)
    ranked = sorted(values, key=lambda n: (not n.startswith("time_"), -explains.get(n, 0)))
    equal = _equal(value, {name: values[name] for name in ranked})
    if equal:
        return equal[0]
    for name in ranked:
        given = normalise(values[name])
        told = name.startswith("goal_") and bool(given) and wanted.isalpha()
        if told and (given.startswith(wanted) or wanted.startswith(given)):
            return name
    return None
