"""The loops that the code of an agent module calls, as text for `shared.wasm.assemble`.

Most of what is observed is 0, so the layers that read it take a list of what is not (`gather`,
`listed`); the others read whole vectors (`dense`). int8 layers quantise each input vector to 16
bits by its own largest value. Outputs are computed up to 48 at a time with the weights of one
input side by side: a chain of multiply-adds without horizontal sums. A metered turn of a loop
costs, so each does much.
"""

from shared.layout import BLOCK, TURN_INPUTS
from shared.manifest import Precision
from shared.wasm import Function

__all__ = ["advance", "clear", "dense", "divide", "gather", "listed", "pool", "quantise"]

_SMALLEST = "1e-20"  # a vector whose largest value is below counts as all zero
_LOW = " ".join(f"{i} {i + 16}" for i in range(8))  # two rows of bytes, one by one
_HIGH = " ".join(f"{i} {i + 16}" for i in range(8, 16))
_SWAP_HALVES = " ".join(str((i + 8) % 16) for i in range(16))
_SWAP_NEIGHBOURS = " ".join(str(i ^ 4) for i in range(16))
_FLOATS = BLOCK  # of a whole vector in one turn
_LAYER_PARAMS = (
    ("w", "i32"),
    ("v", "i32"),
    ("init", "i32"),
    ("out", "i32"),
    ("turns", "i32"),
    ("passes", "i32"),
    ("floor", "f32"),
)


def advance(pointer: str, num_bytes: int) -> str:
    """Write the move of a pointer."""
    return f"local.get ${pointer} i32.const {num_bytes} i32.add local.set ${pointer} "


def _layer(
    name: str,
    num_accumulators: int,
    precision: Precision,
    params: tuple[tuple[str, str], ...],
    variables: tuple[tuple[str, str], ...],
    inner: str,
    between: str,
) -> Function:
    """Write out[k] = max(floor, init[k] + total of w * v) around what the layers differ in."""
    accumulators = [f"a{k}" for k in range(num_accumulators)]
    store = ""
    for k, acc in enumerate(accumulators):
        total = f"local.get ${acc}"
        if precision == "int8":
            total = (
                f"local.get ${acc} f32x4.convert_i32x4_s local.get $rows v128.load {16 * k} "
                "local.get $scales f32x4.mul f32x4.mul"
            )
        store += f"""
        local.get $out
        {total}
        local.get $init v128.load {16 * k} f32x4.add
        local.get $floors f32x4.pmax
        v128.store {16 * k}"""
    if precision == "int8":
        params = (*params, ("scale", "f32"), ("rows", "i32"))
        variables = (*variables, ("scales", "v128"))
    body = f"""
      local.get $floor f32x4.splat local.set $floors
      {"local.get $scale f32x4.splat local.set $scales" if precision == "int8" else ""}
      loop
        {" ".join(f"f32.const 0 f32x4.splat local.set ${acc}" for acc in accumulators)}
        local.get $v local.set $p
        local.get $turns local.set $n
        {inner}
        {store}
        {advance("out", 16 * num_accumulators)}
        {advance("init", 16 * num_accumulators)}
        {advance("rows", 16 * num_accumulators) if precision == "int8" else ""}
        {between}
        local.get $passes i32.const 1 i32.sub local.tee $passes br_if 0
      end"""
    vectors = (*((acc, "v128") for acc in accumulators), ("t", "v128"), ("floors", "v128"))
    return Function(name, params, (), (("p", "i32"), ("n", "i32"), *variables, *vectors), body)


