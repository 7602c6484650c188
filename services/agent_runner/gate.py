"""The kill switch: once `stop` has returned, the run does nothing any more.

Every act runs inside `act`, which is closed for ever by the first `stop`. Does not cover what has
already reached the page: an act under way is waited for, or cut off with its browser.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from shared.errors import ActuatorError, WatError

__all__ = ["Gate", "RunStopped"]

_GRACE_S = 2.0  # for an act whose screen was closed under it

T = TypeVar("T")


class RunStopped(WatError):
    """The user stopped the run."""

    status = 409


class Gate:
    """The gate of one run."""

    def __init__(self) -> None:
        self.reason: str | None = None  # set: stopped
        self.forgotten = False  # nothing more may be kept of the run
        self._acting = asyncio.Lock()
        self._under_way: asyncio.Task[Any] | None = None

    def check(self) -> None:
        """Raise RunStopped where the run was stopped."""
        if self.reason is not None:
            raise RunStopped(self.reason)

    @asynccontextmanager
    async def act(self) -> AsyncIterator[None]:
        """Hold the gate open for one act. Raises RunStopped."""
        async with self._acting:
            self.check()
            yield

    async def through(self, act: Coroutine[Any, Any, T]) -> T:
        """Run one act, to be called inside `act()`.

        Raises ActuatorError where `stop` had to cut it off, and what the act raises.
        """
        task = asyncio.create_task(act)
        self._under_way = task
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                raise
            raise ActuatorError(f"{self.reason}, in the middle of an act") from None
        finally:
            self._under_way = None

    def shut(self, reason: str) -> None:
        """Let nothing new through; `stop` also waits for what is under way."""
        self.reason = self.reason or reason

    def forget(self) -> None:
        """Shut the gate of a run that must leave nothing behind."""
        self.forgotten = True
        self.shut("everything about it was forgotten")

    async def stop(self, reason: str, close_screen: Callable[[], Awaitable[None]]) -> None:
        """Shut the gate, close the screen and return once no act is under way."""
        self.shut(reason)
        under_way = self._under_way
        await close_screen()
        if under_way is not None:
            await asyncio.wait({under_way}, timeout=_GRACE_S)
            under_way.cancel()
        async with self._acting:
            return
