"""task-learner on a real log: events in at one end, routines and traces out at the other."""

import contextlib
import hashlib
import random

import httpx
import pytest

from services.task_learner import told
from services.task_learner.main import Settings, build
from shared import tracing
from shared.api import create_app
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects, open_bus
from shared.clock import FakeClock
from shared.errors import ConflictError
from shared.schemas import (
    Action,
    ForgetRange,
    Level,
    Origin,
    ParameterSource,
    RoutineStatus,
    RunMark,
    Snapshot,
    Source,
    Trace,
    decode,
)
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.unit.task_learner import ui_logs
from tests.unit.task_learner.pages import Pages

CLAIM = [None, "New claim", "E-mail", "Full name", "Town", "Amount", "Currency", "Submit claim"]
MAIL = ["Sender", "Status", "Remark", "Scanned", "File letter"]


class Desk:
    """The learner beside the rooms that feed it, on one log in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = FakeClock(boot_id=ui_logs.BOOT)
        self.common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
        self.monitor_files = Artifacts(self.common.data_dir / "artifacts", Room.USER_MONITOR)
        self.files = Artifacts(self.common.data_dir / "artifacts", Room.TASK_LEARNER)

    async def open(self):
        self.common.make_folders()
        self.bus = open_bus(f"log:{self.folder / 'log'}", self.folder / "state", self.clock)
        self.monitor = await self.bus.open_port(Room.USER_MONITOR, (), ARTIFACT_TABLE, "")
        self.runner = await self.bus.open_port(Room.AGENT_RUNNER, (), ARTIFACT_TABLE, "")
        await self.open_learner()

    async def open_learner(self):
        self.logic, router = build(Settings(), self.common, self.clock)
        self.service = Service(self.logic, router, self.common, self.clock)
        await self.service.open(self.bus, "")

    async def restart(self):
        await self.service.port.close()
        await self.open_learner()

    async def close(self):
        for port in (self.service.port, self.monitor, self.runner):
            await port.close()
        await self.bus.close()

    async def publish(self, records, snapshots=None):
        effects = Effects(Room.USER_MONITOR)
        for data in (snapshots or {}).values():
            self.monitor_files.put(data, effects)
        for record in records:
            effects.publish(record)
        await self.monitor.commit(effects)

    async def mark(self, **fields):
        effects = Effects(Room.AGENT_RUNNER)
        effects.publish(RunMark(user_id="ada", boot_id=ui_logs.BOOT, **fields))
        await self.runner.commit(effects)

    async def drain(self, at_most=None, batch=50):
        """Handle what there is to read, in batches as the frame does."""
        port, done = self.service.port, 0
        while messages := await port.poll(min(batch, at_most or batch), 0.05):
            effects, positions = Effects(Room.TASK_LEARNER), {}
            for message in messages:
                self.logic.handle(decode(message.value, message.headers), message, effects)
                positions[message.topic, message.partition] = message.offset + 1
            await port.commit(effects, positions)
            done += len(messages)
            if at_most is not None and done >= at_most:
                return

    async def tick(self):
        effects = Effects(Room.TASK_LEARNER)
        self.logic.tick(effects)
        await self.service.port.commit(effects)

    async def tasks(self):
        """Return the newest record of each routine."""
        newest = {}
        for partition, (first, following) in (await self.bus.bounds(Topic.TASKS)).items():
            for m in await self.bus.read(Topic.TASKS, partition, first, following - first):
                record = decode(m.value, m.headers)
                newest[record.routine_id] = record
        return list(newest.values())

    async def live(self):
        found = [r for r in await self.tasks() if r.status is not RoutineStatus.DELETED]
        return sorted(found, key=lambda r: -r.support)

    def trace(self, ref):
        return Trace.model_validate_json(self.files.get(ref.digest))

    async def see_pages(self, pages, days=0):
        screens, events = {}, []
        for event in pages.events:
            data = pages.screens[event.snapshot]
            digest = hashlib.sha256(data).hexdigest()
            screens[digest] = data
            later_ms = days * 86_400_000
            events.append(event.model_copy(update={
                "snapshot": digest, "time_ms": event.time_ms + later_ms,
                "boottime_ms": event.boottime_ms + later_ms,
            }))  # fmt: skip
        await self.publish(events, screens)
        await self.drain()

    async def see(self, log):
        await self.publish(log.events, log.snapshots)
        await self.drain()


@contextlib.asynccontextmanager
async def desk_in(folder):
    desk = Desk(folder)
    await desk.open()
    try:
        yield desk
    finally:
        await desk.close()


def labels(routine):
    return [s.label for s in routine.steps]


async def test_a_routine_is_found_with_its_parameters_and_every_execution(tmp_path):
    log = ui_logs.person(1, claims=12)
    async with desk_in(tmp_path) as desk:
        await desk.see(log)
        [routine] = await desk.live()
        assert labels(routine) == CLAIM
        assert routine.status is RoutineStatus.PROPOSED
        assert routine.support == 12
        sources = {p.name: (p.source, p.label, p.document) for p in routine.parameters}
        assert sources == {
            "e_mail": (ParameterSource.SCREEN, "Mail", "desk/card/#"),
            "full_name": (ParameterSource.SCREEN, "Name", "desk/card/#"),
            "town": (ParameterSource.SCREEN, "Town", "desk/card/#"),
            "amount": (ParameterSource.TYPED, "Amount", None),
        }
        by_label = {s.label: s for s in routine.steps}
        assert by_label["Currency"].constant == "EUR"
        assert routine.steps[0].parameter == "full_name"
        ends = [log.events[i].id for _, _, i in log.chores]
        for ref, end, (_, values, _) in zip(routine.traces, ends, log.chores, strict=True):
            trace = desk.trace(ref)
            assert trace.events[-1].id == end
            assert trace.parameters == {
                "e_mail": values["mail"], "full_name": values["name"], "town": values["town"],
                "amount": values["amount"],
            }  # fmt: skip
            final = Snapshot.model_validate_json(desk.files.get(trace.final_snapshot))
            assert final.elements[0].text.clear == f"Claim of {values['name']} stored"
            for event in trace.events:
                assert event.snapshot is None or desk.files.get(event.snapshot)


async def test_two_routines_in_one_log_are_each_found(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(2, claims=12, mails=9))
        claim, mail = await desk.live()
        assert (labels(claim), claim.support) == (CLAIM, 12)
        assert (labels(mail), mail.support) == (MAIL, 9)


async def test_a_chore_that_a_sentence_tells_is_kept_with_all_that_was_done(tmp_path):
    pages = Pages(1).work(("choose",), 40)
    async with desk_in(tmp_path) as desk:
        await desk.see_pages(pages)
        [routine] = await desk.live()
        assert routine.told_by == ("tick", "and", "press", "save")
        assert routine.name == "tick and press save"
        assert routine.parameters == ()
        assert routine.status is RoutineStatus.CONFIRMED
        assert "a sentence on the screen" in routine.not_proposed
        case_of = {event.id: case for event, case in zip(pages.events, pages.truth, strict=True)}
        whole = 0
        for ref in routine.traces:
            ids = [event.id for event in desk.trace(ref).events]
            [case] = {case_of[i] for i in ids}
            whole += ids == [i for i, c in case_of.items() if c == case]
        assert whole >= 0.9 * len(routine.traces) >= 20
        await desk.restart()
        known = desk.logic.routines[routine.routine_id]
        assert known.told_by == routine.told_by
        assert [t.trace_id for t in known.traces.values()] == [t.trace_id for t in routine.traces]


async def test_a_chore_that_a_sentence_tells_stays_when_only_others_are_done(tmp_path, monkeypatch):
    monkeypatch.setattr(told, "_WINDOW", 150)
    async with desk_in(tmp_path) as desk:
        await desk.see_pages(Pages(1).work(("choose",), 40))
        [before] = await desk.live()
        await desk.see_pages(Pages(2, told=False, session="s2").work(("write",), 120), 1)
        [after] = [r for r in await desk.live() if r.told_by]
        assert after.routine_id == before.routine_id
        assert after.support >= before.support


async def test_a_chore_that_a_sentence_tells_is_told_by_it_again_after_it_was_gone(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see_pages(Pages(1).work(("choose",), 40))
        [before] = await desk.live()
        effects = Effects(Room.TASK_LEARNER)
        desk.logic._catalogue.delete(desk.logic.routines[before.routine_id], effects)
        await desk.service.port.commit(effects)
        assert await desk.live() == []
        await desk.restart()
        await desk.see_pages(Pages(2, session="s2").work(("choose",), 40), 1)
        [after] = await desk.live()
        assert (after.routine_id, after.told_by) == (before.routine_id, before.told_by)
        assert after.parameters == ()


async def test_words_that_only_some_sentences_share_leave_the_name(tmp_path):
    class Customer(Pages):
        def sentence(self, text):
            return super().sentence(text.replace("and press", "for Miller and press"))

    async with desk_in(tmp_path) as desk:
        await desk.see_pages(Customer(1).work(("choose",), 20))
        [before] = await desk.live()
        assert "miller" in before.told_by
        await desk.see_pages(Pages(2, session="s2").work(("choose",), 60), 1)
        [after] = await desk.live()
        assert after.routine_id == before.routine_id
        assert "miller" not in after.told_by
        assert "miller" not in after.name


async def test_nothing_is_found_in_a_shuffled_log(tmp_path):
    async with desk_in(tmp_path) as desk:
        for seed in range(3):
            log = ui_logs.person(seed, claims=12, mails=9, session=f"s{seed}")
            await desk.publish(ui_logs.shuffled(log))
            await desk.drain()
        assert await desk.live() == []


async def test_a_restart_at_any_point_changes_nothing(tmp_path):
    log = ui_logs.person(4, claims=9, mails=5)
    seen = []
    for name, stops in (("through", []), ("stopped", [60, 61, 130, 155, 170])):
        async with desk_in(tmp_path / name) as desk:
            await desk.publish(log.events, log.snapshots)
            for stop in stops:
                await desk.drain(at_most=stop)
                await desk.restart()
            await desk.drain()
            seen.append(
                [
                    r.model_dump(exclude={"id", "time_ms"})
                    for r in sorted(await desk.tasks(), key=lambda r: r.routine_id)
                ]
            )
    assert seen[0] == seen[1]


async def test_the_revision_stays_while_only_the_support_grows(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12))
        [before] = await desk.live()
        later = ui_logs.person(2, claims=8, session="s2", now_ms=1_700_100_000_000)
        await desk.see(later)
        [after] = await desk.live()
        assert after.routine_id == before.routine_id
        assert after.revision == before.revision
        assert after.support == 20


async def test_events_told_twice_count_once(tmp_path):
    log = ui_logs.person(1, claims=6)
    async with desk_in(tmp_path) as desk:
        await desk.see(log)
        await desk.see(log)
        [routine] = await desk.live()
        assert routine.support == 6


async def test_what_an_agent_did_is_not_learned_and_held_until_its_mark_ends(tmp_path):
    log = ui_logs.person(5, claims=8)
    first, last = log.events[0], log.events[-1]
    mark = {
        "run_id": "r1", "target": first.target, "start_boottime_ms": first.boottime_ms,
        "lease_ms": last.boottime_ms - first.boottime_ms,
    }  # fmt: skip
    async with desk_in(tmp_path) as desk:
        await desk.mark(id="m1", time_ms=1, renewed_boottime_ms=first.boottime_ms, **mark)
        await desk.see(log)
        assert await desk.live() == []
        await desk.restart()
        end = last.boottime_ms
        await desk.mark(id="m2", time_ms=2, renewed_boottime_ms=end, end_boottime_ms=end, **mark)
        await desk.drain()
        assert await desk.live() == []
        await desk.see(ui_logs.person(6, claims=8, session="s2", now_ms=last.time_ms + 60_000))
        [routine] = await desk.live()
        assert routine.support == 8


async def test_a_person_acting_after_a_run_on_the_same_tab_is_learned(tmp_path):
    log = ui_logs.person(5, claims=8)
    first = log.events[0]
    mark = {"run_id": "r1", "target": first.target, "start_boottime_ms": 1}
    async with desk_in(tmp_path) as desk:
        await desk.mark(
            id="m1", time_ms=1, renewed_boottime_ms=first.boottime_ms - 10_000,
            lease_ms=10_000_000, **mark,
        )  # fmt: skip
        await desk.see(log)
        assert await desk.live() == []
        await desk.mark(
            id="m2", time_ms=2, renewed_boottime_ms=first.boottime_ms - 5_000,
            end_boottime_ms=first.boottime_ms - 1_000, **mark,
        )  # fmt: skip
        await desk.drain()
        [routine] = await desk.live()
        assert routine.support == 8


async def test_a_taught_routine_needs_one_demonstration(tmp_path):
    log = ui_logs.Log(random.Random(3))  # noqa: S311
    for number in (1, 2, 3):
        log.demonstration, log.showing = "File a claim", number
        ui_logs.claim(log, detours=0)
        log.demonstration = log.showing = None
        log.pause(20, 40)
        if number == 1:
            shown = len(log.events)
    async with desk_in(tmp_path) as desk:
        await desk.publish(log.events[:shown], log.snapshots)
        await desk.drain()
        assert await desk.live() == []
        desk.clock.advance(10_000)
        await desk.tick()
        [routine] = await desk.live()
        assert (routine.name, routine.origin) == ("File a claim", Origin.TAUGHT)
        assert routine.status is RoutineStatus.PROPOSED
        assert labels(routine) == CLAIM
        await desk.publish(log.events[shown:])
        await desk.drain()
        desk.clock.advance(10_000)
        await desk.tick()
        [routine] = await desk.live()
        assert routine.support == 3
        assert {p.name for p in routine.parameters} == {"e_mail", "full_name", "town", "amount"}
        assert [s.constant for s in routine.steps if s.label == "Currency"] == ["EUR"]


async def test_a_step_that_one_demonstration_lacks_is_left_out_and_listed(tmp_path):
    log = ui_logs.Log(random.Random(3))  # noqa: S311
    for number in (1, 2, 3):
        log.demonstration, log.showing = "Book a visit", number
        log.show("desk/visit", [])
        log.edit("desk/visit", "Guest", ui_logs.person_name(log.rng))
        if number != 2:
            log.add(Action.CLICK, "desk/visit", "checkbox", label="Breakfast")
        if number == 3:
            log.button("desk/visit", "Help")  # once: a detour
        log.button("desk/visit", "Book")
        log.demonstration = log.showing = None
        log.pause(20, 40)
    async with desk_in(tmp_path) as desk:
        await desk.see(log)
        desk.clock.advance(10_000)
        await desk.tick()
        await desk.restart()
        [known] = desk.logic.routines.values()
        for routine in (*await desk.live(), known.to_record(1)):
            assert labels(routine) == ["Guest", "Book"]
            [step] = routine.left_out
            assert (step.label, round(step.coverage, 2)) == ("Breakfast", 0.67)


async def test_forgetting_deletes_traces_and_then_the_routine(tmp_path):
    log = ui_logs.person(1, claims=7)
    _, values, end = log.chores[2]
    async with desk_in(tmp_path) as desk:
        await desk.see(log)
        [before] = await desk.live()
        forget = ForgetRange(
            id="f1", time_ms=1, user_id="ada", source=Source.BROWSER, session="s1",
            first_seq=end - 3, last_seq=end,
        )  # fmt: skip
        await desk.publish([forget])
        await desk.drain()
        [after] = await desk.live()
        assert (after.support, after.revision) == (6, before.revision + 1)
        assert log.events[end].id not in {
            e.id for ref in after.traces for e in desk.trace(ref).events
        }
        held = {d for (d,) in desk.service.port.store.query("SELECT digest FROM artifacts")}
        assert not any(values["amount"].encode() in desk.files.get(d) for d in held)
        everything = ForgetRange(
            id="f2", time_ms=log.now_ms, user_id="ada", source=None, session=None
        )
        await desk.publish([everything])
        await desk.drain()
        [gone] = await desk.tasks()
        assert gone.status is RoutineStatus.DELETED
        assert gone.steps == () == gone.traces
        store = desk.service.port.store
        for table in ("actions", "traces", "artifacts", "held"):
            assert store.query(f"SELECT count(*) FROM {table}") == [(0,)]


async def test_decisions_are_records_and_survive_restart_and_mining(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12, mails=9))
        claim, mail = await desk.live()
        await desk.logic.decide(claim.routine_id, RoutineStatus.APPROVED, train=True)
        await desk.logic.decide(mail.routine_id, name="Letters")
        await desk.logic.decide(mail.routine_id, RoutineStatus.IGNORED)
        await desk.restart()
        more = ui_logs.person(2, claims=9, mails=9, session="s2", now_ms=1_700_100_000_000)
        await desk.see(more)
        claim, mail = await desk.live()
        assert (claim.status, claim.train, claim.support) == (RoutineStatus.APPROVED, 1, 21)
        assert (mail.status, mail.name) == (RoutineStatus.IGNORED, "Letters")


async def test_rest_lists_shows_and_refuses(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12, mails=9))
        app = create_app([desk.service], desk.common, "t" * 40)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1",
            headers={"Authorization": "Bearer " + "t" * 40},
        ) as http:  # fmt: skip
            base = "/v1/task-learner/routines"
            first = (await http.get(base, params={"limit": 1})).json()
            second = (await http.get(base, params={"limit": 1, "cursor": first["next"]})).json()
            assert second["next"] is None
            names = [first["items"][0]["name"], second["items"][0]["name"]]
            assert names == ["Submit claim (5 fields)", "File letter (2 fields)"]
            routine_id = first["items"][0]["routine_id"]
            shown = (await http.get(f"{base}/{routine_id}")).json()
            trace_id = shown["traces"][0]["trace_id"]
            trace = (await http.get(f"{base}/{routine_id}/traces/{trace_id}")).json()
            assert trace["events"][-1]["element"]["name"]["clear"] == "Submit claim"
            forms = {
                "mermaid": b"flowchart", "bpmn": b"<?xml", "svg": b"<?xml", "png": b"\x89PNG",
                "xes": b"<?xml", "ocel": b"{",
            }  # fmt: skip
            for form, begins in forms.items():
                answer = await http.get(f"{base}/{routine_id}/export", params={"form": form})
                assert answer.content.startswith(begins)
            assert answer.headers["content-type"] == "application/json"
            assert len(answer.json()["events"]) >= 12 * 6
            wrong = await http.get(f"{base}/{routine_id}/export", params={"form": "docx"})
            assert wrong.status_code == 422
            assert (await http.get(f"{base}/nothing")).status_code == 404
            assert (await http.get(base, params={"cursor": "!"})).status_code == 422


async def test_a_routine_seen_at_level_structure_says_so_and_cannot_be_trained(tmp_path):
    async with desk_in(tmp_path) as desk:
        log = ui_logs.person(1, claims=12, level=Level.STRUCTURE)
        await desk.see(log)
        [routine] = await desk.live()
        assert routine.level is Level.STRUCTURE
        assert labels(routine) == CLAIM
        shared = [s.parameter for s in routine.steps]
        assert shared[0] == "full_name"
        with pytest.raises(ConflictError):
            await desk.logic.decide(routine.routine_id, RoutineStatus.APPROVED, train=True)


async def test_a_decision_belongs_to_the_trace_that_the_routine_came_of(tmp_path):
    contexts = [f"00-{n:032x}-00f067aa0ba902b7-01" for n in (1, 2)]
    async with desk_in(tmp_path) as desk:
        log = ui_logs.person(1, claims=12)
        await desk.publish(log.events, log.snapshots)
        with tracing.continued(contexts[0]):
            await desk.drain()
        [routine] = await desk.live()
        await desk.restart()
        with tracing.continued(contexts[1]):  # whatever is under way when a person decides
            await desk.logic.decide(routine.routine_id, RoutineStatus.APPROVED)
        end = (await desk.bus.bounds(Topic.TASKS))[0][1]
        [approved] = await desk.bus.read(Topic.TASKS, 0, end - 1, 1)
        assert decode(approved.value, approved.headers).status is RoutineStatus.APPROVED
        assert tracing.context_of(approved.headers) == contexts[0]


async def test_a_stream_whose_state_is_lost_is_begun_anew_with_the_window(tmp_path):
    async with desk_in(tmp_path) as desk:
        await desk.see(ui_logs.person(1, claims=12))
        [before] = await desk.live()
        await desk.service.port.store.write(lambda writer: writer.execute("DELETE FROM streams"))
        await desk.restart()
        later = ui_logs.person(2, claims=8, session="s2", now_ms=1_700_100_000_000)
        await desk.see(later)
        [after] = await desk.live()
        assert (after.routine_id, after.support) == (before.routine_id, 20)
        assert desk.service.port.store.query("SELECT count(*) FROM streams") == [(1,)]
