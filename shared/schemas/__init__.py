"""The records, and their form on the wire: JSON value + CloudEvents 1.0 binary-mode headers.

Source: CloudEvents 1.0.2, Kafka protocol binding, section 3.2 (binary content mode); distributed
tracing extension.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import get_args

from pydantic import ValidationError

from shared.errors import ContractError
from shared.schemas.base import END_OF_TIME_MS, Digest, Frozen, Record, Text, derive_id
from shared.schemas.forgets import ForgetRange
from shared.schemas.models import ModelCard, ModelKind, ModelStatus
from shared.schemas.programmes import Programme
from shared.schemas.raw_events import (
    Action,
    Box,
    Element,
    Level,
    Shown,
    Snapshot,
    SnapshotElement,
    Source,
    Target,
    UiEvent,
    event_id,
)
from shared.schemas.runs import RunMark, RunOutcome, RunState
from shared.schemas.tasks import (
    Automatability,
    Forward,
    Origin,
    Parameter,
    ParameterSource,
    Routine,
    RoutineStatus,
    Step,
    Trace,
    TraceRef,
)
from shared.tracing import HEADER

__all__ = [
    "END_OF_TIME_MS",
    "MAX_RECORD_BYTES",
    "RECORD_TYPES",
    "Action",
    "Automatability",
    "Box",
    "Digest",
    "Element",
    "ForgetRange",
    "Forward",
    "Frozen",
    "Headers",
    "Level",
    "ModelCard",
    "ModelKind",
    "ModelStatus",
    "Origin",
    "Parameter",
    "ParameterSource",
    "Programme",
    "Record",
    "Routine",
    "RoutineStatus",
    "RunMark",
    "RunOutcome",
    "RunState",
    "Shown",
    "Snapshot",
    "SnapshotElement",
    "Source",
    "Step",
    "Target",
    "Text",
    "Trace",
    "TraceRef",
    "UiEvent",
    "ce_type",
    "decode",
    "derive_id",
    "encode",
    "event_id",
    "headers_of",
]

Headers = tuple[tuple[str, bytes], ...]

MAX_RECORD_BYTES = 256 * 1024
"""Anything larger is an artifact and the record carries its digest."""

_PREFIX = "wasmagenttrainer"

RECORD_TYPES: dict[str, type[Record]] = {
    t.record_type: t for t in (UiEvent, Routine, ModelCard, RunMark, RunOutcome, ForgetRange)
}


def ce_type(record_type: str, version: int) -> str:
    """Return the CloudEvents type of a record type at a version."""
    return f"{_PREFIX}.{record_type}.v{version}"


_TYPE_SHAPE = re.compile(rb"[a-z0-9.-]{1,80}")


def _fields_of(model: type[Frozen]) -> set[str]:
    """Return the names of a model's fields and of all models inside it."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Frozen):
                names |= _fields_of(part)
    return names


_FIELDS = frozenset().union(*map(_fields_of, RECORD_TYPES.values()))
_BY_CE_TYPE = {ce_type(n, t.version).encode(): t for n, t in RECORD_TYPES.items()}
_CE_TYPE = {t: ce_type(n, t.version).encode() for n, t in RECORD_TYPES.items()}


@lru_cache(maxsize=256)
def _rfc3339(second: int) -> bytes:
    """Return the time up to the second; neighbouring records share it."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def headers_of(record: Record, source: str, traceparent: str | None = None) -> Headers:
    """Return the CloudEvents headers of `record`; `source` is the owning room's name.

    `traceparent` is the W3C trace context that it belongs to.
    """
    second, ms = divmod(record.time_ms, 1000)
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_id", record.id.encode()),
        ("ce_type", _CE_TYPE[type(record)]),
        ("ce_source", f"/{source}".encode()),
        ("ce_time", b"%s.%03dZ" % (_rfc3339(second), ms)),
        ("content-type", b"application/json"),
    )
    return headers if traceparent is None else (*headers, (HEADER, traceparent.encode()))


def encode(record: Record) -> bytes:
    """Return the record's JSON value.

    Raises ContractError where it is larger than MAX_RECORD_BYTES.
    """
    value = record.__pydantic_serializer__.to_json(record, exclude_none=True)
    if len(value) > MAX_RECORD_BYTES:
        raise ContractError(
            f"{record.record_type} {record.id} has {len(value)} bytes, more than "
            f"{MAX_RECORD_BYTES}: store the large part as an artifact"
        )
    return value


def _place(loc: tuple[int | str, ...]) -> str:
    """Return where in a record; a key of a free mapping is content, so only fields are named."""
    return ".".join(str(p) if isinstance(p, int) or p in _FIELDS else "*" for p in loc) or "value"


def decode(value: bytes, headers: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Record:
    """Return the record that `value` and its headers describe.

    Raises ContractError for an unknown type or version and for a value that does not fit.
    """
    named = headers if isinstance(headers, Mapping) else dict(headers)
    kind = named.get("ce_type")
    model = _BY_CE_TYPE.get(kind) if kind is not None else None
    if model is None:
        # Shown only where it looks like a type: anything else could be content.
        shown = kind.decode() if kind is not None and _TYPE_SHAPE.fullmatch(kind) else "(none)"
        raise ContractError(
            f"record type {shown} is not known here: upgrade this service, or send one of "
            f"{', '.join(sorted(k.decode() for k in _BY_CE_TYPE))}"
        )
    try:
        record: Record = model.__pydantic_validator__.validate_json(value)
    except ValidationError as error:
        # Only places and kinds of error: the input itself must not reach a log.
        places = ", ".join(
            f"{_place(e['loc'])}: {e['type']}"
            for e in error.errors(include_url=False, include_context=False, include_input=False)[:5]
        )
        raise ContractError(f"{model.record_type} does not fit its schema ({places})") from None
    if record.schema_version != model.version:
        raise ContractError(
            f"{model.record_type} has schema_version {record.schema_version}, this service knows "
            f"{model.version}: upgrade it"
        )
    return record
