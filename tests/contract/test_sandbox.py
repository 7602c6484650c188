"""Each test attacks one property that services/agent_runner/sandbox.py promises."""

import dataclasses
import gc
import hashlib
import json
import shutil
import subprocess
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import wasmtime

from services.agent_runner.sandbox import (
    CALL_DENIED,
    CALL_FAILED,
    Sandbox,
    fuel_for,
    new_engine,
)
from shared import proof, wasm
from shared.errors import ContractError, GuestTrap, OutOfFuel, SandboxError
from shared.module import (
    KEYS,
    MAX_ELEMENTS,
    NUM_ELEMENTS,
    OUTCOME,
    OUTCOME_BYTES,
    ActionEntry,
    Layout,
    Manifest,
    Network,
    Status,
    VerifiedModule,
    capabilities_of,
    digest_observation,
    emit,
    parse,
    random_weights,
    reference_logits,
    reference_step,
    sign,
    synthetic_observation,
    verify,
)
from shared.signing import SigningKey
from shared.wasm import Function, Section

MODULES = Path(__file__).parents[1] / "data" / "modules"
ACTIONS = (
    ActionEntry(op="click"),
    ActionEntry(op="double_click"),
    ActionEntry(op="type_text", slot="name"),
    ActionEntry(op="type_text", slot="city"),
    ActionEntry(op="select_option", slot="city"),
    ActionEntry(op="press_key", key="Enter"),
    ActionEntry(op="press_key", key="Tab"),
)
OPS = capabilities_of(ACTIONS)
NETWORKS = {
    "usual": Network(num_features=160, num_context=96, num_actions=7),
    "odd": Network(
        num_features=33,
        num_context=17,
        num_actions=7,
        element=(20, 40, 9),
        context=(33, 12),
        score=(24, 17, 8),
    ),
    "least": Network(
        num_features=1, num_context=1, num_actions=7, element=(1,), context=(1,), score=()
    ),
}
SMALL = Network(num_features=8, num_context=4, num_actions=7, element=(8,), context=(8,), score=())
KEY = SigningKey.generate()


class Recorder:
    """A host that notes what it was asked to do."""

    def __init__(self, code=0, allowed=OPS, delay_s=0.0, error=None):
        self.calls = []
        self.code = code
        self.allowed_ops = allowed
        self.delay_s = delay_s
        self.error = error

    def perform(self, op, element, slot, key):
        self.calls.append((op, element, slot, key))
        time.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return self.code


def make_manifest(network, **changes):
    fields = {
        "encoding": 1,
        "routine_id": "routine",
        "routine_revision": 1,
        "name": "copy customers",
        "actions": ACTIONS,
        "slots": ("name", "city"),
        "network": network,
        "margin_threshold": 0.0,
        "capabilities": OPS,
        "data_digest": "0" * 64,
        "git_revision": "abc",
    }
    return Manifest.model_validate({**fields, **changes})


def make_verified(network=SMALL, weights=None, **changes):
    manifest = make_manifest(network, **changes)
    module = sign(emit(manifest, weights or random_weights(network, 1)), KEY)
    return verify(module, granted=OPS, trusted_keys=[KEY.public])


def biased(entry, bias=100.0):
    """Return weights whose choice is fixed: an action's index, or None for "finished"."""
    weights = random_weights(SMALL, 1)
    if entry is None:
        weights["finish.bias"][0] = bias
    else:
        weights["scores.bias"][entry] = bias
    return weights


def observation(network=SMALL, num_elements=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_elements, network.num_features)).astype(np.float32)
    return x, rng.standard_normal(network.num_context).astype(np.float32)


