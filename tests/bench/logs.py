"""Reads recorded logs for benchmarks just as `wat replay` does: importer, privacy filter, UiEvents.

Everything is allowed at level `values`: what is measured is the learner, not what it may not see.
"""

from collections.abc import Iterator
from pathlib import Path

from services.user_monitor.capture import ReplaySpec, SourceKind
from services.user_monitor.capture.replay import read_log
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor
from shared.schemas import Level, Snapshot, UiEvent, event_id
from shared.secret_kinds import KEEPABLE

__all__ = ["read_events"]

ALLOWED = Allowance(level=Level.VALUES, keep=frozenset(KEEPABLE))


def read_events(
    log: Path | bytes, spec: ReplaySpec | None = None, *, user_id: str = "u", session: str = "log"
) -> Iterator[tuple[UiEvent, Snapshot | None]]:
    """Yield one event for each row of the log, in the log's order, with the screen before it.

    `spec` says format and columns; its path and content are not looked at. Raises as `read_log`.
    """
    data = log.read_bytes() if isinstance(log, Path) else log
    redactor = Redactor(b"benchmark")
    for seq, capture in enumerate(read_log(data, spec or ReplaySpec())):
        snapshot = redactor.snapshot(capture, ALLOWED)
        yield (
            redactor.event(
                capture, ALLOWED,
                event_id=event_id(user_id, SourceKind.REPLAY, session, seq), user_id=user_id,
                source=SourceKind.REPLAY, session=session, seq=seq, boot_id=None, snapshot=None,
                demonstration=None, showing=None,
            ),
            snapshot,
        )  # fmt: skip