def dense(blocks: int, precision: Precision) -> Function:
    """Write a layer over whole vectors, `TURN_INPUTS` a turn: f32 v, or int16 v by int8 w."""
    count, turn = 4 * blocks, ""
    if precision == "f32":
        for i in range(TURN_INPUTS):
            turn += f"local.get $p v128.load32_splat {4 * i} local.set $t "
            for k in range(count):
                turn += (
                    f"local.get $a{k} local.get $t "
                    f"local.get $w v128.load {16 * (count * i + k)} "
                    f"f32x4.mul f32x4.add local.set $a{k} "
                )
        turn += advance("w", 16 * count * TURN_INPUTS) + advance("p", 4 * TURN_INPUTS)
    else:
        for i in range(TURN_INPUTS // 2):  # inputs go in pairs: a dot product of two int16
            turn += f"local.get $p v128.load32_splat {4 * i} local.set $t "
            for k in range(count):
                turn += (
                    f"local.get $a{k} local.get $t "
                    f"local.get $w v128.load8x8_s {8 * (count * i + k)} "
                    f"i32x4.dot_i16x8_s i32x4.add local.set $a{k} "
                )
        turn += advance("w", 4 * count * TURN_INPUTS) + advance("p", 2 * TURN_INPUTS)
    inner = f"loop {turn} local.get $n i32.const 1 i32.sub local.tee $n br_if 0 end"
    return _layer(f"dense{blocks}", count, precision, _LAYER_PARAMS, (), inner, "")


def listed(blocks: int, precision: Precision) -> Function:
    """Write a layer over a list of values (f32, or int16 in pairs) and the places of their rows.

    A row holds the weights of one input, `stride` bytes.
    """
    count, width = 4 * blocks, 16 * blocks

    def row(name: str, at: int) -> str:
        return (
            f"local.get $q i32.load {at} local.get $stride i32.mul local.get $w i32.add "
            f"local.set ${name} "
        )

    turn = "local.get $p v128.load32_splat 0 local.set $t " + row("i", 0)
    if precision == "f32":
        for k in range(count):
            turn += (
                f"local.get $a{k} local.get $t local.get $i v128.load {16 * k} "
                f"f32x4.mul f32x4.add local.set $a{k} "
            )
        turn += advance("q", 4)
        width *= 4
    else:
        turn += row("j", 4)
        for block in range(blocks):
            load = f"local.get $i v128.load {16 * block} local.get $j v128.load {16 * block} "
            for half, lanes in enumerate((_LOW, _HIGH)):
                turn += f"{load} i8x16.shuffle {lanes} local.set $b "
                for part, side in enumerate(("low", "high")):
                    k = 4 * block + 2 * half + part
                    turn += (
                        f"local.get $a{k} local.get $b i16x8.extend_{side}_i8x16_s local.get $t "
                        f"i32x4.dot_i16x8_s i32x4.add local.set $a{k} "
                    )
        turn += advance("q", 8)
    turn += advance("p", 4)
    inner = f"""
        local.get $places local.set $q
        loop {turn} local.get $n i32.const 1 i32.sub local.tee $n br_if 0 end"""
    params = (*_LAYER_PARAMS, ("places", "i32"), ("stride", "i32"))
    variables = (("q", "i32"), ("i", "i32"), ("j", "i32"), ("b", "v128"))
    return _layer(
        f"listed{blocks}", count, precision, params, variables, inner, advance("w", width)
    )


def gather() -> Function:
    """List the f32 of v that are not 0, with the input that each is; return how many.

    Looks through 64 at once. Behind the list stand zeros enough for a turn of any loop over it.
    """
    mask = ""
    for group in range(4):
        pairs = [
            f"local.get $v v128.load {64 * group + 32 * k} "
            f"local.get $v v128.load {64 * group + 32 * k + 16} i16x8.narrow_i32x4_s"
            for k in (0, 1)
        ]
        # Saturating keeps what is not 0 from becoming 0.
        mask += (
            f"{pairs[0]} {pairs[1]} i8x16.narrow_i16x8_s local.get $zero i8x16.ne i8x16.bitmask "
            f"i64.extend_i32_u i64.const {16 * group} i64.shl " + ("i64.or " if group else "")
        )
    body = f"""
      local.get $values local.set $p
      local.get $places local.set $q
      loop
        {mask} local.tee $mask i64.const 0 i64.ne
        if
          loop
            local.get $mask i64.ctz i32.wrap_i64 local.set $k
            local.get $p
            local.get $v local.get $k i32.const 2 i32.shl i32.add f32.load 0
            f32.store 0
            local.get $q
            local.get $k local.get $first i32.add
            i32.store 0
            {advance("p", 4)}
            {advance("q", 4)}
            local.get $mask local.get $mask i64.const -1 i64.add i64.and
            local.tee $mask i64.const 0 i64.ne br_if 0
          end
        end
        {advance("v", 256)}
        {advance("first", 64)}
        local.get $words i32.const 1 i32.sub local.tee $words br_if 0
      end
      local.get $p local.get $zero v128.store 0
      local.get $p local.get $zero v128.store 16
      local.get $p local.get $zero v128.store 32
      local.get $p local.get $zero v128.store 48
      local.get $q i32.const 0 i32.store 0
      local.get $q i32.const 0 i32.store 4
      local.get $p local.get $values i32.sub i32.const 2 i32.shr_u
      local.tee $k i32.eqz local.get $k i32.add"""
    params = (("v", "i32"), ("words", "i32"), ("values", "i32"), ("places", "i32"))
    variables = (
        *((name, "i32") for name in ("p", "q", "k", "first")), ("mask", "i64"), ("zero", "v128"),
    )  # fmt: skip
    return Function("gather", params, ("i32",), variables, body)


def quantise() -> Function:
    """Write f32 vector v as int16 to `out`, 16 a turn; return the scale that leads back.

    Without a sign, floats are in the order of their bits, NaN last, which one instruction compares.
    Where a value is not finite the scale is NaN, and so is then all that follows.
    """
    larger = " ".join(
        f"local.get $p v128.load {16 * i} f32x4.abs i32x4.max_s" for i in range(_FLOATS // 4)
    )
    halves = " ".join(
        f"local.get $m local.get $m i8x16.shuffle {lanes} local.get $m i32x4.max_s local.set $m"
        for lanes in (_SWAP_HALVES, _SWAP_NEIGHBOURS)
    )
    # Adding 1.5 * 2**23 rounds to the nearest integer, ties to even, into the last bits.
    convert = ""
    for i in range(_FLOATS // 8):
        quads = " ".join(
            f"local.get $v v128.load {32 * i + 16 * k} local.get $m f32x4.mul "
            "local.get $magic f32x4.add local.get $magic i32x4.sub"
            for k in (0, 1)
        )
        convert += f"local.get $s {quads} i16x8.narrow_i32x4_s v128.store {16 * i}\n"
    body = f"""
      local.get $v local.set $p
      local.get $turns local.set $n
      loop
        local.get $m {larger} local.set $m
        {advance("p", 4 * _FLOATS)}
        local.get $n i32.const 1 i32.sub local.tee $n br_if 0
      end
      {halves}
      local.get $m f32x4.extract_lane 0 local.set $largest
      f32.const 0 f32x4.splat local.set $m
      local.get $largest f32.const {_SMALLEST} f32.gt
      if
        local.get $levels local.get $largest f32.div f32x4.splat local.set $m
      end
      f32.const 12582912 f32x4.splat local.set $magic
      loop
        {convert}
        {advance("v", 4 * _FLOATS)}
        {advance("s", 2 * _FLOATS)}
        local.get $turns i32.const 1 i32.sub local.tee $turns br_if 0
      end
      local.get $largest local.get $levels f32.div
      local.get $largest local.get $largest f32.sub f32.add"""
    params = (("v", "i32"), ("turns", "i32"), ("levels", "f32"), ("s", "i32"))
    variables = (
        ("p", "i32"), ("n", "i32"), ("largest", "f32"), ("m", "v128"), ("magic", "v128"),
    )  # fmt: skip
    return Function("quantise", params, ("f32",), variables, body)


def pool() -> Function:
    """Add vector v, none of it below 0, to sum and keep the larger values in max, 16 a turn."""
    each = "".join(
        f"""
        local.get $sum
        local.get $sum v128.load {16 * i} local.get $v v128.load {16 * i} f32x4.add
        v128.store {16 * i}
        local.get $max
        local.get $max v128.load {16 * i} local.get $v v128.load {16 * i} i32x4.max_s
        v128.store {16 * i}"""
        for i in range(_FLOATS // 4)
    )
    body = f"""
      loop
        {each}
        {advance("v", 4 * _FLOATS)}
        {advance("sum", 4 * _FLOATS)}
        {advance("max", 4 * _FLOATS)}
        local.get $turns i32.const 1 i32.sub local.tee $turns br_if 0
      end"""
    params = (("v", "i32"), ("sum", "i32"), ("max", "i32"), ("turns", "i32"))
    return Function("pool", params, (), (), body)


def clear() -> Function:
    """Set vector v to zero."""
    body = """
      loop
        local.get $v f32.const 0 f32x4.splat v128.store 0
        local.get $v i32.const 16 i32.add local.set $v
        local.get $quads i32.const 1 i32.sub local.tee $quads br_if 0
      end"""
    return Function("clear", (("v", "i32"), ("quads", "i32")), (), (), body)


def divide() -> Function:
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
