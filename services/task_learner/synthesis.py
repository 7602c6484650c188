"""Learns from examples how one text follows from others: a programme, or nothing.

`learn` searches all programmes of `shared.transforms` that fit a few examples at once, the one with
the shortest description first, checks them on all other examples, takes in what they got wrong, and
keeps those that are left: where they disagree on a new input, the programme says that it does not
know. Pure; a few ms for a field.

Source: the search is over tuples of positions, one in each example's result, which is the
intersection of FlashFill's version spaces (Gulwani, POPL 2011) walked by Dijkstra's algorithm;
examples are added when they contradict (counterexample-guided inductive synthesis, Solar-Lezama
2006).
Does not cover: programmes with more than one guard per branch; results that need a loop. Long,
because search, spans, edits, guards and tables are one algorithm with one measure of length.
"""

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

from shared.schemas.programmes import (
    Branch,
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
    Table,
    Take,
    Way,
)
from shared.transforms import (
    CLASSES,
    DATE_FORMATS,
    DATE_ORDERS,
    MAX_INPUT_CHARS,
    edited,
    mark_at,
    matches,
    run,
    shape,
    signs,
    way_text,
)

__all__ = ["Example", "learn"]

Example = tuple[Sequence[str], str]
"""The inputs' texts, in one order, and the result."""

_MAX_WAYS = 12  # kept in a programme
_SPREAD_BITS = 10.0  # longer than the best by more, a way has next to no weight
_RIVAL_BITS = 2.0  # … and one that needs other inputs is none but where it is about as short
_MAX_FOUND = 100  # ways looked at in one search
_MAX_POPS = 4_000
_POPS_A_STATE = 12
_AT_ONCE = 4  # examples searched at once; the others are for checking
_MAX_TURNS = 6
_MAX_WRONG = 0.05  # share of the executions in which a person mistyped
_MAX_RESULT_CHARS = 300
_MAX_DATE_CHARS = 24
_MAX_PROBED_WORDS = 12
_MAX_SHAPES = 8
_DELIMITER_BITS, _CHAR_BITS = 4.0, 7.0  # of a literal: signs between words are few
_LITERAL_BITS = 3.0
_SIDES: tuple[Literal["start", "end"], ...] = ("start", "end")
_KEPT: tuple[Literal["digits", "letters", "alnum", "word"], ...] = (
    "digits", "letters", "alnum", "word",
)  # fmt: skip
_EDIT_BITS = {
    "case": 3.0, "replace": 7.0, "only": 5.0, "take": 5.0, "date": 8.0, "number": 8.0, "count": 4.0,
}  # fmt: skip
_CLASS_BITS = {"digits": 3.0, "letters": 3.5, "capitals": 4.5, "word": 3.5, "space": 3.5,
               "alnum": 5.0}  # fmt: skip
_SIGN_BITS = 2.0  # punctuation is what people separate by
_MIXED_BITS = 2.0  # two sides named by different classes


@dataclass(frozen=True)
class _Atom:
    """A piece that fits all examples: what it makes in each, and the bits it takes to say."""

    of: int
    left: Mark | None
    right: Mark | None
    edits: tuple[Edit, ...]
    texts: tuple[str, ...]
    bits: float

    def part(self) -> Part:
        """Return the piece as programmes spell it."""
        return Part(piece=Piece(of=self.of, left=self.left, right=self.right, edits=self.edits))


