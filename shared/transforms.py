"""Programmes that make one text out of others: parts of texts, joined; formats; tables.

Pure. A programme is data (it stands in a routine's record and, in full, in a module's manifest),
and whoever holds it computes the same text: the learner to verify it, the trainer to know its
slots, the runner to type it. `run` returns None where a programme does not know: an input of a kind
it was never verified on, a key its table lacks, or readings about as likely that disagree.

Source: the language is a part of FlashFill's (Gulwani, Automating String Processing in Spreadsheets
Using Input-Output Examples, POPL 2011): positions between token classes, substrings, concatenation.
Does not cover: loops over an unknown number of parts, and arithmetic other than counting up.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Literal

from shared.errors import ContractError
from shared.schemas.programmes import (
    PREVIOUS,
    Case,
    Count,
    Dated,
    Edit,
    Guard,
    Mark,
    Number,
    Only,
    Part,
    Piece,
    Programme,
    Replace,
    Take,
    Way,
)

__all__ = [
    "CLASSES",
    "DATE_FORMATS",
    "DATE_ORDERS",
    "MAX_INPUT_CHARS",
    "complete",
    "counts",
    "describe",
    "edited",
    "mark_at",
    "matches",
    "part_text",
    "run",
    "shape",
    "signs",
    "way_text",
]

MAX_INPUT_CHARS = 2_000  # longer texts are no values that a rule is made for

_MARGIN_BITS = 2.5  # a way less than this longer than the best may contradict it

CLASSES: Mapping[str, str] = {
    "digits": r"\d+",
    "letters": r"[^\W\d_]+",
    "capitals": r"[A-ZÀ-ÖØ-Þ]+",
    "alnum": r"[^\W_]+",
    "word": r"\S+",
    "space": r"\s+",
}
"""Token classes; any other name of one is a literal delimiter."""

DATE_ORDERS: tuple[Literal["dmy", "mdy", "ymd"], ...] = ("dmy", "mdy", "ymd")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
DATE_FORMATS = (
    "dd-mm-yyyy", "dd/mm/yyyy", "dd.mm.yyyy", "mm-dd-yyyy", "mm/dd/yyyy", "yyyy-mm-dd",
    "yyyy/mm/dd", "yyyy.mm.dd", "yyyymmdd", "d-m-yyyy", "d/m/yyyy", "d.m.yyyy", "m/d/yyyy",
    "dd/mm/yy", "dd.mm.yy", "mm/dd/yy", "d/m/yy", "m/d/yy", "d mon yyyy", "dd mon yyyy",
    "dd-mon-yyyy", "d month yyyy", "d. month yyyy", "mon d, yyyy", "month d, yyyy", "month yyyy",
    "mon yyyy", "month", "mon", "yyyy", "mm", "dd",
)  # fmt: skip
_FORMAT_WORDS = re.compile(r"yyyy|yy|month|mon|mm|m|dd|d")
_DATE = re.compile(r"(\d{1,4}|[^\W\d_]{3,9})\W{1,3}(\d{1,2}|[^\W\d_]{3,9})\W{1,3}(\d{1,4})")


def run(programme: Programme, values: Mapping[str, str]) -> str | None:
    """Return what the programme makes of the named values, or None where it does not know."""
    texts = [values.get(name, "").strip() for name in programme.inputs]
    if any(len(text) > MAX_INPUT_CHARS for text in texts):
        return None
    for branch in programme.branches:
        if branch.guard is None or matches(branch.guard, texts):
            text = _agreed(branch.ways, texts)
            known = not programme.shapes or text is None or shape(text) in programme.shapes
            return text if known else None
    return None


def complete(
    values: Mapping[str, str],
    programmes: Mapping[str, Programme],
    before: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return `values` with all that can be computed from them; what is given is kept.

    `before` are the values of the record before. Raises ContractError that names what a programme
    does not know from inputs that are there.
    """
    done = dict(values)
    waiting = {name for name in programmes if name not in done}

    def inputs(name: str) -> dict[str, str]:
        last = (before or {}).get(name)
        return done if last is None else {**done, PREVIOUS: last}

    while ready := [n for n in sorted(waiting) if set(programmes[n].inputs) <= set(inputs(n))]:
        for name in ready:
            waiting.remove(name)
            text = run(programmes[name], inputs(name))
            if text is None:
                raise ContractError(
                    f"{name} cannot be told from {', '.join(programmes[name].inputs)}, which is "
                    "unlike what was shown: give its value"
                )
            done[name] = text
    return done


