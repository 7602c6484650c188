"""What a run acts through: something that shows a screen as elements and acts on one of them.

An actuator is used by one run at a time, from one task. What it refuses or cannot prove it
raises as an ActuatorError; it never guesses an element and never repeats a step.
"""

from dataclasses import dataclass
from typing import Protocol

from shared.manifest import Op
from shared.schemas.raw_events import Snapshot, Target

__all__ = ["Actuator", "Performed"]


@dataclass(frozen=True)
class Performed:
    """Say what one step did."""

    untrusted_note: str  # for the evidence; holds names and values from the page
    ends_here: bool = False  # dry run only: what follows depends on what the page would answer


class Actuator(Protocol):
    """One screen to act on. Errors of every method: ActuatorError where acting cannot go on."""

    @property
    def target(self) -> Target:
        """Return what run marks name: the browser and its tab."""

    async def open(self, url: str) -> None:
        """Show `url` and settle. Errors: ActuatorError for an origin that is not allowed."""

    async def observe(self) -> Snapshot:
        """Return the visible element tree at level `values`; its indices hold until the next."""

    async def perform(
        self, op: Op, element: int, *, text: str | None = None, key: str | None = None
    ) -> Performed:
        """Do one step on the element with this index in the last snapshot.

        `text` is what to type or the option to choose, `key` one of `shared.manifest.KEYS`.
        Errors: StepRefused (not begun), StepUnverified (done, its effect cannot be seen).
        """

    async def settle(self, timeout_ms: int = 3000) -> bool:
        """Wait until the screen stands still; return whether it did within `timeout_ms`."""

    async def close(self) -> None:
        """Let go of the screen; closes only what it opened itself. Closing twice is harmless."""
