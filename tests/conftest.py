"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator

import pytest

from tests.kafka.broker import Broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker; `make kafka-jars` fetches it."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()
