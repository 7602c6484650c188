"""The kill switch: once `stop` has returned, the run does nothing any more.

Every act runs inside `act`, which is closed for ever by the first `stop`. Does not cover what has
already reached the page: an act under way is waited for, or cut off with its browser.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shared.errors import WatError

__all__ = ["Gate", "RunStopped"]


class RunStopped(WatError):
    """The user stopped the run."""

    status = 409


class Gate:
    """The gate of one run."""

    def __init__(self) -> None:
        self.reason: str | None = None  # set: stopped
        self.forgotten = False  # nothing more may be kept of the run
        self._acting = asyncio.Lock()

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
        await close_screen()
        async with self._acting:
            return
