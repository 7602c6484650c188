"""The bus. What both transports promise, and nothing more:

durable on return; order per key; at-least-once; resume after the last commit; a new group starts
at the oldest record. Nothing may lean on order across keys, on partition counts or on broker
transactions. `tests/contract/test_bus.py` states each promise once and runs on both.
"""

from pathlib import Path
from urllib.parse import urlsplit

from shared.bus.base import (
    Bus,
    DeadLetter,
    Effects,
    Erased,
    Message,
    Outgoing,
    Place,
    Port,
    Subscription,
    noted_trace,
)
from shared.clock import Clock
from shared.errors import ConfigError
from shared.topics import OWNERS, Room

__all__ = [
    "Bus",
    "DeadLetter",
    "Effects",
    "Erased",
    "Message",
    "Outgoing",
    "Place",
    "Port",
    "Subscription",
    "find_owner",
    "noted_trace",
    "open_bus",
]


def open_bus(url: str, state_dir: Path, clock: Clock) -> Bus:
    """Return the bus at `url`: `log:DIR[?partitions=N]` or `kafka://HOST:PORT[,HOST:PORT]`.

    `state_dir` is an absolute folder for what a transport keeps on this machine beside the topics.
    Raises ConfigError for an address of neither kind.
    """
    parts = urlsplit(url)
    options = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
    if parts.scheme == "log":
        from shared.bus.log import LogBus

        folder, partitions = Path(parts.path), options.pop("partitions", "1")
        if options or not folder.is_absolute() or not partitions.isdigit() or int(partitions) < 1:
            raise ConfigError(
                f"WAT_BUS_URL={url}: write log:DIR with an absolute DIR, and ?partitions=N at most"
            )
        return LogBus(folder, clock, int(partitions))
    if parts.scheme == "kafka" and parts.netloc:
        from shared.bus.kafka import KafkaBus

        return KafkaBus(url, state_dir, clock)
    raise ConfigError(f"WAT_BUS_URL={url}: write log:DIR or kafka://HOST:PORT")


def find_owner(url: str, room: Room, state_dir: Path) -> str | None:
    """Return where the process that runs `room` on the bus at `url` answers.

    None: none runs it with these folders.
    """
    from shared.bus.lock import owner_address

    parts = urlsplit(url)
    if parts.scheme == "log":
        return owner_address(Path(parts.path) / f"{OWNERS[room][0]}.lock")
    return owner_address(state_dir / "kafka" / f"{room}.lock")
