"""agent-trainer on a real log: routines in at one end, models out at the other."""

import asyncio
import contextlib
import json

import httpx
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.agent_trainer.main import Settings, build
from shared.api import create_app
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects, open_bus
from shared.clock import FakeClock
from shared.manifest import OPS, ActionEntry, Manifest, Network, capabilities_of
from shared.module import (
    emit,
    parse,
    random_weights,
    reference_logits,
    sign,
    synthetic_observation,
    verify,
)
from shared.schemas import (
    ForgetRange,
    Level,
    ModelCard,
    ModelKind,
    ModelStatus,
    RoutineStatus,
    decode,
)
from shared.service import Service
from shared.settings import CommonSettings
from shared.signing import SigningKey
from shared.topics import Room, Topic
from tests.unit.agent_trainer.club import demonstrations, routine

pytestmark = pytest.mark.timeout(400)  # a child loads torch, which a busy machine makes slow

TOKEN = "t" * 40
QUICK = {"num_variants": 2}


class Desk:
    """The trainer beside the rooms that feed it, on one log in a folder."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.clock = FakeClock()
        self.settings = Settings(**settings)
        self.common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
        self.learner_files = Artifacts(self.common.data_dir / "artifacts", Room.TASK_LEARNER)

    async def open(self):
        self.common.make_folders()
        self.bus = open_bus(f"log:{self.folder / 'log'}", self.folder / "state", self.clock)
        self.learner = await self.bus.open_port(Room.TASK_LEARNER, (), ARTIFACT_TABLE, "")
        self.monitor = await self.bus.open_port(Room.USER_MONITOR, (), ARTIFACT_TABLE, "")
        self.logic, router = build(self.settings, self.common, self.clock)
        self.service = Service(self.logic, router, self.common, self.clock)
        await self.service.open(self.bus, "")
        self.stop = asyncio.Event()
        self.running = asyncio.create_task(self.service.run(self.stop))
        app = create_app([self.service], self.common, TOKEN)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1/v1/agent-trainer",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )

    async def close(self):
        self.stop.set()
        await self.running
        await self.http.aclose()
        await self.learner.close()
        await self.monitor.close()
        await self.bus.close()

    async def publish(self, *routines):
        effects = Effects(Room.TASK_LEARNER)
        for record in routines:
            effects.publish(record)
        await self.learner.commit(effects)

    async def forget(self, **fields):
        effects = Effects(Room.USER_MONITOR)
        effects.publish(ForgetRange(id="f1", time_ms=10**12, user_id="u", **fields))
        await self.monitor.commit(effects)

    async def learn(self, num=4, num_sessions=1):
        """Keep a routine's artifacts as the learner does; return its record."""
        traces, snapshots = demonstrations(num, num_sessions=num_sessions)
        effects = Effects(Room.TASK_LEARNER)
        for snapshot in snapshots.values():
            self.learner_files.put(snapshot.model_dump_json().encode(), effects)
        digests = [self.learner_files.put(t.model_dump_json().encode(), effects) for t in traces]
        await self.learner.commit(effects)
        return routine(traces, digests)

    async def cards(self):
        found = []
        for partition, (first, following) in (await self.bus.bounds(Topic.MODELS)).items():
            for m in await self.bus.read(Topic.MODELS, partition, first, following - first):
                found.append(decode(m.value, m.headers))
        return found

    async def until(self, what, timeout_s=300):
        async with asyncio.timeout(timeout_s):
            while not (found := await what()):
                await asyncio.sleep(0.05)
        return found

    async def trainings(self):
        return (await self.http.get("/trainings")).json()["items"]

    async def ended(self, number=1):
        async def all_ended():
            found = await self.trainings()
            done = [t for t in found if t["state"] in ("done", "failed", "cancelled")]
            return found if len(done) == len(found) == number else None

        return await self.until(all_ended)

    async def settled(self):
        """Wait until the room has read all there is."""

        async def nothing_left():
            now = await self.service.progress.measure(self.service.port)
            return not any(one.num_unhandled for one in now.inputs)

        await asyncio.sleep(0.2)
        await self.until(nothing_left)


@contextlib.asynccontextmanager
async def desk_in(folder, **settings):
    desk = Desk(folder, **settings)
    await desk.open()
    try:
        yield desk
    finally:
        await desk.close()


