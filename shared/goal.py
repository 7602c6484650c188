"""An instruction on the screen -> the values it names; the same for the trainer and the runner.

Some chores are told by a sentence that the page itself shows: "Enter the username "ana" and press
Login." The words that most of the demonstrations share are its vocabulary; what is left are its
spans, in order: what is quoted, numbers, dates and times, names. A span is a slot of the record
like any other. Reads and writes nothing. Not covered: instructions in pictures, and which words
mean the same.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from shared.schemas import Snapshot, SnapshotElement

__all__ = [
    "MAX_SPANS",
    "Goal",
    "GoalSource",
    "Reading",
    "find_goal",
    "goal_key",
    "goal_slots",
    "month_of",
    "read_goal",
]

MAX_SPANS = 12
_MAX_QUOTED = 3
_LEAST_SHARED, _SHARED = 3, 0.4  # words, and share of the vocabulary, that tell an instruction

_TOKEN = re.compile(r"\"[^\"]*\"|[^\s\"“”]+")
_EDGE = ".,;:!?()[]“”>"
_POSSESSIVE = re.compile(r"['\u2019]s$")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?:\s*([AP])\.?M\.?)?$", re.I)
_DATE = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})$")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?$")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)$")
# English words that only join others: no data unless quoted or written large. Few demonstrations
# do not show all of them.
_JOINING = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "it", "its", "he", "she", "him", "her",
    "his", "they", "them", "their", "you", "your", "me", "my", "we", "us", "our", "and", "or",
    "but", "then", "than", "if", "so", "as", "of", "to", "in", "into", "on", "onto", "at", "by",
    "for", "from", "with", "without", "about", "under", "over", "between", "through", "is", "are",
    "was", "were", "be", "been", "has", "have", "had", "do", "does", "did", "will", "would",
    "can", "could", "should", "must", "please", "who", "whom", "whose", "which", "what", "where",
    "when", "how", "there", "here", "also", "not",
))  # fmt: skip


class GoalSource(BaseModel):
    """Where the instruction stands, and the words that are no data in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    tag: str
    element_id: str | None = None
    vocabulary: tuple[str, ...] = ()


class Reading(BaseModel):
    """How a module of encoding 4 reads a screen; part of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    goal: GoalSource | None = None
    controls: bool = False  # only controls are candidates
    meanings: bool = False  # words on the screen mean those that the instruction names


@dataclass(frozen=True)
class Goal:
    """What an instruction says."""

    words: tuple[str, ...]  # all of them, folded
    spans: tuple[str, ...]  # in order, as written
    before: tuple[str, ...]  # the vocabulary word before each span, folded
    leading: tuple[tuple[str, ...], ...] = ()  # all of those since the span before
    quoted: tuple[str, ...] = ()  # the spans in quotation marks
    number: float | None = None  # the first one that is a span
    ordinal: int | None = None  # 2 for "2nd"
    month: int | None = None  # year * 12 + month of the first date
    day: int | None = None

    def slots(self) -> dict[str, str]:
        """Return slot names and values: goal_1, …, quoted_1, …, and time_1 as fields hold a time.

        after_to, after_from, … hold the first span after that word, a name rather than a word:
        sentences differ in order.
        """
        found = {f"goal_{i + 1}": span for i, span in enumerate(self.spans)}
        found.update({f"quoted_{i + 1}": span for i, span in enumerate(self.quoted[:_MAX_QUOTED])})
        pairs = sorted(
            zip(self.before, self.spans, strict=True), key=lambda p: not p[1][:1].isupper()
        )
        for word, span in pairs:
            if word.isalpha():
                found.setdefault(f"after_{word}", span)
        times = [t for span in self.spans if (t := _clock(span)) is not None]
        found.update({f"time_{i + 1}": value for i, value in enumerate(times[:2])})
        return found


def goal_key(element: SnapshotElement) -> tuple[str, str, str | None]:
    """Return what an instruction's element is known by."""
    return element.role, element.tag, element.element_id


def find_goal(snapshot: Snapshot, source: GoalSource) -> SnapshotElement | None:
    """Return the instruction's element: the first of its kind with a text.

    Where there is none of its kind, the one that shares most words with all instructions: a page
    may have renamed it, or wrapped the sentence once more.
    """
    key = (source.role, source.tag, source.element_id)
    found = next((e for e in snapshot.elements if goal_key(e) == key and e.text), None)
    if found is not None:
        return found
    known = frozenset(source.vocabulary)
    shared = {e.index: len(known & _words_of(e)) for e in snapshot.elements}
    best = max(snapshot.elements, key=lambda e: shared[e.index], default=None)
    least = max(_LEAST_SHARED, _SHARED * len(known))
    return best if best is not None and shared[best.index] >= least else None


