"""Cutting a UI log: which actions belong to one execution of a known pattern.

A pattern is a sequence of tokens that ends where its executions end. Between two ends, the
execution is the longest common subsequence with the pattern, the latest one where several are as
long: a restart counts from its restart, a look aside in mid-form stays outside. Reads and writes
nothing.

Does not cover: executions interleaved with others of the same pattern.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.task_learner.actions import Token, UserAction, mask

__all__ = ["Execution", "Pattern", "Vocabulary", "align", "executions", "fill"]

BREAK_MS = 30 * 60_000
"""A pause this long ends whatever was going on."""

MAX_SPAN = 150
"""Actions between two ends that are looked at, from the later end back."""

MIN_COVERAGE = 0.7
"""Share of a pattern's steps that an execution has."""

_MAX_FOREIGN = 30  # actions of other work between two steps; further away is coincidence
_CONTROL_MIN = 3  # uses that make a recurring text a control's name …
_CONTROL_REPEATS = 2.5  # … where the texts at its place recur so often on the average


@dataclass(frozen=True)
class Vocabulary:
    """Which data texts are controls after all: few of them, again and again, at one place."""

    named: frozenset[tuple[Token, str]] = frozenset()

    @classmethod
    def of(cls, actions: Sequence[UserAction]) -> "Vocabulary":
        """Learn from a stretch of log."""
        texts: dict[Token, Counter[str]] = defaultdict(Counter)
        for action in actions:
            if action.text:
                texts[action.token][mask(action.text)] += 1
        return cls(
            frozenset(
                (place, text)
                for place, counts in texts.items()
                if counts.total() >= _CONTROL_REPEATS * len(counts)
                for text, count in counts.items()
                if count >= _CONTROL_MIN
            )
        )

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(sorted([*token, text] for token, text in self.named))

    @classmethod
    def load(cls, stored: str) -> "Vocabulary":
        """Read what `dump` wrote."""
        return cls(frozenset((Token(*row[:-1]), row[-1]) for row in json.loads(stored)))

    def token(self, action: UserAction) -> Token:
        """Return the action's token, with its text where that is a control's name."""
        if action.text:
            text = mask(action.text)
            if (action.token, text) in self.named:
                return action.token._replace(label=text)
        return action.token


@dataclass(frozen=True)
class Pattern:
    """A routine's steps in their usual order; the last one ends an execution."""

    tokens: tuple[Token, ...]
    numbers: dict[Token, int] = field(init=False, repr=False, compare=False)
    counts: Counter[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Number the tokens and count them."""
        numbers: dict[Token, int] = {}
        for token in self.tokens:
            numbers.setdefault(token, len(numbers))
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "counts", Counter(numbers[t] for t in self.tokens))

    @property
    def end(self) -> Token:
        """Return the token that ends an execution."""
        return self.tokens[-1]


@dataclass(frozen=True)
class Execution:
    """One execution: for each step of the pattern the index of its action, or None."""

    steps: tuple[int | None, ...]
    in_order: int  # steps found in the pattern's order
    others: tuple[int, ...] = ()  # what else is part of it, of a routine that a sentence tells

    @property
    def indices(self) -> tuple[int, ...]:
        """Return the actions in the order they were done."""
        return tuple(sorted((*self.others, *(i for i in self.steps if i is not None))))

    @property
    def coverage(self) -> float:
        """Return the share of the pattern's steps that are there."""
        return sum(i is not None for i in self.steps) / len(self.steps)


def align(pattern: Sequence[int], log: Sequence[int]) -> list[int | None]:
    """Return for each number of `pattern` the index in `log` of its place in a longest common
    subsequence, the latest one, or None.
    """
    rows = [[0] * (len(log) + 1)]
    for wanted in pattern:
        above, row = rows[-1], [0]
        left = 0
        for j, seen in enumerate(log):
            left = above[j] + 1 if seen == wanted else max(above[j + 1], left)
            row.append(left)
        rows.append(row)
    found: list[int | None] = [None] * len(pattern)
    i, j = len(pattern), len(log)
    while i and j:
        if pattern[i - 1] == log[j - 1]:
            i, j = i - 1, j - 1
            found[i] = j
        elif rows[i][j - 1] == rows[i][j]:
            j -= 1
        else:
            i -= 1
    return found


def fill(
    pattern: Pattern, numbers: Sequence[int], places: Sequence[int], found: list[int | None]
) -> list[int | None]:
    """Add steps done out of their order, and take a re-entered field's last entry.

    `numbers` and `places` are the log's pattern actions (number in the pattern, index in the log).
    """
    used = {i for i in found if i is not None}
    if not used:
        return found
    first = min(used)
    result = list(found)
    for step, token in enumerate(pattern.tokens):
        number = pattern.numbers[token]
        if pattern.counts[number] > 1:
            continue
        here = found[step]
        entered = token.action in ("edit", "select")
        if here is not None and not entered:
            continue
        later = [
            j for j, n in enumerate(numbers)
            if n == number and j not in used and (here is None or j > here)
            and (j > first or places[first] - places[j] <= 2)
        ]  # fmt: skip
        if later:
            result[step] = later[-1]
    return result


def executions(
    pattern: Pattern, tokens: Sequence[Token], times_ms: Sequence[int], begin: int = 0
) -> list[Execution]:
    """Return the pattern's executions in `tokens[begin:]`, in order; indices count from 0."""
    numbers = [pattern.numbers.get(t, -1) for t in tokens[begin:]]
    end = pattern.numbers[pattern.end]
    plan = [pattern.numbers[t] for t in pattern.tokens]
    found: list[Execution] = []
    known: dict[tuple[int, ...], list[int | None]] = {}  # most executions are alike
    start = 0
    for stop, number in enumerate(numbers):
        if number != end:
            continue
        repeats = pattern.counts[end] > 1
        low = max(start, stop - MAX_SPAN + 1)
        execution = _one(pattern, plan, numbers, times_ms, begin, low, stop, known)
        if execution is not None:
            found.append(execution)
        if execution is not None or not repeats:
            start = stop + 1
    return found


def _one(
    pattern: Pattern, plan: Sequence[int], numbers: Sequence[int], times_ms: Sequence[int],
    begin: int, low: int, stop: int, known: dict[tuple[int, ...], list[int | None]],
) -> Execution | None:  # fmt: skip
    """Return the execution that ends at `stop`, or None where too little of it is there."""
    for i in range(stop, low, -1):
        if times_ms[begin + i] - times_ms[begin + i - 1] > BREAK_MS:
            low = i
            break
    places = [i for i in range(low, stop + 1) if numbers[i] >= 0]
    seen = tuple(numbers[i] for i in places)
    if seen not in known:
        known[seen] = align(plan, seen)
    matched = _cut_far(known[seen], places)
    in_order = sum(j is not None for j in matched)
    steps = fill(pattern, seen, places, matched)
    present = sum(j is not None for j in steps)
    if present < MIN_COVERAGE * len(plan):
        return None
    return Execution(
        tuple(None if j is None else begin + places[j] for j in steps), in_order=in_order
    )


def _cut_far(found: list[int | None], places: Sequence[int]) -> list[int | None]:
    """Drop leading steps that other work separates from the rest."""
    following: int | None = None
    cut = False
    result = list(found)
    for step in range(len(found) - 1, -1, -1):
        j = found[step]
        if j is None:
            continue
        if following is not None and places[following] - places[j] > _MAX_FOREIGN:
            cut = True
        if cut:
            result[step] = None
        following = j
    return result
