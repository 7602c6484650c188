"""Forgetting on a real broker: at once what a partition begins with, the rest by retention."""

import time

import pytest
from prometheus_client import generate_latest

from services.task_learner.main import Settings, build
from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.errors import ContractError
from shared.schemas import decode
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.integration.test_forget import Story, flowing, office

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(400)]

DAY_MS = 24 * 3600 * 1000


async def test_on_a_broker_all_rooms_forget_and_say_when_the_last_byte_goes(
    tmp_path, monkeypatch, kafka
):
    url = f"kafka://{kafka.address}"
    async with office(tmp_path / "home", monkeypatch, url) as here:
        first = Story(monkeypatch, 1, chore="mail", num=5)
        kept, middle = Story(monkeypatch, 2), Story(monkeypatch, 3, num=3)
        early = await here.replay(first)
        await here.replay(kept)
        late = await here.replay(middle)
        await here.learned(2, 5)
        assert here.files_with(first.word)

        async with flowing(here, monkeypatch):
            deleted = await here.forget(session=early)
        assert deleted[Room.USER_MONITOR]["events"] == first.num_events
        assert deleted[Room.TASK_LEARNER]["routines"] == 1
        assert here.files_with(first.word) == []
        assert first.word not in str(await here.events())  # it was what the topic began with

        deleted = await here.forget(session=late)
        assert deleted[Room.USER_MONITOR]["events"] == middle.num_events
        assert here.files_with(middle.word) == []
        receipts = (await here.get("user-monitor/forgets"))["items"]
        now_ms = time.time() * 1000
        assert now_ms + 13 * DAY_MS < receipts[0]["gone_by_ms"] < now_ms + 17 * DAY_MS
        assert now_ms < receipts[1]["gone_by_ms"] < now_ms + 2 * DAY_MS
        [routine] = await here.routines()
        assert routine["support"] == 8

    support, told = await learn_anew(url, tmp_path / "anew")
    assert support == [8]
    assert kept.word in told
    assert first.word not in told
    assert middle.word not in told

    async with office(tmp_path / "home", monkeypatch, url) as here:
        async with flowing(here, monkeypatch):
            await here.forget(everything=True)
            for story in (first, kept, middle):
                assert here.files_with(story.word) == []
        assert here.flowed
        await here.forget(everything=True)  # what flowed meanwhile too
        assert await here.events() == []
    support, told = await learn_anew(url, tmp_path / "anew-2")
    assert support == []


async def test_on_a_broker_an_application_and_the_last_minutes_go_while_events_flow(
    tmp_path, monkeypatch, kafka
):
    url = f"kafka://{kafka.address}"
    async with office(tmp_path / "home", monkeypatch, url) as here:
        kept = Story(monkeypatch, 1)
        gone = Story(monkeypatch, 2, chore="mail", num=5, app="https://mail.test")
        await here.replay(kept)
        await here.replay(gone)
        await here.learned(2, 5)
        async with flowing(here, monkeypatch):
            deleted = await here.forget(application="https://mail.test")
            assert deleted[Room.USER_MONITOR]["events"] == gone.num_events
            assert here.files_with(gone.word) == []
            late = Story(monkeypatch, 3, num=3)
            began_ms = int(time.time() * 1000)
            await here.replay(late)
            assert here.files_with(late.word)
            deleted = await here.forget(last_ms=int(time.time() * 1000) - began_ms + 50)
            assert deleted[Room.USER_MONITOR]["events"] >= late.num_events
        for story in (gone, late):
            assert here.files_with(story.word) == []
            assert story.word not in generate_latest().decode()
        assert here.flowed
        [routine] = await here.routines()
        assert routine["support"] == 8

    support, told = await learn_anew(url, tmp_path / "anew")
    assert support == [8]
    assert kept.word in told
    assert gone.word not in told
    assert late.word not in told


async def learn_anew(url, folder):
    """Let a learner that knows nothing read the broker from its oldest record on.

    Return the supports of its routines, and all that its tables hold.
    """
    clock = SystemClock()
    common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
    common.make_folders()
    logic, router = build(Settings(), common, clock)
    service = Service(logic, router, common, clock)
    empty = open_bus(f"log:{folder}/log", folder, clock)
    await service.open(empty, "")
    broker = open_bus(url, folder, clock)
    group = await broker.subscribe(folder.name, [Topic.FORGETS, Topic.RUNS, Topic.RAW_EVENTS])
    quiet = 0
    while quiet < 4:  # a new group takes a while to be given its partitions
        messages = await group.poll(500, 2.0)
        quiet = 0 if messages else quiet + 1
        effects = Effects(Room.TASK_LEARNER)
        for message in messages:
            try:
                logic.handle(decode(message.value, message.headers), message, effects)
            except ContractError:
                pytest.fail("a record of the broker does not decode")
        await service.port.commit(effects)
    await logic.erase([])
    effects = Effects(Room.TASK_LEARNER)
    logic.tick(effects)
    store = service.port.store
    await service.port.commit(effects)
    tables = ("actions", "routines", "traces", "users", "held")
    told = str([store.query(f"SELECT * FROM {table}") for table in tables])
    supports = [k.support for k in logic.routines.values() if k.is_live]
    await broker.close()
    await service.port.close()
    await empty.close()
    return supports, told