def learn(inputs: Sequence[str], examples: Sequence[Example]) -> Programme | None:
    """Return how the result follows from the named inputs, or None where that cannot be told.

    It holds on all examples but the few (5 %) in which a person may have mistyped. One example is
    never enough, and a result that is the same each time is a constant, not a programme.
    """
    usable: list[Example] = [
        (tuple(t.strip() if len(t) <= MAX_INPUT_CHARS else "" for t in texts), result.strip())
        for texts, result in examples
        if result.strip() and len(result) <= _MAX_RESULT_CHARS and any(t.strip() for t in texts)
    ]
    distinct: list[Example] = list(dict.fromkeys(usable))
    if len(distinct) < 2:
        return None
    branches = _branches(distinct, usable)
    programme = _tidy(inputs, branches) if branches else None
    if programme is None:
        return None
    named = [(dict(zip(inputs, texts, strict=True)), result) for texts, result in usable]
    right = sum(run(programme, values) == result for values, result in named)
    if right < (1 - _MAX_WRONG) * len(usable):
        return None
    shapes = {shape(result) for _, result in usable}
    formatted = len(shapes) <= _MAX_SHAPES and not any("A" in s for s in shapes)
    return programme.model_copy(
        update={"verified": right, "shapes": tuple(sorted(shapes)) if formatted else ()}
    )


def _branches(distinct: Sequence[Example], usable: Sequence[Example]) -> tuple[Branch, ...]:
    """Return branches that explain the examples, or none: one way, else a guard, else a table."""
    ways = _ways(distinct)
    if ways:
        return (Branch(ways=ways),)
    table = _table(usable)
    if (guarded := _guarded(distinct)) is not None and (table is None or guarded[1] < table.bits):
        return guarded[0]
    return (Branch(ways=(table,)),) if table is not None else ()


def _tidy(inputs: Sequence[str], branches: Sequence[Branch]) -> Programme | None:
    """Leave out the inputs that nothing needs; None where nothing needs any."""
    used = sorted({of for b in branches for w in b.ways for of in _inputs_of(w)}
                  | {b.guard.of for b in branches if b.guard})  # fmt: skip
    if not used:
        return None
    place = {of: new for new, of in enumerate(used)}
    return Programme(
        inputs=tuple(inputs[of] for of in used),
        branches=tuple(
            Branch(
                guard=b.guard and b.guard.model_copy(update={"of": place[b.guard.of]}),
                ways=tuple(_renumbered(way, place) for way in b.ways),
            )
            for b in branches
        ),
    )


def _inputs_of(way: Way) -> frozenset[int]:
    if way.table is not None:
        return frozenset((way.table.of,))
    return frozenset(part.piece.of for part in way.parts if part.piece is not None)


def _renumbered(way: Way, place: Mapping[int, int]) -> Way:
    if way.table is not None:
        table = way.table.model_copy(update={"of": place[way.table.of]})
        return way.model_copy(update={"table": table})
    parts = tuple(
        part if part.piece is None
        else Part(piece=part.piece.model_copy(update={"of": place[part.piece.of]}))
        for part in way.parts
    )  # fmt: skip
    return way.model_copy(update={"parts": parts})


def _ways(examples: Sequence[Example]) -> tuple[Way, ...]:
    """Return the shortest ways that fit all examples, but for a few that may be mistyped."""
    chosen = _first(examples)
    dropped: list[Example] = []
    for _ in range(_MAX_TURNS):
        ways = list(_search(chosen))
        if not ways:
            if len(dropped) + 1 > _MAX_WRONG * len(examples):
                return ()
            mistyped = _mistyped(chosen)
            if mistyped is None:
                return ()
            chosen.remove(mistyped)
            dropped.append(mistyped)
            continue
        rest = [e for e in examples if e not in dropped]
        fitting = [w for w in ways if all(way_text(w, list(t)) == r for t, r in rest)]
        if fitting:
            return _kept(fitting, examples)
        counterexample = _telling(ways, [e for e in rest if e not in chosen])
        if counterexample is None:
            return ()
        chosen.append(counterexample)
    return ()


def _mistyped(chosen: Sequence[Example]) -> Example | None:
    """Return the one example without which there is a way for the others, the newest first."""
    if len(chosen) <= 2:
        return None
    return next(
        (e for e in reversed(chosen) if any(_search([o for o in chosen if o is not e]))), None
    )


