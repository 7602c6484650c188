"""`wat up` and `wat serve`: run rooms in this process until Ctrl-C or SIGTERM."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.terminal import write_line
from shared.errors import ConfigError
from shared.topics import Room

if TYPE_CHECKING:
    import asyncio

    from shared.settings import CommonSettings

__all__ = ["serve", "up"]

_EXTRAS = {
    Room.USER_MONITOR: "monitor",
    Room.TASK_LEARNER: "learner",
    Room.AGENT_TRAINER: "trainer",
    Room.AGENT_RUNNER: "runner",
}

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
    _run(list(Room), port, log_level, until_stdin_ends=False)


def serve(
    room: Annotated[Room, typer.Argument(help="Which service.")],
    port: Port = None,
    log_level: LogLevel = None,
    until_stdin_ends: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run one service in this process."""
    _run([room], port, log_level, until_stdin_ends=until_stdin_ends)


def _run(
    rooms: Sequence[Room], port: int | None, log_level: str | None, *, until_stdin_ends: bool
) -> None:
    import asyncio

    from shared.logs import configure
    from shared.settings import CommonSettings, default_port, load

    configure(_checked(log_level))
    common = load(CommonSettings)
    common.make_folders()
    if port is None:
        port = common.port if len(rooms) > 1 else default_port(rooms[0])
    asyncio.run(_serve(rooms, common, port, until_stdin_ends=until_stdin_ends))


async def _serve(
    rooms: Sequence[Room], common: "CommonSettings", port: int, *, until_stdin_ends: bool
) -> None:
    import asyncio

    from services.serve import build_service
    from services.serve import serve as serve_rooms
    from shared.clock import SystemClock

    clock = SystemClock()
    services = []
    for room in rooms:
        try:
            services.append(build_service(room, common, clock))
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{room} needs the package {error.name}, which is not installed: "
                f"pip install 'wasmagenttrainer[{_EXTRAS[room]}]'"
            ) from error

    def started(address: str) -> None:
        write_line(f"{', '.join(rooms)}: {address}")
        write_line(f"token: {common.token_file}")
        write_line(f"data:  {common.data_dir}")
        sys.stdout.flush()

    stop = asyncio.Event()
    if until_stdin_ends:
        _stop_with_stdin(stop)
    await serve_rooms(services, common, clock, port, started, stop)


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
