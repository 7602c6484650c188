"""One agent module deciding in a thread of its own, so that the loop stays free.

The module's host function only notes what it decided; the run acts afterwards, when the decision is
durable. Does not cover the sandbox itself (`sandbox.py`) nor what is done with a decision.
"""

import asyncio
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from services.agent_runner.sandbox import CALL_OK, Sandbox, StepOutcome
from shared.encoding import Encoded
from shared.module import Op, VerifiedModule

__all__ = ["Brain"]


class _Noted:
    """Allow what the run allows now and do nothing: the outcome says what was decided."""

    def __init__(self) -> None:
        self.allowed_ops: Collection[str] = ()

    def perform(self, op: Op, element: int, slot: str | None, key: str | None) -> int:
        """Accept the decision."""
        return CALL_OK


class Brain:
    """A loaded module; `close` frees it. The instance never leaves its thread."""

    def __init__(self, verified: VerifiedModule) -> None:
        self._noted = _Noted()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agent")
        self._verified = verified
        self._sandbox: Sandbox | None = None

    async def load(self) -> None:
        """Instantiate the module and replay its probes. Raises SandboxError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def decide(self, encoded: Encoded, allowed_ops: Collection[str]) -> StepOutcome:
        """Return what the agent decides on one observation. Raises SandboxError."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._decide, encoded, allowed_ops
        )

    async def close(self) -> None:
        """Free the module and the thread."""
        loop = asyncio.get_running_loop()
        if self._sandbox is not None:
            await loop.run_in_executor(self._thread, self._sandbox.close)
        self._thread.shutdown(wait=False)

    def _load(self) -> None:
        self._sandbox = Sandbox(self._verified, self._noted)
        self._sandbox.load()

    def _decide(self, encoded: Encoded, allowed_ops: Collection[str]) -> StepOutcome:
        assert self._sandbox is not None
        self._noted.allowed_ops = allowed_ops
        num_elements = len(encoded.elements)
        x = np.frombuffer(encoded.x, np.float32).reshape(num_elements, -1)
        return self._sandbox.step(x, np.frombuffer(encoded.g, np.float32))
