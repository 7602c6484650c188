"""REST under a flood: slow connections by the thousand, and bodies that are far too large."""

import json
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.integration.served import SERVER_FILES, Served

NUM_SLOW = 10_000
MIB = 1024 * 1024


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(tmp_path)
    yield running
    running.close()


@pytest.fixture
def num_slow() -> Iterator[int]:
    """How many connections this process may hold, 10,000 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with socket.socket() as probe:  # the limit counts what is open already
        used = probe.fileno()
    yield min(NUM_SLOW, hard - used - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Slow(threading.Thread):
    """Opens connections, begins a request on each, and sends a byte now and then."""

    def __init__(self, port: int, num: int) -> None:
        super().__init__(daemon=True)
        self.num_opened = 0
        self.enough = threading.Event()
        self._port = port
        self._num = num
        self._peers: list[socket.socket] = []

    def run(self) -> None:
        while not self.enough.is_set():
            if self.num_opened < self._num:
                peer = socket.create_connection(("127.0.0.1", self._port), timeout=120)
                self._peers.append(peer)
                with suppress(OSError):  # it was ended already
                    peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                self.num_opened += 1
            else:
                for peer in self._peers[:: self._num // 50 or 1]:
                    with suppress(OSError):
                        peer.send(b"x")
                time.sleep(0.01)
        for peer in self._peers:
            peer.close()


@pytest.mark.slow
def test_ten_thousand_slow_connections_do_not_stop_the_others(served: Served, num_slow: int):
    slow = Slow(served.port, num_slow)
    slow.start()
    answered = 0
    try:
        while slow.num_opened < num_slow or answered < 50:
            # Each on a connection of its own, as a new client's would be.
            answer = httpx.get(
                f"{served.url}/v1/user-monitor/recording", timeout=120,
                headers={"Authorization": f"Bearer {served.token}"},
            )  # fmt: skip
            assert answer.status_code == 200
            answered += 1
            assert slow.is_alive()
        num_files = len(os.listdir(f"/proc/{served.process.pid}/fd"))  # noqa: PTH208
        assert num_files < SERVER_FILES
    finally:
        slow.enough.set()
        slow.join()
    assert served.client.get("/readyz").status_code == 200


HEAD = (
    "POST /v1/user-monitor/replay HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\n"
    "Authorization: Bearer {token}\n"
)


@pytest.mark.parametrize("known", [True, False])
def test_a_body_declared_too_large_is_refused_before_it_is_sent(served: Served, known: bool):
    head = HEAD.format(token=served.token if known else "x" * 43)
    with served.connect(f"{head}Content-Length: {100 * MIB}\n\n") as peer:
        status = peer.recv(4096).split(b"\r\n")[0]
    assert status.split()[1] == (b"413" if known else b"401")


@pytest.mark.parametrize("known", [True, False])
def test_a_body_of_unknown_size_is_refused_and_not_kept(served: Served, known: bool):
    head = HEAD.format(token=served.token if known else "x" * 43)
    before = served.peak_mib()
    chunk = b"%x\r\n%s\r\n" % (MIB, b" " * MIB)
    peer = served.connect(f"{head}Transfer-Encoding: chunked\n\n")
    with peer, suppress(OSError):  # it is closed in our face as soon as there is too much
        for _ in range(100):
            peer.sendall(chunk)
        assert peer.recv(4096).split()[1] == (b"413" if known else b"401")
    assert served.client.get("/readyz").status_code == 200
    # 32 MiB may be read before it is clear that there is more, and are copied once.
    assert served.peak_mib() - before < 96


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:{port}"])
def test_a_page_whose_name_was_bound_anew_to_this_machine_is_refused(served: Served, host: str):
    """The browser sends the page's own name, whatever address it leads to, and knows no token."""
    named = {"Host": host.format(port=served.port), "Origin": "http://evil.example"}
    for more in ({}, {"Authorization": f"Bearer {served.token}"}):
        answer = httpx.get(f"{served.url}/v1/user-monitor/events", headers=named | more)
        assert answer.status_code == 400
        assert json.loads(answer.content)["title"] == "Foreign host"
        assert "access-control-allow-origin" not in answer.headers
