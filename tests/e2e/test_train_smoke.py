"""From eight watched traces to a module that does the chore elsewhere, in the real child."""

import asyncio
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from services.agent_runner.sandbox import Sandbox
from services.agent_trainer.child import run_child
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from services.task_learner.synthesis import learn
from shared.artifacts import Artifacts
from shared.bus.base import Effects
from shared.encoding import encode, step_of
from shared.manifest import OPS, ActionEntry, Status
from shared.module import parse, sign, verify
from shared.screen import check_post_condition, check_screen
from shared.signing import SigningKey
from shared.topics import Room
from tests.unit.agent_trainer.club import Club, demonstrations, routine

# A child loads torch, which a busy machine makes slow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MAX_STEPS = 30


CODE = learn(["phone"], [(["1 2"], "2"), (["3 4"], "4"), (["5 6"], "6")])


def give_to_learner(root, traces, snapshots):
    """Store traces and snapshots as the learner does; return the traces' digests."""
    files, effects = Artifacts(root, Room.TASK_LEARNER), Effects(Room.TASK_LEARNER)
    for snapshot in snapshots.values():
        files.put(snapshot.model_dump_json().encode(), effects)
    return [files.put(trace.model_dump_json().encode(), effects) for trace in traces]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the module as the child wrote it, signed, and the child's lines."""
    root = tmp_path_factory.mktemp("trained")
    traces, snapshots = demonstrations(8, num_sessions=4)
    digests = give_to_learner(root, traces, snapshots)
    shown = routine(traces, digests)
    parameters = [
        p.model_copy(update={"programme": CODE}) if p.name == "code" else p
        for p in shown.parameters
    ]
    order = Order(
        routine=shown.model_copy(update={"parameters": tuple(parameters)}),
        data_digest="0" * 64, artifacts=root, folder=root,
        cpu_limit_s=300, memory_limit_bytes=4 * 2**30,
    )  # fmt: skip
    lines = []

    async def train():
        return await run_child(
            order.model_dump_json(), on_line=lines.append, wall_limit_s=600, stop=asyncio.Event()
        )

    done = asyncio.run(train())
    assert lines[-1] == done
    key = SigningKey.generate()
    return sign((root / "module.wasm").read_bytes(), key), key, lines


class Hands:
    """The sandbox's host: acts on a club."""

    allowed_ops = frozenset(OPS)

    def __init__(self, club, values):
        self.club, self.values = club, values
        self.elements = ()
        self.screen = None
        self.history = []

    def look(self, slots):
        self.screen = self.club.screen()
        encoded = encode(self.screen, [(s, self.values[s]) for s in slots], self.history)
        self.elements = encoded.elements
        x = np.frombuffer(encoded.x, np.float32).reshape(len(self.elements), -1)
        return x, np.frombuffer(encoded.g, np.float32)

    def perform(self, op, element, slot, key):
        index = self.elements[element]
        acted_on = next(e for e in self.screen.elements if e.index == index)
        self.club.act(ActionEntry(op=op, slot=slot, key=key), index, self.values.get(slot))
        self.history.append(step_of(acted_on, op, slot))
        return 0


def play(module, key, club, record):
    """Let the module do the chore; return how it ended."""
    proved = verify(module, granted=tuple(OPS), trusted_keys=[key.public])
    manifest = proved.manifest
    hands = Hands(club, {**record, **manifest.constants})
    with Sandbox(proved, hands) as sandbox:
        for _ in range(MAX_STEPS):
            x, g = hands.look(manifest.slots)
            if reason := check_screen(manifest.screen_schema, hands.screen, hands.values):
                return f"stopped: {reason}"
            outcome = sandbox.step(x, g)
            if outcome.status == Status.ABSTAINED:
                return f"unsure at {outcome.margin:.2f}"
            if outcome.status == Status.FINISHED:
                wrong = check_post_condition(manifest.post_condition, hands.screen, hands.values)
                return "not confirmed: " + wrong if wrong else "done"
    return "endless"


def test_the_module_says_how_a_value_follows_from_another(trained):
    assert parse(trained[0]).manifest.programmes == {"code": CODE}


def test_it_does_unseen_records_at_permuted_places_and_none_wrongly(trained):
    module, key, _ = trained
    right = wrong = 0
    endings = []
    for seed in range(200, 220):
        club = Club(seed)
        record = random.Random(seed).choice(club.records)  # noqa: S311
        endings.append(play(module, key, club, record))
        if endings[-1] == "done":
            right += club.saved == [record]
            wrong += club.saved != [record]
        wrong += any(saved != record for saved in club.saved) and endings[-1] != "done"
    assert wrong == 0
    assert right >= 19, endings


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"extra_field": "Cost centre"}, "cost centre"),
        ({"save_label": "Enrol and mail everybody"}, "enrol and mail everybody"),
        ({"town_label": "Billing country"}, "billing country"),
        ({"asks": True}, "entrance fee"),
    ],
)
def test_a_page_that_changed_is_not_acted_on(trained, changes, names):
    module, key, _ = trained
    club = Club(77, **changes)
    ending = play(module, key, club, club.records[3])
    assert ending.startswith("stopped: ")
    assert names in ending
    assert club.saved == []


def test_a_name_that_another_begins_with_is_told_apart(trained):
    module, key, _ = trained
    for seed in range(300, 306):
        club = Club(seed)
        twin = next(r for r in club.records if r["member"].endswith("-Zell"))
        short = next(r for r in club.records if r["member"] + "-Zell" == twin["member"])
        for record in (short, twin):
            club.url, club.saved = "/applicants", []
            assert play(module, key, club, record) == "done"
            assert club.saved == [record]


def test_the_figures_are_told(trained):
    _, _, lines = trained
    events = [line["event"] for line in lines]
    assert events[0] == "reading"
    assert events[-1] == "done"
    assert events.count("epoch") >= 2
    done = lines[-1]
    assert done["metrics"]["held_out_step_accuracy"] >= 0.9
    assert done["metrics"]["agreement_with_torch"] >= 0.995
    assert len(done["curves"]["held_out_loss"]) == len(done["curves"]["loss"])


def test_the_module_carries_no_value_that_was_watched(trained):
    module, _, _ = trained
    text = parse(module).manifest.canonical_json().decode().casefold()
    traces, _ = demonstrations(8, num_sessions=4)
    for trace in traces:
        for name in ("member", "phone", "code"):
            assert trace.parameters[name].casefold() not in text


def test_the_child_dies_with_the_service(tmp_path):
    traces, snapshots = demonstrations(8)
    order = Order(
        routine=routine(traces, give_to_learner(tmp_path, traces, snapshots)),
        options=TrainOptions(num_variants=200, num_epochs=500, patience=100),
        data_digest="0" * 64, artifacts=tmp_path, folder=tmp_path,
        cpu_limit_s=300, memory_limit_bytes=4 * 2**30,
    )  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "services.agent_trainer.train"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdin.write(order.model_dump_json() + "\n")
    child.stdin.flush()
    assert json.loads(child.stdout.readline())["event"] == "reading"
    child.stdin.close()  # as the system does when the service is killed
    assert child.wait(60) == 3
    child.stdout.close()
    assert not (tmp_path / "module.wasm").exists()