def guest(body, *, pages=None, start=False, raw=None):
    """Return a module that passed no proof and has one import.

    Its `step` leaves what `body`, or raw code, returns as the status; local n is the number of
    elements.
    """
    manifest = make_manifest(SMALL)
    layout = Layout(manifest.network, manifest.precision)
    decide = Function("decide", (("n", "i32"),), ("i32",), (), body)
    told = f"i32.const {OUTCOME} i32.const {NUM_ELEMENTS} i32.load 0 call $decide i32.store 28"
    step = Function("step", (), (), (), told)
    codes = [raw or wasm.assemble(decide, {"click": 0}), wasm.assemble(step, {"decide": 1})]
    ours = {s.id: s for s in parse(emit(manifest, random_weights(SMALL, 1))).sections}
    types, functions = [decide.type.encode(), step.type.encode()], [b"\0", b"\1"]
    if start:
        functions.append(b"\1")
        codes.append(wasm.assemble(Function("s", (), (), (), "loop i32.const 1 br_if 0 end"), {}))
    memory = (wasm.uleb(layout.num_pages),) * 2 if pages is None else map(wasm.uleb, pages)
    exports = [wasm.name("memory") + b"\2\0", wasm.name("step") + b"\0\2"]
    sections = [
        ours[wasm.CUSTOM],
        Section(wasm.TYPE, wasm.vector(types)),
        Section(wasm.IMPORT, wasm.vector([wasm.name("wat") + wasm.name("click") + b"\0\0"])),
        Section(wasm.FUNCTION, wasm.vector(functions)),
        Section(wasm.MEMORY, wasm.vector([b"\1" + b"".join(memory)])),
        Section(wasm.EXPORT, wasm.vector(exports)),
        *([Section(8, b"\3")] if start else []),
        Section(wasm.CODE, wasm.vector(codes)),
    ]
    return VerifiedModule(wasm.encode(sections), manifest, layout, "", b"")


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_guest_and_reference_agree_bit_for_bit(network, precision):
    weights = random_weights(network, 7)
    verified = make_verified(network, weights, precision=precision, margin_threshold=0.1)
    with Sandbox(verified, Recorder()) as sandbox:
        for num_elements in (1, 2, 31, 32, 33, 100, MAX_ELEMENTS):
            x, g = observation(network, num_elements, num_elements)
            outcome = sandbox.step(x, g)
            logits, _ = reference_logits(network, weights, x, g, precision)
            expected = reference_step(
                network, weights, x, g, precision=precision, margin_threshold=0.1
            )
            assert np.array_equal(sandbox.logits(num_elements), logits)
            common = [field.name for field in dataclasses.fields(expected)]
            assert {f: getattr(outcome, f) for f in common} == dataclasses.asdict(expected)


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_inputs_that_are_zero_are_passed_over_without_changing_a_bit(network, precision):
    weights = random_weights(network, 8)
    rng = np.random.default_rng(9)
    with Sandbox(make_verified(network, weights, precision=precision), Recorder()) as sandbox:
        for share in (0, 0.01, 0.06, 0.5, 1):
            x, g = observation(network, 33, 5)
            x[rng.random(x.shape) >= share] = 0
            g[rng.random(g.shape) >= share] = 0
            # No number that is nearly 0 may be taken for it, nor the other zero for a number.
            x[:8, ::7] = np.array([-0.0, 1e-45, -1e-45, 1e-30, -1e-20, 1e-6, 2**20, -1])[:, None]
            outcome = sandbox.step(x, g)
            logits, _ = reference_logits(network, weights, x, g, precision)
            assert sandbox.logits(len(x)).tobytes() == logits.tobytes()
            expected = reference_step(network, weights, x, g, precision=precision)
            assert (outcome.logit, outcome.margin) == (expected.logit, expected.margin)


def test_a_step_leaves_nothing_behind_for_the_next():
    with Sandbox(make_verified(NETWORKS["usual"]), Recorder()) as sandbox:
        x, g = observation(NETWORKS["usual"], 40)
        first = sandbox.step(x, g)
        sandbox.step(*observation(NETWORKS["usual"], MAX_ELEMENTS, 3))
        assert sandbox.step(x, g) == first


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_what_leaves_the_numbers_is_no_number_in_guest_and_reference_alike(precision):
    network = NETWORKS["usual"]
    weights = random_weights(network, 4)
    weights["element.1.weight"] *= 100
    x, g = observation(network, 9)
    x[3] *= np.float32(1e38)
    with Sandbox(make_verified(network, weights, precision=precision), Recorder()) as sandbox:
        sandbox.step(x, g)
        with np.errstate(all="ignore"):
            logits, _ = reference_logits(network, weights, x, g, precision)
        assert not np.isfinite(logits).all()
        np.testing.assert_array_equal(sandbox.logits(9), logits)


