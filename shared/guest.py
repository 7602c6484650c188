"""The code of an agent module, written from its manifest alone.

A runner can thus write the same bytes again and compare. The guest's exports:

- `memory`; `step()`, which takes and gives nothing but what lies there
- i32 globals with the byte offsets a host needs: `num_elements` (i32), `x` (row i at
  `x + i * x_stride`), `g`, `logits` (row i at `logits + i * logits_stride`) and `outcome`, where
  `step` leaves, 4 bytes each: best element, best action, runner-up element, runner-up action (i32;
  FINISH, FINISH stands for "finished"), best logit, margin (f32), what the host function returned
  and the step's `shared.manifest.Status` (i32).

The loops that do the arithmetic are in `shared.loops`.
"""

from collections.abc import Iterator

from shared import loops, wasm
from shared.layout import (
    BLOCK,
    NUM_ELEMENTS,
    OUTCOME,
    TURN_INPUTS,
    WORD,
    Layout,
    activation_levels,
    blocks_at_once,
    is_listed,
    padded,
)
from shared.loops import advance
from shared.manifest import FINISH, KEYS, MAX_ELEMENTS, OPS, Manifest, Status
from shared.wasm import Function, FunctionType, Section

__all__ = ["IMPORT_MODULE", "code_sections"]

IMPORT_MODULE = "wat"


