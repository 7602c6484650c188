"""What an agent module says about itself: powers, decision table, network sizes, probes.

Reads and writes nothing. The manifest is carried in the module's custom section `wat.manifest`
as canonical JSON. Everything in the module but its weights and signature follows from it, so it
is also the input of the runner's proof by re-emission. It holds sizes, names and figures, no
weights; `constants`, and the texts and tables of `programmes`, are the only values in it that come
from what was watched.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from shared.schemas.programmes import Programme

__all__ = [
    "ABI_VERSION",
    "EMITTER_VERSION",
    "FINISH",
    "KEYS",
    "MAX_ACTIONS",
    "MAX_ELEMENTS",
    "NUM_PROBES",
    "OPS",
    "ActionEntry",
    "Manifest",
    "Network",
    "Op",
    "Precision",
    "Probe",
    "Status",
    "capabilities_of",
]

ABI_VERSION = 2
EMITTER_VERSION = 2
MAX_ELEMENTS = 512  # elements of one observation; sizes the guest's memory
MAX_ACTIONS = 128
MAX_INPUTS = 1024  # inputs of one layer part: keeps i32 sums of int8 x int16 products exact
NUM_PROBES = 16
FINISH = -1  # element and action index that stand for "the task is finished"

Op = Literal["click", "double_click", "hover", "type_text", "select_option", "press_key"]
Precision = Literal["f32", "int8"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]

# Operation -> number of i32 arguments of its host function, all of module namespace `wat`.
OPS: dict[Op, int] = {
    "click": 1,
    "double_click": 1,
    "hover": 1,
    "press_key": 2,
    "select_option": 2,
    "type_text": 2,
}

# The key index of `press_key` points in here; the names are those of UI Events KeyboardEvent.key.
# Source: https://www.w3.org/TR/uievents-key/
KEYS = (
    "Enter",
    "Tab",
    "Escape",
    "Space",
    "ArrowUp",
    "ArrowDown",
    "ArrowLeft",
    "ArrowRight",
    "Home",
    "End",
    "PageUp",
    "PageDown",
    "Backspace",
    "Delete",
)


class Status:
    """Name what `step` returns."""

    ACTED = 0
    FINISHED = 1
    ABSTAINED = 2
    REFUSED = 3  # the host function returned something else than 0
    BAD_INPUT = 4  # the number of elements is outside 1..MAX_ELEMENTS


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ActionEntry(_Frozen):
    """Describe one column of the decision table: an operation and what it needs beside an element.

    `type_text` and `select_option` name a slot, `press_key` a key of `KEYS`.
    """

    op: Op
    slot: Name | None = None
    key: Name | None = None

    @model_validator(mode="after")
    def _argument_fits(self) -> Self:
        if (self.slot is not None) != (self.op in ("type_text", "select_option")):
            raise ValueError(f"{self.op}: slot is for type_text and select_option, which need it")
        if (self.key is not None) != (self.op == "press_key"):
            raise ValueError(f"{self.op}: key is for press_key, which needs it")
        if self.key is not None and self.key not in KEYS:
            raise ValueError(f"key {self.key!r} is not one of {', '.join(KEYS)}")
        return self


class Network(_Frozen):
    """Give the sizes of the scoring network; the wiring is fixed.

    With x (N, F) per element, g (G) shared, and every layer followed by ReLU unless said::

        h_e    = element stack over [x_e, g]                 (N, H)   H = element[-1]
        u      = context stack over [mean_e h, max_e h, g]   (C)      C = context[-1]
        s_e    = score stack over [h_e, u]                   (N, S)   may be empty: s_e = [h_e, u]
        logit  = scores, linear over s_e                     (N, A)   A = num_actions
        finish = linear over u                               ()
    """

    num_features: int = Field(ge=1, le=MAX_INPUTS)
    num_context: int = Field(ge=1, le=MAX_INPUTS)
    num_actions: int = Field(ge=1, le=MAX_ACTIONS)
    element: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        (64, 32), min_length=1, max_length=4
    )
    context: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        (32,), min_length=1, max_length=4
    )
    score: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field((32,), max_length=4)

    def layers(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Map each layer's name to (outputs, inputs of each part), in order of evaluation.

        A layer's weight is (outputs, sum of parts), its columns in the order of the parts:
        `element.0` [x, g]; `context.0` [mean, max, g]; the first of score and scores [h, u].
        """
        sizes: dict[str, tuple[int, tuple[int, ...]]] = {}
        parts: tuple[int, ...] = (self.num_features, self.num_context)
        for i, width in enumerate(self.element):
            sizes[f"element.{i}"] = (width, parts)
            parts = (width,)
        parts = (self.element[-1], self.element[-1], self.num_context)
        for i, width in enumerate(self.context):
            sizes[f"context.{i}"] = (width, parts)
            parts = (width,)
        sizes["finish"] = (1, parts)
        parts = (self.element[-1], self.context[-1])
        for i, width in enumerate(self.score):
            sizes[f"score.{i}"] = (width, parts)
            parts = (width,)
        sizes["scores"] = (self.num_actions, parts)
        return sizes

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Map `<layer>.weight` and `<layer>.bias` to shapes, as torch.nn.Linear stores them."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (outputs, parts) in self.layers().items():
            shapes[f"{name}.weight"] = (outputs, sum(parts))
            shapes[f"{name}.bias"] = (outputs,)
        return shapes


