import json
import lzma

from services.agent_trainer.instructed import read_instructed
from shared.artifacts import Artifacts
from shared.schemas import Snapshot, Trace
from shared.topics import Room
from tests.bench.agents_data import read_recordings, write_routine

LABELS = ("task-label", "batch-label", "sitting-label", "reward")


def dom(tag, ref, *children, **more):
    box = {"left": 0, "top": 60, "width": 20, "height": 10, "classes": "", "id": ""}
    return {"tag": tag, "ref": ref, "children": list(children), **box, **more}


def recorded(name, number, reward=1):
    def tree(target=None):
        links = [
            dom("SPAN", 3 + i, text=text, classes="pick", recordingTarget=i == target)
            for i, text in enumerate(("ann", "bob", "cat"))
        ]  # fmt: skip
        return dom("BODY", 1, dom("DIV", 2, *links))

    at = ("ann", "bob", "cat").index(name)
    kinds = (None, "mousedown", "mouseup", "click")
    return {
        "task": LABELS[0], "batch": LABELS[1], "session": f"{LABELS[2]} {number % 3}",
        "demo": number, "utterance": f"Pick {name} from the list", "rawReward": reward,
        "states": [
            {"time": 10 * i, "action": kind and {"type": kind}, "dom": tree(kind and at)}
            for i, kind in enumerate(kinds)
        ],
    }  # fmt: skip


def write(folder, *demonstrations):
    file = folder / "some.jsonl.xz"
    lines = "".join(json.dumps(d) + "\n" for d in demonstrations)
    file.write_bytes(lzma.compress(lines.encode()))
    return file


def test_only_successes_are_learnt_from_and_no_more_than_asked(tmp_path):
    made = [recorded("ann", i, reward=(1, -1)[i % 2]) for i in range(10)]
    assert len(read_recordings(write(tmp_path, *made), limit=3).lines) == 3
    assert len(read_recordings(write(tmp_path, *made)).lines) == 5


def test_nothing_that_a_recording_says_of_itself_reaches_the_trainer(tmp_path):
    made = [recorded(name, i) for i, name in enumerate(("ann", "bob", "cat") * 2)]
    routine = write_routine(read_recordings(write(tmp_path, *made)), tmp_path / "artifacts")
    kept = [file.read_text() for file in (tmp_path / "artifacts").rglob("*") if file.is_file()]
    told = routine.model_dump_json() + "".join(kept)
    assert not any(label in told for label in LABELS)
    assert len({ref.session for ref in routine.traces}) == 3


def test_the_routine_is_one_that_can_be_trained(tmp_path):
    made = [recorded(name, i) for i, name in enumerate(("ann", "bob", "cat") * 2)]
    routine = write_routine(read_recordings(write(tmp_path, *made)), tmp_path / "artifacts")
    artifacts = Artifacts(tmp_path / "artifacts", Room.TASK_LEARNER)
    traces = [Trace.model_validate_json(artifacts.get(ref.digest)) for ref in routine.traces]
    chore = read_instructed(
        routine,
        traces,
        lambda digest: Snapshot.model_validate_json(artifacts.get(digest)),
        needs_result=False,
    )
    assert [d.values["goal_1"] for d in chore.demonstrations] == ["ann", "bob", "cat"] * 2
    assert all(d.states[0].action.op == "click" for d in chore.demonstrations)