def _first(examples: Sequence[Example]) -> list[Example]:
    """Return a few examples of different shapes, short ones first: those that tell most."""
    by_shape: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        by_shape[(*map(shape, example[0]), shape(example[1]))].append(example)
    common = sorted(by_shape.values(), key=lambda e: (-len(e), len(e[0][1])))
    rows = [group[turn] for turn in range(_AT_ONCE) for group in common if turn < len(group)]
    return rows[:_AT_ONCE]


def _telling(ways: Sequence[Way], examples: Sequence[Example]) -> Example | None:
    """Return the example that most of the ways get wrong."""
    wrong = {
        place: sum(way_text(w, list(texts)) != result for w in ways)
        for place, (texts, result) in enumerate(examples)
    }
    if not wrong or max(wrong.values()) == 0:
        return None
    return examples[max(wrong, key=lambda place: wrong[place])]


def _kept(ways: Sequence[Way], examples: Sequence[Example]) -> tuple[Way, ...]:
    """Return the shortest ways; one that needs more inputs must be about as short."""
    near = sorted(ways, key=lambda w: w.bits)
    needed = _inputs_of(near[0])
    probes = [list(texts) for texts in _unlike(examples)]
    kept: dict[tuple[str | None, ...], Way] = {}
    for way in near:
        spread = _SPREAD_BITS if _inputs_of(way) <= needed else _RIVAL_BITS
        if way.bits <= near[0].bits + spread:
            kept.setdefault(tuple(way_text(way, texts) for texts in probes), way)
    return tuple(kept.values())[:_MAX_WAYS]


def _unlike(examples: Sequence[Example]) -> Iterator[Sequence[str]]:
    """Yield inputs like the examples', but for a word missing or there twice, or another number.

    Ways that make the same of all of them differ in spelling alone.
    """
    inputs = examples[0][0]
    yield inputs
    for of, text in enumerate(inputs):
        words = text.split()
        for place in range(min(len(words), _MAX_PROBED_WORDS)):
            for turned in (words[:place], words[: place + 1] + words[place : place + 1]):
                changed = " ".join([*turned, *words[place + 1 :]])
                yield [*inputs[:of], changed, *inputs[of + 1 :]]
        for number in list(re.finditer(r"\d+", text))[:_MAX_PROBED_WORDS]:
            other = edited(Count(), number.group()) or ""
            changed = text[: number.start()] + other + text[number.end() :]
            yield [*inputs[:of], changed, *inputs[of + 1 :]]


# ---- the search ----------------------------------------------------------------------------------


def _search(examples: Sequence[Example]) -> Iterator[Way]:
    """Yield ways that make all results, the shortest first."""
    results = [result for _, result in examples]
    atoms = _atoms(examples)
    starts: dict[str, list[_Atom]] = defaultdict(list)
    for atom in atoms:
        starts[atom.texts[0][0]].append(atom)
    if not _can_be_made(results, starts):
        return
    order = count()
    heap: list[tuple[float, int, tuple[int, ...], tuple[_Atom | str, ...]]] = [
        (0.0, next(order), (0,) * len(results), ())
    ]
    popped: Counter[tuple[int, ...]] = Counter()
    goal = tuple(map(len, results))
    for _ in range(_MAX_POPS):
        if not heap:
            return
        bits, _, at, parts = heapq.heappop(heap)
        if at == goal:
            yield Way(
                bits=round(bits, 2),
                parts=tuple(Part(text=p) if isinstance(p, str) else p.part() for p in parts),
            )
            if popped[goal] >= _MAX_FOUND:
                return
        popped[at] += 1
        if at == goal or popped[at] > _POPS_A_STATE:
            continue
        for atom in starts.get(results[0][at[0] : at[0] + 1], ()):
            if all(r.startswith(t, p) for r, t, p in zip(results, atom.texts, at, strict=True)):
                there = tuple(p + len(t) for p, t in zip(at, atom.texts, strict=True))
                heapq.heappush(heap, (bits + atom.bits, next(order), there, (*parts, atom)))
        if parts and isinstance(parts[-1], str):
            continue  # two literals in a row are one
        cost = _LITERAL_BITS
        for length, char in enumerate(_common(results, at), start=1):
            cost += _CHAR_BITS if char.isalnum() else _DELIMITER_BITS
            text = results[0][at[0] : at[0] + length]
            there = tuple(p + length for p in at)
            heapq.heappush(heap, (bits + cost, next(order), there, (*parts, text)))