class _Step:
    """Write the body of `step` for one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.layout = Layout(manifest.network, manifest.precision)
        self.layers = manifest.network.layers()
        self.at = {region: offset for region, (offset, _) in self.layout.regions().items()}
        self.parameters = {k: offset for k, (offset, _) in self.layout.parameters().items()}

    def call(
        self, layer: str, part: int, v: str, out: str, *, init: str = "", relu: bool = True
    ) -> str:
        """Write one layer's part; `v`, `out`, `init` are instructions that leave an address."""
        outputs, parts = self.layers[layer]
        int8, inputs = self.manifest.precision == "int8", parts[part]
        at_once = blocks_at_once(outputs)
        init = init or f"i32.const {self.parameters[layer, 'bias', 0]}"
        listing = is_listed(layer, part)
        values, turns = v, f"i32.const {padded(inputs, TURN_INPUTS) // TURN_INPUTS}"
        text, blocks = "", f"i32.const {padded(inputs) // BLOCK}"
        if listing:
            values, turns = self.region("values"), "local.get $count"
            text = (
                f"{v} i32.const {padded(inputs, WORD) // WORD} {values} {self.region('places')} "
                "call $gather local.set $count\n"
            )
            blocks = "local.get $count i32.const 15 i32.add i32.const 4 i32.shr_u"
            if int8:
                turns += " i32.const 1 i32.add i32.const 1 i32.shr_u"
        if int8:
            quantised = self.region("listed" if listing else "quantised")
            text += (
                f"{values} {blocks} f32.const {activation_levels(inputs)} {quantised} "
                "call $quantise local.set $scale\n"
            )
            values = quantised
        text += (
            f"i32.const {self.parameters[layer, 'weight', part]} {values} "
            f"{init} {out} {turns} "
            f"i32.const {padded(outputs) // BLOCK // at_once} f32.const {'0' if relu else '-inf'} "
        )
        if listing:
            text += f"{self.region('places')} i32.const {padded(outputs) * (1 if int8 else 4)} "
        if int8:
            text += f"local.get $scale i32.const {self.parameters[layer, 'scale', part]} "
        return text + f"call ${'listed' if listing else 'dense'}{at_once}\n"

    def stack(self, layers: list[str], v: str, last: str) -> str:
        """Write single-part layers from `v`, alternating scratch regions, into `last`."""
        text = ""
        for i, layer in enumerate(layers):
            out = last if i == len(layers) - 1 else self.region("odd" if i % 2 == 0 else "even")
            text += self.call(layer, 0, v, out, relu=layer != "scores")
            v = out
        return text

    def region(self, region: str) -> str:
        return f"i32.const {self.at[region]}"

    def element_pass(self) -> str:
        """Write hidden vectors of all elements and their pools."""
        names = [name for name in self.layers if name.startswith("element.")]
        quads = padded(self.manifest.network.element[-1]) // 4
        first = self.region("even") if len(names) > 1 else "local.get $h"
        clear = "".join(
            f"{self.region(region)} i32.const {quads} call $clear\n" for region in ("sum", "max")
        )
        return f"""
          {clear}
          {self.call("element.0", 1, self.region("g"), self.region("shared"), relu=False)}
          {self.region("x")} local.set $x
          {self.region("h")} local.set $h
          i32.const 0 local.set $e
          loop
            {self.call("element.0", 0, "local.get $x", first, init=self.region("shared"))}
            {self.stack(names[1:], first, "local.get $h")}
            local.get $h {self.region("sum")} {self.region("max")} i32.const {quads // 4} call $pool
            {advance("x", self.layout.x_stride)}
            {advance("h", self.layout.h_stride)}
            {self.next_element()}
          end
          {self.region("sum")} local.get $num_elements f32.convert_i32_u
          i32.const {quads} call $divide"""

    def context_pass(self) -> str:
        """Write the screen's vector u and the finish logit, which opens the contest."""
        names = [name for name in self.layers if name.startswith("context.")]
        out = self.region("u") if len(names) == 1 else self.region("even")
        return f"""
          {self.call("context.0", 0, self.region("sum"), out, relu=False)}
          {self.call("context.0", 1, self.region("max"), out, init=out, relu=False)}
          {self.call("context.0", 2, self.region("g"), out, init=out)}
          {self.stack(names[1:], out, self.region("u"))}
          {self.call("finish", 0, self.region("u"), self.region("finish"), relu=False)}
          {self.region("finish")} f32.load 0 local.set $best
          i32.const {FINISH} local.tee $best_e local.set $best_a
          f32.const -inf local.set $second
          i32.const {FINISH} local.tee $second_e local.set $second_a"""

    def score_pass(self) -> str:
        """Write all logits and the contest for the best two."""
        names = [name for name in self.layers if name.startswith("score.")] + ["scores"]
        first, rest = names[0], names[1:]
        out = self.region("even") if rest else "local.get $l"
        head = self.call(first, 0, "local.get $h", out, init=self.region("shared"), relu=bool(rest))
        return f"""
          {self.call(first, 1, self.region("u"), self.region("shared"), relu=False)}
          {self.region("h")} local.set $h
          {self.region("logits")} local.set $l
          i32.const 0 local.set $e
          loop
            {head}
            {self.stack(rest, out, "local.get $l")}
            local.get $l local.set $x
            i32.const 0 local.set $a
            loop
              local.get $x f32.load 0 local.set $logit
              local.get $logit local.get $best f32.gt
              if
                local.get $best local.set $second
                local.get $best_e local.set $second_e
                local.get $best_a local.set $second_a
                local.get $logit local.set $best
                local.get $e local.set $best_e
                local.get $a local.set $best_a
              else
                local.get $logit local.get $second f32.gt
                if
                  local.get $logit local.set $second
                  local.get $e local.set $second_e
                  local.get $a local.set $second_a
                end
              end
              {advance("x", 4)}
              local.get $a i32.const 1 i32.add local.tee $a
              i32.const {self.manifest.network.num_actions} i32.lt_u br_if 0
            end
            {advance("h", self.layout.h_stride)}
            {advance("l", self.layout.logits_stride)}
            {self.next_element()}
          end"""

    def act(self) -> str:
        """Write what is left for the host, then the one call of the chosen operation."""
        fields = ("best_e", "best_a", "second_e", "second_a")
        text = "".join(
            f"i32.const {OUTCOME} local.get ${field} i32.store {4 * i}\n"
            for i, field in enumerate(fields)
        )
        text += f"""
          i32.const {OUTCOME} local.get $best f32.store 16
          i32.const {OUTCOME} local.get $best local.get $second f32.sub local.tee $logit
          f32.store 20
          i32.const {OUTCOME} i32.const 0 i32.store 24
          local.get $logit f32.const {self.manifest.margin_threshold!r} f32.ge
          if else i32.const {Status.ABSTAINED} return end
          local.get $best_e i32.const {FINISH} i32.eq
          if i32.const {Status.FINISHED} return end
        """
        for index, entry in enumerate(self.manifest.actions):
            argument = ""
            if entry.slot is not None:
                argument = f"i32.const {self.manifest.slots.index(entry.slot)}"
            elif entry.key is not None:
                argument = f"i32.const {KEYS.index(entry.key)}"
            text += f"""
              local.get $best_a i32.const {index} i32.eq
              if local.get $best_e {argument} call ${entry.op} local.set $e end"""
        return f"""
          i32.const 0 local.set $e
          {text}
          i32.const {OUTCOME} local.get $e i32.store 24
          local.get $e if i32.const {Status.REFUSED} return end
          i32.const {Status.ACTED}"""

    def next_element(self) -> str:
        return (
            "local.get $e i32.const 1 i32.add local.tee $e local.get $num_elements i32.lt_u br_if 0"
        )

    def function(self) -> Function:
        """Return `decide`, which gets the number of elements and returns a status."""
        body = f"""
          local.get $num_elements i32.const 1 i32.sub i32.const {MAX_ELEMENTS} i32.ge_u
          if i32.const {Status.BAD_INPUT} return end
          {self.element_pass()}
          {self.context_pass()}
          {self.score_pass()}
          {self.act()}"""
        integers = ("e", "a", "x", "h", "l", "count", "best_e", "best_a", "second_e", "second_a")
        variables = tuple((v, "i32") for v in integers) + tuple(
            (v, "f32") for v in ("logit", "best", "second", "scale")
        )
        return Function("decide", (("num_elements", "i32"),), ("i32",), variables, body)


