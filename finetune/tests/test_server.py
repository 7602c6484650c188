import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
import torch
import uvicorn
from test_training import options

import infer
import main
import retrieve
import server

SOURCE = Path(main.__file__).resolve().parent


class Running:
    """A server on a port of its own."""

    def __init__(self, opts):
        self.app = server.create_app(opts, wait=True)
        config = uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def run(base, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("served")
    main.main(options(base, dataset, out, max_steps=3))
    return out


@pytest.fixture(scope="module")
def served(run, project, tmp_path_factory):
    token = tmp_path_factory.mktemp("secret") / "token"
    token.write_text("sesame\n")
    running = Running(
        server.Options(
            run=str(run),
            source=str(project),
            token_file=str(token),
            context_tokens=512,
            device="cpu",
        )
    )
    yield running
    running.stop()


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="sesame", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model(run):
    base, adapter = infer.find_run(run)
    return infer.load(base, adapter, torch.device("cpu"), torch.float32)


def greedy(model, ids, num):
    made, tokenizer = model
    with torch.inference_mode():
        out = made.generate(
            torch.tensor([ids]), max_new_tokens=num, do_sample=False, pad_token_id=2
        )
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)


def test_completion_is_what_the_model_says(client, model):
    answer = client.completions.create(model="wat-code", prompt="def f(", max_tokens=12)
    ids = infer.plain_prompt(model[1], "def f(", 400)
    assert answer.choices[0].text == greedy(model, ids, 12)
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.prompt_tokens == len(ids)


def test_suffix_asks_by_way_of_the_sentinels(client, model):
    answer = client.completions.create(
        model="wat-code", prompt="def f(a):\n", suffix="\n    return b\n", max_tokens=12
    )
    ids = infer.fim_prompt(model[1], "def f(a):\n", "\n    return b\n", 400, "spm")
    assert answer.choices[0].text == greedy(model, ids, 12)


def test_streams_add_up_to_the_whole_answer(client):
    asked = {"model": "wat-code", "prompt": "import ", "max_tokens": 16}
    whole = client.completions.create(**asked).choices[0]
    pieces = list(client.completions.create(**asked, stream=True))
    assert "".join(p.choices[0].text for p in pieces) == whole.text
    assert pieces[-1].choices[0].finish_reason == whole.finish_reason == "length"
    turns = [{"role": "user", "content": "What does best_fit do?"}]
    talk = {"model": "wat-code", "messages": turns, "max_tokens": 16}
    said = client.chat.completions.create(**talk).choices[0].message.content
    stream = client.chat.completions.create(
        **talk, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
    assert chunks[-1].usage.total_tokens > chunks[-1].usage.prompt_tokens > 0


def test_answer_ends_before_a_stop_string(client):
    asked = {"model": "wat-code", "prompt": "import ", "max_tokens": 24}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[5:8]
    for stream in (False, True):
        answer = client.completions.create(**asked, stop=[stop], stream=stream)
        parts = answer if stream else [answer]
        text = "".join(p.choices[0].text for p in parts)
        assert text == whole[: whole.index(stop)]


def test_seeded_sampling_repeats(client):
    asked = {"model": "m", "prompt": "x", "max_tokens": 16, "temperature": 1.5}
    said = [client.completions.create(**asked, seed=s).choices[0].text for s in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_long_prompt_keeps_its_end_and_too_long_an_answer_is_refused(client, model):
    long = "a = 1\n" * 2000
    answer = client.completions.create(model="m", prompt=long + "def g(", max_tokens=8)
    room = 512 - 8 - 8
    assert answer.usage.prompt_tokens == room
    assert answer.choices[0].text == greedy(
        model, infer.plain_prompt(model[1], long + "def g(", room), 8
    )
    with pytest.raises(openai.BadRequestError, match="max_tokens is too large"):
        client.completions.create(model="m", prompt="x", max_tokens=4000)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.completions.create(model="m", prompt="x", max_tokens=0)


def test_chat_is_given_passages_of_the_repository(client):
    turns = [{"role": "user", "content": "best_fit"}]
    asked = {"model": "m", "messages": turns, "max_tokens": 4}
    bare = client.chat.completions.create(**asked, extra_body={"context_passages": 0})
    told = client.chat.completions.create(**asked)
    assert told.usage.prompt_tokens > bare.usage.prompt_tokens + 50


def test_models_health_and_readiness(client, served):
    assert [one.id for one in client.models.list()] == ["wat-code"]
    for path in ("/healthz", "/readyz"):
        assert httpx.get(served.url + path).status_code == 200


def test_strangers_are_refused(served):
    body = {"prompt": "x"}
    url = f"{served.url}/v1/completions"
    assert httpx.post(url, json=body).status_code == 401
    assert httpx.post(url, json=body, headers={"Authorization": "Bearer no"}).status_code == 401
    rebound = {"Authorization": "Bearer sesame", "Host": "evil.example"}
    assert httpx.post(url, json=body, headers=rebound).status_code == 400
    with pytest.raises(SystemExit, match="token_file"):
        server.main(server.Options(host="0.0.0.0"))  # noqa: S104 - what is refused


def test_missing_run_is_unready_and_says_why(tmp_path):
    running = Running(server.Options(run=str(tmp_path)))
    try:
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        answer = httpx.get(f"{running.url}/readyz")
        assert answer.status_code == 503
        assert "options.json" in answer.json()["status"]
        answer = httpx.post(f"{running.url}/v1/completions", json={"prompt": "x"})
        assert answer.json()["error"]["type"] == "server_error"
    finally:
        running.stop()


def test_chat_program_prints_an_answer(served):
    done = subprocess.run(
        [
            sys.executable,
            str(SOURCE / "chat.py"),
            "--url",
            served.url,
            "--token",
            "sesame",
            "what?",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("\n")
    refused = subprocess.run(
        [sys.executable, str(SOURCE / "chat.py"), "--url", served.url, "hello"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "401" in refused.stderr


def test_retrieval_finds_the_defining_passage(project):
    index = retrieve.Index.of_tree(project)
    best = index.search("how does best fit packing of rows work", 3)
    assert best[0].path == "examples.py"
    assert index.search("zzzzzz", 3) == []
    assert "camel" in retrieve.words("camelCase_name")
