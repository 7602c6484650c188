"""How a module's screens are read: the encoding version its manifest names, for whoever runs it.

Reads and writes nothing. Not covered: what the numbers mean (`encoding`, `encoding_goal`) and what
is decided on them (`module`).
"""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from shared.encoding import ENCODING_VERSION, Encoded, HistoryStep, encode, step_of
from shared.encoding_goal import GOAL_ENCODING_VERSION, Page, encode_goal, step_on
from shared.errors import ContractError
from shared.goal import Reading, goal_slots
from shared.manifest import Manifest
from shared.schemas import Snapshot

__all__ = ["ENCODINGS", "Reader"]

ENCODINGS = (ENCODING_VERSION, GOAL_ENCODING_VERSION)


class Reader:
    """Reads screens for one module. Raises ContractError for a manifest that does not say how."""

    def __init__(self, manifest: Manifest) -> None:
        self._slots = manifest.slots
        self._reading: Reading | None = None
        if manifest.encoding not in ENCODINGS:
            raise ContractError(
                f"no screen is read by encoding {manifest.encoding}: train it again"
            )
        if manifest.encoding == GOAL_ENCODING_VERSION:
            try:
                self._reading = Reading.model_validate(manifest.reading)
            except ValidationError as error:
                raise ContractError(
                    "the manifest's reading does not fit: train it again"
                ) from error

    def told(self, snapshot: Snapshot) -> dict[str, str]:
        """Return the slots that the first screen's instruction fills, if the module reads one."""
        return goal_slots(snapshot, self._reading.goal) if self._reading is not None else {}

    def encode(
        self, snapshot: Snapshot, values: Mapping[str, str], history: Sequence[HistoryStep]
    ) -> Encoded:
        """Return the numbers of one observation; `values` fill the manifest's slots."""
        if self._reading is None:
            pairs = [(name, values.get(name, "")) for name in self._slots]
            return encode(snapshot, pairs, history)
        goal = self._reading.goal
        page = Page(snapshot, goal)
        words = goal.vocabulary if goal is not None else ()
        return encode_goal(
            page, words, history, controls=self._reading.controls, meanings=self._reading.meanings
        )

    def step(self, snapshot: Snapshot, index: int, op: str, slot: str | None) -> HistoryStep:
        """Return the history entry for an action on an element of `snapshot`."""
        if self._reading is None:
            return step_of(next(e for e in snapshot.elements if e.index == index), op, slot)
        return step_on(Page(snapshot, self._reading.goal), index, op, slot)