@pytest.mark.parametrize("entry", range(len(ACTIONS)))
def test_the_host_hears_exactly_the_chosen_operation(entry):
    host = Recorder()
    with Sandbox(make_verified(weights=biased(entry)), host) as sandbox:
        outcome = sandbox.step(*observation())
    action = ACTIONS[entry]
    assert host.calls == [(action.op, outcome.element, action.slot, action.key)]
    assert outcome.status == Status.ACTED
    assert (outcome.op, outcome.slot, outcome.key) == (action.op, action.slot, action.key)


def test_finishing_calls_nobody():
    host = Recorder()
    with Sandbox(make_verified(weights=biased(None)), host) as sandbox:
        outcome = sandbox.step(*observation())
    assert outcome.status == Status.FINISHED
    assert outcome.op is None
    assert host.calls == []


def test_abstaining_calls_nobody_and_says_what_it_would_have_done():
    host = Recorder()
    verified = make_verified(weights=biased(2, 1.0), margin_threshold=1000.0)
    with Sandbox(verified, host) as sandbox:
        outcome = sandbox.step(*observation())
    assert outcome.status == Status.ABSTAINED
    assert 0 <= outcome.margin < 1000
    assert outcome.op is not None
    assert host.calls == []


def test_a_refusal_of_the_host_reaches_the_outcome():
    with Sandbox(make_verified(weights=biased(0)), Recorder(code=7)) as sandbox:
        outcome = sandbox.step(*observation())
    assert (outcome.status, outcome.host_code) == (Status.REFUSED, 7)


def test_a_power_taken_away_during_the_run_is_denied():
    host = Recorder(allowed=["type_text"])
    with Sandbox(make_verified(weights=biased(0)), host) as sandbox:
        outcome = sandbox.step(*observation())
    assert (outcome.status, outcome.host_code) == (Status.REFUSED, CALL_DENIED)
    assert host.calls == []


def test_what_the_host_raises_comes_out_of_step_and_the_sandbox_lives_on():
    host = Recorder(error=KeyError("gone"))
    with Sandbox(make_verified(weights=biased(0)), host) as sandbox:
        with pytest.raises(KeyError, match="gone"):
            sandbox.step(*observation())
        host.error = None
        assert sandbox.step(*observation()).status == Status.ACTED
    assert CALL_FAILED != CALL_DENIED


def test_an_endless_loop_runs_out_of_fuel():
    with (
        Sandbox(guest("loop i32.const 1 br_if 0 end i32.const 0"), Recorder()) as sandbox,
        pytest.raises(OutOfFuel, match="fuel"),
    ):
        sandbox.step(*observation())


def test_an_endless_loop_with_fuel_without_end_is_stopped_by_time():
    verified = guest("loop i32.const 1 br_if 0 end i32.const 0")
    with (
        Sandbox(verified, Recorder(), fuel=2**62, deadline_ms=100) as sandbox,
        pytest.raises(OutOfFuel, match=r"100 ms .*nothing was done"),
    ):
        sandbox.step(*observation())


def test_an_endless_start_function_runs_out_of_fuel_at_load():
    with pytest.raises(OutOfFuel), Sandbox(guest("i32.const 0", start=True), Recorder()):
        pass


def test_a_slow_host_call_is_reported_with_what_may_have_been_done():
    host = Recorder(delay_s=0.15)
    with (
        Sandbox(make_verified(weights=biased(0)), host, deadline_ms=50) as sandbox,
        pytest.raises(OutOfFuel, match=r"click on element \d may have been done"),
    ):
        sandbox.step(*observation())
    assert len(host.calls) == 1


def test_a_guest_that_keeps_calling_is_heard_once_and_stopped():
    host = Recorder()
    body = "loop i32.const 0 call $click br_if 0 i32.const 1 br_if 0 end i32.const 0"
    with Sandbox(guest(body), host, fuel=100_000) as sandbox, pytest.raises(OutOfFuel):
        sandbox.step(*observation())
    assert host.calls == [("click", 0, None, None)]