def _words_of(e: SnapshotElement) -> frozenset[str]:
    text = e.text.clear if e.text is not None else None
    return frozenset(re.findall(r"[^\W_]+", text.casefold())) if text else frozenset()


def goal_slots(snapshot: Snapshot, source: GoalSource | None) -> dict[str, str]:
    """Return the slots that a screen's instruction fills, none where there is no instruction."""
    element = find_goal(snapshot, source) if source is not None else None
    if source is None or element is None or element.text is None or not element.text.clear:
        return {}
    return read_goal(element.text.clear, source.vocabulary).slots()


@lru_cache(maxsize=4096)
def read_goal(text: str, vocabulary: tuple[str, ...]) -> Goal:
    """Split an instruction into vocabulary and spans."""
    known = frozenset(vocabulary)
    spans: list[str] = []
    before: list[str] = []
    leading: list[tuple[str, ...]] = []
    quoted: list[str] = []
    words: list[str] = []  # of the vocabulary, since the last span
    last, open_run, starts = "", False, False
    for match in _TOKEN.finditer(text.replace("“", '"').replace("”", '"')):
        token = match[0]
        if token.startswith('"'):
            spans.append(token.strip('"').strip())
            before.append(last)
            leading.append(tuple(words))
            quoted.append(spans[-1])
            words = []
            open_run = False
            continue
        for piece in _pieces(token):
            bare = _POSSESSIVE.sub("", piece.strip(_EDGE))
            folded = bare.casefold()
            if not bare:
                open_run = False
                continue
            upper = folded.replace(".", "")
            if upper in ("am", "pm") and spans and _TIME.match(spans[-1]):
                spans[-1] = f"{spans[-1]} {bare}"
                continue
            if bare in _JOINING or (folded in known and not _NUMBER.match(bare)):
                last, open_run = folded, False
                words.append(folded)
                continue
            # A name and a plain word are no one span, nor is a sentence's first word with a name.
            alike = open_run and bare[:1].isupper() == spans[-1][:1].isupper() and not starts
            if alike and not _DATE.match(bare) and not _NUMBER.match(bare):
                spans[-1] = f"{spans[-1]} {bare}"
            else:
                spans.append(bare)
                before.append(last)
                leading.append(tuple(words))
                words = []
            starts = match.start() == 0 and bare[:1].isupper()
            ends = piece[-1] in ",;>" or (piece[-1] == "." and len(bare) > 2)
            open_run = not ends and not _NUMBER.match(bare)
    found = [p for p in zip(spans, before, leading, strict=True) if p[0]][:MAX_SPANS]
    month, day = _first_date(s for s, _, _ in found)
    numbers = [float(s) for s, _, _ in found if _NUMBER.match(s)]
    ordinals = [int(m[1]) for s, _, _ in found if (m := _ORDINAL.match(s))]
    return Goal(
        words=tuple(w for w in re.findall(r"[^\W_]+", text.casefold())),
        spans=tuple(s for s, _, _ in found),
        before=tuple(b for _, b, _ in found),
        leading=tuple(w for _, _, w in found),
        quoted=tuple(q for q in quoted if q),
        number=numbers[0] if numbers else None,
        ordinal=ordinals[0] if ordinals else None,
        month=month,
        day=day,
    )


def month_of(text: str) -> int | None:
    """Return year * 12 + month of a calendar's title, as in "December 2016"."""
    found = re.match(r"([a-z]+)\s*(\d{4})$", text.casefold().strip())
    if found is None or found[1] not in _MONTHS:
        return None
    return int(found[2]) * 12 + _MONTHS.index(found[1]) + 1


def _pieces(token: str) -> Iterable[str]:
    """Split a list that is written without spaces, as in a,b or a>b; a trailing sign stays."""
    start = 0
    for at, letter in enumerate(token):
        if letter in ",>" and at + 1 < len(token):
            yield token[start : at + 1]
            start = at + 1
    yield token[start:]


def _first_date(spans: Iterable[str]) -> tuple[int | None, int | None]:
    for span in spans:
        found = _DATE.match(span)
        if found:
            return int(found[3]) * 12 + int(found[1]), int(found[2])
    return None, None


def _clock(span: str) -> str | None:
    found = _TIME.match(span.strip())
    if found is None:
        return None
    hour = int(found[1]) % 24
    if found[3]:
        hour = hour % 12 + (12 if found[3].upper() == "P" else 0)
    return f"{hour:02d}:{found[2]}"
