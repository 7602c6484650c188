"""Sign an agent module, read one, and prove that it is what its manifest says.

Emission is deterministic and weights never steer control flow, so a module is proved by writing
everything but its weights and signature again from the manifest and comparing bytes. Not covered:
whether the weights are those the trainer meant (signature and probes say that).
"""

import hashlib
import json
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from shared import wasm
from shared.errors import (
    ArtifactError,
    ConflictError,
    DigestMismatch,
    GrantDenied,
    SandboxError,
)
from shared.guest import IMPORT_MODULE, code_sections
from shared.layout import Layout
from shared.manifest import ABI_VERSION, EMITTER_VERSION, NUM_PROBES, Manifest
from shared.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, is_signed_by
from shared.wasm import Section

__all__ = [
    "MAX_CODE_BYTES",
    "MAX_FUNCTIONS",
    "MAX_MODULE_BYTES",
    "MAX_SECTIONS",
    "ParsedModule",
    "Signature",
    "VerifiedModule",
    "data_head",
    "fixed_sections",
    "parse",
    "sign",
    "verify",
]

MANIFEST_SECTION = "wat.manifest"
PRODUCERS_SECTION = "producers"
SIGNATURE_SECTION = "signature"
MAX_MODULE_BYTES = 16 * 2**20
MAX_CODE_BYTES = 32 * 2**10
MAX_FUNCTIONS = 64
MAX_SECTIONS = 16

_SIGNATURE_VERSIONS = b"\1\1\1"  # specification 1, a module, SHA-256
_SIGNED_HEAD = b"wasmsig" + _SIGNATURE_VERSIONS
_ED25519 = b"\1"


