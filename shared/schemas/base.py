"""What every record shares: frozen, versioned, with an id that derives from content and place."""

import hashlib
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["END_OF_TIME_MS", "Digest", "Frozen", "Record", "Text", "derive_id"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of an artifact's bytes, in hex."""

END_OF_TIME_MS = 253_402_300_800_000
"""The year 10000: from there on RFC 3339, which CloudEvents' `time` is in, has no dates."""


def derive_id(*parts: str | int) -> str:
    """Hash `parts` to a 32-hex-digit id; equal parts give equal ids, so doing it twice is harmless.

    Each part is length-prefixed, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = str(part).encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


class Frozen(BaseModel):
    """A value object; unknown fields are ignored so that an old reader accepts a newer record."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Record(Frozen):
    """Something that stands on a topic."""

    record_type: ClassVar[str]  # CloudEvents type without prefix and version
    version: ClassVar[int] = 1

    schema_version: int = 1
    id: Annotated[str, Field(min_length=1, max_length=128)]
    time_ms: Annotated[
        int, Field(ge=0, lt=END_OF_TIME_MS, description="milliseconds since the Unix epoch")
    ]


class Text(Frozen):
    """A text as the privacy filter left it.

    At level `values`, and for names of controls, `clear` holds it; at level `structure` only its
    class and, from 6 characters on, a keyed hash that is stable for one user.
    """

    cls: str = Field("text", description="empty text word number date email url bool secret …")
    clear: str | None = None
    hash: str | None = None

    @property
    def key(self) -> str | None:
        """Return what equality may be tested on, or None where nothing may be compared."""
        return self.clear if self.clear is not None else self.hash
