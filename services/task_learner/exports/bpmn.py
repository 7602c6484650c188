"""A routine as a BPMN 2.0 process with a diagram, for modelling tools.

Each step is a user task; one that may be left out stands between two exclusive gateways. Parameters
that are given are its data inputs, in words: the process is documentation, no engine runs it.
"""

from typing import Any

from services.task_learner.exports.words import OFTEN, step_in_words
from shared.schemas import Routine

__all__ = ["to_bpmn"]


def to_bpmn(routine: Routine) -> str:
    """Return the process as XML, laid out."""
    from bpmn_io import (  # as large as the room: only where it is asked for
        BpmnModdle,
        layout_process,
    )

    model = BpmnModdle()
    process = model.create(
        "bpmn:Process",
        {"id": f"Process_{routine.routine_id}", "name": routine.name, "isExecutable": False},
    )
    drawing = _Drawing(model, process)
    drawing.add("bpmn:StartEvent", "Start", _needs(routine))
    for number, step in enumerate(routine.steps, start=1):
        if step.coverage >= OFTEN:
            drawing.add("bpmn:UserTask", f"Step_{number}", step_in_words(step))
            continue
        split = drawing.add("bpmn:ExclusiveGateway", f"Split_{number}", "needed?")
        drawing.add("bpmn:UserTask", f"Step_{number}", step_in_words(step))
        join = drawing.add("bpmn:ExclusiveGateway", f"Join_{number}", "")
        drawing.connect(split, join, "no")
    drawing.add("bpmn:EndEvent", "End", "done")
    definitions: Any = model.create(
        "bpmn:Definitions", {"id": "Definitions", "targetNamespace": "urn:wasmagenttrainer"}
    )
    definitions.get("rootElements").append(process)
    return str(layout_process(model.to_xml(definitions, {"format": True}).xml))


def _needs(routine: Routine) -> str:
    given = [p.name for p in routine.parameters if p.programme is None]
    return f"given: {', '.join(given)}" if given else "begin"


class _Drawing:
    """A process that grows by one element after the other."""

    def __init__(self, model: Any, process: Any) -> None:
        self._model = model
        self._elements = process.get("flowElements")
        self._last: Any = None
        self._num_flows = 0

    def add(self, kind: str, element_id: str, name: str) -> Any:
        element = self._model.create(kind, {"id": element_id, "name": name} if name else
                                     {"id": element_id})  # fmt: skip
        self._elements.append(element)
        if self._last is not None:
            self.connect(self._last, element, "")
        self._last = element
        return element

    def connect(self, source: Any, target: Any, name: str) -> None:
        self._num_flows += 1
        flow = self._model.create(
            "bpmn:SequenceFlow",
            {"id": f"Flow_{self._num_flows}", "sourceRef": source, "targetRef": target,
             **({"name": name} if name else {})},
        )  # fmt: skip
        source.get("outgoing").append(flow)
        target.get("incoming").append(flow)
        self._elements.append(flow)