@pytest.mark.parametrize("element", [-1, 5, 2**31 - 1, -(2**31)])
def test_an_element_that_is_not_on_the_screen_is_denied(element):
    host = Recorder()
    verified = guest(f"i32.const {element} call $click")
    with Sandbox(verified, host) as sandbox, pytest.raises(GuestTrap, match="account"):
        sandbox.step(*observation(num_elements=5))
    assert host.calls == []


@pytest.mark.parametrize(
    "body",
    [
        "i32.const 1 call $click local.set $n i32.const 2",  # acts and says it abstained
        "i32.const 1 call $click",  # acts on another element than its outcome names
        "i32.const 0",  # says it acted and did nothing
        "i32.const 77",
    ],
)
def test_a_guest_that_lies_about_what_it_did_is_caught(body):
    with Sandbox(guest(body), Recorder()) as sandbox, pytest.raises(GuestTrap, match="account"):
        sandbox.step(*observation())


def test_memory_does_not_grow():
    # memory.grow by one page, whose result (-1: refused) is handed out as the status.
    body = b"\0\x41\1\x40\0\x0b"
    num_pages = Layout(SMALL, "f32").num_pages
    verified = guest("", raw=wasm.uleb(len(body)) + body, pages=(num_pages, 100))
    with Sandbox(verified, Recorder()) as sandbox, pytest.raises(GuestTrap, match="status -1"):
        sandbox.step(*observation())


def test_a_module_with_more_memory_than_its_layout_is_refused():
    with (
        pytest.raises(SandboxError, match="instantiated"),
        Sandbox(guest("i32.const 0", pages=(1000, 1000)), Recorder()),
    ):
        pass


def test_a_module_with_less_memory_than_its_layout_is_refused():
    with (
        pytest.raises(SandboxError, match="memory is not"),
        Sandbox(guest("i32.const 0", pages=(1, 1)), Recorder()),
    ):
        pass


def test_a_read_outside_memory_traps():
    body = "i32.const -4 f32.load 0 f32.const 0 f32.gt"
    with Sandbox(guest(body), Recorder()) as sandbox, pytest.raises(GuestTrap, match="bounds"):
        sandbox.step(*observation())


def test_endless_recursion_traps():
    body = wasm.assemble(
        Function("deep", (("n", "i32"),), ("i32",), (), "local.get $n call $deep"), {"deep": 1}
    )
    with (
        Sandbox(guest("", raw=body), Recorder(), fuel=2**40) as sandbox,
        pytest.raises(GuestTrap, match="stack"),
    ):
        sandbox.step(*observation())


def test_a_power_that_the_manifest_lacks_is_not_there():
    verified = guest("i32.const 0")
    fewer = (ACTIONS[2],)
    manifest = make_manifest(
        SMALL.model_copy(update={"num_actions": 1}),
        actions=fewer,
        capabilities=capabilities_of(fewer),
    )
    with (
        pytest.raises(SandboxError, match="instantiated"),
        Sandbox(dataclasses.replace(verified, manifest=manifest), Recorder()),
    ):
        pass


def test_changed_weights_with_stale_probes_are_refused():
    ours = parse(sign(emit(make_manifest(SMALL), random_weights(SMALL, 1)), KEY))
    other = parse(emit(make_manifest(SMALL), random_weights(SMALL, 2)))
    data = next(s for s in other.sections if s.id == wasm.DATA)
    sections = [data if s.id == wasm.DATA else s for s in ours.sections]
    digest = hashlib.sha256(wasm.encode(sections)[8:]).digest()
    signature = proof.Signature(digest, KEY.public, KEY.sign(proof._SIGNED_HEAD + digest))
    module = wasm.encode([Section(wasm.CUSTOM, signature.encode(), "signature"), *sections])
    verified = verify(module, granted=OPS, trusted_keys=[KEY.public])
    with pytest.raises(SandboxError, match="probe"), Sandbox(verified, Recorder()):
        pass


@pytest.mark.parametrize("index", range(16))
def test_every_probe_counts(index):
    verified = make_verified()
    probes = list(verified.manifest.probes)
    probes[index] = probes[index].model_copy(update={"margin": probes[index].margin + 0.01})
    manifest = verified.manifest.model_copy(update={"probes": tuple(probes)})
    stale = dataclasses.replace(verified, manifest=manifest)
    with pytest.raises(SandboxError, match=f"probe {index} "), Sandbox(stale, Recorder()):
        pass


