"""What stands between a module and its host: every call is checked and noted here.

Does not cover what the host does with a call, nor the instance (`sandbox.py`); it names neither,
so both can be freed while the binding still holds these functions.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from shared.module import KEYS, Manifest, Op

__all__ = ["CALL_DENIED", "CALL_FAILED", "CALL_OK", "Border", "Call", "Host"]

CALL_OK = 0
CALL_DENIED = -1  # not allowed, out of range, or a second call in one step
CALL_FAILED = -2  # the host raised; `step` raises it again once the guest has returned


class Host(Protocol):
    """Take what a module does. Called in the thread that called `step`."""

    @property
    def allowed_ops(self) -> Collection[str]:
        """Return the operations allowed now."""

    def perform(self, op: Op, element: int, slot: str | None, key: str | None) -> int:
        """Do one operation; return 0, or a code of the host's own (1 and up) for a refusal."""


@dataclass(frozen=True)
class Call:
    """Name one operation as the host hears it."""

    op: Op
    element: int
    slot: str | None
    key: str | None


class Border:
    """Offer a module its host functions and remember what it called in this step."""

    def __init__(self, manifest: Manifest, host: Host) -> None:
        self._manifest = manifest
        self._host = host
        self.num_elements = 0
        self.probing = True
        self.calls: list[Call] = []
        self.code = CALL_OK
        self.error: BaseException | None = None

    def begin(self, num_elements: int, *, probing: bool) -> None:
        """Forget the last step; while probing, calls are noted and not passed on."""
        self.num_elements = num_elements
        self.probing = probing
        self.calls = []
        self.code = CALL_OK
        self.error = None

    def function(self, op: Op) -> Callable[..., int]:
        """Return the host function of one operation; it returns a code and never raises."""

        def call(element: int, argument: int = 0) -> int:
            self.code = self._call(op, element, argument)
            return self.code

        return call

    def _call(self, op: Op, element: int, argument: int) -> int:
        slot = key = None
        if self.calls or not 0 <= element < self.num_elements:
            return CALL_DENIED
        if op in ("type_text", "select_option"):
            if not 0 <= argument < len(self._manifest.slots):
                return CALL_DENIED
            slot = self._manifest.slots[argument]
        elif op == "press_key":
            if not 0 <= argument < len(KEYS):
                return CALL_DENIED
            key = KEYS[argument]
        self.calls.append(Call(op, element, slot, key))
        if self.probing:
            return CALL_OK
        try:
            if op not in self._host.allowed_ops:
                return CALL_DENIED
            return int(self._host.perform(op, element, slot, key))
        except BaseException as error:  # noqa: BLE001 - raised again by step; must not cross wasm
            self.error = error
            return CALL_FAILED
