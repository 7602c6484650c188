"""Another account at the port of a room: it answers, and gets no token."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.client import Rooms
from services.listener import other_account_at
from shared.errors import WatError
from shared.settings import CommonSettings
from shared.topics import Room

NOBODY = 65534

# Says that it is a room, and says what it was sent.
LISTENER = """
import encodings.idna, http.server, json, os, socket, sys
if int(sys.argv[3]) != os.geteuid():
    os.setgroups([])
    os.setuid(int(sys.argv[3]))
class Room(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers.get("authorization"), flush=True)
        answer = json.dumps({"rooms": {"task-learner": True}, "items": []}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
class Server(http.server.HTTPServer):
    address_family = getattr(socket, sys.argv[2])
server = Server((sys.argv[1], 0), Room)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def listen() -> Iterator[object]:
    """Start listeners that end with the test: (address, uid) -> process and port."""
    started: list[subprocess.Popen[str]] = []

    def start(host: str, uid: int) -> tuple[subprocess.Popen[str], int]:
        family = "AF_INET6" if ":" in host else "AF_INET"
        command = [sys.executable, "-c", LISTENER, host, family, str(uid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104
def test_the_token_is_not_sent_to_another_account(listen, host, tmp_path):
    process, port = listen(host, NOBODY)
    common = CommonSettings(
        data_dir=tmp_path / "data", config_dir=tmp_path / "config",
        bus_url="kafka://127.0.0.1:9", port=port,
    )  # fmt: skip
    common.make_folders()
    common.token_file.write_text("t" * 43)
    assert other_account_at("127.0.0.1", port) == NOBODY
    with (
        Rooms(common) as rooms,
        pytest.raises(WatError, match=r"another account \(uid 65534\)"),
    ):
        rooms.ask(Room.TASK_LEARNER).get("routines")
    process.kill()
    asked = process.communicate()[0].splitlines()
    assert asked
    assert all(line == "/readyz None" for line in asked)


def test_a_room_of_our_own_is_asked(listen, tmp_path):
    _, port = listen("127.0.0.1", os.geteuid())
    common = CommonSettings(
        data_dir=tmp_path / "data", config_dir=tmp_path / "config",
        bus_url="kafka://127.0.0.1:9", port=port,
    )  # fmt: skip
    common.make_folders()
    common.token_file.write_text("t" * 43)
    assert other_account_at("127.0.0.1", port) is None
    with Rooms(common) as rooms:
        assert rooms.ask(Room.TASK_LEARNER).get("routines")["items"] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_where_nobody_listens_there_is_no_other_account(host):
    assert other_account_at(host, 1) is None
