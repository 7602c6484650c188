"""The code of an agent module, written from its manifest alone.

A runner can thus write the same bytes again and compare. Longer than 400 lines because the guest
reads best in one piece. The guest's exports:

- `memory`; `step(num_elements: i32) -> i32`, a value of `shared.manifest.Status`
- i32 globals with the byte offsets a host needs: `x` (row i at `x + i * x_stride`), `g`, `logits`
  (row i at `logits + i * logits_stride`) and `outcome`, where `step` leaves, 4 bytes each:
  best element, best action, runner-up element, runner-up action (i32; FINISH, FINISH stands for
  "finished"), best logit, margin (f32), and what the host function returned (i32).

Arithmetic: outputs are computed 16 at a time with the weights of one input side by side, so a
layer is a chain of multiply-adds without horizontal sums. The inner loop takes 4 inputs a turn,
as a metered turn costs (f32, 32 elements, two loaded cores, November 2026: 108 us a step with 2,
92 us with 4). int8 layers quantise each input vector to 16 bits by its own largest value.
"""

from collections.abc import Iterator

from shared import wasm
from shared.layout import BLOCK, OUTCOME, Layout, activation_levels, padded
from shared.manifest import FINISH, KEYS, MAX_ELEMENTS, OPS, Manifest, Status
from shared.wasm import Function, FunctionType, Section

__all__ = ["IMPORT_MODULE", "code_sections"]

IMPORT_MODULE = "wat"
_SMALLEST = "1e-20"  # a vector whose largest value is below counts as all zero
_DENSE_PARAMS = (
    ("w", "i32"),
    ("v", "i32"),
    ("init", "i32"),
    ("out", "i32"),
    ("turns", "i32"),
    ("blocks", "i32"),
    ("floor", "f32"),
)
_ACCUMULATORS = "abcd"
_TURN_INPUTS = 4  # that the inner loop of `dense` takes at once


def _advance(pointer: str, num_bytes: int) -> str:
    return f"local.get ${pointer} i32.const {num_bytes} i32.add local.set ${pointer} "


def _dense(params: tuple[tuple[str, str], ...], inner: str, total: str, advance: str) -> Function:
    """Write out[k] = max(floor, init[k] + total of w * v) around what the precisions differ in."""
    store = "".join(
        f"""
        local.get $out
        {total.replace("ACC", acc).replace("OFFSET", str(16 * k))}
        local.get $init v128.load {16 * k} f32x4.add
        local.get $floor f32x4.splat f32x4.max
        v128.store {16 * k}"""
        for k, acc in enumerate(_ACCUMULATORS)
    )
    body = f"""
      loop
        {" ".join(f"f32.const 0 f32x4.splat local.set ${a}" for a in _ACCUMULATORS)}
        local.get $v local.set $p
        local.get $turns local.set $n
        loop
          {inner}
          local.get $n i32.const 1 i32.sub local.tee $n br_if 0
        end
        {store}
        local.get $out i32.const 64 i32.add local.set $out
        local.get $init i32.const 64 i32.add local.set $init
        {advance}
        local.get $blocks i32.const 1 i32.sub local.tee $blocks br_if 0
      end"""
    v128 = (*((a, "v128") for a in _ACCUMULATORS), ("t", "v128"))
    return Function("dense", params, (), (("p", "i32"), ("n", "i32"), *v128), body)


def _dense_f32() -> Function:
    inner = ""
    for i in range(_TURN_INPUTS):
        inner += f"local.get $p v128.load32_splat {4 * i} local.set $t "
        for k, acc in enumerate(_ACCUMULATORS):
            inner += (
                f"local.get ${acc} local.get $t local.get $w v128.load {64 * i + 16 * k} "
                f"f32x4.mul f32x4.add local.set ${acc} "
            )
    inner += _advance("w", 256) + _advance("p", 16)
    return _dense(_DENSE_PARAMS, inner, "local.get $ACC", "")