def _can_be_made(results: Sequence[str], starts: Mapping[str, Sequence[_Atom]]) -> bool:
    """Tell whether any way makes all results: most fields follow from nothing, and to see that
    takes one look at each state instead of `_POPS_A_STATE`.
    """
    goal = tuple(map(len, results))
    waiting = [((0,) * len(results), False)]
    seen = set(waiting)
    while waiting and len(seen) < _MAX_POPS:
        at, after_literal = waiting.pop()
        if at == goal:
            return True
        found = [
            (tuple(p + len(t) for p, t in zip(at, atom.texts, strict=True)), False)
            for atom in starts.get(results[0][at[0] : at[0] + 1], ())
            if all(r.startswith(t, p) for r, t, p in zip(results, atom.texts, at, strict=True))
        ]
        if not after_literal:
            lengths = range(1, 1 + sum(1 for _ in _common(results, at)))
            found += [(tuple(p + length for p in at), True) for length in lengths]
        new = set(found) - seen
        seen |= new
        waiting += sorted(new)
    return bool(waiting)  # too many to tell


def _common(results: Sequence[str], at: Sequence[int]) -> Iterator[str]:
    for step, char in enumerate(results[0][at[0] :]):
        if any(r[p + step : p + step + 1] != char for r, p in zip(results, at, strict=True)):
            return
        yield char


def _atoms(examples: Sequence[Example]) -> list[_Atom]:
    """Return the shortest pieces of each meaning that occur in all results."""
    results = [result for _, result in examples]
    best: dict[tuple[str, ...], list[_Atom]] = defaultdict(list)
    num_inputs = len(examples[0][0])
    for of in range(num_inputs):
        texts = [inputs[of] for inputs, _ in examples]
        if not all(texts):
            continue
        for values, spans in _spans(texts, results).items():
            for edits, made in _edits(values, results):
                extra = 1 + math.log2(num_inputs) + sum(_EDIT_BITS[e.kind] for e in edits)
                best[made] += [
                    _Atom(of, left, right, edits, made, bits + extra) for bits, left, right in spans
                ]
    kept: list[_Atom] = []
    for same in best.values():
        same.sort(key=lambda a: a.bits)
        kept += [a for a in same if a.bits <= same[0].bits + _SPREAD_BITS][:_MAX_WAYS]
    return kept


def _spans(
    texts: Sequence[str], results: Sequence[str]
) -> dict[tuple[str, ...], list[tuple[float, Mark | None, Mark | None]]]:
    """Return what spans cut out of the texts that the results may have used, with the spans.

    A span is (bits, left, right), the shortest first; a token is cut by its own two sides.
    """
    first = min(range(len(texts)), key=lambda k: len(texts[k]))
    skeleton = _skeleton(results[first])
    ends = [(None, 1.0), *_marks(texts[first])]
    lefts = [(m, b, [0 if m is None else mark_at(t, m) for t in texts]) for m, b in ends]
    rights = [(m, b, [len(t) if m is None else mark_at(t, m) for t in texts]) for m, b in ends]
    used: dict[tuple[int, int], bool] = {}
    found: dict[tuple[str, ...], list[tuple[float, Mark | None, Mark | None]]] = defaultdict(list)
    for left, left_bits, starts in lefts:
        for right, right_bits, stops in rights:
            start, stop = starts[first], stops[first]
            if start is None or stop is None or start >= stop:
                continue
            if (start, stop) not in used:
                text = texts[first][start:stop].strip()
                used[start, stop] = _used(text, results[first], skeleton)
            if not used[start, stop]:
                continue
            values = tuple(
                t[a:b].strip() if a is not None and b is not None and a < b else ""
                for t, a, b in zip(texts, starts, stops, strict=True)
            )
            if all(values):
                bits = left_bits + right_bits
                if left and right and (left.cls, left.nth) == (right.cls, right.nth):
                    bits = left_bits + 1  # one token: named once
                elif left is None and right is None:
                    bits = 0.0
                elif left and right and left.cls != right.cls:
                    bits += _MIXED_BITS
                found[values].append((bits, left, right))
    for spans in found.values():
        spans.sort(key=lambda s: s[0])
        del spans[_MAX_WAYS:]
    return found


