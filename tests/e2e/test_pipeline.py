"""The whole way, on an application and a chore that the demonstration does not have.

Real services in a process of their own, real Chromium, training and WebAssembly. The judge is the
application's database.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from safetensors.numpy import load

from demo.stack import Stack, values_of
from demo.watching import watched
from shared import tracing
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.module import emit
from shared.proof import parse, sign
from shared.signing import SigningKey
from shared.topics import Topic
from tests.apps.tickets import Tickets
from tests.apps.tickets_person import Triager

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

_WAIT_S = 400.0


async def test_another_application_is_watched_learned_and_done(tmp_path: Path) -> None:
    async with Stack(tmp_path, {"WAT_AGENT_TRAINER_AUTO_TRAIN": "true"}) as stack:
        with Tickets(5, "watch") as app:
            port = urlsplit(app.url).port or 0
            async with watched(stack) as page:
                await Triager(page, 5, pace=0.02).work(app.url, 12)
            assert len(app.closed()) == 12
        routine = await stack.routine(9, _WAIT_S)
        card = await stack.agent(routine["routine_id"], _WAIT_S)

        with Tickets(5, "act", port=port) as app:
            records = app.records(5)
            run = await _run(stack, routine, records)
            assert [r["state"] for r in run["records"]["items"]] == ["done"] * 5
            assert sorted(app.closed(), key=str) == sorted(map(app.expected, records), key=str)
        await _check_traces(stack)

        with Tickets(5, "changed", port=port) as app:
            run = await _run(stack, routine, app.records(1))
            (record,) = run["records"]["items"]
            assert record["state"] == "stopped"
            assert record["reason"]
            assert app.closed() == []

        await _replace_module(stack, card, _permuted)
        with Tickets(5, "act", port=port) as app:
            run = await _run(stack, routine, app.records(5), keep_going=True)
            assert [r for r in run["records"]["items"] if r["state"] == "done"] == []
            assert [c for c in app.closed() if c in map(app.expected, app.records(5))] == []


async def _check_traces(stack: Stack) -> None:
    """From capture to run: what stands on any topic belongs to a trace that capture began.

    Not to one of the topic before it: that keeps the newest record of a key alone.
    """
    bus = open_bus(f"log:{stack.folder}/data/log", stack.folder, SystemClock())
    found: list[set[str]] = []
    for topic in (Topic.RAW_EVENTS, Topic.TASKS, Topic.MODELS, Topic.RUNS):
        messages = await bus.read(topic, 0, 0, 100_000)
        contexts = [tracing.context_of(message.headers) for message in messages]
        assert messages, topic
        assert None not in contexts, topic
        found.append({str(context).split("-")[1] for context in contexts})
    await bus.close()
    captured, *derived = found
    assert all(traces <= captured for traces in derived)


async def _run(
    stack: Stack, routine: dict[str, Any], records: list[dict[str, str]], **more: Any
) -> dict[str, Any]:
    # The list names its column nowhere: the product calls the ticket's number by its role.
    rows = [values_of(routine, {**record, "Link": record["Ticket"]}) for record in records]
    return await stack.run({"routine_id": routine["routine_id"], "records": rows, **more}, _WAIT_S)


async def _replace_module(
    stack: Stack, card: dict[str, Any], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Publish the same module with changed weights, probes renewed and signed by the same key."""
    data = stack.folder / "data"
    digest = card["artifact"]
    module = (data / "artifacts" / "agent-trainer" / digest[:2] / digest).read_bytes()
    weights = {name: change(values) for name, values in _weights_beside(data, digest).items()}
    changed = sign(emit(parse(module).manifest, weights), SigningKey.load_or_create(data / "keys"))
    await stack.send("agent-trainer/models/import?replace=true", changed)


def _weights_beside(data: Path, digest: str) -> dict[str, np.ndarray]:
    """Return the newest safetensors among the trainer's artifacts: a length, then JSON."""
    files = [p for p in (data / "artifacts" / "agent-trainer").glob("??/*") if p.name != digest]
    newest_first = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)
    raw = next(b for p in newest_first if (b := p.read_bytes())[8:9] == b"{")
    return load(raw)


def _permuted(values: np.ndarray) -> np.ndarray:
    order = np.random.default_rng(1).permutation(values.size)
    return values.reshape(-1)[order].reshape(values.shape)