def test_probes_never_reach_the_host():
    host = Recorder()
    with Sandbox(make_verified(weights=biased(0)), host):
        assert host.calls == []


def test_observations_are_checked_before_they_are_written():
    with Sandbox(make_verified(), Recorder()) as sandbox:
        x, g = observation()
        x[0, 0] = np.nan
        with pytest.raises(ContractError, match="NaN"):
            sandbox.step(x, g)
        with pytest.raises(ContractError, match="does not fit"):
            sandbox.step(*observation(num_elements=MAX_ELEMENTS + 1))


def test_the_guest_itself_refuses_too_many_elements():
    verified = make_verified()
    store = wasmtime.Store(new_engine())
    store.set_fuel(1000)
    store.set_epoch_deadline(10)
    linker = wasmtime.Linker(store.engine)
    module = wasmtime.Module(store.engine, verified.data)
    for needed in module.imports:
        function = wasmtime.Func(store, needed.type, lambda *_: 0)
        linker.define(store, needed.module, needed.name, function)
    exports = linker.instantiate(store, module).exports(store)
    memory = exports["memory"]
    for num_elements in (0, MAX_ELEMENTS + 1, -1):
        memory.write(store, num_elements.to_bytes(4, "little", signed=True), NUM_ELEMENTS)
        exports["step"](store)
        outcome = memory.read(store, OUTCOME, OUTCOME + OUTCOME_BYTES)
        assert outcome[28:] == bytes([Status.BAD_INPUT, 0, 0, 0])


def test_two_threads_cannot_step_at_once():
    entered, leave = threading.Event(), threading.Event()

    class Waiting(Recorder):
        def perform(self, op, element, slot, key):
            entered.set()
            leave.wait(5)
            return 0

    with Sandbox(make_verified(weights=biased(0)), Waiting(), deadline_ms=10_000) as sandbox:
        thread = threading.Thread(target=sandbox.step, args=observation())
        thread.start()
        entered.wait(5)
        try:
            with pytest.raises(SandboxError, match="still running"):
                sandbox.step(*observation())
            with pytest.raises(SandboxError, match="still running"):
                sandbox.close()
        finally:
            leave.set()
            thread.join()