def _agreed(ways: tuple[Way, ...], texts: list[str]) -> str | None:
    """Return the answer of the shortest way, unless one about as short says otherwise.

    A way that is d bits longer is 2^-d times as likely by the prior of minimum description length
    (Rissanen 1978); ways that differ in spelling alone are no independent witnesses, so the best of
    each answer are compared, not their sums.
    """
    best: dict[str | None, float] = {}
    for way in ways:
        text = way_text(way, texts)
        best[text] = min(best.get(text, way.bits), way.bits)
    least = min(way.bits for way in ways)
    near = [text for text, bits in best.items() if bits <= least + _MARGIN_BITS]
    return near[0] if len(near) == 1 else None


def way_text(way: Way, texts: list[str]) -> str | None:
    """Return what one way makes of the inputs, or None."""
    if way.table is not None:
        return way.table.rows.get(texts[way.table.of].strip())
    made = []
    for part in way.parts:
        text = part_text(part, texts)
        if text is None:
            return None
        made.append(text)
    return "".join(made)


def part_text(part: Part, texts: list[str]) -> str | None:
    """Return one part of a result, or None where the inputs have no such piece."""
    if part.piece is None:
        return part.text or ""
    whole, left, right = texts[part.piece.of], part.piece.left, part.piece.right
    start = 0 if left is None else mark_at(whole, left)
    stop = len(whole) if right is None else mark_at(whole, right)
    if start is None or stop is None or start >= stop:
        return None
    text: str | None = whole[start:stop].strip()
    for edit in part.piece.edits:
        text = edited(edit, text) if text else None
    return text or None


def mark_at(text: str, mark: Mark) -> int | None:
    """Return where a mark is in the text, or None where it is not there."""
    found = _tokens(text, mark.cls)
    place = mark.nth - 1 if mark.nth > 0 else len(found) + mark.nth
    if not 0 <= place < len(found):
        return None
    return found[place][0 if mark.side == "start" else 1]


def edited(edit: Edit, text: str) -> str | None:
    """Return the text after one edit, or None for a text that cannot be read so."""
    match edit:
        case Case():
            return _cased(text, edit.to)
        case Replace():
            made = _pattern(edit.cls).sub(edit.by.replace("\\", r"\\"), text)
            return made if signs(made) <= set(edit.known) else None
        case Only():
            return edit.by.join(text[a:b] for a, b in _tokens(text, edit.cls))
        case Take():
            return text[: edit.num] if edit.num > 0 else text[edit.num :]
        case Dated():
            return _dated(text, edit.order, edit.to)
        case Number():
            return _numbered(text, edit)
        case Count():
            return _counted(text, edit.by)


def matches(guard: Guard, texts: list[str]) -> bool:
    """Tell whether a guard holds."""
    text = texts[guard.of].strip()
    match guard.test:
        case "equals":
            found = text == guard.value
        case "has":
            found = guard.value in text
        case "shape":
            found = shape(text) == guard.value
    return found is guard.holds


def signs(text: str) -> set[str]:
    """Return the characters of a text that are no letters, digits or white space."""
    return {c for c in text if not c.isalnum() and not c.isspace()}


def shape(text: str) -> str:
    """Return a text's runs of classes: A for letters, 9 for digits, others as they are."""
    plain = re.sub(r"[^\W\d_]+", "A", re.sub(r"\d+", "9", " ".join(text.split())))
    return re.sub(r"A( A)+", "A", plain)