def foreign_module(key=None, routine_id="routine-far"):
    network = Network(num_features=3, num_context=2, num_actions=1, element=(8,), context=(8,))
    actions = (ActionEntry(op="click"),)
    manifest = Manifest(
        encoding=1, routine_id=routine_id, routine_revision=1, name="Far", actions=actions,
        network=network, margin_threshold=1, capabilities=capabilities_of(actions),
        data_digest="0" * 64, git_revision="x",
    )  # fmt: skip
    module = emit(manifest, random_weights(network, 1))
    return sign(module, key) if key else module


async def check_exports(desk, card, manifest, folder):
    """See that weights, config and ONNX are one network, and that TensorBoard reads the log."""
    config = (await desk.http.get(f"/models/{card.id}/config")).json()
    assert Manifest.model_validate(config) == manifest
    weights = load((await desk.http.get(f"/models/{card.id}/weights")).content)
    assert {k: v.shape for k, v in weights.items()} == manifest.network.parameter_shapes()
    onnx = (await desk.http.get(f"/models/{card.id}/onnx")).content
    session = onnxruntime.InferenceSession(onnx)
    for seed in range(5):
        x, g = synthetic_observation(manifest.network, seed)
        logits, _ = reference_logits(manifest.network, weights, x, g)
        found, _ = session.run(None, {"x": x, "g": g[None]})
        assert np.abs(found - logits).max() < 1e-4
    answer = await desk.http.get(f"/trainings/{card.id}/tensorboard")
    folder.mkdir()
    name = answer.headers["content-disposition"].split('"')[1]
    (folder / name).write_bytes(answer.content)
    read = EventAccumulator(str(folder)).Reload()
    losses = [event.value for event in read.Scalars("trial/loss")]
    assert losses == pytest.approx(card.curves["loss"], abs=1e-4)
    assert read.Scalars("final/loss")


@pytest.mark.slow
async def test_an_approved_routine_becomes_a_signed_model_once(tmp_path):
    async with desk_in(tmp_path, **QUICK) as desk:
        record = await desk.learn(num=5)
        proposed = record.model_copy(update={"status": RoutineStatus.PROPOSED})
        await desk.publish(proposed, record, record)
        [training] = await desk.ended()
        assert training["state"] == "done", training["reason"]
        [card] = await desk.cards()
        assert card.status is ModelStatus.READY
        assert card.id == training["id"]
        assert card.subject_id == record.routine_id
        assert card.metrics["held_out_step_accuracy"] >= 0.9
        assert card.curves["loss"]
        module = (await desk.http.get(f"/models/{card.id}/module")).content
        public = (tmp_path / "data" / "keys" / "module-signing.pub").read_text().strip()
        assert card.signer == public
        proved = verify(module, granted=tuple(OPS), trusted_keys=[bytes.fromhex(public)])
        assert proved.manifest.routine_id == record.routine_id
        await check_exports(desk, card, proved.manifest, tmp_path / "events")
        secret = tmp_path / "data" / "keys" / "module-signing.key"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert (await desk.http.get("/models")).json()["items"][0]["id"] == card.id

        events = (await desk.http.get(f"/trainings/{card.id}/events")).text
        lines = [json.loads(x[6:]) for x in events.splitlines() if x.startswith("data: ")]
        assert lines[0]["event"] == "reading"
        assert lines[-1] == {"event": "done"}
        assert any("held_out_accuracy" in line for line in lines)

        ignored = record.model_copy(update={"status": RoutineStatus.IGNORED, "time_ms": 5})
        await desk.publish(ignored)

        async def retired():
            return [c for c in await desk.cards() if c.status is ModelStatus.RETIRED]

        [card] = await desk.until(retired)
        assert card.artifact is None
        assert not list((tmp_path / "data" / "trainings").iterdir())


@pytest.mark.slow
async def test_a_routine_that_cannot_be_learnt_says_why_on_its_card(tmp_path):
    async with desk_in(tmp_path, **QUICK) as desk:
        traces, _ = demonstrations(3)
        await desk.publish(routine(traces))  # its artifacts are gone
        [training] = await desk.ended()
        assert training["state"] == "failed"
        [card] = await desk.cards()
        assert card.status is ModelStatus.FAILED
        assert "gone" in card.reason
        assert (await desk.http.get(f"/models/{card.id}/module")).status_code == 404