def _marks(text: str) -> list[tuple[Mark, float]]:
    """Return the positions in a text that can be named, each from both sides, with their bits."""
    found = []
    for cls in [*CLASSES, *sorted(signs(text))]:
        bits = 1 + _CLASS_BITS.get(cls, _SIGN_BITS)
        num = len(re.findall(CLASSES.get(cls) or re.escape(cls), text))
        for place in range(num):
            for nth in (place + 1, place - num):
                for side in _SIDES:
                    found.append((Mark(cls=cls, nth=nth, side=side), bits + _nth_bits(nth)))
    return found


def _nth_bits(nth: int) -> float:
    """Return the bits of a place counted from one side: the first is a landmark, others a count."""
    return 1 + 3 * math.log2(abs(nth))


def _used(text: str, result: str, skeleton: str) -> bool:
    """Tell whether the result can hold this text, perhaps spelled or written another way."""
    bare = _skeleton(text)
    if not bare:
        return bool(text) and text in result
    return bare in skeleton or _is_amount(text) or bool(_orders(text))


def _orders(text: str) -> list[Literal["dmy", "mdy", "ymd"]]:
    """Return the orders in which the text can be read as a date."""
    if len(text) > _MAX_DATE_CHARS or not any(c.isdigit() for c in text):
        return []
    return [o for o in DATE_ORDERS if edited(Dated(order=o, to="yyyy"), text) is not None]


