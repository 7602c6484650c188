"""Write what stands on the topics for others to read: JSON Schemas, AsyncAPI 3, and a page.

`python -m shared.schemas.document DIR` writes `<record>.v<version>.json` for every record and
artifact, `asyncapi.json`, and `topics.md`, which says the latter in words. All follow from the
models and from topics.py alone.

Source: AsyncAPI 3.0.0 with Kafka bindings 0.5.0; JSON Schema 2020-12; CloudEvents 1.0.2.
"""

import json
import sys
from pathlib import Path
from typing import Any

from shared.schemas import MAX_RECORD_BYTES, RECORD_TYPES, Frozen, Snapshot, Trace, ce_type
from shared.topics import TOPICS, Room, Topic, TopicSpec, dead_letters

__all__ = ["documents", "topics_page", "write"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ARTIFACTS: dict[str, type[Frozen]] = {"snapshot": Snapshot, "trace": Trace}
_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "content-type"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "description": "the record's id; twice is the same record"},
        "ce_type": {"type": "string"},
        "ce_source": {"enum": [f"/{room}" for room in Room]},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_traceparent": {
            "type": "string",
            "description": "W3C trace context: the trace, from capture to run, it belongs to",
        },
        "content-type": {"const": "application/json"},
    },
}


def documents() -> dict[str, dict[str, Any]]:
    """Return file name -> content."""
    files = {
        f"{name}.v{model.version}.json": _schema(model, ce_type(name, model.version))
        for name, model in RECORD_TYPES.items()
    }
    files |= {f"{n}.v1.json": _schema(m, f"wasmagenttrainer.{n}.v1") for n, m in _ARTIFACTS.items()}
    return files | {"asyncapi.json": _asyncapi()}


def write(folder: Path) -> None:
    """Write every document, and remove those of records that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    files = documents()
    for path in folder.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (folder / "topics.md").write_text(topics_page())


def topics_page() -> str:
    """Return the AsyncAPI document's contract of each topic as Markdown."""
    document = _asyncapi()
    lines = ["# The topics", "", "Written by `make docs` from `asyncapi.json`.", ""]
    lines += [document["info"]["description"], ""]
    for name, channel in document["channels"].items():
        lines += [f"## `{name}`", "", channel["description"], ""]
        for message in channel.get("messages", {}):
            told = document["components"]["messages"][message]
            schema = told["payload"]["$ref"].removeprefix("./")
            lines.append(
                f"- `{told['name']}` ({told['title']}, [schema]({schema})): {told['summary']}"
            )
        limits = channel["bindings"]["kafka"].get("topicConfiguration", {})
        lines += ["", *(f"- {key}: {_limit(value)}" for key, value in limits.items()), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _limit(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _schema(model: type[Frozen], schema_id: str) -> dict[str, Any]:
    schema = model.model_json_schema(mode="serialization")
    # What `encode` leaves out (None) and what has a default need not be there.
    _loosen(model.model_json_schema(mode="validation"), schema)
    return {"$schema": _DIALECT, "$id": f"urn:{schema_id.replace('.', ':')}", **schema}


def _loosen(validation: dict[str, Any], serialization: dict[str, Any]) -> None:
    """Take over what is required of a value that is read."""
    places = [(validation, serialization)]
    for name, schema in serialization.get("$defs", {}).items():
        places.append((validation["$defs"][name], schema))
    for read, written in places:
        written.pop("required", None)
        if "required" in read:
            written["required"] = read["required"]


def _asyncapi() -> dict[str, Any]:
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "WasmAgentTrainer",
            "version": "1.0.0",
            "description": (
                "What the rooms tell each other, and anybody downstream. Values are JSON with "
                "CloudEvents 1.0 binary-mode headers. Order holds per key; a record may come "
                "twice, with the same id; fields may be added, never removed or changed: a "
                "breaking change is a new type beside the old."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            **{str(topic): _channel(topic, spec) for topic, spec in TOPICS.items()},
            **{dead_letters(room): _dead_channel(room) for room in Room},
        },
        "operations": {
            f"{spec.owner}.sends.{topic}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": f"{spec.owner} alone writes {topic}",
            }
            for topic, spec in TOPICS.items()
        },
        "components": {"messages": {name: _message(name) for name in RECORD_TYPES}},
    }


def _channel(topic: Topic, spec: TopicSpec) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": ["compact" if spec.compact else "delete"]}
    if spec.retention_ms is not None:
        configuration["retention.ms"] = spec.retention_ms
    if spec.retention_bytes is not None:
        configuration["retention.bytes"] = spec.retention_bytes
    kept = (
        "the newest record of each key is kept without a limit; an empty value deletes the key"
        if spec.compact
        else "kept for the retention below, whichever limit comes first"
    )
    return {
        "address": str(topic),
        "description": f"Written by {spec.owner}; keyed by `{spec.key}`; {kept}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in spec.records},
        "bindings": {
            "kafka": {
                "topic": str(topic),
                "topicConfiguration": configuration,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _dead_channel(room: Room) -> dict[str, Any]:
    return {
        "address": dead_letters(room),
        "description": (
            f"Records that {room} could not handle, as they were, with `wat_origin` (topic, "
            "partition, offset) and `wat_error` among the headers. On a broker only: the embedded "
            "log keeps them in the room's own file."
        ),
        "bindings": {"kafka": {"topic": dead_letters(room), "bindingVersion": "0.5.0"}},
    }


def _message(name: str) -> dict[str, Any]:
    model = RECORD_TYPES[name]
    [key] = {spec.key for spec in TOPICS.values() if name in spec.records}
    headers = {**_HEADERS["properties"], "ce_type": {"const": ce_type(name, model.version)}}
    return {
        "name": ce_type(name, model.version),
        "title": model.__name__,
        "summary": (model.__doc__ or "").strip().split("\n")[0],
        "description": f"At most {MAX_RECORD_BYTES} bytes.",
        "contentType": "application/json",
        "headers": {**_HEADERS, "properties": headers},
        "payload": {"$ref": f"./{name}.v{model.version}.json"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"the record's `{key}`"},
                "bindingVersion": "0.5.0",
            }
        },
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]))
