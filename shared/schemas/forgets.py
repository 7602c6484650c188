"""ForgetRange: a content-free range of events that every room must forget."""

from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Record
from shared.schemas.raw_events import Source, UiEvent

__all__ = ["ForgetRange"]


class ForgetRange(Record):
    """Events of one session that are forgotten. Key on the topic: `id`, so that none is compacted.

    Without `session` it means everything of the user that was recorded before this was.
    """

    record_type: ClassVar[str] = "forget-range"

    user_id: str
    source: Source | None = None
    session: str | None = None
    first_seq: Annotated[int, Field(ge=0)] = 0
    last_seq: Annotated[int, Field(ge=0)] | None = Field(
        None, description="inclusive; None: to end"
    )
    request: str | None = Field(None, description="names what was asked for; receipts are for it")
    num_ranges: Annotated[int, Field(ge=1, description="how many ranges that request has")] = 1
    since_ms: int | None = Field(
        None, description="asked for by time: what agents did from then on goes too"
    )

    def covers(self, event: UiEvent, appended_ms: int) -> bool:
        """Tell whether it names an event; `appended_ms` says when that came to stand on its topic.

        `time_ms` must then be when the range itself came to stand on `forgets`: one clock.
        """
        if self.user_id != event.user_id or self.source not in (None, event.source):
            return False
        if self.session is None:
            return appended_ms <= self.time_ms
        return self.names(event.source, event.session, event.seq)

    def names(self, source: str, session: str, seq: int) -> bool:
        """Tell whether it names this place of its user's; without `session` it names every one."""
        if self.source not in (None, source) or self.session not in (None, session):
            return False
        return self.first_seq <= seq <= (seq if self.last_seq is None else self.last_seq)
