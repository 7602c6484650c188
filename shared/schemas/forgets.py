"""ForgetRange: a content-free range of events that every room must forget."""

from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Record
from shared.schemas.raw_events import Source

__all__ = ["ForgetRange"]


class ForgetRange(Record):
    """Events of one session that are forgotten. Key on the topic: `id`, so that none is compacted.

    Without `session` it means everything of the user up to `time_ms`.
    """

    record_type: ClassVar[str] = "forget-range"

    user_id: str
    source: Source | None = None
    session: str | None = None
    first_seq: Annotated[int, Field(ge=0)] = 0
    last_seq: Annotated[int, Field(ge=0)] | None = Field(
        None, description="inclusive; None: to end"
    )
