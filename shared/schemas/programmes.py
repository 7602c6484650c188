"""Programme: how one value follows from others, as data. `shared.transforms` runs it."""

from typing import Annotated, Literal

from pydantic import Field

from shared.schemas.base import Frozen

__all__ = [
    "PREVIOUS",
    "Branch",
    "Case",
    "Count",
    "Dated",
    "Edit",
    "Guard",
    "Mark",
    "Number",
    "Only",
    "Part",
    "Piece",
    "Programme",
    "Replace",
    "Table",
    "Take",
    "Way",
]

PREVIOUS = "@previous"
"""The input that stands for a parameter's own value in the record before."""


class Mark(Frozen):
    """A position: a side of the `nth` token of a class, from the left (1 …) or right (-1 …)."""

    cls: str
    nth: int
    side: Literal["start", "end"]


class Case(Frozen):
    """Spell with other cases."""

    kind: Literal["case"] = "case"
    to: Literal["lower", "upper", "title", "sentence"]


class Replace(Frozen):
    """Put another text, or none, in the place of each token of a class.

    A text in which other signs than `known` are left is unlike those it was verified on.
    """

    kind: Literal["replace"] = "replace"
    cls: str
    by: str
    known: str = ""


class Only(Frozen):
    """Keep the tokens of one class alone, with `by` between them."""

    kind: Literal["only"] = "only"
    cls: Literal["digits", "letters", "alnum", "word"]
    by: str = ""


class Take(Frozen):
    """Keep the first (or, below 0, last) characters."""

    kind: Literal["take"] = "take"
    num: int


class Dated(Frozen):
    """Write a date another way."""

    kind: Literal["date"] = "date"
    order: Literal["dmy", "mdy", "ymd"]
    to: Annotated[str, Field(max_length=40)]


class Number(Frozen):
    """Write a number another way; `decimals` None keeps those that are needed."""

    kind: Literal["number"] = "number"
    point: Literal[".", ","]  # of the input
    to_point: Literal[".", ","] = "."
    group: Literal["", ",", ".", " ", "'"] = ""
    decimals: Annotated[int, Field(ge=0, le=6)] | None = None


class Count(Frozen):
    """Count up the last number in the text."""

    kind: Literal["count"] = "count"
    by: int = 1


Edit = Annotated[Case | Replace | Only | Take | Dated | Number | Count, Field(discriminator="kind")]


class Piece(Frozen):
    """What lies between two marks of the input `of`, trimmed, with `edits` done one by one.

    Without `left` it begins, without `right` it ends with the text.
    """

    of: int
    left: Mark | None = None
    right: Mark | None = None
    edits: tuple[Edit, ...] = ()


class Part(Frozen):
    """One part of a result: a literal text, or a piece of an input."""

    text: str | None = None
    piece: Piece | None = None


class Table(Frozen):
    """Results by the whole text of one input."""

    of: int
    rows: dict[str, str]


class Way(Frozen):
    """One way to make the result, and how long its description is."""

    bits: float
    parts: tuple[Part, ...] = ()
    table: Table | None = None


class Guard(Frozen):
    """A test of one input."""

    of: int
    test: Literal["equals", "has", "shape"]
    value: str
    holds: bool = True


class Branch(Frozen):
    """Ways that count where the guard holds."""

    guard: Guard | None = None
    ways: tuple[Way, ...]


class Programme(Frozen):
    """How a value follows from others: the first branch whose guard holds says it."""

    inputs: tuple[str, ...] = Field(description="names of other parameters, or @previous")
    branches: tuple[Branch, ...]
    shapes: tuple[str, ...] = Field(
        (), description="of the results it was verified on, where none of them holds a letter"
    )
    verified: int = Field(0, description="on how many executions it held")