def _step() -> Function:
    """Return `step`: nothing goes in or out but through memory, which costs a host least."""
    body = f"""
      i32.const {OUTCOME} i32.const {NUM_ELEMENTS} i32.load 0 call $decide i32.store 28"""
    return Function("step", (), (), (), body)


def _functions(manifest: Manifest) -> list[Function]:
    layers, precision = manifest.network.layers(), manifest.precision
    kinds = {
        (is_listed(layer, part), blocks_at_once(outputs))
        for layer, (outputs, parts) in layers.items()
        for part in range(len(parts))
    }
    made = [
        (loops.listed if listing else loops.dense)(blocks, precision)
        for listing, blocks in sorted(kinds)
    ]
    if precision == "int8":
        made.append(loops.quantise())
    return [
        *made, loops.gather(), loops.pool(), loops.clear(), loops.divide(),
        _Step(manifest).function(), _step(),
    ]  # fmt: skip


def code_sections(manifest: Manifest) -> Iterator[Section]:
    """Write every section between the manifest and the data, in the format's order."""
    layout = Layout(manifest.network, manifest.precision)
    regions = layout.regions()
    functions = _functions(manifest)
    op_types = [FunctionType(("i32",) * OPS[op], ("i32",)) for op in manifest.capabilities]
    types = list(dict.fromkeys([*op_types, *(function.type for function in functions)]))
    names = [*manifest.capabilities, *(function.name for function in functions)]
    indices = {function_name: i for i, function_name in enumerate(names)}
    exported = {
        "x": regions["x"][0],
        "x_stride": layout.x_stride,
        "g": regions["g"][0],
        "logits": regions["logits"][0],
        "logits_stride": layout.logits_stride,
        "num_elements": NUM_ELEMENTS,
        "outcome": OUTCOME,
    }
    yield Section(wasm.TYPE, wasm.vector([t.encode() for t in types]))
    imports = [
        wasm.name(IMPORT_MODULE) + wasm.name(op) + b"\0" + wasm.uleb(types.index(op_type))
        for op, op_type in zip(manifest.capabilities, op_types, strict=True)
    ]
    yield Section(wasm.IMPORT, wasm.vector(imports))
    yield Section(wasm.FUNCTION, wasm.vector([wasm.uleb(types.index(f.type)) for f in functions]))
    pages = wasm.uleb(layout.num_pages)
    yield Section(wasm.MEMORY, wasm.vector([b"\x01" + pages + pages]))  # minimum = maximum
    constants = [b"\x7f\0\x41" + wasm.sleb(value) + b"\x0b" for value in exported.values()]
    yield Section(wasm.GLOBAL, wasm.vector(constants))
    exports = [wasm.name("memory") + b"\x02\0"]
    exports.append(wasm.name("step") + b"\0" + wasm.uleb(indices["step"]))
    exports += [wasm.name(key) + b"\x03" + wasm.uleb(i) for i, key in enumerate(exported)]
    yield Section(wasm.EXPORT, wasm.vector(exports))
    yield Section(wasm.CODE, wasm.vector([wasm.assemble(f, indices) for f in functions]))
