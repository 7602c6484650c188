"""Where an agent module's numbers lie in guest memory; follows from its network and precision."""

from dataclasses import dataclass

from shared.manifest import MAX_ELEMENTS, Network, Precision

__all__ = [
    "BLOCK",
    "NUM_ELEMENTS",
    "OUTCOME",
    "OUTCOME_BYTES",
    "PAGE_BYTES",
    "TURN_INPUTS",
    "WORD",
    "Layout",
    "activation_levels",
    "blocks_at_once",
    "is_listed",
    "padded",
]

BLOCK = 16  # outputs of four v128 accumulators
TURN_INPUTS = 8  # of a layer that reads whole vectors, in one turn of its loop
WORD = 64  # observed numbers that are looked through at once
PAGE_BYTES = 65536
NUM_ELEMENTS = 8  # where the host writes the number of elements, i32
OUTCOME = 16
OUTCOME_BYTES = 32


def padded(count: int, multiple: int = BLOCK) -> int:
    """Round `count` up to a multiple."""
    return -(-count // multiple) * multiple


def blocks_at_once(outputs: int) -> int:
    """Return how many blocks of outputs one pass over the inputs computes.

    Three leave 4 of a processor's 16 vector registers to everything else.
    """
    blocks = padded(outputs) // BLOCK
    return next(count for count in (3, 2, 1) if blocks % count == 0)


def is_listed(layer: str, part: int) -> bool:
    """Tell whether a layer's part reads what was observed, of which only what is not 0 counts."""
    return layer == "element.0" or (layer, part) == ("context.0", 2)


def activation_levels(num_inputs: int) -> int:
    """Return the largest quantised activation whose sum with int8 weights cannot leave int32."""
    return min(32767, (2**31 - 1) // (127 * num_inputs))


@dataclass(frozen=True)
class Layout:
    """Place every region of guest memory, in bytes. Parameters lie in one block at the end."""

    network: Network
    precision: Precision

    def regions(self) -> dict[str, tuple[int, int]]:
        """Map each region of numbers that change to (offset, size)."""
        net = self.network
        widest = max(*net.element, *net.context, *net.score, net.num_actions)
        longest = padded(max(net.num_features, net.num_context), WORD) + BLOCK
        floats = {
            "x": MAX_ELEMENTS * padded(net.num_features, WORD),
            "g": padded(net.num_context, WORD),
            "h": MAX_ELEMENTS * padded(net.element[-1]),
            "logits": MAX_ELEMENTS * padded(net.num_actions),
            "shared": padded(widest),  # the part of a layer that is the same for all elements
            "sum": padded(net.element[-1]),
            "max": padded(net.element[-1]),
            "u": padded(widest),
            "finish": padded(1),
            "even": padded(widest),
            "odd": padded(widest),
            "values": padded(longest),  # those observed that are not 0 ...
            "places": padded(longest),  # ... and the input that each belongs to
            "listed": padded(longest),  # these values quantised
            "quantised": padded(max(*net.element, *net.context, *net.score)),
        }
        at, placed = OUTCOME + 32, {}
        for region, count in floats.items():
            placed[region] = (at, 4 * count)
            at += 4 * count
        return placed

    def parameters(self) -> dict[tuple[str, str, int], tuple[int, int]]:
        """Map (layer, "weight" | "scale" | "bias", part) to (offset, size), in order of place."""
        at = self.data_offset
        placed = {}
        for layer, (outputs, parts) in self.network.layers().items():
            blobs = [(("bias", 0), 4 * padded(outputs))]
            for part, inputs in enumerate(parts):
                item_bytes = 4 if self.precision == "f32" else 1
                rows = inputs if is_listed(layer, part) else padded(inputs, TURN_INPUTS)
                blobs.append((("weight", part), padded(outputs) * rows * item_bytes))
                if self.precision == "int8":
                    blobs.append((("scale", part), 4 * padded(outputs)))
            for (kind, part), size in blobs:
                placed[layer, kind, part] = (at, size)
                at += size
        return placed

    @property
    def data_offset(self) -> int:
        """Return where the parameters begin."""
        offset, size = list(self.regions().values())[-1]
        return padded(offset + size)

    @property
    def data_bytes(self) -> int:
        """Return the size of all parameters."""
        offset, size = list(self.parameters().values())[-1]
        return offset + size - self.data_offset

    @property
    def num_pages(self) -> int:
        """Return the memory's fixed size in pages of 64 KiB."""
        return -(-(self.data_offset + self.data_bytes) // PAGE_BYTES)

    @property
    def x_stride(self) -> int:
        """Return the bytes between two rows of x."""
        return 4 * padded(self.network.num_features, WORD)

    @property
    def h_stride(self) -> int:
        """Return the bytes between two rows of h."""
        return 4 * padded(self.network.element[-1])

    @property
    def logits_stride(self) -> int:
        """Return the bytes between two rows of logits."""
        return 4 * padded(self.network.num_actions)
