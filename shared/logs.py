"""Logging: one JSON line per handled record, never its contents."""

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["configure"]

_FIELDS = ("room", "topic", "partition", "offset", "ms", "outcome", "job", "state", "count")
"""The only extra fields that reach a line; none of them carries content."""


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _FIELDS if hasattr(record, name)})
        if record.exc_info and record.exc_info[0] is not None:
            # The kind and place, not the message: it may quote what was being handled.
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            line["error"] = record.exc_info[0].__name__
            if trace is not None:
                line["at"] = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
        return json.dumps(line)


def configure(level: str = "INFO") -> None:
    """Send JSON lines of `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its lines name URLs with query strings.
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # While a broker is away it writes hundreds of lines a second; the bus says it once a try.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
