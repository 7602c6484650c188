"""A routine's executions as event logs: XES (IEEE 1849-2016) and OCEL 2.0 (JSON).

An execution is a case; an event's activity says what was done on which control, never a value.
Values that were kept in the clear are attributes.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from services.task_learner.exports.words import activity_of
from shared.schemas import Routine, Trace, UiEvent

__all__ = ["to_ocel", "to_xes"]

_EXTENSIONS = (("Concept", "concept"), ("Time", "time"), ("Organizational", "org"))


def to_xes(routine: Routine, traces: Sequence[Trace]) -> bytes:
    """Return the executions as XES."""
    log = Element("log", {"xes.version": "1849-2016", "xes.features": ""})
    for name, prefix in _EXTENSIONS:
        uri = f"http://www.xes-standard.org/{prefix}.xesext"
        SubElement(log, "extension", {"name": name, "prefix": prefix, "uri": uri})
    for scope, keys in (("trace", ("concept:name",)), ("event", ("concept:name",))):
        place = SubElement(log, "global", {"scope": scope})
        for key in keys:
            SubElement(place, "string", {"key": key, "value": "unknown"})
    SubElement(log, "classifier", {"name": "Activity", "keys": "concept:name"})
    _string(log, "concept:name", routine.name)
    for trace in traces:
        case = SubElement(log, "trace")
        _string(case, "concept:name", trace.trace_id)
        for name, value in sorted(trace.parameters.items()):
            _string(case, f"parameter:{name}", value)
        for event in trace.events:
            element = SubElement(case, "event")
            _string(element, "concept:name", activity_of(event))
            SubElement(element, "date", {"key": "time:timestamp", "value": _time(event)})
            for key, value in _attributes(event).items():
                _string(element, key, value)
    indent(log)
    return bytes(tostring(log, encoding="utf-8", xml_declaration=True))


def to_ocel(routine: Routine, traces: Sequence[Trace]) -> bytes:
    """Return the executions as OCEL 2.0: events of executions, the routine and applications."""
    objects = {
        routine.routine_id: _object(routine.routine_id, "routine", {"name": routine.name}, routine)
    }
    events = []
    for trace in traces:
        begin = trace.events[0] if trace.events else None
        objects[trace.trace_id] = {
            **_object(trace.trace_id, "execution", trace.parameters, begin),
            "relationships": [{"objectId": routine.routine_id, "qualifier": "is one of"}],
        }
        for event in trace.events:
            application = f"application {event.application}"
            objects.setdefault(
                application, _object(application, "application", {"name": event.application}, event)
            )
            events.append(
                {
                    "id": event.id, "type": activity_of(event), "time": _time(event),
                    "attributes": _named(_attributes(event)),
                    "relationships": [
                        {"objectId": trace.trace_id, "qualifier": "is a step of"},
                        {"objectId": application, "qualifier": "happened in"},
                    ],
                }
            )  # fmt: skip
    log = {
        "objectTypes": _types(objects.values()),
        "eventTypes": _types(events),
        "objects": list(objects.values()),
        "events": events,
    }
    return json.dumps(log, ensure_ascii=False, indent=1).encode()


def _object(
    object_id: str, kind: str, attributes: Mapping[str, str], since: UiEvent | Routine | None
) -> dict[str, Any]:
    time = _time(since) if since is not None else _iso(0)
    return {
        "id": object_id, "type": kind,
        "attributes": [{**a, "time": time} for a in _named(attributes)], "relationships": [],
    }  # fmt: skip


def _types(items: Any) -> list[dict[str, Any]]:
    """Declare the types that occur, with their attributes; all of them are strings."""
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(item["type"], set()).update(a["name"] for a in item["attributes"])
    return [
        {"name": name, "attributes": [{"name": a, "type": "string"} for a in sorted(attributes)]}
        for name, attributes in sorted(found.items())
    ]


def _named(attributes: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(attributes.items())]


def _attributes(event: UiEvent) -> dict[str, str]:
    element = event.element
    clear = {
        "org:resource": event.user_id, "action": event.action.value,
        "application": event.application, "document": event.document, "keys": event.keys,
        "role": element.role if element else None, "label": element.label if element else None,
        "name": element.name.clear if element and element.name else None,
        "value": event.value.clear if event.value else None,
    }  # fmt: skip
    return {key: value for key, value in clear.items() if value}


def _string(parent: Element, key: str, value: str) -> None:
    # XML 1.0 has no way to write control characters.
    plain = "".join(c for c in value if c >= " " or c in "\t\n")
    SubElement(parent, "string", {"key": key, "value": plain})


def _time(record: UiEvent | Routine) -> str:
    return _iso(record.time_ms)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
