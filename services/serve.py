"""Run rooms in this process: bus, services, REST, and a clean end on SIGTERM or SIGINT.

`wat up` runs the four rooms in one process, `wat serve ROOM` one of them; both come here.
"""

import asyncio
import gc
import importlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast, get_type_hints

import uvicorn
from fastapi import APIRouter
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared import failpoints, tracing
from shared.api import create_app, read_token
from shared.bus import open_bus
from shared.clock import Clock
from shared.errors import ConfigError, WatError
from shared.service import RoomLogic, Service
from shared.settings import CommonSettings, RoomSettings, load, refuse_unknown
from shared.topics import Room

__all__ = ["build_service", "serve", "spare_collector"]

MAX_CONNECTIONS = 256
"""More than these are not held open at once, so that no number of slow ones takes every
descriptor; a process may often have 1,024."""

_ACCEPTED_AT_ONCE = 64
_QUEUE = 4_096
"""Connections that may wait for being accepted: where the kernel drops one it comes again only
after seconds."""

_log = logging.getLogger(__name__)


class _RoomMain(Protocol):
    """What each room's main.py offers."""

    def build(
        self, settings: RoomSettings, common: CommonSettings, clock: Clock
    ) -> tuple[RoomLogic, APIRouter]: ...


def build_service(
    room: Room, common: CommonSettings, clock: Clock, *, works: bool = True, **values: object
) -> Service:
    """Wire one room; `values` override its settings. Raises ConfigError.

    Without `works` its jobs wait.

    The room is imported here and not above: each image holds only its own.
    """
    main = cast("_RoomMain", importlib.import_module(f"services.{room.package}.main"))
    settings: type[RoomSettings] = get_type_hints(main.build)["settings"]
    refuse_unknown([CommonSettings, settings])
    logic, router = main.build(load(settings, **values), common, clock)
    return Service(logic, router, common, clock, works=works)


async def serve(
    services: Sequence[Service],
    common: CommonSettings,
    clock: Clock,
    port: int,
    started: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until a signal or `stop`; call `started` with the address once all rooms are ready.

    A room that ends early is shown by /readyz and leaves the others running; its error is raised
    at the end. Raises ConfigError for a taken port, TopicLocked for a taken topic.
    """
    if common.failpoint:
        failpoints.arm(common.failpoint)
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    try:
        with tracing.export_if_asked(tuple(service.room for service in services)):
            await _serve(services, common, clock, port, started, stop)
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)


async def _serve(
    services: Sequence[Service],
    common: CommonSettings,
    clock: Clock,
    port: int,
    started: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    listener = _bind(common.host, port)
    address = "http://{}:{}".format(*listener.getsockname()[:2])
    app = create_app(services, common, read_token(common.token_file))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", http=_Connection,
        backlog=_ACCEPTED_AT_ONCE,
    )  # fmt: skip
    server = _Server(config)
    bus = open_bus(common.bus, common.data_dir, clock)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    rooms: list[asyncio.Task[None]] = []
    try:
        for service in services:
            await service.open(bus, address)
        rooms = [asyncio.create_task(_guarded(service, stop)) for service in services]
        spare_collector()
        started(address)
        await stop.wait()
        await asyncio.gather(*rooms)
    finally:
        stop.set()
        await asyncio.gather(*rooms, return_exceptions=True)
        server.should_exit = True
        await http
        await bus.close()


def spare_collector() -> None:
    """Look for garbage cycles less often, and never among what a started process keeps for ever.

    Records hold no cycles, yet a batch of them sets off the collector again and again: a quarter
    of a handler's time (2 cores, Python 3.11).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _guarded(service: Service, stop: asyncio.Event) -> None:
    """Run a room; log at once that it ended early, since the others go on.

    Raises WatError: any other error's own words may quote what was recorded.
    """
    try:
        await service.run(stop)
    except Exception as error:
        _log.exception("room ended", extra={"room": service.room})
        if isinstance(error, WatError):
            raise
        raise WatError(
            f"{service.room} ended ({type(error).__name__}): its log says where; start it again"
        ) from None


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{host}:{port} cannot be bound ({error.strerror}): stop what is there, or set WAT_PORT"
        ) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the rooms drain first, then HTTP ends."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let more connections wait than are accepted in one turn of the loop."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUE)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield


class _Connection(H11Protocol):
    """A connection that gives way when there are too many: the longest idle one ends first.

    Idle is one whose request is not yet there, or is answered. uvicorn itself lets a request that
    comes byte by byte take its time, and at a limit refuses the newest: then slow ones would stop
    all others.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for this one."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._since_s = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS:
            others = cast("set[_Connection]", self.connections)
            idle = [other for other in others if other is not self and other.is_idle]
            if idle:
                min(idle, key=lambda other: other._since_s).transport.abort()

    def on_response_complete(self) -> None:
        """Count as idle from now on."""
        super().on_response_complete()
        self._since_s = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """Tell whether no request is being answered."""
        return not self.transport.is_closing() and (
            self.cycle is None or self.cycle.response_complete
        )
