"""Parameters read from the screen in front of the agent, where they stood in the demonstrations.

Reads a snapshot and a routine's parameters, writes nothing. A value is taken only where exactly one
is found; nothing is guessed. Does not cover parameters that came from the user's head.
"""

from collections.abc import Sequence

from shared.encoding import FIELD_ROLES, normalise
from shared.errors import ContractError
from shared.schemas import Parameter, ParameterSource, Snapshot, SnapshotElement

__all__ = ["read_parameters"]


def read_parameters(
    snapshot: Snapshot, parameters: Sequence[Parameter], given: dict[str, str]
) -> dict[str, str]:
    """Return `given` with the missing parameters of source SCREEN read from `snapshot`.

    Raises ContractError that names the parameter where none, or more than one value, is found.
    """
    values = dict(given)
    for parameter in parameters:
        if parameter.name in values or parameter.source is not ParameterSource.SCREEN:
            continue
        if parameter.document is not None and parameter.document != snapshot.document:
            raise ContractError(
                f"{parameter.name} is read from {parameter.document}, which is not what is on the "
                f"screen ({snapshot.document or 'no page'}): go there, or give its value"
            )
        values[parameter.name] = _only_value(snapshot, parameter)
    return values


def _only_value(snapshot: Snapshot, parameter: Parameter) -> str:
    places = [e for e in snapshot.elements if _is_place(e, parameter)]
    chosen = [e for e in places if "selected" in e.states]
    found = {text for e in chosen or places if (text := _value(e))}
    where = f"{parameter.role or 'element'} '{parameter.label or ''}'"
    if not found:
        raise ContractError(
            f"the screen shows no value for {parameter.name} (a {where}): give its value"
        )
    if len(found) > 1:
        raise ContractError(
            f"the screen shows {len(found)} values for {parameter.name} (a {where}): select one, "
            "or give its value"
        )
    return found.pop()


def _is_place(element: SnapshotElement, parameter: Parameter) -> bool:
    if parameter.role is not None and element.role != parameter.role:
        return False
    return normalise(element.label or "") == normalise(parameter.label or "")


def _value(element: SnapshotElement) -> str:
    shown = (element.value,) if element.role in FIELD_ROLES else (element.text, element.name)
    return next((text.clear for text in shown if text is not None and text.clear), "")
