"""`wat up` and `wat serve`: run rooms in this process until Ctrl-C or SIGTERM."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.terminal import write_line
from shared.errors import ConfigError
from shared.topics import Room

if TYPE_CHECKING:
    import asyncio

    from shared.clock import Clock
    from shared.service import Service
    from shared.settings import CommonSettings

__all__ = ["serve", "up"]

_EXTRAS = {
    Room.USER_MONITOR: "monitor",
    Room.TASK_LEARNER: "learner",
    Room.AGENT_TRAINER: "trainer",
    Room.AGENT_RUNNER: "runner",
}

_READ_S = 45.0
"""How long a command waits for its room to read what is new; it is answered with what is known."""

Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="TCP port; 0 takes any that is free.")
]
LogLevel = Annotated[
    str | None,
    typer.Option(
        metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR; on a terminal WARNING, else INFO."
    ),
]


def up(port: Port = None, log_level: LogLevel = None) -> None:
    """Run the four services in this process."""
    import asyncio

    asyncio.run(_serve(_Asked(tuple(Room), port, log_level)))


def serve(
    room: Annotated[Room, typer.Argument(help="Which service.")],
    port: Port = None,
    log_level: LogLevel = None,
    for_command: Annotated[bool, typer.Option("--for-command", hidden=True)] = False,
    works: Annotated[bool, typer.Option("--works", hidden=True)] = False,
) -> None:
    """Run one service in this process."""
    import asyncio

    from services.client import TAKEN
    from shared.errors import TopicLocked

    try:
        asyncio.run(_serve(_Asked((room,), port, log_level, for_command, works or not for_command)))
    except TopicLocked:
        if not for_command:
            raise
        raise typer.Exit(TAKEN) from None


@dataclass(frozen=True)
class _Asked:
    """What to run. A room that serves one command ends with standard input."""

    rooms: tuple[Room, ...]
    port: int | None
    log_level: str | None
    for_command: bool = False
    works: bool = True


async def _serve(asked: _Asked) -> None:
    import asyncio

    from services.serve import serve as serve_rooms
    from shared.clock import SystemClock
    from shared.logs import configure
    from shared.settings import CommonSettings, default_port, load

    configure(_checked(asked.log_level))
    common = load(CommonSettings)
    common.make_folders()
    port = asked.port
    if port is None:
        port = common.port if len(asked.rooms) > 1 else default_port(asked.rooms[0])
    clock = SystemClock()
    services = [_built(room, common, clock, works=asked.works) for room in asked.rooms]
    stop = asyncio.Event()
    waiting: list[asyncio.Task[None]] = []

    def started(address: str) -> None:
        if asked.for_command:
            waiting.append(asyncio.create_task(_announce_once_read(services[0], address)))
            return
        write_line(f"{', '.join(asked.rooms)}: {address}")
        write_line(f"token: {common.token_file}")
        write_line(f"data: {common.data_dir}")
        sys.stdout.flush()

    if asked.for_command:
        _stop_with_stdin(stop)
    await serve_rooms(services, common, clock, port, started, stop)
    for task in waiting:
        task.cancel()


def _built(room: Room, common: "CommonSettings", clock: "Clock", *, works: bool) -> "Service":
    from services.serve import build_service

    try:
        return build_service(room, common, clock, works=works)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{room} needs the package {error.name}, which is not installed: "
            f"pip install 'wasmagenttrainer[{_EXTRAS[room]}]'"
        ) from error


async def _announce_once_read(service: "Service", address: str) -> None:
    """Say where the room answers once it has read what stood on its inputs when it began."""
    import asyncio

    ends = [
        (topic, partition, end)
        for topic in map(str, service.logic.inputs)
        for partition, (oldest, end) in (await service.port.bounds(topic)).items()
        if oldest < end
    ]
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _READ_S
    while loop.time() < deadline_s:
        rows = service.port.store.query("SELECT topic, partition, next FROM positions")
        positions = {(topic, partition): following for topic, partition, following in rows}
        if all(positions.get((topic, partition), 0) >= end for topic, partition, end in ends):
            break
        await asyncio.sleep(0.02)
    write_line(f"{service.room}: {address}")
    sys.stdout.flush()


def _stop_with_stdin(stop: "asyncio.Event") -> None:
    """Set `stop` once whoever holds the other end of standard input is gone."""
    import asyncio
    import os

    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, readable)


def _checked(level: str | None) -> str:
    if level is None:
        return "WARNING" if sys.stderr.isatty() else "INFO"
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter("choose DEBUG, INFO, WARNING or ERROR", param_hint="--log-level")
    return level.upper()
