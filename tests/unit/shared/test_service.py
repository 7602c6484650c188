"""The frame: what becomes of records that are handled, fail, break or cannot be read."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import service as frame
from shared.bus import Effects
from shared.bus.base import Outgoing
from shared.errors import MiningError, NotFound
from shared.schemas import encode, headers_of
from shared.topics import Room
from tests.contract.records import ui_event
from tests.unit.shared.rooms import House

SEEN = "SELECT seq FROM seen ORDER BY seq"
LETTERS = "SELECT offset, error, replayed_ms FROM dead_letters ORDER BY offset"


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(frame, "_BACKOFF_S", 0.002)
    house = House(tmp_path)
    yield house
    await house.close()


def rows(*seqs: int) -> list[tuple[int]]:
    return [(seq,) for seq in seqs]


async def test_records_are_handled_in_order_and_once(house: House):
    await house.send(*["good"] * 1200)
    await house.start()
    await house.until(SEEN, rows(*range(1200)))
    assert house.logic.calls == list(range(1200))


async def test_a_restart_goes_on_where_it_stopped_with_its_memory(house: House):
    await house.send("good", "good")
    await house.start()
    await house.until(SEEN, rows(0, 1))
    await house.stop()
    await house.send("good", first_seq=2)
    await house.restart()
    await house.until(SEEN, rows(0, 1, 2))
    assert house.logic.calls == [2]
    assert house.logic.seqs == [0, 1, 2]


async def test_the_fifth_failure_puts_a_record_aside_and_no_other(house: House):
    await house.send("good", "fails", "good", "breaks", "good")
    await house.start()
    await house.until(SEEN, rows(0, 2, 4))
    assert house.logic.calls.count(1) == house.logic.calls.count(3) == 5
    assert house.query(LETTERS) == [
        (1, "this one cannot be counted", None),
        (3, "ZeroDivisionError", None),  # its message could quote the record
    ]
    assert house.logic.seqs == [0, 2, 4]
    assert house.query("SELECT * FROM attempts") == []


async def test_attempts_are_counted_across_restarts(house: House):
    await house.send("fails", "good")
    for _ in range(5):
        await house.start()
        async with asyncio.timeout(300):
            while not house.logic.calls:
                await asyncio.sleep(0.001)
        await house.crash()
        house.logic = type(house.logic)()
    await house.start()
    await house.until(SEEN, rows(1))
    assert len(house.logic.calls) <= 6


async def test_a_bus_that_is_away_is_no_failure_of_the_record(house: House):
    house.logic.away = 8
    await house.send("good", "away", "good")
    await house.start()
    await house.until(SEEN, rows(0, 1, 2))
    assert house.query(LETTERS) == []


async def test_a_record_whose_effects_the_store_refuses_is_put_aside_alone(house: House):
    await house.send("good", "good", "no-row", "good")
    await house.start()
    await house.until(SEEN, rows(0, 1, 3))
    [(offset, error, _)] = house.query(LETTERS)
    assert (offset, error) == (2, "ConstraintError")


@pytest.mark.parametrize("kind", ["ce_type", "value", "version", "no headers"])
async def test_a_record_that_does_not_decode_is_put_aside_at_once(house: House, kind: str):
    good = ui_event(1)
    headers, value = dict(headers_of(good, "user-monitor")), encode(good)
    if kind == "ce_type":
        headers["ce_type"] = b"wasmagenttrainer.ui-event.v9"
    elif kind == "value":
        value = b"{"
    elif kind == "version":
        value = json.dumps(json.loads(value) | {"schema_version": 9}).encode()
    else:
        headers = {}
    port = await house.bus.open_port(Room.USER_MONITOR, (), "", "")
    effects = Effects(Room.USER_MONITOR)
    effects.publish(ui_event(0))
    effects.outgoing.append(Outgoing("raw-events", b"ann", value, tuple(headers.items())))
    effects.publish(ui_event(2))
    await port.commit(effects)
    await house.start()
    await house.until(SEEN, rows(0, 2))
    [(offset, error, _)] = house.query(LETTERS)
    assert offset == 1
    assert "Ada" not in str(error)
    assert house.query("SELECT key, value FROM dead_letters") == [(b"ann", value)]
    assert house.logic.calls == [0, 2]


async def test_a_dead_letter_is_replayed(house: House):
    await house.send("fails")
    await house.start()
    await house.until("SELECT count(*) FROM dead_letters", [(1,)])
    [(letter,)] = house.query("SELECT id FROM dead_letters")
    with pytest.raises(MiningError):
        await house.service.replay(str(letter))
    assert house.logic.seqs == []
    house.logic.healed = True
    await house.service.replay(str(letter))
    assert house.query(SEEN) == rows(0)
    assert house.query(LETTERS) == [(0, "this one cannot be counted", house.clock.time_ms())]
    with pytest.raises(NotFound):
        await house.service.replay("no-such-letter")


async def test_a_stop_does_not_wait_for_a_poll(house: House):
    await house.start()
    await asyncio.sleep(0.05)
    began_s = time.monotonic()
    await house.stop()
    took_s = time.monotonic() - began_s
    assert house.logic.closed
    assert not house.service.ready
    assert took_s < frame._DRAIN_S / 2


async def test_a_room_that_breaks_says_so_and_lets_go_of_its_topic(house: House):
    async def broken(stop: asyncio.Event) -> None:
        raise MiningError("the capture broke")

    house.logic.background = broken  # type: ignore[method-assign]
    await house.start()
    with pytest.raises(MiningError, match="the capture broke"):
        await house.stop()
    await house.restart()


async def test_logs_carry_no_content(house: House, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    await house.send("good", "breaks")
    await house.start()
    await house.until("SELECT count(*) FROM dead_letters", [(1,)])
    await house.stop()
    from shared.logs import _JsonLine

    lines = "\n".join(map(_JsonLine().format, caplog.records))
    assert '"error": "ZeroDivisionError"' in lines
    for content in ("breaks", "good", "ann", "orders"):
        assert content not in lines