def describe(programme: Programme) -> str:
    """Say in a few words what kind of programme it is."""
    names = ", ".join(programme.inputs)
    way = programme.branches[0].ways[0]
    if counts(programme):
        return "counts up from the one before"
    if way.table is not None:
        return f"looked up by {names}"
    pieces = [part.piece for part in way.parts if part.piece is not None]
    if len(way.parts) == 1 and pieces and pieces[0] == Piece(of=pieces[0].of):
        return f"copied from {names}"
    return f"computed from {names}"


def counts(programme: Programme) -> bool:
    """Tell whether a programme counts up, or down, from the value before."""
    parts = programme.branches[0].ways[0].parts
    return programme.inputs == (PREVIOUS,) and any(
        isinstance(edit, Count) for p in parts if p.piece is not None for edit in p.piece.edits
    )


@lru_cache(maxsize=256)
def _pattern(cls: str) -> re.Pattern[str]:
    return re.compile(CLASSES.get(cls) or re.escape(cls))


@lru_cache(maxsize=4096)
def _tokens(text: str, cls: str) -> tuple[tuple[int, int], ...]:
    return tuple(match.span() for match in _pattern(cls).finditer(text))


def _cased(text: str, to: str) -> str:
    match to:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title":
            return re.sub(r"[^\W\d_]+", lambda m: m.group().capitalize(), text)
        case _:
            return text[:1].upper() + text[1:].lower()


def _dated(text: str, order: str, to: str) -> str | None:
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    parts = dict(zip(order, match.groups(), strict=True))
    year, month, day = parts["y"], _month(parts["m"]), parts["d"]
    if month is None or not year.isdigit() or not day.isdigit() or len(day) > 2:
        return None
    if len(year) not in (2, 4):
        return None
    # Source: POSIX strptime: two-digit years 69 to 99 are of the 20th century.
    full = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= 69 else 2000)
    try:
        moment = date(full, month, int(day))
    except ValueError:
        return None
    name = _MONTHS[month - 1]
    words = {
        "yyyy": f"{full:04}", "yy": f"{full % 100:02}", "month": name, "mon": name[:3],
        "mm": f"{month:02}", "m": str(month), "dd": f"{moment.day:02}", "d": str(moment.day),
    }  # fmt: skip
    return _FORMAT_WORDS.sub(lambda m: words[m.group()], to)


def _month(text: str) -> int | None:
    if text.isdigit():
        return int(text) if len(text) <= 2 else None
    starts = [n for n, name in enumerate(_MONTHS, 1) if name.lower().startswith(text.lower()[:3])]
    return starts[0] if starts and _MONTHS[starts[0] - 1].lower().startswith(text.lower()) else None


def _numbered(text: str, edit: Number) -> str | None:
    plain = unicodedata.normalize("NFKC", text)
    match = re.fullmatch(r"[^\d+-]*([+-]?\d[\d.,' ]*)[^\d]*", plain.strip())
    if match is None:
        return None
    whole, _, fraction = match.group(1).strip().rpartition(edit.point)
    if not whole:
        whole, fraction = fraction, ""
    if not fraction.isdigit() and fraction:
        return None
    whole = re.sub(r"[., ']", "", whole)
    try:
        number = Decimal(f"{whole}.{fraction or '0'}")
    except InvalidOperation:
        return None
    exact = number.normalize() if edit.decimals is None else round(number, edit.decimals)
    shown = f"{exact:,f}"
    before, _, after = shown.partition(".")
    before = before.replace(",", edit.group)
    return before + (edit.to_point + after if after else "")


def _counted(text: str, by: int) -> str | None:
    found = _tokens(text, "digits")
    if not found:
        return None
    start, end = found[-1]
    return text[:start] + str(int(text[start:end]) + by).zfill(end - start) + text[end:]
