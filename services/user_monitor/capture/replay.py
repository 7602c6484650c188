"""Replays a recorded UI log as a source, whatever it was written in and packed with.

Reads: one file, or its bytes; `.gz` and `.xz` are told by their first bytes. Writes nothing. A
format is a function from the log's bytes to captures (`FORMATS`); everything else is the same.
Does not cover: what the formats' own files say.
"""

import asyncio
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Self, cast

from services.user_monitor.capture import LogFormat, RawCapture, ReplaySpec, SourceKind
from services.user_monitor.capture.replay_demonstrations import read_demonstrations
from services.user_monitor.capture.replay_jsonl import read_json_lines
from services.user_monitor.capture.replay_table import check_map, read_csv
from services.user_monitor.capture.replay_xes import read_xes
from shared.clock import Clock
from shared.errors import CaptureError, ConfigError
from shared.schemas import derive_id

__all__ = ["FORMATS", "MAX_LOG_BYTES", "ReplaySource", "read_log", "unpacked"]

FORMATS: Mapping[str, LogFormat] = MappingProxyType(
    {
        "jsonl": read_json_lines,
        "csv": read_csv,
        "xes": read_xes,
        "demonstrations": read_demonstrations,
    }
)

MAX_LOG_BYTES = 1 << 30
"""A packed file may become a thousand times as large; more than this is no log of a person."""


def unpacked(data: bytes) -> BinaryIO:
    """Return a stream of the log's bytes, unpacked where they are gzip or xz."""
    if data.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=io.BytesIO(data)))
    if data.startswith(b"\xfd7zXZ\x00"):
        return cast(BinaryIO, lzma.LZMAFile(io.BytesIO(data)))
    return io.BytesIO(data)


def read_log(data: bytes, spec: ReplaySpec) -> Iterator[RawCapture]:
    """Yield the captures of a log, its bytes packed or not.

    Raises ConfigError for a format or column map that is none, CaptureError at a bad line.
    """
    captures = _format(spec)(unpacked(data), spec.columns)
    if spec.by_time:
        captures = iter(sorted(captures, key=lambda capture: capture.time_ms))
    return captures


class ReplaySource:
    """Yield a log's events in the log's order."""

    kind = SourceKind.REPLAY

    def __init__(self, data: bytes, spec: ReplaySpec, clock: Clock) -> None:
        self.session = derive_id(_digest(data), spec.as_user or "")
        self._data = data
        self._spec = spec
        self._clock = clock
        self._closing = asyncio.Event()

    @classmethod
    async def open(cls, spec: ReplaySpec, clock: Clock) -> Self:
        """Read the log. Raises CaptureError, ConfigError for a wrong column map."""
        _format(spec)
        if spec.columns is not None:
            check_map(spec.columns)
        if spec.content is not None:
            return cls(spec.content, spec, clock)
        if spec.path is None:
            raise ConfigError("a replay needs a path or a content")
        try:
            data = await asyncio.to_thread(spec.path.read_bytes)
        except OSError as error:
            raise CaptureError(f"log {spec.path} cannot be read: {error.strerror}") from error
        return await asyncio.to_thread(cls, data, spec, clock)

    async def captures(self) -> AsyncIterator[RawCapture]:
        """Yield the log's events; ends early on `close`. Raises CaptureError at a bad line."""
        before_ms: int | None = None
        for number, capture in enumerate(read_log(self._data, self._spec)):
            if self._closing.is_set():
                return
            if self._spec.speed > 0 and before_ms is not None:
                await self._pause((capture.time_ms - before_ms) / 1000 / self._spec.speed)
            elif number % 100 == 0:
                await asyncio.sleep(0)
            before_ms = capture.time_ms
            yield capture

    async def close(self) -> None:
        """End at the next event."""
        self._closing.set()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), max(0.0, seconds))
        except TimeoutError:
            return


def _format(spec: ReplaySpec) -> LogFormat:
    name = spec.log_format or ("jsonl" if spec.columns is None else "csv")
    if name not in FORMATS:
        raise ConfigError(f"no log has the format {name}: choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def _digest(data: bytes) -> str:
    """Hash what the log says, not how it is packed: packed again it is still the same session."""
    digest, size = hashlib.sha256(), 0
    try:
        with unpacked(data) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
                if size > MAX_LOG_BYTES:
                    raise CaptureError(
                        f"the log is larger than {MAX_LOG_BYTES >> 30} GiB unpacked: split it"
                    )
    except (lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise CaptureError(
            f"the log cannot be unpacked ({type(error).__name__}): pack it again"
        ) from error
    return digest.hexdigest()