class Probe(_Frozen):
    """Record what the module decides on one synthetic observation made from a seed alone."""

    seed: int
    num_elements: int = Field(ge=1, le=MAX_ELEMENTS)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")  # SHA-256 of x then g, f32 little-endian
    status: int
    element: int
    action: int
    margin: float


class Manifest(_Frozen):
    """Describe one agent module in full, but for its weights and signature.

    `probes` is left empty by the caller and filled in by `shared.module.emit`.
    """

    abi: Literal[2] = 2
    emitter: Literal[2] = 2
    encoding: int = Field(ge=1)  # version of the observation's encoding
    routine_id: Name
    routine_revision: int = Field(ge=0)
    name: Name
    actions: tuple[ActionEntry, ...] = Field(min_length=1, max_length=MAX_ACTIONS)
    slots: tuple[Name, ...] = ()
    constants: dict[Name, str] = {}  # values of slots that no record names: the same each time
    programmes: dict[Name, Programme] = {}  # slots that follow from others, and how
    network: Network
    precision: Precision = "f32"
    margin_threshold: float = Field(ge=0, le=1e6)  # logits
    capabilities: tuple[Op, ...]
    screen_schema: dict[str, JsonValue] = {}
    post_condition: dict[str, JsonValue] = {}
    reading: dict[str, JsonValue] = {}  # encoding 4: shared.goal.Reading
    training: dict[str, float] = {}
    held_out: dict[str, float] = {}
    options: dict[str, JsonValue] = {}
    data_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    git_revision: str = Field(max_length=64)
    producers: dict[Name, Name] = {}  # tool -> version
    probes: tuple[Probe, ...] = ()

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if len(self.actions) != self.network.num_actions:
            raise ValueError(
                f"actions has {len(self.actions)} entries, network.num_actions says "
                f"{self.network.num_actions}"
            )
        if len(set(self.actions)) != len(self.actions) or len(set(self.slots)) != len(self.slots):
            raise ValueError("actions and slots must not repeat an entry")
        unknown = {entry.slot for entry in self.actions} - {None, *self.slots}
        if unknown:
            raise ValueError(
                f"actions name slots that are not declared: {sorted(map(str, unknown))}"
            )
        if not set(self.constants) <= set(self.slots):
            raise ValueError(
                f"constants must be slots too: {sorted(set(self.constants) - set(self.slots))}"
            )
        if not set(self.programmes) <= set(self.slots) - set(self.constants):
            raise ValueError("programmes are for slots that are no constants")
        if self.capabilities != capabilities_of(self.actions):
            raise ValueError(
                f"capabilities must be {capabilities_of(self.actions)}, what actions use, "
                f"not {self.capabilities}"
            )
        # pydantic lets NaN and infinity through in free-form JSON, where they have no spelling.
        json.dumps(
            [self.screen_schema, self.post_condition, self.reading, self.options], allow_nan=False
        )
        if len(self.probes) not in (0, NUM_PROBES):
            raise ValueError(f"probes must be {NUM_PROBES}, or none before emission")
        return self

    def canonical_json(self) -> bytes:
        """Return the one byte string that stands for this manifest: sorted keys, no spaces.

        What is empty is left out, so a field added later, empty by default, changes no old module.
        """
        fields = self.model_dump(mode="json", exclude_none=True)
        return json.dumps(
            {key: value for key, value in fields.items() if value not in ({}, [])},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()


def capabilities_of(actions: Iterable[ActionEntry]) -> tuple[Op, ...]:
    """Return the sorted operations that `actions` use."""
    return tuple(sorted({entry.op for entry in actions}))
