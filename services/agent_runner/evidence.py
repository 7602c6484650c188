"""What is kept of each step: what the agent saw, what it decided and what came of it.

Read and written by the run's journal, and stored as an artifact when a record ends. A value that
a step typed is named by its slot alone: a digest of a short value can be guessed. Notes from the
page are evidence for the user and go to no log.
"""

import hashlib
from enum import StrEnum

from shared.schemas import Digest, Frozen, RunState, Snapshot

__all__ = ["Came", "Decided", "RecordEvidence", "StepEvidence", "screen_digest"]


class Came(StrEnum):
    """What came of one step."""

    DONE = "done"
    UNVERIFIED = "unverified"  # done, and its effect cannot be seen
    REFUSED = "refused"  # not begun
    UNKNOWN = "unknown"  # begun, and nothing came back


class Decided(Frozen):
    """One decision of the agent; written before the act, so that none is ever done twice."""

    step_index: int
    time_ms: int
    document: str | None
    screen: Digest  # what it saw: SHA-256 of the snapshot
    num_candidates: int
    shows_result: bool = False  # whether what the demonstrations ended with was there already
    status: str  # acted, finished, abstained, refused
    margin: float | None = None
    fuel_used: int | None = None
    op: str | None = None
    role: str | None = None
    label: str | None = None
    slot: str | None = None
    key: str | None = None

    @property
    def in_words(self) -> str:
        """Say the step as a person would, without any value."""
        what = " ".join(filter(None, (self.op, self.key)))
        named = f" '{self.label}'" if self.label else ""
        return f"{what} on {self.role or 'nothing'}{named}"


class StepEvidence(Decided):
    """A decision with what came of it; `came` is None while the step is under way."""

    came: Came | None = None
    note: str | None = None  # from the page
    took_ms: int | None = None


class RecordEvidence(Frozen):
    """How one record was worked on, step by step. An artifact."""

    schema_version: int = 1
    run_id: str
    record_index: int
    routine_id: str
    model_id: str
    module: Digest
    dry_run: bool
    state: RunState
    reason: str | None
    steps: tuple[StepEvidence, ...]


def screen_digest(snapshot: Snapshot, *, with_focus: bool = True) -> str:
    """Return the SHA-256 of what the screen shows; positions are no part of it."""
    digest = hashlib.sha256((snapshot.document or "").encode())
    for element in snapshot.elements:
        bare = element.model_copy(
            update={
                "box": None,
                "states": tuple(s for s in element.states if with_focus or s != "focused"),
            }
        )
        digest.update(bare.model_dump_json(exclude_defaults=True).encode())
    return digest.hexdigest()
