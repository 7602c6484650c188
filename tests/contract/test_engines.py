"""One module file decides the same, bit for bit, in wasmtime, Node.js and Chromium.

The module is trained here on instructed demonstrations and exported as the trainer
does it; the decisions are those of more than a thousand varied screens.
"""

import base64
import json
import random
import shutil
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from services.agent_runner.sandbox import Sandbox  # noqa: E402
from services.agent_trainer.dataset import build, variants  # noqa: E402
from services.agent_trainer.evaluate import decide_all  # noqa: E402
from services.agent_trainer.export import export  # noqa: E402
from services.agent_trainer.instructed import read_instructed  # noqa: E402
from services.agent_trainer.options import TrainOptions  # noqa: E402
from services.agent_trainer.train import Forgettable, fit  # noqa: E402
from shared.encoding_goal import (  # noqa: E402
    GOAL_ENCODING_VERSION,
    GOAL_HASHED_CONTEXT,
    GOAL_HASHED_ELEMENT,
    GOAL_NUM_STEPS,
    GOAL_PLACES,
)
from shared.manifest import Network, Status  # noqa: E402
from shared.module import parse, sign, verify  # noqa: E402
from shared.page import Browser  # noqa: E402
from shared.schemas import (  # noqa: E402
    Action,
    Element,
    Level,
    Origin,
    Routine,
    RoutineStatus,
    Snapshot,
    SnapshotElement,
    Source,
    Text,
    Trace,
    UiEvent,
)
from shared.signing import SigningKey  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(400)]

