"""The events of one trace -> steps an agent could do, each on a candidate of its screen.

A click that only moves the focus is none, a field's edits are one, a box that is ticked is a click.
Pure. Raises TrainingError for what an agent cannot do or must not see.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shared.encoding import FIELD_ROLES, Tree, candidate_of, label_of, normalise
from shared.errors import TrainingError
from shared.manifest import KEYS, Op
from shared.schemas import Action, Snapshot, SnapshotElement, Trace, UiEvent
from shared.screen import mask

__all__ = ["Control", "Step", "read_steps"]

_TYPED_ROLES = frozenset(("textbox", "searchbox", "spinbutton", "slider"))
_TOGGLE_ROLES = frozenset(("checkbox", "radio", "switch"))
_ENTERING = frozenset((Action.EDIT, Action.PASTE, Action.SELECT))
_CLIPBOARD = frozenset("acvxyz")

Control = tuple[str, str, str, str]  # document, operation, role, label ("" for data in a list)


@dataclass(frozen=True)
class Step:
    """One step; its slot is known once all traces are read."""

    snapshot: Snapshot
    target: int
    op: Op
    control: Control
    url: str | None
    value: str | None = None
    key: str | None = None
    slot: str | None = None

    @property
    def element(self) -> SnapshotElement:
        """Return the element it is done on, as it was before."""
        return next(e for e in self.snapshot.elements if e.index == self.target)

    @property
    def fills(self) -> bool:
        """Tell whether it fills or ticks a field."""
        return self.op in ("type_text", "select_option") or self.control[2] in _TOGGLE_ROLES


def read_steps(trace: Trace, snapshot_of: Callable[[str], Snapshot]) -> list[Step]:
    """Return the trace's steps. Raises TrainingError, and what `snapshot_of` raises."""
    steps: list[Step] = []
    for event in trace.events:
        if not _is_step(event):
            continue
        if event.snapshot is None:
            raise TrainingError(f"a step ({event.action.value}) has no picture of its screen")
        snapshot = snapshot_of(event.snapshot)
        step = _read_step(event, snapshot, trace.parameters)
        if step is None:
            continue
        last = steps[-1] if steps else None
        if last is not None and last.control == step.control and step.fills:
            if step.op == "click" and event.action is not Action.CLICK:
                continue  # the change that the click before it made
            if step.op != "click":
                steps[-1] = replace(last, value=step.value)  # the final value counts
                continue
        steps.append(step)
    return steps


def _is_step(event: UiEvent) -> bool:
    if event.action is Action.KEY:
        return event.keys in KEYS and event.keys != "Tab"
    if event.action is Action.HOT_KEY:
        if (event.keys or "").rsplit("+", 1)[-1].lower() in _CLIPBOARD:
            return False
        raise TrainingError(f"it uses the hot-key {event.keys}, which agents cannot press")
    return event.action in _ENTERING | {Action.CLICK, Action.DOUBLE_CLICK}


def _read_step(event: UiEvent, snapshot: Snapshot, parameters: Mapping[str, str]) -> Step | None:
    """Return the step, or None for what is none: a click that only moves the focus, say."""
    tree = Tree(snapshot)
    index = _find(event, snapshot)
    target = candidate_of(snapshot, index, tree) if index is not None else None
    if target is None:
        if event.action in _ENTERING and event.element and event.element.role in FIELD_ROLES:
            raise TrainingError("a field that was filled is not in the picture of its screen")
        return None
    element = tree.elements[target]
    op = _operation(event, element)
    if op is None:
        return None
    in_list = tree.item_of(target) is not None and element.role not in FIELD_ROLES
    shown = in_list and _shows_value(element, parameters)
    label = "" if shown else mask(label_of(element), parameters.items())
    control = (snapshot.document or "", op, element.role, label)
    value = None
    if op in ("type_text", "select_option"):
        if event.value is None or event.value.clear is None:
            raise TrainingError(
                "a value that was entered is kept as a hash only: allow `values` for the "
                "application and show the routine again"
            )
        value = event.value.clear
    key = event.keys if op == "press_key" else None
    url = event.url.clear if event.url else None
    return Step(snapshot, target, op, control, url, value, key)


def _shows_value(element: SnapshotElement, parameters: Mapping[str, str]) -> bool:
    shown = {normalise(t.clear) for t in (element.name, element.text) if t and t.clear}
    return any(normalise(value) in shown for value in parameters.values())


def _find(event: UiEvent, snapshot: Snapshot) -> int | None:
    element = event.element
    if element is None:
        return None
    if element.index is not None:
        return element.index
    same = [
        e.index for e in snapshot.elements
        if (e.role, e.label, e.name) == (element.role, element.label, element.name)
    ]  # fmt: skip
    return same[0] if len(same) == 1 else None


def _operation(event: UiEvent, element: SnapshotElement) -> Op | None:
    typed = element.role in _TYPED_ROLES or (
        element.role in ("combobox", "listbox") and not element.options and element.tag != "select"
    )
    chosen = element.role in ("combobox", "listbox") and not typed
    match event.action:
        case Action.KEY:
            return "press_key" if not chosen or event.keys == "Enter" else None
        case Action.CLICK | Action.DOUBLE_CLICK if typed or chosen:
            return None  # filling it comes next and moves the focus itself
        case Action.CLICK:
            return "click"
        case Action.DOUBLE_CLICK:
            return "double_click"
    if typed:
        return "type_text"
    if chosen:
        return "select_option"
    return "click" if element.role in _TOGGLE_ROLES or element.role == "option" else None
