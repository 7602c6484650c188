"""Poison on a busy topic: one dead letter each, at once or after the fifth try, none other lost."""

import json
import time

import pytest

from shared.bus import Effects
from shared.bus.base import Outgoing
from shared.schemas import encode, headers_of
from shared.topics import Room
from tests.contract.records import ui_event
from tests.unit.shared.rooms import House

NUM, EVERY = 2_000, 100
KINDS = ("type", "json", "version", "headers", "fails")
POISONED = range(EVERY // 2, NUM, EVERY)


def poison(kind: str, seq: int) -> Outgoing:
    """Return a record that cannot be handled, for one of five reasons."""
    good = ui_event(seq, text="fails" if kind == "fails" else "Ada")
    headers, value = dict(headers_of(good, Room.USER_MONITOR)), encode(good)
    if kind == "type":
        headers["ce_type"] = b"wasmagenttrainer.ui-event.v9"
    elif kind == "json":
        value = value[:-1]
    elif kind == "version":
        value = json.dumps(json.loads(value) | {"schema_version": 9}).encode()
    elif kind == "headers":
        headers = {}
    return Outgoing("raw-events", b"ann", value, tuple(headers.items()))


@pytest.mark.timeout(180)
async def test_one_dead_letter_each_none_of_the_others_lost_and_replay_works(
    house: House, record_property
):
    await house.start()
    port = await house.bus.open_port(Room.USER_MONITOR, (), "", "")
    began_s = time.monotonic()
    for first in range(0, NUM, EVERY):
        effects = Effects(Room.USER_MONITOR)
        for seq in range(first, first + EVERY):
            if seq in POISONED:
                effects.outgoing.append(poison(KINDS[first // EVERY % len(KINDS)], seq))
            else:
                effects.publish(ui_event(seq))
        await port.commit(effects)
    wanted = [(seq,) for seq in range(NUM) if seq not in POISONED]
    await house.until("SELECT seq FROM seen ORDER BY seq", wanted, 120)
    record_property("seconds", round(time.monotonic() - began_s, 1))
    await house.until("SELECT count(*) FROM dead_letters", [(len(POISONED),)], 60)
    offsets = [offset for (offset,) in house.query("SELECT offset FROM dead_letters ORDER BY 1")]
    assert offsets == list(POISONED)

    house.logic.healed = True
    letters = house.query(
        "SELECT id FROM dead_letters WHERE error LIKE '%counted%' ORDER BY offset"
    )
    assert len(letters) == len(POISONED) // len(KINDS)
    for (letter,) in letters:
        await house.service.replay(str(letter))
    failing = [seq for n, seq in enumerate(POISONED) if KINDS[n % len(KINDS)] == "fails"]
    everything = sorted([*wanted, *((seq,) for seq in failing)])
    assert house.query("SELECT seq FROM seen ORDER BY seq") == everything
