"""The broker dies under load: nothing is lost, and order is kept."""

from pathlib import Path

import pytest

from tests.torture.broker import broker_torture

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]


async def test_a_broker_that_is_killed_and_away_for_a_minute_loses_nothing(
    tmp_path: Path, record_property
):
    figures = await broker_torture(tmp_path, kills=1, away_s=60.0, rate=200)
    record_property("figures", str(figures))
    assert figures["lost"] == 0
    assert figures["in_order"]
    # Ten seconds until the client gives up are held in memory; after that all goes to disk.
    assert figures["most_spooled"] > (figures["away_s"][0] - 30) * 200
    assert figures["peak_memory_mib"] < figures["memory_mib"][0][1] + 64