async def test_an_application_kept_as_structure_is_not_trained_on(tmp_path):
    async with desk_in(tmp_path) as desk:
        record = await desk.learn()
        await desk.publish(record.model_copy(update={"level": Level.STRUCTURE}))
        await desk.ended()
        [card] = await desk.cards()
        assert "allow `values`" in card.reason


async def test_nothing_is_trained_before_it_is_approved(tmp_path):
    async with desk_in(tmp_path) as desk:
        record = await desk.learn()
        await desk.publish(record.model_copy(update={"status": RoutineStatus.PROPOSED}))
        await desk.settled()
        assert await desk.trainings() == []


async def test_with_auto_train_a_proposal_is_enough_and_it_can_be_cancelled(tmp_path):
    async with desk_in(tmp_path, auto_train=True) as desk:
        record = await desk.learn()
        await desk.publish(record.model_copy(update={"status": RoutineStatus.PROPOSED}))

        async def under_way():
            return [t for t in await desk.trainings() if t["state"] == "running"]

        [training] = await desk.until(under_way)
        answer = await desk.http.post(f"/trainings/{training['id']}/cancel")
        assert answer.status_code == 202
        [ended] = await desk.ended()
        assert ended["state"] == "cancelled"
        assert await desk.cards() == []
        again = await desk.http.post(f"/trainings/{training['id']}/cancel")
        assert again.status_code == 409
        assert (await desk.http.get("/trainings/none")).status_code == 404


@pytest.mark.slow
async def test_a_cancelled_training_goes_on_when_it_is_asked_for_again_and_not_when_forgotten(
    tmp_path,
):
    folders = tmp_path / "data" / "trainings"
    async with desk_in(tmp_path, **QUICK) as desk:
        record = await desk.learn(num=5)
        again = record.model_copy(update={"train": 1, "revision": 2})

        async def kept():
            return list(folders.glob("*/trial.safetensors"))

        async def cancel_when_kept():
            await desk.until(kept)
            [running] = [t for t in await desk.trainings() if t["state"] == "running"]
            await desk.http.post(f"/trainings/{running['id']}/cancel")

        await desk.publish(record)
        await cancel_when_kept()
        await desk.ended()
        assert await kept()
        await desk.publish(again)
        [newest] = [t for t in await desk.ended(2) if t["revision"] == 2]
        assert newest["state"] == "done", newest["reason"]
        assert any(line["event"] == "resumed" for line in desk.logic.told(newest["id"]))
        assert not list(folders.iterdir())

        await desk.publish(again.model_copy(update={"train": 2, "revision": 3}))
        await cancel_when_kept()
        await desk.ended(3)
        await desk.forget()
        await desk.settled()
        assert await desk.trainings() == []
        assert not list(folders.iterdir())


async def test_it_is_trained_again_only_for_twice_the_support_or_when_asked(tmp_path):
    async with desk_in(tmp_path) as desk:
        traces, _ = demonstrations(4)
        digests = [f"{i:064d}" for i in range(4)]
        record = routine(traces, digests, support=4, level=Level.STRUCTURE)
        more = routine(traces, [*digests[1:], "f" * 64], support=7, level=Level.STRUCTURE)
        await desk.publish(record)
        await desk.ended()
        await desk.publish(more)
        await desk.settled()
        assert len(await desk.trainings()) == 1
        await desk.publish(more.model_copy(update={"train": 1}))
        await desk.ended(2)
        await desk.publish(record.model_copy(update={"support": 14, "revision": 3, "train": 1}))
        await desk.ended(3)


async def test_a_forgotten_session_takes_the_model_with_it(tmp_path):
    async with desk_in(tmp_path) as desk:
        traces, _ = demonstrations(4, num_sessions=2)
        record = routine(traces, [f"{i:064d}" for i in range(4)], level=Level.STRUCTURE)
        await desk.publish(record)
        await desk.ended()
        await desk.forget(session="session-1")

        async def retired():
            return [c for c in await desk.cards() if c.status is ModelStatus.RETIRED]

        [card] = await desk.until(retired)
        assert "forgotten" in card.reason
        await desk.publish(record)  # still names what is forgotten: left alone
        await desk.settled()
        assert await desk.trainings() == []
        kept = [t for t in record.traces if t.session == "session-0"]
        newer = record.model_copy(
            update={"traces": tuple(kept), "revision": 2, "time_ms": 10**12 + 1}
        )
        await desk.publish(newer)
        await desk.ended()


