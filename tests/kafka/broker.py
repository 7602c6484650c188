"""A real broker for tests: started and stopped at will, emptied between tests."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

_SCRIPT = Path(__file__).with_name("kafka.sh")
_START_LIMIT_S = 90
_EMPTY_LIMIT_S = 60
_LEAVE_GROUP, _LEAVE_GROUP_VERSION = 13, 3
_NO_INSTANCE = struct.pack(">h", -1)


class Broker:
    """One broker on free ports; its data outlives a stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._controller_port = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it serves."""
        log = self.folder / f"broker-{time.monotonic_ns()}.log"
        ports = {"KAFKA_PORT": str(self.port), "KAFKA_CONTROLLER_PORT": str(self._controller_port)}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [_SCRIPT, "run", self.folder / "data"],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ports, "KAFKA_HEAP": "384m"},
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while b"Kafka Server started" not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no broker:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self, *, by: int = signal.SIGTERM) -> None:
        """Stop it, cleanly or by SIGKILL."""
        if self.process is not None:
            self.process.send_signal(by)
            self.process.wait(60)
            self.process = None

    async def empty(self) -> None:
        """Delete all topics, and end what groups remember: memberships, and later their offsets.

        The broker forgets the offsets some time after the topics; a topic of the same name made
        meanwhile would seem to have been read. Raises TimeoutError.
        """
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            groups = [name for name, *_ in await admin.list_consumer_groups()]
            for group in groups:
                for answer in await admin.describe_consumer_groups([group]):
                    for member in (m for found in answer.groups for m in found[5]):
                        self._leave(group, member[0])
            while names := [n for n in await admin.list_topics() if not n.startswith("__")]:
                await admin.delete_topics(names, timeout_ms=10_000)
            async with asyncio.timeout(_EMPTY_LIMIT_S):
                for group in groups:
                    while await admin.list_consumer_group_offsets(group):
                        await asyncio.sleep(0.05)
        finally:
            await admin.close()

    def _leave(self, group: str, member: str) -> None:
        """End a membership; a static one its client leaves standing on purpose.

        Source: Kafka protocol, LeaveGroup version 3.
        """
        body = _string(group) + struct.pack(">i", 1) + _string(member) + _NO_INSTANCE
        header = struct.pack(">hhi", _LEAVE_GROUP, _LEAVE_GROUP_VERSION, 1) + _string("test")
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(struct.pack(">i", len(header + body)) + header + body)
            connection.recv(4096)


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
