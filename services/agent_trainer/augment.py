"""One demonstration -> many: the same chore with other values and other data around it.

Every value of the record is replaced by a random one of its shape, alike on all screens; what
stands in lists changes too, unless each item has it; other items are made to resemble the right
one. So an agent learns to compare with the record rather than to remember. Order is not shuffled:
the encoding does not see it (a test proves that). Pure.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random

from services.agent_trainer.demonstrations import Demonstration, State
from shared.encoding import FIELD_ROLES, HistoryStep, Tree, at_words, normalise
from shared.meanings import means
from shared.schemas import Snapshot, SnapshotElement, Text

__all__ = ["vary"]

_COMMON_SHARE = 0.4  # a text that more of a list's items show belongs to the page
_RESEMBLE_SHARE = 0.6  # of the screens whose target is in a list
_SCRAMBLE_SHARE = 0.8  # of the texts in lists that are data


def vary(
    demonstration: Demonstration,
    constants: Mapping[str, str],
    rng: Random,
    *,
    keeps_numbers: bool = False,
    keeps_words: bool = False,
    told: str = "",
) -> Demonstration:
    """Return the same demonstration with another record and other data around it.

    With `keeps_numbers` numbers in lists stay: a day of a calendar is no data to be replaced.
    With `keeps_words` words stay whose meaning is known.
    `told` is the instruction: what stands in it is not replaced but as a value.
    """
    fresh = {
        normalise(value): _alike(value, rng)
        for name, value in demonstration.values.items()
        if name not in constants and value.strip() and not (keeps_words and means(value))
    }
    keeps = _Keeps(keeps_numbers, keeps_words, normalise(told))
    text = _Rewriter(fresh, constants.values(), rng, keeps)
    values = {
        name: value if name in constants else text.rewrite(value)
        for name, value in demonstration.values.items()
    }
    screens: dict[int, Snapshot] = {}
    states = []
    for state in demonstration.states:
        key = id(state.snapshot)
        if key not in screens:
            screens[key] = text.screen(state.snapshot)
        screen = _resemble(screens[key], state, values, rng)
        history = tuple(text.step(step) for step in state.history)
        states.append(State(screen, history, state.target, state.action))
    return replace(demonstration, values=values, states=tuple(states))


def _alike(text: str, rng: Random) -> str:
    """Return a random text of the same shape: letters for letters, digits for digits."""
    if text.isdigit() and len(text) <= 3:
        return str(rng.randint(1, 10 ** rng.randint(1, 3)))
    out = []
    for c in text:
        if c.isdigit():
            out.append(rng.choice("123456789"))
        elif c.isalpha():
            letters = string.ascii_uppercase if c.isupper() else string.ascii_lowercase
            out.append(rng.choice(letters))
        else:
            out.append(c)
    return "".join(out)


@dataclass(frozen=True)
class _Keeps:
    """Which of a list's texts are no data."""

    numbers: bool
    words: bool
    told: str  # the instruction, folded

    def __contains__(self, text: str) -> bool:
        return (
            (self.numbers and text.strip().isdigit())
            or (self.words and means(text))
            or (bool(self.told) and at_words(normalise(text), self.told))
        )


