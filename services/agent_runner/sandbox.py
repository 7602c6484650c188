"""One agent module in one wasmtime instance: the only file that names wasmtime, hence its length.

Covered: powers (a host function exists only if the manifest names it, and is asked again at each
call), compute (fuel), time (epoch, also while the host acts), memory (fixed size), stack, what the
guest claims to have done (compared with what the host saw), and changed weights (probes, replayed
before the first step). Nothing is compiled that `shared.module.verify` has not rebuilt byte for
byte from its manifest, so the compiler only ever sees our own emitter's code.

Not covered: whether a permitted action is the right one (margin, post-condition and approvals do
that), and side channels such as timing.

Bindings are not safe against two threads: a Sandbox refuses a step while another one runs, and
bindings are created and closed under one lock.
"""

import ctypes
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import wasmtime
from numpy.typing import NDArray

from services.agent_runner.border import (
    CALL_DENIED,
    CALL_FAILED,
    CALL_OK,
    Border,
    Call,
    Host,
)
from shared.errors import GuestTrap, OutOfFuel, SandboxError
from shared.module import (
    FINISH,
    IMPORT_MODULE,
    MAX_ELEMENTS,
    NUM_ELEMENTS,
    OPS,
    OUTCOME,
    OUTCOME_BYTES,
    PAGE_BYTES,
    Floats,
    Network,
    Op,
    Probe,
    Status,
    VerifiedModule,
    check_observation,
    digest_observation,
    synthetic_observation,
)

__all__ = [
    "CALL_DENIED",
    "CALL_FAILED",
    "CALL_OK",
    "Host",
    "Sandbox",
    "StepOutcome",
    "fuel_for",
    "new_engine",
]

DEADLINE_MS = 2000
_TICK_S = 0.01
_IDLE_S = 1.0  # the ticker ends after this long without a step
_UNTOLD = 0xFF  # bytes of an outcome before the guest has written one
_PROBE_TOLERANCE = 1e-5  # of the margin, in logits

_CONFIGURATION = {
    "consume_fuel": True,
    "epoch_interruption": True,
    "max_wasm_stack": 256 * 1024,  # bytes
    "parallel_compilation": False,
    "wasm_component_model": False,
    "wasm_custom_page_sizes": False,
    "wasm_exceptions": False,
    "wasm_function_references": False,
    "wasm_gc": False,
    "wasm_memory64": False,
    "wasm_multi_memory": False,
    "wasm_relaxed_simd": False,
    "wasm_stack_switching": False,
    "wasm_tail_call": False,
    "wasm_threads": False,
    "wasm_wide_arithmetic": False,
}

_BINDINGS = threading.Lock()


@dataclass(frozen=True)
class StepOutcome:
    """Hold what one step did. `element` and `action` are FINISH where "finished" won.

    On ABSTAINED they name what would have been done. Logits and margin are in logits.
    """

    status: int
    op: Op | None
    element: int
    slot: str | None
    key: str | None
    action: int
    logit: float
    margin: float
    runner_up_element: int
    runner_up_action: int
    host_code: int
    fuel_used: int


@dataclass(frozen=True)
class _Memory:
    """Hold views over guest memory, which die with the store."""

    x: Floats  # (MAX_ELEMENTS, F)
    g: Floats  # (G,)
    logits: Floats  # (MAX_ELEMENTS, A)
    num_elements: NDArray[np.int32]  # (1,)
    outcome: NDArray[np.uint8]


def new_engine() -> wasmtime.Engine:
    """Return an engine with the one fixed configuration: SIMD on, whatever we never emit off.

    `reference_types` stays on: switching it off aborts the process (wasmtime 49).
    """
    config = wasmtime.Config()
    for name, value in _CONFIGURATION.items():
        # A binding takes a name it does not know without a word (wasmtime before 45 lacks some).
        if not hasattr(wasmtime.Config, name):
            raise SandboxError(f"this wasmtime has no switch {name}: install the pinned version")
        setattr(config, name, value)
    return wasmtime.Engine(config)


