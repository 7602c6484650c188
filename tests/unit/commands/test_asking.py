"""`wat ask` against a server that speaks the assistant's protocol over a real socket."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from services.__main__ import app


def event(text):
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"


class Assistant(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked_at = self.path
        allowed = self.headers.get("Authorization") == "Bearer secret"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join(self.server.events).encode() if allowed else b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def assistant():
    server = HTTPServer(("127.0.0.1", 0), Assistant)
    server.events = [event("It is "), event("in [/b]redact.py."), "data: [DONE]\n\n"]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, *more, key="secret"):
    url = f"http://127.0.0.1:{server.server_port}/"
    words = ["ask", "--url", url, *more, "where", "are", "secrets redacted?"]
    return CliRunner().invoke(app, words, env={"WAT_ASSISTANT_TOKEN": key})


def test_the_answer_is_written_as_it_is(assistant):
    answer = ask(assistant, "--max-tokens", "9", "--passages", "2")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout == "It is in [/b]redact.py.\n"
    assert assistant.asked_at == "/v1/chat/completions"
    assert assistant.asked == {
        "messages": [{"role": "user", "content": "where are secrets redacted?"}],
        "max_tokens": 9,
        "stream": True,
        "context_passages": 2,
    }


def test_the_token_can_be_in_a_file(assistant, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    assert ask(assistant, "--token-file", str(tmp_path / "token"), key="").exit_code == 0
    missing = ask(assistant, "--token-file", str(tmp_path / "none"))
    assert missing.exit_code == 1
    assert "--token-file" in missing.stderr


def test_a_refusal_says_what_to_do(assistant):
    answer = ask(assistant, key="wrong")
    assert answer.exit_code == 1
    assert "wants its token" in answer.stderr


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([event("It is ")], "broke off"),
        (["data: no json\n\n"], "no answer"),
        (['data: {"error": {"message": "out of memory"}}\n\n'], "out of memory"),
    ],
)
def test_an_answer_that_is_none_is_an_error(assistant, events, said):
    assistant.events = events
    answer = ask(assistant)
    assert answer.exit_code == 1
    assert said in answer.stderr


def test_nobody_there():
    answer = CliRunner().invoke(app, ["ask", "--url", "http://127.0.0.1:9", "why?"])
    assert answer.exit_code == 1
    assert "finetune-serve" in answer.stderr