NAMES = ("Ana", "Bo", "Cyril", "Dee", "Eli", "Flo", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou")
KEY = SigningKey.generate()

# The same text runs in both: what it returns is one list of numbers for each decision.
_DECIDE = """async (wasm, observations, counts, features, context) => {
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const compiled = await WebAssembly.compile(bytes(wasm));
  let calls = [];
  const wat = {};
  for (const {name} of WebAssembly.Module.imports(compiled))
    wat[name] = (...numbers) => { calls.push(name, ...numbers); return 0; };
  const guest = (await WebAssembly.instantiate(compiled, {wat})).exports, at = k => guest[k].value;
  const values = new Float32Array(bytes(observations).buffer), found = [];
  let next = 0;
  const put = (offset, count) => {
    new Float32Array(guest.memory.buffer, offset, count).set(values.subarray(next, next += count));
  };
  for (const num of counts) {
    for (let e = 0; e < num; e++) put(at("x") + e * at("x_stride"), features);
    put(at("g"), context);
    calls = [];
    new Int32Array(guest.memory.buffer, at("num_elements"), 1)[0] = num;
    guest.step();
    const told = new Int32Array(guest.memory.buffer, at("outcome"), 8);
    found.push([told[7], ...told.slice(0, 6), ...calls]);
  }
  return found;
}"""


def shown(number):
    """Return one recorded execution and its screen: a list of people, one of whom is sent to."""
    order = random.Random(number).sample(NAMES, len(NAMES))  # noqa: S311
    wanted = NAMES[number % len(NAMES)]

    def element(index, tag, role, text=None, **more):
        return SnapshotElement(
            index=index, tag=tag, role=role, text=text and Text(clear=text), **more
        )

    digest = f"{number:064x}"
    screen = Snapshot(
        application="app", level=Level.VALUES,
        elements=(
            element(0, "div", "generic", f"Pick {wanted} and press Send", element_id="task"),
            *(element(1 + i, "span", "generic", n, classes=("p",)) for i, n in enumerate(order)),
            element(20, "button", "button", "Send", name=Text(clear="Send")),
            element(21, "button", "button", "Cancel", name=Text(clear="Cancel")),
        ),
    )  # fmt: skip

    def click(seq, index, role):
        return UiEvent(
            id=f"{number}-{seq}", time_ms=seq, user_id="u", source=Source.REPLAY, seq=seq,
            session=f"s{number % 4}", action=Action.CLICK, application="app", level=Level.VALUES,
            element=Element(role=role, index=index), snapshot=digest,
        )  # fmt: skip

    events = (click(1, 1 + order.index(wanted), "generic"), click(2, 20, "button"))
    trace = Trace(trace_id=f"t{number}", routine_id="r", user_id="u", events=events, parameters={})
    return trace, digest, screen


@pytest.fixture(scope="module")
def trained():
    """Return a chore, a policy trained a little on it, and more than 1,000 decisions."""
    torch.set_num_threads(1)
    made = [shown(number) for number in range(12)]
    routine = Routine(
        id="r", time_ms=0, routine_id="r", revision=1, user_id="u", name="send",
        origin=Origin.MINED, status=RoutineStatus.APPROVED, level=Level.VALUES,
        applications=("app",), steps=(), parameters=(), support=len(made), coverage=1, median_ms=1,
    )  # fmt: skip
    screens = {digest: screen for _, digest, screen in made}
    chore = read_instructed(
        routine, [trace for trace, _, _ in made], screens.__getitem__, needs_result=False
    )
    options = TrainOptions()
    network = Network(
        num_features=chore.sizes[0], num_context=chore.sizes[1], num_actions=len(chore.actions),
        element=options.element_widths, context=options.context_widths,
        score=options.score_widths,
    )  # fmt: skip
    data = build(variants(chore.demonstrations, chore, 45, 0), chore, 60_000)
    forgets = Forgettable(GOAL_HASHED_ELEMENT, GOAL_HASHED_CONTEXT, GOAL_PLACES, GOAL_NUM_STEPS)
    learnt = build(variants(chore.demonstrations, chore, 8, 1), chore, 60_000)
    policy = fit(network, learnt, None, options, forgets=forgets, num_epochs=3).policy
    return routine, chore, policy, data


def exported(trained, min_agreement):
    """Return the signed module; half of the decisions are too unsure for it."""
    routine, chore, policy, data = trained
    threshold = float(np.median([decision.margin for decision in decide_all(policy, data)]))
    made = export(
        policy, routine=routine, chore=chore, threshold=threshold, checked=data,
        options=TrainOptions().model_copy(update={"min_agreement": min_agreement}),
        figures={"training": {}, "held_out": {}},
        data_digest="0" * 64,
    )  # fmt: skip
    return sign(made.module, KEY)


class _Hands:
    def __init__(self, manifest):
        self.allowed_ops, self.manifest, self.calls = manifest.capabilities, manifest, []

    def perform(self, op, element, slot, key):
        argument = () if slot is None else (self.manifest.slots.index(slot),)
        self.calls += [op, element, *argument]
        return 0


def in_wasmtime(module, observations):
    """Return the numbers that `_DECIDE` does, as the runner's sandbox leaves them."""
    verified = verify(
        module, granted=parse(module).manifest.capabilities, trusted_keys=[KEY.public]
    )
    hands, found = _Hands(verified.manifest), []
    with Sandbox(verified, hands) as sandbox:
        for x, g in observations:
            hands.calls = []
            o = sandbox.step(x, g)
            places = (o.element, o.action, o.runner_up_element, o.runner_up_action)
            bits = np.array([o.logit, o.margin], np.float32).view(np.int32)
            found.append([o.status, *places, *bits.tolist(), *hands.calls])
    return found


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine")
@pytest.mark.parametrize("min_agreement", [0.9, 1.1], ids=["int8", "f32"])
async def test_a_thousand_decisions_are_the_same_in_wasmtime_node_and_chromium(
    trained, tmp_path, min_agreement
):
    module = exported(trained, min_agreement)
    assert parse(module).manifest.precision == ("int8" if min_agreement < 1 else "f32")
    assert parse(module).manifest.encoding == GOAL_ENCODING_VERSION
    data = trained[3]
    observations = [data.observation(e) for e in range(data.num_decisions)]
    assert len(observations) >= 1_000
    mine = in_wasmtime(module, observations)
    assert {Status.ACTED, Status.ABSTAINED} <= {numbers[0] for numbers in mine}
    assert len({numbers[1] for numbers in mine}) > 6

    packed = b"".join(x.tobytes() + g.tobytes() for x, g in observations)
    arguments = [
        base64.b64encode(module).decode(), base64.b64encode(packed).decode(),
        [len(x) for x, _ in observations], data.x_MF.shape[1], data.g_EG.shape[1],
    ]  # fmt: skip
    (tmp_path / "given.json").write_text(json.dumps(arguments))
    (tmp_path / "run.cjs").write_text(
        f"({_DECIDE})(...JSON.parse(require('fs').readFileSync(process.argv[2])))"
        ".then(found => console.log(JSON.stringify(found)));"
    )
    ran = subprocess.run(
        ["node", str(tmp_path / "run.cjs"), str(tmp_path / "given.json")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(ran.stdout) == mine

    browser = await Browser.launch(tmp_path / "profile", headless=True)
    try:
        page = await browser.contexts[0].new_page()
        assert await page.evaluate(f"given => ({_DECIDE})(...given)", arguments) == mine
    finally:
        await browser.close()