def fuel_for(network: Network) -> int:
    """Return fuel for a step over MAX_ELEMENTS elements, at least twice what it needs."""
    products = sum(
        -(-outputs // 16) * 16 * (sum(parts) + 4 * len(parts))
        for outputs, parts in network.layers().values()
    )
    overhead = 5000 + 60 * network.num_actions + 20 * sum(network.element)
    return MAX_ELEMENTS * (8 * products + overhead)


class _Ticker:
    """Advance an engine's epoch while steps run; the thread ends when none has for a while."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._running = False
        self._used_at_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._running = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, daemon=True, name="wasm-epoch")
                self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._used_at_s = time.monotonic()

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            with self._lock:
                if not self._running and time.monotonic() - self._used_at_s > _IDLE_S:
                    self._thread = None
                    return
            self._engine.increment_epoch()


class Sandbox:
    """Run one verified module for one run. Use as a context manager, or call `close`."""

    def __init__(
        self,
        verified: VerifiedModule,
        host: Host,
        *,
        fuel: int | None = None,
        deadline_ms: int = DEADLINE_MS,
    ) -> None:
        """Take `fuel` (default `fuel_for`) and `deadline_ms`, both per step."""
        self._verified = verified
        self._manifest = verified.manifest
        self._fuel = fuel if fuel is not None else fuel_for(verified.manifest.network)
        self._deadline_ms = deadline_ms
        self._border = Border(verified.manifest, host)
        self._busy = threading.Lock()
        self._engine = new_engine()
        self._ticker = _Ticker(self._engine)
        self._store = wasmtime.Store(self._engine)
        self._step: wasmtime.Func | None = None
        self._memory: _Memory | None = None

    def __enter__(self) -> Self:
        """Load the module."""
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        """Free the instance."""
        self.close()

    def load(self) -> None:
        """Compile, instantiate and replay the probes.

        Raises SandboxError, GuestTrap or OutOfFuel; nothing reaches the host meanwhile.
        """
        try:
            with _BINDINGS, self._ticker:
                self._instantiate()
            for probe in self._manifest.probes:
                self._replay(probe)
        except wasmtime.Trap as trap:
            self.close()
            raise self._explain(trap) from trap
        except wasmtime.WasmtimeError as error:
            self.close()
            raise SandboxError(
                f"module of {self._manifest.name!r} cannot be instantiated: train it again"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the instance; a later step is refused. Harmless if repeated.

        Raises SandboxError while a step is running.
        """
        with self._alone(), _BINDINGS:
            self._step = self._memory = None
            self._store.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise SandboxError("a step of this agent is still running: one thread per run")
        try:
            yield
        finally:
            self._busy.release()

    def _loaded(self) -> tuple[wasmtime.Func, _Memory]:
        if self._step is None or self._memory is None:
            raise SandboxError("the sandbox is not loaded, or closed: load it first")
        return self._step, self._memory

    def _instantiate(self) -> None:
        layout = self._verified.layout
        memory_bytes = layout.num_pages * PAGE_BYTES
        self._store.set_limits(
            memory_size=memory_bytes, table_elements=0, instances=1, tables=0, memories=1
        )
        self._meter()  # before instantiation: a start function may loop
        module = wasmtime.Module(self._engine, self._verified.data)
        linker = wasmtime.Linker(self._engine)
        for op in self._manifest.capabilities:
            i32 = wasmtime.ValType.i32
            kind = wasmtime.FuncType([i32() for _ in range(OPS[op])], [i32()])
            linker.define(
                self._store,
                IMPORT_MODULE,
                op,
                wasmtime.Func(self._store, kind, self._border.function(op)),
            )
        exports = linker.instantiate(self._store, module).exports(self._store)
        memory, step = exports.get("memory"), exports.get("step")
        if not isinstance(memory, wasmtime.Memory) or not isinstance(step, wasmtime.Func):
            raise SandboxError("module exports no memory and step: train it again")
        if memory.data_len(self._store) != memory_bytes:
            raise SandboxError(f"module's memory is not {memory_bytes} bytes: train it again")
        # Unchecked views over memory that can neither grow nor move (minimum = maximum).
        pointer = ctypes.addressof(memory.data_ptr(self._store).contents)
        self._memory = self._views((ctypes.c_ubyte * memory_bytes).from_address(pointer))
        self._step = step

    def _views(self, whole: "ctypes.Array[ctypes.c_ubyte]") -> _Memory:
        layout = self._verified.layout
        data = np.frombuffer(memoryview(whole), np.uint8)

        def floats(region: str, rows: int, columns: int) -> Floats:
            offset, size = layout.regions()[region]
            view: Floats = data[offset : offset + size].view(np.float32)
            return view.reshape(rows, -1)[:, :columns]

        network = layout.network
        return _Memory(
            floats("x", MAX_ELEMENTS, network.num_features),
            floats("g", 1, network.num_context)[0],
            floats("logits", MAX_ELEMENTS, network.num_actions),
            data[NUM_ELEMENTS : NUM_ELEMENTS + 4].view(np.int32),
            data[OUTCOME : OUTCOME + OUTCOME_BYTES],
        )

    def _meter(self) -> None:
        self._store.set_fuel(self._fuel)
        # One tick more, as the present one may be nearly over.
        self._store.set_epoch_deadline(math.ceil(self._deadline_ms / 1000 / _TICK_S) + 1)

    def step(self, x: Floats, g: Floats) -> StepOutcome:
        """Let the guest decide on x (N, F) and g (G) and act at most once.

        Raises ContractError (observation), GuestTrap, OutOfFuel (fuel or time; the action may
        have been done), SandboxError, and whatever the host raised.
        """
        return self._run(x, g, probing=False)

    def logits(self, num_elements: int) -> NDArray[np.float32]:
        """Return a copy of the last step's logits (N, A), for evidence."""
        with self._alone():
            _, memory = self._loaded()
            return memory.logits[:num_elements].copy()

    def _run(self, x: Floats, g: Floats, *, probing: bool) -> StepOutcome:
        check_observation(self._manifest.network, x, g)
        with self._alone():
            guest_step, memory = self._loaded()
            memory.x[: len(x)] = x
            memory.g[:] = g
            memory.num_elements[0] = len(x)
            memory.outcome.fill(_UNTOLD)
            self._border.begin(len(x), probing=probing)
            self._call_guest(guest_step)
            return self._read_outcome(len(x), memory.outcome.tobytes())

    def _call_guest(self, guest_step: wasmtime.Func) -> None:
        self._meter()
        started_s = time.monotonic()
        try:
            with self._ticker:
                guest_step(self._store)
        except wasmtime.Trap as trap:
            self._raise_host_error()
            raise self._explain(trap) from trap
        except wasmtime.WasmtimeError as error:
            raise SandboxError(
                f"module of {self._manifest.name!r} failed: train it again"
            ) from error
        self._raise_host_error()
        spent_ms = (time.monotonic() - started_s) * 1000
        if spent_ms > self._deadline_ms:
            # A guest whose last act is the host call passes no epoch check behind it.
            raise OutOfFuel(self._late())

    def _raise_host_error(self) -> None:
        if self._border.error is not None:
            raise self._border.error

    def _late(self) -> str:
        done = [f"{call.op} on element {call.element}" for call in self._border.calls]
        return (
            f"agent {self._manifest.name!r} took longer than {self._deadline_ms} ms for a step "
            f"({done[0] + ' may have been done' if done else 'nothing was done'}): look at the "
            "screen before going on"
        )

    def _explain(self, trap: wasmtime.Trap) -> SandboxError:
        code = trap.trap_code
        if code == wasmtime.TrapCode.OUT_OF_FUEL:
            return OutOfFuel(
                f"agent {self._manifest.name!r} used up its fuel of {self._fuel} in one step: stop "
                "the run and train it again"
            )
        if code == wasmtime.TrapCode.INTERRUPT:
            return OutOfFuel(self._late())
        reason = code.name.lower() if code else "unknown cause"
        return GuestTrap(f"agent {self._manifest.name!r} trapped ({reason}): train it again")

    def _read_outcome(self, num_elements: int, untrusted: bytes) -> StepOutcome:
        """Check the guest's account against what the host saw. Raises GuestTrap."""
        element, action, second_element, second_action = np.frombuffer(untrusted, "<i4", 4).tolist()
        logit, margin = np.frombuffer(untrusted, "<f4", 2, 16).tolist()
        untrusted_status = int.from_bytes(untrusted[28:], "little", signed=True)
        calls = self._border.calls
        entry = None
        if 0 <= action < len(self._manifest.actions) and 0 <= element < num_elements:
            entry = self._manifest.actions[action]
        finished = (element, action) == (FINISH, FINISH)
        expected = Call(entry.op, element, entry.slot, entry.key) if entry else None
        honest = {
            Status.ACTED: calls == [expected] and self._border.code == CALL_OK,
            Status.REFUSED: calls == [expected] and self._border.code != CALL_OK,
            Status.FINISHED: finished and not calls,
            Status.ABSTAINED: (finished or entry is not None) and not calls,
        }
        if not honest.get(untrusted_status, False):
            raise GuestTrap(
                f"agent {self._manifest.name!r} gives an account (status {untrusted_status}) that "
                "differs from what the host saw: stop the run and train it again"
            )
        return StepOutcome(
            status=untrusted_status,
            op=entry.op if entry else None,
            element=element,
            slot=entry.slot if entry else None,
            key=entry.key if entry else None,
            action=action,
            logit=logit,
            margin=margin,
            runner_up_element=second_element,
            runner_up_action=second_action,
            host_code=self._border.code,
            fuel_used=self._fuel - self._store.get_fuel(),
        )

    def _replay(self, probe: Probe) -> None:
        """Compare one probe's decision with the manifest's. Raises SandboxError."""
        x, g = synthetic_observation(self._manifest.network, probe.seed)
        outcome = self._run(x, g, probing=True) if len(x) == probe.num_elements else None
        if (
            outcome is None
            or digest_observation(x, g) != probe.digest
            or (outcome.status, outcome.element, outcome.action)
            != (probe.status, probe.element, probe.action)
            or not abs(outcome.margin - probe.margin) <= _PROBE_TOLERANCE * (1 + abs(probe.margin))
        ):
            raise SandboxError(
                f"agent {self._manifest.name!r} decides probe {probe.seed} otherwise than when it "
                "was trained (its weights or this machine's arithmetic changed): train it again"
            )