def test_two_sandboxes_run_side_by_side():
    verified = make_verified(NETWORKS["usual"])
    x, g = observation(NETWORKS["usual"], 200)
    with Sandbox(verified, Recorder()) as one, Sandbox(verified, Recorder()) as two:
        results = {}
        threads = [
            threading.Thread(
                target=lambda s=s, k=k: results.update({k: [s.step(x, g) for _ in range(20)]})
            )
            for k, s in enumerate((one, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(results[0] + results[1])) == 1


def test_a_closed_sandbox_is_refused_and_freed():
    sandbox = Sandbox(make_verified(), Recorder())
    sandbox.load()
    sandbox.close()
    sandbox.close()
    with pytest.raises(SandboxError, match="closed"):
        sandbox.step(*observation())
    with pytest.raises(SandboxError, match="closed"):
        sandbox.logits(1)
    gone = weakref.ref(sandbox)
    del sandbox
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_fuel_suffices_for_the_largest_screen(network, precision):
    with Sandbox(make_verified(network, precision=precision), Recorder()) as sandbox:
        outcome = sandbox.step(*observation(network, MAX_ELEMENTS))
    assert 2 * outcome.fuel_used <= fuel_for(network)


@pytest.mark.parametrize(
    "text",
    [
        "(module (memory i64 1))",
        "(module (memory 1 (pagesize 1)))",
        "(component)",
        "(module (memory 1 1 shared))",
        "(module (memory 1) (memory 1))",
        "(module (type (struct)))",
        "(module (tag))",
        "(module (func (return_call 0)))",
        "(module (func (param v128 v128 v128) (result v128) local.get 0 local.get 1 local.get 2 "
        "f32x4.relaxed_madd))",
        "(module (func (result i64 i64) i64.const 0 i64.const 0 i64.const 0 i64.const 0 "
        "i64.add128))",
    ],
    ids=[
        "memory64",
        "pages",
        "component",
        "threads",
        "memories",
        "gc",
        "exceptions",
        "tail",
        "relaxed",
        "wide",
    ],
)
def test_the_engine_takes_no_proposal_that_we_never_emit(text):
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module(new_engine(), wasmtime.wat2wasm(text))


@pytest.mark.parametrize("name", ["agent_v2_f32", "agent_v2_int8"])
def test_golden_module_of_abi_2_decides_as_when_it_was_released(name):
    golden = json.loads((MODULES / "agent_v2.json").read_text())
    verified = verify(
        (MODULES / f"{name}.wasm").read_bytes(),
        granted=golden["granted"],
        trusted_keys=[bytes.fromhex(golden["signer"])],
    )
    assert verified.digest == golden[name]["sha256"]
    with Sandbox(verified, Recorder()) as sandbox:
        for case in golden[name]["cases"]:
            x, g = synthetic_observation(verified.manifest.network, case["seed"])
            assert digest_observation(x, g) == case["features"]
            outcome = sandbox.step(x, g)
            given = {key: getattr(outcome, key) for key in case["outcome"]}
            assert given == case["outcome"]


def test_the_key_table_only_ever_grows():
    released = "Enter Tab Escape Space ArrowUp ArrowDown ArrowLeft ArrowRight Home End PageUp"
    assert [*KEYS[:14]] == [*released.split(), "PageDown", "Backspace", "Delete"]


_IN_NODE = """
const fs = require("fs"), [file, input, n, features, context, columns] = process.argv.slice(2);
const compiled = new WebAssembly.Module(fs.readFileSync(file));
const calls = [], wat = {};
for (const {name} of WebAssembly.Module.imports(compiled))
  wat[name] = (...numbers) => { calls.push([name, ...numbers]); return 0; };
const guest = new WebAssembly.Instance(compiled, {wat}).exports, at = k => guest[k].value;
const floats = (offset, count) => new Float32Array(guest.memory.buffer, offset, count);
const data = fs.readFileSync(input), values = new Float32Array(Uint8Array.from(data).buffer);
for (let e = 0; e < n; e++)
  floats(at("x") + e * at("x_stride"), features)
    .set(values.subarray(e * features, (e + 1) * features));
floats(at("g"), context).set(values.subarray(n * features));
new Int32Array(guest.memory.buffer, at("num_elements"), 1)[0] = n;
guest.step();
const logits = [];
for (let e = 0; e < n; e++)
  logits.push(...new Uint32Array(
    guest.memory.buffer, at("logits") + e * at("logits_stride"), columns));
const told = new Int32Array(guest.memory.buffer, at("outcome"), 8);
console.log(JSON.stringify({status: told[7], logits, outcome: [...told.slice(0, 2)], calls}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js on this machine")
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_the_same_file_runs_in_node_with_the_same_bits(tmp_path, precision):
    network = NETWORKS["odd"]
    weights = random_weights(network, 7)
    verified = make_verified(network, weights, precision=precision)
    x, g = observation(network, 40)
    (tmp_path / "agent.wasm").write_bytes(verified.data)
    (tmp_path / "observation").write_bytes(np.concatenate([x.ravel(), g]).tobytes())
    (tmp_path / "run.cjs").write_text(_IN_NODE)
    files = [str(tmp_path / name) for name in ("run.cjs", "agent.wasm", "observation")]
    sizes = [len(x), network.num_features, network.num_context, network.num_actions]
    run = subprocess.run(
        ["node", *files, *map(str, sizes)], capture_output=True, text=True, timeout=60, check=True
    )
    answer = json.loads(run.stdout)
    logits, _ = reference_logits(network, weights, x, g, precision)
    expected = reference_step(network, weights, x, g, precision=precision)
    assert answer["logits"] == logits.ravel().view(np.uint32).tolist()
    assert answer["outcome"] == [expected.element, expected.action]
    assert answer["status"] == expected.status == Status.ACTED
    assert [call[:2] for call in answer["calls"]] == [
        [ACTIONS[expected.action].op, expected.element]
    ]