async def test_everything_forgotten_deletes_the_model(tmp_path):
    async with desk_in(tmp_path) as desk:
        traces, _ = demonstrations(3)
        await desk.publish(routine(traces, level=Level.STRUCTURE))
        await desk.ended()
        await desk.forget()

        async def deleted():
            return [c for c in await desk.cards() if c.status is ModelStatus.DELETED]

        await desk.until(deleted)
        assert (await desk.http.get("/models")).json()["items"] == []


async def test_a_module_from_elsewhere_is_taken_in_and_deleted(tmp_path):
    async with desk_in(tmp_path) as desk:
        key = SigningKey.generate()
        module = foreign_module(key)
        answer = await desk.http.post("/models/import", content=module)
        assert answer.status_code == 201, answer.text
        assert answer.json()["signer"] == key.public.hex()
        twice = await desk.http.post("/models/import", content=module)
        assert twice.status_code == 409
        replaced = await desk.http.post("/models/import?replace=true", content=module)
        assert replaced.status_code == 201
        unsigned = await desk.http.post("/models/import", content=foreign_module())
        assert unsigned.status_code == 422
        cut = await desk.http.post("/models/import", content=module[:-9])
        assert cut.status_code == 422
        assert cut.headers["content-type"] == "application/problem+json"
        assert (await desk.http.get("/models/routine-far/onnx")).status_code == 404
        exported = (await desk.http.get("/models/routine-far/module")).content
        assert parse(exported).digest == parse(module).digest
        assert (await desk.http.delete("/models/routine-far")).status_code == 204
        assert (await desk.cards())[-1].status is ModelStatus.DELETED
        assert (await desk.http.delete("/models/routine-far")).status_code == 404


async def test_only_cards_of_adapters_are_taken(tmp_path):
    async with desk_in(tmp_path) as desk:
        card = ModelCard(
            id="a1", time_ms=1, kind=ModelKind.ADAPTER, subject_id="adapter-1", name="Assistant",
            status=ModelStatus.READY, base="some/base",
        )  # fmt: skip
        answer = await desk.http.post("/cards", json=card.model_dump(mode="json"))
        assert answer.status_code == 201
        assert (await desk.cards())[-1] == card
        agent = card.model_copy(update={"kind": ModelKind.AGENT, "subject_id": "x"})
        assert (
            await desk.http.post("/cards", json=agent.model_dump(mode="json"))
        ).status_code == 422


async def test_pages_follow_one_another(tmp_path):
    async with desk_in(tmp_path) as desk:
        for i in range(5):
            card = ModelCard(
                id=f"a{i}", time_ms=i, kind=ModelKind.ADAPTER, subject_id=f"s{i}", name="A",
                status=ModelStatus.READY,
            )  # fmt: skip
            await desk.http.post("/cards", json=card.model_dump(mode="json"))
        first = (await desk.http.get("/models?limit=2")).json()
        second = (await desk.http.get(f"/models?limit=2&cursor={first['next']}")).json()
        third = (await desk.http.get(f"/models?limit=2&cursor={second['next']}")).json()
        assert [c["id"] for p in (first, second, third) for c in p["items"]] == [
            "a4", "a3", "a2", "a1", "a0",
        ]  # fmt: skip
        assert third.get("next") is None
        assert (await desk.http.get("/models?cursor=AAAA")).status_code == 422


async def test_what_was_trained_outlives_a_restart(tmp_path):
    traces, _ = demonstrations(3)
    record = routine(traces, level=Level.STRUCTURE)
    async with desk_in(tmp_path) as desk:
        await desk.publish(record)
        await desk.ended()
    async with desk_in(tmp_path) as desk:
        await desk.publish(record)
        await desk.settled()
        assert len(await desk.trainings()) == 1
        assert len((await desk.http.get("/models")).json()["items"]) == 1


def test_settings_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="memory_limit_mib"):
        Settings(memory_limit_mib=1)
