"""Manifest rules, reference arithmetic, emission, and what verify refuses."""

import dataclasses
import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared import proof, wasm
from shared.errors import (
    ArtifactError,
    ConflictError,
    ContractError,
    DigestMismatch,
    GrantDenied,
    SandboxError,
)
from shared.module import (
    FINISH,
    MAX_ELEMENTS,
    NUM_PROBES,
    ActionEntry,
    Layout,
    Manifest,
    Network,
    Status,
    capabilities_of,
    check_weights,
    decide,
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
from shared.wasm import Section

ACTIONS = (
    ActionEntry(op="click"),
    ActionEntry(op="type_text", slot="name"),
    ActionEntry(op="press_key", key="Enter"),
)
NETWORK = Network(
    num_features=10, num_context=6, num_actions=3, element=(9, 5), context=(7,), score=(6,)
)
KEY = SigningKey.generate()
GRANTED = ["click", "press_key", "type_text"]


def make_manifest(**changes):
    fields = {
        "encoding": 1,
        "routine_id": "routine",
        "routine_revision": 2,
        "name": "copy customers",
        "actions": ACTIONS,
        "slots": ("name",),
        "network": NETWORK,
        "margin_threshold": 0.05,
        "capabilities": capabilities_of(ACTIONS),
        "data_digest": "0" * 64,
        "git_revision": "abc",
        "producers": {"wasmagenttrainer": "0.1.0"},
    }
    return Manifest.model_validate({**fields, **changes})


@pytest.fixture(scope="module", params=["f32", "int8"])
def signed(request):
    return sign(emit(make_manifest(precision=request.param), random_weights(NETWORK, 1)), KEY)


def check(module, granted=GRANTED, keys=(KEY.public,)):
    return verify(module, granted=granted, trusted_keys=keys)


def resigned(module, change, key=KEY):
    """Change the sections of a module and sign it again, as an attacker with a key could."""
    sections = change(list(parse(module).sections))
    unsigned = wasm.encode(sections)
    head = proof._SIGNED_HEAD
    digest = hashlib.sha256(unsigned[8:]).digest()
    signature = proof.Signature(digest, key.public, key.sign(head + digest))
    return wasm.encode([Section(wasm.CUSTOM, signature.encode(), "signature"), *sections])


def replace(section_id, change):
    return lambda sections: [
        dataclasses.replace(s, payload=change(s.payload)) if s.id == section_id else s
        for s in sections
    ]


def test_manifest_refuses_a_capability_no_action_uses():
    with pytest.raises(ValidationError, match="capabilities must be"):
        make_manifest(capabilities=("click", "double_click", "press_key", "type_text"))


def test_manifest_refuses_an_undeclared_slot():
    with pytest.raises(ValidationError, match="not declared"):
        make_manifest(slots=())


@pytest.mark.parametrize(
    "fields",
    [
        {"op": "click", "slot": "a"},
        {"op": "type_text"},
        {"op": "press_key"},
        {"op": "press_key", "key": "F13"},
        {"op": "run_shell"},
    ],
)
def test_action_refuses_what_its_operation_cannot_take(fields):
    with pytest.raises(ValidationError):
        ActionEntry.model_validate(fields)


def test_canonical_json_does_not_depend_on_key_order():
    first = make_manifest(screen_schema={"a": 1, "b": [1.5, "é"]})
    second = make_manifest(screen_schema={"b": [1.5, "é"], "a": 1})
    assert first.canonical_json() == second.canonical_json()
    assert Manifest.model_validate_json(first.canonical_json()) == first


def test_canonical_json_leaves_out_what_is_empty_and_keeps_what_is_null_inside():
    manifest = make_manifest(slots=("name",), post_condition={"row": None, "cells": []})
    fields = json.loads(manifest.canonical_json())
    assert "options" not in fields
    assert "slot" not in fields["actions"][0]
    assert fields["post_condition"] == {"row": None, "cells": []}
    assert Manifest.model_validate_json(manifest.canonical_json()) == manifest


def wide_logits(weights, x, g):
    """Compute the documented wiring in float64 with plain matrix products."""
    w = {k: v.astype(np.float64) for k, v in weights.items()}

    def linear(name, v):
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def relu(v):
        return np.maximum(v, 0)

    many = np.tile(g, (len(x), 1))
    h = relu(linear("element.1", relu(linear("element.0", np.concatenate([x, many], 1)))))
    u = relu(linear("context.0", np.concatenate([h.mean(0), h.max(0), g])))
    s = relu(linear("score.0", np.concatenate([h, np.tile(u, (len(x), 1))], 1)))
    return linear("scores", s), linear("finish", u)[0]


@pytest.mark.parametrize("seed", range(5))
def test_reference_is_the_documented_wiring(seed):
    weights = random_weights(NETWORK, seed)
    x, g = synthetic_observation(NETWORK, seed)
    logits, finish = reference_logits(NETWORK, weights, x, g)
    wide, wide_finish = wide_logits(weights, x, g)
    assert np.abs(logits - wide).max() <= 1e-5
    assert abs(finish - wide_finish) <= 1e-5


def test_int8_is_close_to_f32():
    weights = random_weights(NETWORK, 3)
    x, g = synthetic_observation(NETWORK, 3)
    exact, _ = reference_logits(NETWORK, weights, x, g)
    rounded, _ = reference_logits(NETWORK, weights, x, g, "int8")
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_decide_takes_the_best_entry_and_its_distance_to_the_next():
    decision = decide(np.array([[1, 5], [4, 2]], np.float32), 3.0, 0.5)
    assert (decision.status, decision.element, decision.action) == (Status.ACTED, 0, 1)
    assert (decision.margin, decision.runner_up_element, decision.runner_up_action) == (1.0, 1, 0)


def test_decide_abstains_below_the_threshold():
    assert decide(np.array([[1.0, 1.25]], np.float32), 0, 0.5).status == Status.ABSTAINED


def test_decide_abstains_when_logits_are_not_numbers():
    assert decide(np.full((2, 2), np.nan, np.float32), np.nan, 0).status == Status.ABSTAINED


def test_decide_finishes():
    decision = decide(np.zeros((2, 2), np.float32), 9.0, 0.5)
    assert (decision.status, decision.element, decision.action) == (Status.FINISHED, FINISH, FINISH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("finish.bias"), "finish.bias"),
        (lambda w: w.update(extra=np.zeros(1, np.float32)), "extra"),
        (lambda w: w.update({"finish.bias": np.zeros(2, np.float32)}), "shape"),
        (lambda w: w["scores.weight"].__setitem__((0, 0), np.nan), "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    weights = random_weights(NETWORK, 0)
    change(weights)
    with pytest.raises(ContractError, match=message):
        check_weights(NETWORK, weights)


@pytest.mark.parametrize(
    ("x", "g"),
    [
        (np.zeros((0, 10), np.float32), np.zeros(6, np.float32)),
        (np.zeros((MAX_ELEMENTS + 1, 10), np.float32), np.zeros(6, np.float32)),
        (np.zeros((1, 9), np.float32), np.zeros(6, np.float32)),
        (np.zeros((1, 10), np.float32), np.zeros(7, np.float32)),
        (np.full((1, 10), np.inf, np.float32), np.zeros(6, np.float32)),
    ],
)
def test_observation_that_does_not_fit_is_refused(x, g):
    with pytest.raises(ContractError, match="observation"):
        reference_step(NETWORK, random_weights(NETWORK, 0), x, g)


def test_synthetic_observations_never_change():
    x, g = synthetic_observation(NETWORK, 5)
    assert digest_observation(x, g) == (
        "7ca20f49735d02d5f1d1252e3439192094a332e2f53e910801ab45bc3040b208"
    )
    assert (x == 0).any()
    assert np.abs(x).max() <= 1


def test_emission_is_deterministic(signed):
    manifest = parse(signed).manifest
    again = emit(manifest.model_copy(update={"probes": ()}), random_weights(NETWORK, 1))
    assert sign(again, KEY) == signed


def test_manifest_comes_back_with_probes(signed):
    manifest = parse(signed).manifest
    assert len(manifest.probes) == NUM_PROBES
    assert manifest.model_copy(update={"probes": ()}) == make_manifest(precision=manifest.precision)


def test_only_operations_in_use_are_imported(signed):
    imports = next(s.payload for s in parse(signed).sections if s.id == wasm.IMPORT)
    assert all(op.encode() in imports for op in GRANTED)
    assert b"double_click" not in imports
    assert b"select_option" not in imports


def test_code_stays_far_below_its_cap_for_the_largest_network():
    actions = tuple(ActionEntry(op="type_text", slot=f"s{i}") for i in range(128))
    network = Network(
        num_features=8,
        num_context=8,
        num_actions=128,
        element=(8,) * 4,
        context=(8,) * 4,
        score=(8,) * 4,
    )
    manifest = make_manifest(
        actions=actions,
        slots=tuple(f"s{i}" for i in range(128)),
        network=network,
        precision="int8",
        capabilities=("type_text",),
    )
    module = sign(emit(manifest, random_weights(network, 0)), KEY)
    assert check(module).manifest.actions == actions


def test_data_fills_the_declared_layout(signed):
    parsed = parse(signed)
    layout = Layout(parsed.manifest.network, parsed.manifest.precision)
    ends = [offset + size for offset, size in layout.regions().values()]
    starts = [offset for offset, _ in [*layout.regions().values(), *layout.parameters().values()]]
    assert all(start % 16 == 0 for start in starts)
    assert max(ends) <= layout.data_offset


def test_verified_module_names_its_signer(signed):
    verified = check(signed)
    assert verified.signer == KEY.public
    assert verified.manifest.name == "copy customers"


def test_a_module_cut_off_anywhere_is_refused(signed):
    rng = np.random.default_rng(4)
    for length in [0, 7, 8, 9, *rng.integers(10, len(signed), 100), len(signed) - 1]:
        with pytest.raises((ArtifactError, SandboxError)):
            check(signed[:length])


def test_a_module_with_one_changed_byte_is_refused(signed):
    rng = np.random.default_rng(5)
    for at in [*range(200), *rng.integers(200, len(signed), 300)]:
        changed = bytearray(signed)
        changed[at] ^= 1 << int(rng.integers(8))
        with pytest.raises((ArtifactError, SandboxError)):
            check(bytes(changed))


@given(st.binary(max_size=200))
def test_junk_is_refused_not_crashed_on(junk):
    with pytest.raises(ArtifactError):
        check(b"\0asm\1\0\0\0" + junk)


def test_a_module_cut_off_says_so(signed):
    with pytest.raises(ArtifactError, match="cut off"):
        check(signed[:-20])


def test_a_power_that_is_not_granted_is_named(signed):
    with pytest.raises(GrantDenied, match="press_key"):
        check(signed, granted=["click", "type_text"])


def test_a_power_the_manifest_lacks_is_named(signed):
    def widen(payload):
        return b"\x04" + payload[1:] + wasm.name("wat") + wasm.name("double_click") + b"\0\0"

    with pytest.raises(GrantDenied, match="double_click"):
        check(resigned(signed, replace(wasm.IMPORT, widen)), granted=[*GRANTED, "double_click"])


def test_a_manifest_that_hides_a_power_is_refused(signed):
    def hide(sections):
        manifest = parse(signed).manifest
        entries = (ACTIONS[0], ACTIONS[1], ActionEntry(op="type_text", slot="other"))
        fields = {
            "actions": [e.model_dump() for e in entries],
            "slots": ["name", "other"],
            "capabilities": capabilities_of(entries),
        }
        lie = Manifest.model_validate({**manifest.model_dump(), **fields})
        return [dataclasses.replace(sections[0], payload=lie.canonical_json()), *sections[1:]]

    with pytest.raises(GrantDenied, match="press_key"):
        check(resigned(signed, hide))


def test_an_imported_memory_is_refused(signed):
    def memory(payload):
        return b"\x04" + payload[1:] + wasm.name("env") + wasm.name("memory") + b"\x02\0\1"

    with pytest.raises(GrantDenied, match=r"env\.memory"):
        check(resigned(signed, replace(wasm.IMPORT, memory)))


def test_changed_code_is_refused_even_when_signed(signed):
    def flip(payload):
        return payload[:-3] + bytes([payload[-3] ^ 1]) + payload[-2:]

    with pytest.raises(SandboxError, match="section 10"):
        check(resigned(signed, replace(wasm.CODE, flip)))


def test_a_larger_memory_is_refused(signed):
    with pytest.raises(SandboxError, match="section 5"):
        check(resigned(signed, replace(wasm.MEMORY, lambda p: b"\1\1" + p[2:3] + b"\x7f")))


def test_a_start_function_is_refused(signed):
    with pytest.raises(SandboxError, match="sections"):
        check(resigned(signed, lambda s: [*s[:7], Section(8, b"\0"), *s[7:]]))


def test_a_section_behind_the_last_is_refused(signed):
    with pytest.raises(SandboxError, match="sections"):
        check(resigned(signed, lambda s: [*s, Section(wasm.CUSTOM, b"", "extra")]))


def test_a_second_data_segment_is_refused(signed):
    def second(payload):
        return b"\2" + payload[1:] + b"\0\x41\0\x0b\1\0"

    with pytest.raises(SandboxError, match="weights"):
        check(resigned(signed, replace(wasm.DATA, second)))


def test_a_weight_that_is_not_a_number_is_refused_even_when_signed(signed):
    manifest = parse(signed).manifest
    head = len(proof.data_head(Layout(manifest.network, manifest.precision)))

    def poison(payload):
        return payload[: head + 4] + struct.pack("<f", np.nan) + payload[head + 8 :]

    with pytest.raises(SandboxError, match="NaN"):
        check(resigned(signed, replace(wasm.DATA, poison)))


def test_numbers_longer_than_needed_are_refused(signed):
    parsed = parse(signed)
    last = parsed.sections[-1].encode()
    assert last[1] < 0x80
    padded = signed[: -len(last)] + last[:1] + bytes([last[1] | 0x80, 0]) + last[2:]
    with pytest.raises(SandboxError, match="canonical"):
        check(padded)


@pytest.mark.parametrize(("section_id", "message"), [(wasm.CODE, "code"), (wasm.FUNCTION, "65")])
def test_a_compile_bomb_is_refused_before_it_is_compiled(signed, section_id, message):
    payload = b"\x01" + bytes(33 * 1024) if section_id == wasm.CODE else b"\x41" + bytes(65)
    with pytest.raises(ArtifactError, match=message):
        check(resigned_raw(signed, section_id, payload))


def resigned_raw(module, section_id, payload):
    sections = [
        dataclasses.replace(s, payload=payload) if s.id == section_id else s
        for s in parse(module).sections
    ]
    return wasm.encode(sections)


def test_too_many_sections_are_refused():
    with pytest.raises(ArtifactError, match="sections"):
        parse(wasm.encode([Section(wasm.CUSTOM, b"", "x")] * 17))


def test_a_file_past_the_size_cap_is_refused():
    with pytest.raises(ArtifactError, match="bytes"):
        parse(b"\0asm\1\0\0\0" + bytes(16 * 2**20))


def test_a_foreign_key_is_named(signed):
    other = SigningKey.generate()
    with pytest.raises(GrantDenied, match=KEY.public.hex()):
        check(signed, keys=[other.public])


def test_an_unsigned_module_is_refused(signed):
    with pytest.raises(SandboxError, match="not signed"):
        check(wasm.encode(parse(signed).sections))


def test_changed_weights_are_refused_by_the_signature(signed):
    at = signed.rindex(b"processed-by") - 40
    changed = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    with pytest.raises((DigestMismatch, SandboxError)):
        check(changed)


def test_a_signature_made_by_another_key_than_it_names_is_refused(signed):
    forged = proof.Signature(parse(signed).signature.digest, KEY.public, bytes(64))
    module = wasm.encode([Section(0, forged.encode(), "signature"), *parse(signed).sections])
    with pytest.raises(DigestMismatch, match="does not fit"):
        check(module)


def test_a_signed_module_is_not_signed_twice(signed):
    with pytest.raises(ConflictError, match="signed already"):
        sign(signed, KEY)


@pytest.mark.parametrize("field", ["abi", "emitter"])
def test_a_later_version_says_train_again(signed, field):
    def later(payload):
        return json.dumps({**json.loads(payload), field: 3}).encode()

    sections = list(parse(signed).sections)
    sections[0] = dataclasses.replace(sections[0], payload=later(sections[0].payload))
    with pytest.raises(ArtifactError, match="train the routine again"):
        parse(wasm.encode(sections))


def test_a_manifest_with_unknown_fields_is_refused(signed):
    sections = list(parse(signed).sections)
    fields = {**json.loads(sections[0].payload), "shell": "yes"}
    sections[0] = dataclasses.replace(sections[0], payload=json.dumps(fields).encode())
    with pytest.raises(ArtifactError, match="shell"):
        parse(wasm.encode(sections))


@pytest.mark.parametrize(
    "tail",
    [
        b',"screen_schema":{"a":NaN}}',
        b',"options":{"a":-Infinity}}',
        b',"abi":2}',
        b',"screen_schema":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b',"name":"\\ud800"}',
        b',"name":"\xff"}',
        b"",
    ],
    ids=["nan", "infinity", "twice", "deep", "surrogate", "latin", "cut"],
)
def test_a_manifest_that_is_no_canonical_json_is_refused(signed, tail):
    sections = list(parse(signed).sections)
    sections[0] = dataclasses.replace(sections[0], payload=sections[0].payload[:-1] + tail)
    with pytest.raises((ArtifactError, SandboxError), match="manifest"):
        check(wasm.encode(sections))