def _skeleton(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _is_amount(text: str) -> bool:
    return re.fullmatch(r"[^\w]*\d[\d.,' ]*[^\w]*", text) is not None and not text.isdigit()


# ---- edits ---------------------------------------------------------------------------------------


def _edits(
    values: Sequence[str], results: Sequence[str]
) -> Iterator[tuple[tuple[Edit, ...], tuple[str, ...]]]:
    """Yield edits after which the values occur in their results, with what they make of them."""
    for edits in _chains(values[0], results[0]):
        made = []
        for value, result in zip(values, results, strict=True):
            text: str | None = value
            for edit in edits:
                text = edited(edit, text) if text else None
            if not text or text not in result:
                break
            made.append(text)
        else:
            yield edits, tuple(made)


def _chains(value: str, result: str) -> Iterator[tuple[Edit, ...]]:
    yield ()
    bare, skeleton = _skeleton(value), _skeleton(result)
    if bare and bare in skeleton:
        cases = [Case(to="lower"), Case(to="upper"), Case(to="title"), Case(to="sentence")]
        differs = [c for c in cases if edited(c, value) != value]
        yield from ((c,) for c in differs)
        classes = [*(["space"] if any(c.isspace() for c in value) else []), *sorted(signs(value))]
        by = ["", *sorted({c for c in result if not c.isalnum()})]
        known = "".join(sorted(signs(result)))
        swaps = [Replace(cls=c, by=b, known=known) for c in classes for b in by if c != b]
        yield from ((s,) for s in swaps)
        yield from ((s, c) for s in swaps for c in differs)
        only = [Only(cls=c, by=b) for c in _KEPT for b in by if b or c != "word"]
        yield from ((o,) for o in only if edited(o, value) not in ("", value))
    if len(value) > 1:
        for num in (1, 2, 3, -1, -2, -3, -4):
            if abs(num) < len(value):
                yield (Take(num=num),)
                if abs(num) == 1:
                    yield (Take(num=num), Case(to="lower"))
                    yield (Take(num=num), Case(to="upper"))
    if any(c.isdigit() for c in value):
        yield from _formats(value, result)


def _formats(value: str, result: str) -> Iterator[tuple[Edit, ...]]:
    for order in _orders(value):
        yield from ((Dated(order=order, to=to),) for to in DATE_FORMATS)
    if _is_amount(value) or value.isdigit():
        for point in (".", ","):
            for to_point in (".", ","):
                for group in ("", ",", ".", " ", "'"):
                    for decimals in (None, 0, 2):
                        if group != to_point:
                            edit = Number(
                                point=point, to_point=to_point, group=group, decimals=decimals
                            )
                            text = edited(edit, value)
                            if text and text in result and text != value:
                                yield (edit,)
    for by in (1, -1):
        yield (Count(by=by),)


# ---- guards and tables ---------------------------------------------------------------------------


def _guarded(examples: Sequence[Example]) -> tuple[tuple[Branch, ...], float] | None:
    """Return two or more branches, each with at least two examples, told apart by one test each."""
    best: tuple[tuple[Branch, ...], float] | None = None
    for guard in _guards(examples):
        inside = [e for e in examples if matches(guard, list(e[0]))]
        outside = [e for e in examples if not matches(guard, list(e[0]))]
        if min(len(inside), len(outside)) < 2:
            continue
        first = _ways(inside) or _constant(inside)
        if not first:
            continue
        rest = _ways(outside) or _constant(outside)
        if not rest:
            continue
        opposite = guard.model_copy(update={"holds": not guard.holds})
        bits = first[0].bits + rest[0].bits + _CHAR_BITS * len(guard.value) / 2
        branches = (Branch(guard=guard, ways=first), Branch(guard=opposite, ways=rest))
        if best is None or bits < best[1]:
            best = branches, bits
    return best


def _guards(examples: Sequence[Example]) -> list[Guard]:
    found: Counter[Guard] = Counter()
    for inputs, _ in examples:
        for of, text in enumerate(inputs):
            found[Guard(of=of, test="shape", value=shape(text))] += 1
            if len(text) <= 40:
                found[Guard(of=of, test="equals", value=text)] += 1
            for sign in signs(text):
                found[Guard(of=of, test="has", value=sign)] += 1
    half = len(examples) / 2
    return sorted(
        (g for g, n in found.items() if 2 <= n <= len(examples) - 2),
        key=lambda g: (abs(found[g] - half), g.test, g.value),
    )[:24]


def _constant(examples: Sequence[Example]) -> tuple[Way, ...]:
    """Return the one result there is, from three examples on."""
    results = {result for _, result in examples}
    if len(results) != 1 or len(examples) < 3:
        return ()
    [text] = results
    return (Way(bits=_LITERAL_BITS + _CHAR_BITS * len(text), parts=(Part(text=text),)),)


def _table(examples: Sequence[Example]) -> Way | None:
    """Return a table by the input that foretells the result best, if any does.

    At least half of the examples must have been foretold by earlier ones with the same key: a table
    that was never looked up again is none.
    """
    best: Way | None = None
    for of in range(len(examples[0][0])):
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        for inputs, result in examples:
            if inputs[of]:
                rows[inputs[of]][result] += 1
        num = sum(c.total() for c in rows.values())
        agreed = sum(c.most_common(1)[0][1] for c in rows.values())
        answers = {key: c.most_common(1)[0][0] for key, c in rows.items()}
        again = num - len(rows)
        if (
            len(set(answers.values())) < 2 or again < num / 2
            or num - agreed > _MAX_WRONG * num or num < len(examples)
        ):  # fmt: skip
            continue
        chars = sum(len(key) + len(answer) for key, answer in answers.items())
        way = Way(bits=_CHAR_BITS * chars, table=Table(of=of, rows=answers))
        if best is None or way.bits < best.bits:
            best = way
    return best