def _dense_int8() -> Function:
    inner = ""
    for i in range(_TURN_INPUTS // 2):  # inputs go in pairs: a dot product of two int16
        inner += f"local.get $p v128.load32_splat {4 * i} local.set $t "
        for k, acc in enumerate(_ACCUMULATORS):
            inner += (
                f"local.get ${acc} local.get $t local.get $w v128.load8x8_s {32 * i + 8 * k} "
                f"i32x4.dot_i16x8_s i32x4.add local.set ${acc} "
            )
    inner += _advance("w", 64) + _advance("p", 8)
    total = (
        "local.get $ACC f32x4.convert_i32x4_s local.get $rows v128.load OFFSET "
        "local.get $scale f32x4.splat f32x4.mul f32x4.mul"
    )
    params = (*_DENSE_PARAMS, ("scale", "f32"), ("rows", "i32"))
    return _dense(params, inner, total, _advance("rows", 64))


def _quantise() -> Function:
    """Write f32 vector v as int16 to `out`; return the scale that leads back."""
    lanes = " ".join(f"local.get $s f32.load {4 * i} " + ("f32.max" if i else "") for i in range(4))
    convert = " ".join(
        f"local.get $v v128.load {16 * i} local.get $m f32x4.mul f32x4.nearest "
        "i32x4.trunc_sat_f32x4_s"
        for i in (0, 1)
    )
    body = f"""
      local.get $v local.set $p
      local.get $octets local.set $n
      loop
        local.get $m
        local.get $p v128.load 0 f32x4.abs f32x4.max
        local.get $p v128.load 16 f32x4.abs f32x4.max
        local.set $m
        local.get $p i32.const 32 i32.add local.set $p
        local.get $n i32.const 1 i32.sub local.tee $n br_if 0
      end
      local.get $s local.get $m v128.store 0
      {lanes} local.set $largest
      f32.const 0 f32x4.splat local.set $m
      local.get $largest f32.const {_SMALLEST} f32.gt
      if
        local.get $levels local.get $largest f32.div f32x4.splat local.set $m
      end
      loop
        local.get $s
        {convert}
        i16x8.narrow_i32x4_s
        v128.store 0
        local.get $v i32.const 32 i32.add local.set $v
        local.get $s i32.const 16 i32.add local.set $s
        local.get $octets i32.const 1 i32.sub local.tee $octets br_if 0
      end
      local.get $largest local.get $levels f32.div"""
    params = (("v", "i32"), ("octets", "i32"), ("levels", "f32"), ("s", "i32"))
    variables = (("p", "i32"), ("n", "i32"), ("largest", "f32"), ("m", "v128"))
    return Function("quantise", params, ("f32",), variables, body)


def _pool() -> Function:
    """Add vector v to sum and keep the larger values in max, 4 floats a turn."""
    body = """
      loop
        local.get $sum
        local.get $sum v128.load 0 local.get $v v128.load 0 f32x4.add
        v128.store 0
        local.get $max
        local.get $max v128.load 0 local.get $v v128.load 0 f32x4.max
        v128.store 0
        local.get $v i32.const 16 i32.add local.set $v
        local.get $sum i32.const 16 i32.add local.set $sum
        local.get $max i32.const 16 i32.add local.set $max
        local.get $quads i32.const 1 i32.sub local.tee $quads br_if 0
      end"""
    params = (("v", "i32"), ("sum", "i32"), ("max", "i32"), ("quads", "i32"))
    return Function("pool", params, (), (), body)


def _clear() -> Function:
    """Set vector v to zero."""
    body = """
      loop
        local.get $v f32.const 0 f32x4.splat v128.store 0
        local.get $v i32.const 16 i32.add local.set $v
        local.get $quads i32.const 1 i32.sub local.tee $quads br_if 0
      end"""
    return Function("clear", (("v", "i32"), ("quads", "i32")), (), (), body)


def _divide() -> Function:
    """Divide vector v by a number."""
    body = """
      loop
        local.get $v
        local.get $v v128.load 0 local.get $by f32x4.splat f32x4.div
        v128.store 0
        local.get $v i32.const 16 i32.add local.set $v
        local.get $quads i32.const 1 i32.sub local.tee $quads br_if 0
      end"""
    return Function("divide", (("v", "i32"), ("by", "f32"), ("quads", "i32")), (), (), body)


class _Step:
    """Write the body of `step` for one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.layout = Layout(manifest.network, manifest.precision)
        self.layers = manifest.network.layers()
        self.at = {region: offset for region, (offset, _) in self.layout.regions().items()}
        self.parameters = {k: offset for k, (offset, _) in self.layout.parameters().items()}

    def dense(
        self, layer: str, part: int, v: str, out: str, *, init: str = "", relu: bool = True
    ) -> str:
        """Write one call; `v`, `out`, `init` are instructions that leave an address."""
        outputs, parts = self.layers[layer]
        blocks, inputs = padded(outputs) // BLOCK, parts[part]
        init = init or f"i32.const {self.parameters[layer, 'bias', 0]}"
        floor = "0" if relu else "-inf"
        head = f"i32.const {self.parameters[layer, 'weight', part]}"
        tail = (
            f"{init} {out} i32.const {padded(inputs, 4) // _TURN_INPUTS} "
            f"i32.const {blocks} f32.const {floor}"
        )
        if self.manifest.precision == "f32":
            return f"{head} {v} {tail} call $dense\n"
        scratch = f"i32.const {self.at['quantised']}"
        return (
            f"{head} {scratch} {tail} "
            f"{v} i32.const {padded(inputs, 8) // 8} f32.const {activation_levels(inputs)} "
            f"{scratch} call $quantise "
            f"i32.const {self.parameters[layer, 'scale', part]} call $dense\n"
        )

    def stack(self, layers: list[str], v: str, last: str) -> str:
        """Write single-part layers from `v`, alternating scratch regions, into `last`."""
        text = ""
        for i, layer in enumerate(layers):
            out = last if i == len(layers) - 1 else self.region("odd" if i % 2 == 0 else "even")
            text += self.dense(layer, 0, v, out, relu=layer != "scores")
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
          {self.dense("element.0", 1, self.region("g"), self.region("shared"), relu=False)}
          {self.region("x")} local.set $x
          {self.region("h")} local.set $h
          i32.const 0 local.set $e
          loop
            {self.dense("element.0", 0, "local.get $x", first, init=self.region("shared"))}
            {self.stack(names[1:], first, "local.get $h")}
            local.get $h {self.region("sum")} {self.region("max")} i32.const {quads} call $pool
            {_advance("x", self.layout.x_stride)}
            {_advance("h", self.layout.h_stride)}
            {self.next_element()}
          end
          {self.region("sum")} local.get $num_elements f32.convert_i32_u
          i32.const {quads} call $divide"""

    def context_pass(self) -> str:
        """Write the screen's vector u and the finish logit, which opens the contest."""
        names = [name for name in self.layers if name.startswith("context.")]
        out = self.region("u") if len(names) == 1 else self.region("even")
        return f"""
          {self.dense("context.0", 0, self.region("sum"), out, relu=False)}
          {self.dense("context.0", 1, self.region("max"), out, init=out, relu=False)}
          {self.dense("context.0", 2, self.region("g"), out, init=out)}
          {self.stack(names[1:], out, self.region("u"))}
          {self.dense("finish", 0, self.region("u"), self.region("finish"), relu=False)}
          {self.region("finish")} f32.load 0 local.set $best
          i32.const {FINISH} local.tee $best_e local.set $best_a
          f32.const -inf local.set $second
          i32.const {FINISH} local.tee $second_e local.set $second_a"""

    def score_pass(self) -> str:
        """Write all logits and the contest for the best two."""
        names = [name for name in self.layers if name.startswith("score.")] + ["scores"]
        first, rest = names[0], names[1:]
        out = self.region("even") if rest else "local.get $l"
        head = self.dense(
            first, 0, "local.get $h", out, init=self.region("shared"), relu=bool(rest)
        )
        return f"""
          {self.dense(first, 1, self.region("u"), self.region("shared"), relu=False)}
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
              {_advance("x", 4)}
              local.get $a i32.const 1 i32.add local.tee $a
              i32.const {self.manifest.network.num_actions} i32.lt_u br_if 0
            end
            {_advance("h", self.layout.h_stride)}
            {_advance("l", self.layout.logits_stride)}
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
        """Return `step`."""
        body = f"""
          local.get $num_elements i32.const 1 i32.sub i32.const {MAX_ELEMENTS} i32.ge_u
          if i32.const {Status.BAD_INPUT} return end
          {self.element_pass()}
          {self.context_pass()}
          {self.score_pass()}
          {self.act()}"""
        integers = ("e", "a", "x", "h", "l", "best_e", "best_a", "second_e", "second_a")
        variables = tuple((v, "i32") for v in integers) + tuple(
            (v, "f32") for v in ("logit", "best", "second")
        )
        return Function("step", (("num_elements", "i32"),), ("i32",), variables, body)


def _functions(manifest: Manifest) -> list[Function]:
    dense = [_dense_f32()] if manifest.precision == "f32" else [_dense_int8(), _quantise()]
    return [*dense, _pool(), _clear(), _divide(), _Step(manifest).function()]


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
