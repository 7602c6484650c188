"""Fixtures that more than one folder of tests uses."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kafka.broker import Broker


@pytest.fixture(scope="session")
def running_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker; `make kafka-jars` fetches it."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def kafka(running_broker: Broker) -> Iterator[Broker]:
    """The broker, emptied after each test: what one leaves behind would teach the next."""
    yield running_broker
    with ThreadPoolExecutor(1) as aside:  # in a loop of its own, whatever the test's does
        aside.submit(asyncio.run, running_broker.empty()).result()


def pytest_configure() -> None:
    """Heed Ctrl-C, and let what tests start heed it: a shell's background job ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
