"""Routines that a sentence on the screen tells: how many steps they take differs each time.

"Tick Ana and Bo, then save": what is ticked, and how often, stands on the page. Steps in common
are few, so such routines are not found by aligning them. What is one here is a type of cases
(`cases`) whose screens show an instruction: a text that is no control and acted on itself, that
stays until the case ends, whose words mostly recur in other cases, and that names what was entered
and what was clicked, or at least is a sentence that differs; one that is always the same must name
what is clicked. An execution is all of its case. Nothing of it is a parameter: the page itself says
what is wanted.

Pure: a window of actions and their screens in, findings out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.task_learner.actions import DATA_ROLES, Token, UserAction, value_of
from services.task_learner.cases import REACH, Looked, Sight, cases, led
from services.task_learner.discover import Finding, consensus
from services.task_learner.segment import Execution, Pattern, Vocabulary, align
from shared.goal import read_goal
from shared.schemas import Action

__all__ = ["find_told", "first_looked", "first_told"]

_WINDOW = 2_000  # newest actions that are looked at
_MIN_CASES = 5
_MIN_EVIDENCE = 7  # (cases - 1) x steps, as of other routines: the shorter, the oftener
_SHOWN = 0.9  # share of cases that show the instruction, and of those where it stays
_SHARED = 0.6  # share of instructions that have a word of their common words
_MIN_SHARED = 2  # such words, …
_SURE = 0.9  # … or a sentence that is always the same, where what was clicked is named so often
_MIN_SENTENCE = 4  # words of an instruction that names nothing that was acted on
_NAMING = 0.5  # share of cases whose instruction names what was acted on
_LASTING = 0.5  # share of a type's cases that have a control of a name, for it to tell a step
_SAME = 0.8  # share of cases that do the very same
_ACTED = 0.1  # share of cases that act on a text from which on it is no instruction
_KNOWN = 0.15  # share of sentences that have a word that is no name
_UNLIKE = 0.2  # share of such words in common below which sentences are of two kinds
_SHARES = (0.8, 0.5)  # of the cases that have a step: what most have, else what half of them has
_ENTERING = frozenset({Action.EDIT, Action.PASTE, Action.SELECT})


@dataclass(frozen=True)
class _Case:
    """One case: its actions' places in the window, in order."""

    at: tuple[int, ...]
    texts: Mapping[str, str]  # by place, what stays from its first screen to its last
    acted: frozenset[str]  # places of what was acted on
    did: tuple[tuple[str, str | None, int | None], ...]  # place, text and index of each of them
    entered: tuple[str, ...]  # folded, as all that follows
    clicked: tuple[str, ...]


def first_looked(num_actions: int) -> int:
    """Return the first of so many actions whose screen is looked at."""
    return max(0, num_actions - _WINDOW)


def first_told(num_actions: int) -> int:
    """Return the first of so many actions with which an execution may begin.

    What begins before may have begun before what is looked at.
    """
    return first_looked(num_actions) + REACH if num_actions > _WINDOW else 0


def find_told(
    actions: Sequence[UserAction],
    vocabulary: Vocabulary,
    sight_of: Callable[[UserAction], Sight | None],
) -> list[Finding]:
    """Return the routines that sentences tell, those with most executions first.

    Looks at the newest actions only.
    """
    first, begin = first_looked(len(actions)), first_told(len(actions))
    sights = [None if i < first else sight_of(a) for i, a in enumerate(actions)]
    looked = [
        None if sight is None else Looked(a.event.time_ms, vocabulary.token(a), sight)
        for a, sight in zip(actions, sights, strict=True)
    ]
    members: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, thread in enumerate(cases(looked)):
        if thread is not None and thread[0] >= begin:
            members[thread[1]][thread[0]].append(i)
    findings = []
    for group in members.values():
        for own in _kinds([_case(at, actions, sights) for at in group.values()]):
            words = _instruction(own)
            found = _finding(own, actions, vocabulary, words) if words else None
            if found is not None:
                findings.append(replace(found, begin=begin))
    return sorted(findings, key=lambda f: (-len(f.executions), f.pattern.tokens))


def _case(
    at: Sequence[int], actions: Sequence[UserAction], sights: Sequence[Sight | None]
) -> _Case:
    screens = [s for i in at if (s := sights[i]) is not None]
    texts = {}
    for place, shown in screens[0].texts.items():
        stays = all(s.texts.get(place, shown) == shown for s in screens)
        if stays and len(shown) == 1 and _is_content(place):
            texts[place] = next(iter(shown))
    did, entered, clicked = [], [], []
    for i, screen in zip(at, screens, strict=True):
        event = actions[i].event
        index = event.element.index if event.element is not None else None
        place, said = screen.elements.get(index, ("", None)) if index is not None else ("", None)
        did.append((place, said, index))
        value = value_of(event)
        if event.action not in _ENTERING:
            clicked += [_folded(said)] if said else []
        elif value is not None and value.clear:  # what is kept as a hash tells nothing
            entered.append(_folded(value.clear))
    acted = frozenset(place for place, _, _ in did)
    return _Case(tuple(at), texts, acted, tuple(did), tuple(entered), tuple(clicked))


