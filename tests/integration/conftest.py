"""A room in a house on either transport."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.bus import open_bus
from tests.kafka.broker import Broker
from tests.unit.shared.rooms import House


@pytest.fixture(params=["log", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """Yield a house whose room is not started; it is closed behind the test."""
    house = House(tmp_path)
    if request.param == "kafka":
        broker: Broker = request.getfixturevalue("kafka")
        house.bus = open_bus(f"kafka://{broker.address}", tmp_path, house.clock)
    yield house
    await house.close()