@dataclass(frozen=True)
class Signature:
    """Hold one Ed25519 signature over the SHA-256 of all sections behind it.

    The key id is the public key itself, so that a user can be asked about a foreign one.
    """

    digest: bytes
    public: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the payload of the signature section: one hash, one signature."""
        head = _SIGNATURE_VERSIONS + wasm.uleb(1) + wasm.uleb(1) + self.digest
        key_id = wasm.uleb(1) + wasm.uleb(PUBLIC_KEY_BYTES) + self.public
        return head + key_id + _ED25519 + wasm.uleb(SIGNATURE_BYTES) + self.signature

    @classmethod
    def decode(cls, untrusted_payload: bytes) -> "Signature":
        """Read back what `encode` wrote. Raises ArtifactError on any other layout."""
        digest, public = untrusted_payload[5:37], untrusted_payload[39:71]
        signature = cls(digest, public, untrusted_payload[73:])
        if len(signature.signature) != SIGNATURE_BYTES or signature.encode() != untrusted_payload:
            raise ArtifactError("module's signature section is malformed: fetch or train it again")
        return signature


@dataclass(frozen=True)
class ParsedModule:
    """Hold a module that could be read; nothing in it is proved. Sections are without signature."""

    manifest: Manifest
    sections: tuple[Section, ...]
    signature: Signature | None
    digest: str
    data: bytes


@dataclass(frozen=True)
class VerifiedModule:
    """Hold a module that `verify` accepted; `signer` is the public key that signed it."""

    data: bytes
    manifest: Manifest
    layout: Layout
    digest: str
    signer: bytes


def fixed_sections(manifest: Manifest) -> list[Section]:
    """Write every section but data and signature from the manifest; data stays empty."""
    producers = [
        wasm.name("processed-by")
        + wasm.vector([wasm.name(k) + wasm.name(v) for k, v in sorted(manifest.producers.items())])
    ]
    return [
        Section(wasm.CUSTOM, manifest.canonical_json(), MANIFEST_SECTION),
        *code_sections(manifest),
        Section(wasm.DATA, b""),
        Section(
            wasm.CUSTOM, wasm.vector(producers if manifest.producers else []), PRODUCERS_SECTION
        ),
    ]


def data_head(layout: Layout) -> bytes:
    """Return the data section up to the parameters: one active segment at a fixed offset."""
    offset = b"\x41" + wasm.sleb(layout.data_offset) + b"\x0b"
    return b"\x01\x00" + offset + wasm.uleb(layout.data_bytes)


def sign(module: bytes, key: SigningKey) -> bytes:
    """Return `module` with a signature section in front. Raises ConflictError if it has one.

    Source: https://github.com/WebAssembly/tool-conventions/blob/main/Signatures.md
    """
    if parse(module).signature is not None:
        raise ConflictError("module is signed already: sign the bytes that emit returned")
    digest = hashlib.sha256(module[wasm.HEADER_BYTES :]).digest()
    signature = Signature(digest, key.public, key.sign(_SIGNED_HEAD + digest))
    section = Section(wasm.CUSTOM, signature.encode(), SIGNATURE_SECTION)
    return module[: wasm.HEADER_BYTES] + section.encode() + module[wasm.HEADER_BYTES :]


def parse(untrusted_module: bytes) -> ParsedModule:
    """Split a module and read its manifest, within the structural caps; prove nothing yet.

    Raises ArtifactError if the file is cut off, too large, no agent module or of a version that
    this release cannot run.
    """
    if len(untrusted_module) > MAX_MODULE_BYTES:
        raise ArtifactError(
            f"module has {len(untrusted_module)} bytes, more than {MAX_MODULE_BYTES}: not ours"
        )
    sections = wasm.decode(untrusted_module, MAX_SECTIONS)
    signature = None
    if sections and (sections[0].id, sections[0].name) == (wasm.CUSTOM, SIGNATURE_SECTION):
        signature = Signature.decode(sections.pop(0).payload)
    for section in sections:
        if section.id == wasm.CODE and len(section.payload) > MAX_CODE_BYTES:
            raise ArtifactError(
                f"module has {len(section.payload)} bytes of code, more than {MAX_CODE_BYTES}"
            )
        if section.id in (wasm.FUNCTION, wasm.CODE, wasm.IMPORT):
            count, _ = wasm.read_uleb(section.payload, 0)
            if count > MAX_FUNCTIONS:
                raise ArtifactError(f"module has {count} functions, more than {MAX_FUNCTIONS}")
    manifests = [s.payload for s in sections if (s.id, s.name) == (wasm.CUSTOM, MANIFEST_SECTION)]
    if len(manifests) != 1:
        raise ArtifactError(
            f"module has {len(manifests)} {MANIFEST_SECTION} sections, an agent has one: not ours"
        )
    return ParsedModule(
        manifest=_read_manifest(manifests[0]),
        sections=tuple(sections),
        signature=signature,
        digest=hashlib.sha256(untrusted_module).hexdigest(),
        data=untrusted_module,
    )


def _read_manifest(untrusted_json: bytes) -> Manifest:
    try:
        fields = json.loads(untrusted_json)
        versions = {key: fields[key] for key in ("abi", "emitter")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError("module's manifest is not readable: fetch or train it again") from error
    if versions != {"abi": ABI_VERSION, "emitter": EMITTER_VERSION}:
        raise ArtifactError(
            f"module has {versions}, this release runs abi {ABI_VERSION}, emitter "
            f"{EMITTER_VERSION}: train the routine again"
        )
    try:
        return Manifest.model_validate_json(untrusted_json)
    except ValidationError as error:
        places = sorted({".".join(map(str, e["loc"])) or "manifest" for e in error.errors()})
        raise ArtifactError(f"module's manifest is wrong in {places}: train it again") from error


def verify(
    untrusted_module: bytes, *, granted: Collection[str], trusted_keys: Collection[bytes]
) -> VerifiedModule:
    """Prove that a module is what its manifest says, may do what it asks, and whose it is.

    In order: structure, powers, re-emission of all but data and signature, data, signature.
    Raises ArtifactError (unreadable), GrantDenied (powers, foreign key), DigestMismatch (changed
    after it was signed) or SandboxError. The probes are replayed by whoever instantiates it.
    """
    parsed = parse(untrusted_module)
    _check_powers(parsed, granted)
    _check_emission(parsed)
    _check_data(parsed)
    signer = _check_signature(parsed, trusted_keys)
    layout = Layout(parsed.manifest.network, parsed.manifest.precision)
    return VerifiedModule(untrusted_module, parsed.manifest, layout, parsed.digest, signer)


def _imports(parsed: ParsedModule) -> list[str]:
    """Return imported functions as `module.name`; anything else than a function is refused."""
    payload = b"".join(s.payload for s in parsed.sections if s.id == wasm.IMPORT)
    if not payload:
        return []
    count, at = wasm.read_uleb(payload, 0)
    names = []
    for _ in range(count):
        path = []
        for _ in range(2):
            length, at = wasm.read_uleb(payload, at)
            path.append(payload[at : at + length].decode(errors="replace"))
            at += length
        if payload[at : at + 1] != b"\0":
            raise GrantDenied(
                f"module imports {'.'.join(path)}, which is no function: do not run it"
            )
        _, at = wasm.read_uleb(payload, at + 1)
        names.append(".".join(path))
    return names


def _check_powers(parsed: ParsedModule, granted: Collection[str]) -> None:
    declared = [f"{IMPORT_MODULE}.{op}" for op in parsed.manifest.capabilities]
    imported = _imports(parsed)
    hidden = sorted(set(imported) - set(declared))
    if hidden:
        raise GrantDenied(
            f"module imports {hidden}, which its manifest does not declare: do not run it"
        )
    if imported != declared:
        raise GrantDenied(
            f"module imports {imported}, its manifest declares {declared}: do not run it"
        )
    missing = sorted(set(parsed.manifest.capabilities) - set(granted))
    if missing:
        raise GrantDenied(
            f"agent {parsed.manifest.name!r} needs {missing}, which it was not granted: grant it "
            "or leave the agent off"
        )


def _check_emission(parsed: ParsedModule) -> None:
    expected = fixed_sections(parsed.manifest)
    kinds = [(s.id, s.name) for s in expected]
    if [(s.id, s.name) for s in parsed.sections] != kinds:
        raise SandboxError(
            f"module has sections {[s.name or s.id for s in parsed.sections]}, its manifest makes "
            f"{[s.name or s.id for s in expected]}: do not run it"
        )
    rebuilt = []
    for ours, theirs in zip(expected, parsed.sections, strict=True):
        if ours.id != wasm.DATA and ours.payload != theirs.payload:
            raise SandboxError(
                f"module's section {ours.name or ours.id} is not what its manifest makes: do not "
                "run it"
            )
        rebuilt.append(theirs if ours.id == wasm.DATA else ours)
    if parsed.signature is not None:
        rebuilt.insert(0, Section(wasm.CUSTOM, parsed.signature.encode(), SIGNATURE_SECTION))
    if wasm.encode(rebuilt) != parsed.data:
        raise SandboxError("module's bytes are not in canonical form: do not run it")
    if len(parsed.manifest.probes) != NUM_PROBES:
        raise SandboxError(f"module carries no {NUM_PROBES} probes: emit it again")


def _check_data(parsed: ParsedModule) -> None:
    layout = Layout(parsed.manifest.network, parsed.manifest.precision)
    head = data_head(layout)
    data = next(s.payload for s in parsed.sections if s.id == wasm.DATA)
    if not data.startswith(head) or len(data) != len(head) + layout.data_bytes:
        raise SandboxError(
            f"module's weights do not fill the {layout.data_bytes} bytes its network needs: do not "
            "run it"
        )
    for (layer, kind, _), (offset, size) in layout.parameters().items():
        if layout.precision == "int8" and kind == "weight":
            continue
        start = len(head) + offset - layout.data_offset
        if not all(map(math.isfinite, struct.unpack_from(f"<{size // 4}f", data, start))):
            raise SandboxError(f"module's {layer} {kind} holds NaN or infinity: train it again")


def _check_signature(parsed: ParsedModule, trusted_keys: Collection[bytes]) -> bytes:
    signature = parsed.signature
    if signature is None:
        raise SandboxError("module is not signed: export it from the trainer that made it")
    body = wasm.encode(parsed.sections)[wasm.HEADER_BYTES :]
    if hashlib.sha256(body).digest() != signature.digest:
        raise DigestMismatch("module was changed after it was signed: fetch or train it again")
    if signature.public not in trusted_keys:
        key = signature.public.hex()
        raise GrantDenied(
            f"module is signed by the foreign key {key}: if you know whose it is, "
            f"`wat models trust {key} --name WHOSE`"
        )
    if not is_signed_by(signature.public, _SIGNED_HEAD + signature.digest, signature.signature):
        raise DigestMismatch("module's signature does not fit its key: fetch or train it again")
    return signature.public
