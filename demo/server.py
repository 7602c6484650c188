"""Serve a web application on a free loopback port from a thread of its own.

Prints nothing and logs nothing; the caller's event loop stays free.
"""

import socket
import threading
import time
from typing import Self

import uvicorn
from fastapi import FastAPI

_START_S = 10.0


class Server:
    """One FastAPI application on 127.0.0.1, served while the `with` block lasts."""

    def __init__(self, application: FastAPI, port: int = 0) -> None:
        """Bind the port at once (0: any free one), so that the address is known."""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="demo-server", daemon=True
        )

    def __enter__(self) -> Self:
        """Return once it answers. Raises RuntimeError where it does not come up."""
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the application at {self.url} did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        """Close open connections, end the thread, and let go of what the application holds."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self.close()

    def close(self) -> None:
        """Let go of what the application holds; an application with a database has one."""