class _Rewriter:
    """Replaces texts, each always by the same one."""

    def __init__(
        self, fresh: Mapping[str, str], fixed: Iterable[str], rng: Random, keeps: _Keeps
    ) -> None:
        self._fresh, self._keeps = fresh, keeps
        self._fixed = {normalise(value) for value in fixed}
        self._rng = rng
        self._seen: dict[str, str] = {}
        self._scrambled: dict[str, str] = {}
        longest = sorted(fresh, key=len, reverse=True)
        alternatives = "|".join(re.escape(v).replace(r"\ ", r"\s+") for v in longest)
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.I) if longest else None

    def rewrite(self, text: str) -> str:
        if text not in self._seen:
            self._seen[text] = (
                self._pattern.sub(lambda m: self._fresh.get(normalise(m[0]), m[0]), text)
                if self._pattern and normalise(text) not in self._fixed
                else text
            )
        return self._seen[text]

    def scramble(self, text: str) -> str:
        rewritten = self.rewrite(text)
        if rewritten != text or normalise(text) in self._fixed:
            return rewritten
        if text in self._keeps:
            return text
        if text not in self._scrambled:
            change = self._rng.random() < _SCRAMBLE_SHARE
            self._scrambled[text] = _alike(text, self._rng) if change else text
        return self._scrambled[text]

    def step(self, step: HistoryStep) -> HistoryStep:
        name = self.rewrite(step.name) if step.name else step.name
        label = self.rewrite(step.label) if step.label else step.label
        return replace(step, name=name, label=label)

    def screen(self, snapshot: Snapshot) -> Snapshot:
        tree = Tree(snapshot)
        common = _common_texts(snapshot, tree)
        elements = []
        for element in snapshot.elements:
            item = tree.item_of(element.index)
            data = item is not None and element.role not in FIELD_ROLES | {"button"}
            elements.append(self._element(element, common if data else None))
        return snapshot.model_copy(update={"elements": tuple(elements)})

    def _element(self, element: SnapshotElement, common: set[str] | None) -> SnapshotElement:
        def change(text: Text | None) -> Text | None:
            if text is None or not text.clear:
                return text
            data = common is not None and normalise(text.clear) not in common
            new = self.scramble(text.clear) if data else self.rewrite(text.clear)
            return text if new == text.clear else text.model_copy(update={"clear": new})

        update: dict[str, object] = {
            "name": change(element.name),
            "text": change(element.text),
            "value": change(element.value),
        }
        if element.options:
            update["options"] = tuple(change(option) for option in element.options)
        if all(getattr(element, key) is value for key, value in update.items()):
            return element
        return element.model_copy(update=update)


def _common_texts(snapshot: Snapshot, tree: Tree) -> set[str]:
    """Return texts that so many items of a list show that they belong to the page."""
    shown: Counter[str] = Counter()
    items: set[int] = set()
    seen: set[tuple[int, str]] = set()
    for element in snapshot.elements:
        item = tree.item_of(element.index)
        if item is None:
            continue
        items.add(item)
        for text in (element.name, element.text):
            if text is not None and text.clear:
                seen.add((item, normalise(text.clear)))
    shown.update(text for _, text in seen)
    return {text for text, count in shown.items() if count > max(1, _COMMON_SHARE * len(items))}


def _resemble(snapshot: Snapshot, state: State, values: Mapping[str, str], rng: Random) -> Snapshot:
    """Make other items of the target's list look a little like the right one."""
    if state.target is None:
        return snapshot
    tree = Tree(snapshot)
    item = tree.item_of(state.target)
    if item is None or rng.random() > _RESEMBLE_SHARE:
        return snapshot
    wanted = {normalise(v) for v in values.values() if v}
    right = [e for e in (tree.elements[item], *tree.descendants(item)) if _text(e) in wanted]
    others = [
        e for e in tree.elements.values()
        if e.role == tree.elements[item].role and e.index != item
        and e.parent == tree.elements[item].parent
    ]  # fmt: skip
    changed = dict(tree.elements)
    for other in rng.sample(others, min(len(others), 3)):
        model = rng.choice(right) if right else None
        twins = [
            e for e in tree.descendants(other.index)
            if model and (e.role, e.label, e.tag) == (model.role, model.label, model.tag)
        ]  # fmt: skip
        if model is None or len(twins) != 1 or _text(twins[0]) in wanted:
            continue
        shown = _clear(model)
        several = len({_text(e) for e in right}) > 1
        if not several or rng.random() < 0.5:  # a longer text that begins alike is never the value
            shown += rng.choice((" ", "-")) + _alike("Xxxxx", rng)
        changed[twins[0].index] = _showing(twins[0], shown)
    return snapshot.model_copy(update={"elements": tuple(changed.values())})


def _showing(element: SnapshotElement, shown: str) -> SnapshotElement:
    update = {
        key: getattr(element, key).model_copy(update={"clear": shown})
        for key in ("name", "text")
        if getattr(element, key) is not None and getattr(element, key).clear
    }
    return element.model_copy(update=update)


def _clear(element: SnapshotElement) -> str:
    for text in (element.text, element.name):
        if text is not None and text.clear:
            return text.clear
    return ""


def _text(element: SnapshotElement) -> str:
    return normalise(_clear(element))