def _kinds(own: Sequence[_Case]) -> list[list[_Case]]:
    """Part cases of one type whose sentences have hardly a word in common."""
    counts = Counter(w for c in own for w in {w for t in c.texts.values() for w in _words(t)})
    known = {w for w, count in counts.items() if count >= _KNOWN * len(own)}
    words = [{w for t in case.texts.values() for w in _words(t)} & known for case in own]
    kinds: dict[int, list[_Case]] = defaultdict(list)
    for case, kind in zip(own, led(words, _UNLIKE, len(own)), strict=True):
        kinds[kind].append(case)
    return list(kinds.values())


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_content(place: str) -> bool:
    return place.partition(" ")[0] in DATA_ROLES


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _instruction(own: Sequence[_Case]) -> tuple[str, ...]:
    """Return the words that the cases' instructions share, in order; none where there is none."""
    if len(own) < _MIN_CASES:
        return ()
    best: tuple[float, int, tuple[str, ...]] = (0.0, 0, ())
    for place in sorted({place for case in own for place in case.texts}):
        texts = [case.texts.get(place, "") for case in own]
        shown = [text for text in texts if text]
        if len(shown) < _SHOWN * len(own) or sum(place in c.acted for c in own) > _ACTED * len(own):
            continue
        counts = Counter(word for text in shown for word in set(_words(text)))
        common = {w for w, c in counts.items() if c >= _SHARED * len(shown)}
        known = tuple(sorted(w for w, c in counts.items() if c >= _KNOWN * len(shown)))
        naming = [_names(case, text, known) for case, text in zip(own, texts, strict=True)]
        entered = [told for told, _ in naming if told is not None]
        if not common or sum(entered) < _SHOWN * len(entered):
            continue  # what is entered comes from elsewhere: it is a parameter
        share = sum(clicked or bool(told) for told, clicked in naming) / len(own)
        length = len(_words(max(shown, key=len)))
        if share < _SURE and (len(common) < _MIN_SHARED or len(set(shown)) < 2):
            continue
        if share < _NAMING and length < _MIN_SENTENCE:
            continue
        if len(set(shown)) > 1 and _is_always_one(own):
            continue
        usual = max(shown, key=lambda t: sum(w in common for w in _words(t)))
        words = tuple(dict.fromkeys(w for w in _words(usual) if w in common))
        best = max(best, (share, length, words))
    return best[2]


def _is_always_one(own: Sequence[_Case]) -> bool:
    """Tell whether nearly all cases do the same to the same: then no other sentence told it."""
    return Counter((case.did, case.entered) for case in own).most_common(1)[0][1] >= _SAME * len(
        own
    )


def _names(case: _Case, text: str, known: tuple[str, ...]) -> tuple[bool | None, bool]:
    """Tell whether a text names all that was entered, None for nothing; and anything clicked."""
    spans = [s.casefold() for s in read_goal(text, known).slots().values() if s]
    folded = _folded(text)
    told: bool | None = None
    for value in case.entered:
        near = any(s.startswith(value) or value.startswith(s) for s in spans)
        told = told is not False and (near or _within(value, folded))
    return told, any(_within(value, folded) for value in case.clicked)


def _within(value: str, text: str) -> bool:
    return bool(value) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def _finding(
    own: Sequence[_Case], actions: Sequence[UserAction], vocabulary: Vocabulary,
    words: tuple[str, ...],
) -> Finding | None:  # fmt: skip
    """Return a type of cases as a routine, or None where the evidence is thin."""
    tokens = [[vocabulary.token(actions[i]) for i in case.at] for case in own]
    named = Counter(label for row in tokens for label in {t.label for t in row})
    rows = [[_coarse(t, named[t.label] >= _LASTING * len(own)) for t in row] for row in tokens]
    numbers: dict[Token, int] = {}
    coded = [[numbers.setdefault(t, len(numbers)) for t in row] for row in rows]
    plan = next((p for share in _SHARES if (p := consensus(coded, share))), [])
    num_steps = sorted(map(len, rows))[len(rows) // 2]
    if not plan or (len(own) - 1) * num_steps < _MIN_EVIDENCE:
        return None
    names = list(numbers)
    found = []
    for case, row in zip(own, coded, strict=True):
        aligned = [None if j is None else case.at[j] for j in align(plan, row)]
        steps = {i for i in aligned if i is not None}
        others = tuple(i for i in case.at if i not in steps)
        found.append(Execution(tuple(aligned), len(steps), others))
    if sum(e.in_order > 0 for e in found) < _SHOWN * len(found):
        return None  # they have hardly anything in common: single actions out of others' middle
    return Finding(Pattern(tuple(names[n] for n in plan)), tuple(found), 0.0, words)


def _coarse(token: Token, lasting: bool) -> Token:
    return token if lasting else token._replace(label="")
