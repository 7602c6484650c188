"""A step, or an event of a trace, in a few words of the user's screen. Pure."""

from services.task_learner.actions import DATA_ROLES
from shared.schemas import Action, Step, UiEvent

__all__ = ["OFTEN", "activity_of", "step_in_words"]

OFTEN = 0.95
"""Coverage below which a step is shown as one that may be left out."""

_VERBS = {
    Action.CLICK: "Click", Action.DOUBLE_CLICK: "Double-click", Action.EDIT: "Enter",
    Action.SELECT: "Choose", Action.PASTE: "Paste", Action.COPY: "Copy", Action.CUT: "Cut",
    Action.KEY: "Press", Action.HOT_KEY: "Press", Action.NAVIGATE: "Go to", Action.OPEN: "Open",
    Action.CLOSE: "Close", Action.FILE: "Save", Action.FOCUS: "Go to", Action.SCROLL: "Scroll",
    Action.HOVER: "Point at",
}  # fmt: skip
_ENTERING = frozenset({Action.EDIT, Action.SELECT, Action.PASTE})
_MAX_CHARS = 80


def step_in_words(step: Step) -> str:
    """Return what is done in a step: Enter <amount> in Amount."""
    on = step.label or step.role or step.document or step.application
    value = f"<{step.parameter}>" if step.parameter else step.constant
    if step.action in _ENTERING and value:
        return f"{_VERBS[step.action]} {value[:_MAX_CHARS]} in {on}"
    if value:
        return f"{_VERBS[step.action]} {value[:_MAX_CHARS]}"
    return f"{_VERBS[step.action]} {on}"


def activity_of(event: UiEvent) -> str:
    """Return the name of what an event did, the same for all events of one step: no value in it."""
    element = event.element
    if event.activity or element is None:
        return event.activity or f"{_VERBS[event.action]} {event.keys or event.application}"
    name = element.name.clear if element.name is not None else None
    on = element.label or (name if element.role not in DATA_ROLES else None) or element.role
    return f"{_VERBS[event.action]} {on[:_MAX_CHARS]}"
