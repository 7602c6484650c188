"""Marks are durable, renewed, closed, and never outlive their lease."""

import pytest

from services.agent_runner import marks as marks_
from services.agent_runner.marks import LEASE_MS, Marks, close_left_open
from shared.bus import open_bus
from shared.clock import FakeClock
from shared.schemas import Target, decode
from shared.topics import Room, Topic

TAB = Target(endpoint="browser:1", surface="tab-1")
OTHER = Target(endpoint="browser:1", surface="tab-2")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def port(tmp_path, clock):
    bus = open_bus(f"log:{tmp_path}", tmp_path, clock)
    tables = marks_.TABLES + "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY);"
    yield await bus.open_port(Room.AGENT_RUNNER, (), tables, "")
    await bus.close()


@pytest.fixture
async def marks(port, clock):
    held = Marks(port, clock, user_id="user", run_id="run")
    yield held
    await held.close()


async def published(port):
    return [decode(m.value, m.headers) for m in await port.read(Topic.RUNS, 0, 0, 100)]


async def test_a_target_is_covered_when_cover_returns(marks, port, clock):
    await marks.cover(TAB)
    (mark,) = await published(port)
    assert (mark.run_id, mark.target, mark.boot_id) == ("run", TAB, clock.boot_id)
    assert mark.start_boottime_ms == mark.renewed_boottime_ms == clock.boot_ms
    assert (mark.lease_ms, mark.end_boottime_ms) == (30_000, None)


async def test_covering_again_writes_nothing_until_half_the_lease_is_over(marks, port, clock):
    await marks.cover(TAB)
    clock.advance(LEASE_MS // 2 - 1)
    await marks.cover(TAB)
    assert len(await published(port)) == 1
    clock.advance(1)
    await marks.cover(TAB)
    first, second = await published(port)
    assert second.start_boottime_ms == first.start_boottime_ms
    assert second.renewed_boottime_ms == clock.boot_ms


async def test_every_target_has_a_mark_of_its_own(marks, port):
    await marks.cover(TAB)
    await marks.cover(OTHER)
    assert [mark.target for mark in await published(port)] == [TAB, OTHER]


async def test_renewing_moves_the_lease_and_not_the_start(marks, port, clock):
    await marks.cover(TAB)
    clock.advance(10_000)
    await marks.renew()
    _, renewed = await published(port)
    assert renewed.renewed_boottime_ms - renewed.start_boottime_ms == 10_000


async def test_a_lapsed_mark_is_ended_with_its_lease_and_a_new_one_begun(marks, port, clock):
    await marks.cover(TAB)
    clock.advance(LEASE_MS + 5)
    await marks.renew()  # too late: this writes nothing
    await marks.cover(TAB)
    first, ended, new = await published(port)
    assert ended.end_boottime_ms == first.start_boottime_ms + LEASE_MS
    assert (new.start_boottime_ms, new.end_boottime_ms) == (clock.boot_ms, None)


async def test_closing_ends_every_mark_now(marks, port, clock):
    await marks.cover(TAB)
    await marks.cover(OTHER)
    clock.advance(500)
    await marks.close()
    ended = [m for m in await published(port) if m.end_boottime_ms is not None]
    assert [(m.target, m.end_boottime_ms) for m in ended] == [
        (TAB, clock.boot_ms),
        (OTHER, clock.boot_ms),
    ]
    await marks.close()
    assert len(await published(port)) == 4


@pytest.mark.parametrize(("later_ms", "end_ms"), [(2_000, 2_000), (LEASE_MS * 3, LEASE_MS)])
async def test_what_a_killed_process_left_open_ends_now_or_with_its_lease(
    marks, port, clock, later_ms, end_ms
):
    await marks.cover(TAB)
    start_ms = clock.boot_ms
    clock.advance(later_ms)
    await close_left_open(port, clock, user_id="user", run_id="run")
    assert (await published(port))[-1].end_boottime_ms == start_ms + end_ms
    assert port.store.query("SELECT 1 FROM marks WHERE end_ms IS NULL") == []


async def test_a_mark_of_an_earlier_boot_ends_with_its_lease(marks, port, clock):
    await marks.cover(TAB)
    start_ms = clock.boot_ms
    clock.boot_id, clock.boot_ms = "another-boot", 10
    await close_left_open(port, clock, user_id="user", run_id="run")
    assert (await published(port))[-1].end_boottime_ms == start_ms + LEASE_MS
