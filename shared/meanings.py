"""Which words mean nearly the same: 48 numbers for each of 38,000 common English words.

Part of encoding 4: trainer and runner read the same file, words.bin; `scripts/word_vectors.py`
makes it, words.LICENSE says of what. Reads that file once. Not covered: other languages, names, and
words of several meanings, which share one place.
"""

from array import array
from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import sha256
from operator import mul
from pathlib import Path

from shared.errors import ArtifactError

__all__ = ["alike", "likeness", "means", "read_table"]

# Another table is another encoding: modules were trained with this one.
_SHA256 = "5e82a0d3036c0f0f14ca43113f672b8c0daa3df52a639cd07aa6ce319f35a464"

_TABLE = Path(__file__).with_name("words.bin")
_SIZE = 48
_LENGTH = 127  # of each word's numbers, taken as a vector
_FORMS = (
    ("ies", "y"), ("ied", "y"), ("es", ""), ("s", ""), ("ed", ""), ("ed", "e"), ("ing", ""),
    ("ing", "e"),
)  # fmt: skip
_LEAST = 0.25  # likeness below which words have nothing in common


@cache
def read_table(file: Path) -> "tuple[dict[str, int], array[int]]":
    """Return the place of each word, and all their numbers.

    Raises ArtifactError where it is not the table of this encoding.
    """
    data = file.read_bytes()
    if sha256(data).hexdigest() != _SHA256:
        raise ArtifactError(f"{file} is damaged or of another version: install the package again")
    words, _, numbers = data.partition(b"\0")
    return {word: i for i, word in enumerate(words.decode().split("\n"))}, array("b", numbers)


@lru_cache(maxsize=4096)
def _numbers(word: str) -> "array[int] | None":
    places, numbers = read_table(_TABLE)
    folded = word.casefold()
    forms = [folded] + [
        folded.removesuffix(ending) + instead
        for ending, instead in _FORMS
        if folded.endswith(ending)
    ]
    at = next((places[form] for form in forms if form in places), None)
    return None if at is None else numbers[at * _SIZE : (at + 1) * _SIZE]


def means(text: str) -> bool:
    """Tell whether a text is one word whose meaning is known."""
    return _numbers(text.strip()) is not None


@lru_cache(maxsize=16384)
def likeness(one: str, other: str) -> float:
    """Return how alike two words are in meaning, -1 to 1; 0 where one is not known."""
    first, second = _numbers(one.strip()), _numbers(other.strip())
    if first is None or second is None:
        return 0.0
    product: int = sum(map(mul, first, second))
    return product / _LENGTH**2


def alike(wanted: Sequence[str], offered: Sequence[str]) -> dict[str, str]:
    """Pair words that are wanted with the offered ones most like them, each of them once.

    Returns the wanted word by the offered one, greedily from the most alike pair on.
    """
    pairs = sorted(
        ((likeness(one, other), one, other) for one in set(wanted) for other in set(offered)),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    taken: set[str] = set()
    found: dict[str, str] = {}
    for share, one, other in pairs:
        if share >= _LEAST and one not in taken and other not in found:
            taken.add(one)
            found[other] = one
    return found
