"""`wat up` in a process of its own, for tests of REST as it is reached from outside."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SERVER_FILES = 1_024


class Served:
    """`wat up` in a process of its own, with as few file descriptors as most get."""

    def __init__(self, folder: Path, **settings: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("WAT_")}
        environment |= {
            "WAT_DATA_DIR": str(folder / "data"),
            "WAT_CONFIG_DIR": str(folder / "config"),
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services", "up", "--port", "0"],
            env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (SERVER_FILES, SERVER_FILES))
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().rpartition(" ")[2]
        self.port = int(self.url.rpartition(":")[2])
        self.token = (folder / "config" / "token").read_text().strip()
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=120
        )

    def connect(self, head: str) -> socket.socket:
        """Begin a request and send its head."""
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        peer.sendall(head.replace("\n", "\r\n").encode())
        return peer

    def peak_mib(self) -> int:
        """Return the most memory the process ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=120)
