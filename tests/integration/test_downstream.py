"""The example consumer of the documentation, on a real broker."""

import asyncio
import sys
from pathlib import Path

import pytest

from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.topics import Room
from tests.contract.records import run_outcome
from tests.kafka.broker import Broker

EXAMPLE = Path(__file__).parents[2] / "docs/examples/follow_runs.py"


@pytest.mark.kafka
async def test_the_example_prints_how_each_record_ended(kafka: Broker, tmp_path: Path):
    bus = open_bus(f"kafka://{kafka.address}", tmp_path, SystemClock())
    port = await bus.open_port(Room.AGENT_RUNNER, [], "", "")
    effects = Effects(Room.AGENT_RUNNER)
    outcome = run_outcome(3)
    effects.publish(outcome)
    await port.commit(effects)
    await bus.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), kafka.address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(300):
            while line := (await process.stdout.readline()).decode().split():
                if line == [outcome.run_id, "3", outcome.state.value]:
                    return
    finally:
        process.kill()
        await process.wait()
    pytest.fail("the example ended without printing the outcome")
