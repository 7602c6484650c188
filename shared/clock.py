"""Time as the rooms see it, so that tests can hold it still."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "FakeClock", "SystemClock"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Wall time for people, boot time for ordering what happened on one machine."""

    boot_id: str

    def time_ms(self) -> int:
        """Return milliseconds since the Unix epoch."""

    def boottime_ms(self) -> int:
        """Return CLOCK_BOOTTIME in ms: unlike wall time never set back, and it runs on in sleep."""


class SystemClock:
    """Read the machine's clocks."""

    def __init__(self) -> None:
        # Not Linux: no boot id; marks are then compared within one process start only.
        self.boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"

    def time_ms(self) -> int:
        """Return milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def boottime_ms(self) -> int:
        """Return CLOCK_BOOTTIME in ms (monotonic where the platform has no boot time)."""
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime_ns(clock) // 1_000_000


@dataclass
class FakeClock:
    """Stand still until told to move; both clocks move together."""

    now_ms: int = 1_700_000_000_000
    boot_ms: int = 1_000_000
    boot_id: str = "test-boot"

    def time_ms(self) -> int:
        """Return the set wall time in ms."""
        return self.now_ms

    def boottime_ms(self) -> int:
        """Return the set boot time in ms."""
        return self.boot_ms

    def advance(self, ms: int) -> None:
        """Move both clocks forward by `ms`."""
        self.now_ms += ms
        self.boot_ms += ms
