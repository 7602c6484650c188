"""Routines in forms that others read: pictures, BPMN 2.0, XES and OCEL 2.0.

A routine and its traces in, text or bytes out; nothing is read or written besides. What is exported
holds the values that were kept: it is a file of the user's.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from services.task_learner.exports.bpmn import to_bpmn
from services.task_learner.exports.logs import to_ocel, to_xes
from services.task_learner.exports.pictures import to_mermaid, to_picture
from shared.schemas import Routine, Trace

__all__ = ["EXPORTS", "Export"]


class Export(NamedTuple):
    """One form: its media type, and what makes it."""

    media_type: str
    make: Callable[[Routine, Sequence[Trace]], bytes]


EXPORTS: Mapping[str, Export] = MappingProxyType(
    {
        "mermaid": Export("text/vnd.mermaid", lambda r, _: to_mermaid(r).encode()),
        "svg": Export("image/svg+xml", lambda r, _: to_picture(r, "svg")),
        "png": Export("image/png", lambda r, _: to_picture(r, "png")),
        "bpmn": Export("application/xml", lambda r, _: to_bpmn(r).encode()),
        "xes": Export("application/xml", to_xes),
        "ocel": Export("application/json", to_ocel),
    }
)
