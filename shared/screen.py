"""What the screens of a routine looked like, and what its last one showed; checked at run time.

Learnt by the trainer, carried in the manifest as plain JSON, checked by the runner before every
step and after the last. A check returns None or a reason in plain words that names what it saw.
Controls are known by role and label with digits and the record's values masked, never by id,
place or order.

Reads and writes nothing. Not covered: pictures, and a control that changes its meaning but not
its label.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from shared.encoding import FIELD_ROLES, Tree, at_words, normalise
from shared.errors import ContractError
from shared.schemas import Snapshot, SnapshotElement

__all__ = [
    "Sighting",
    "check_post_condition",
    "check_screen",
    "learn_post_condition",
    "learn_screen",
    "mask",
]

Schema = dict[str, JsonValue]

_BUTTON_ROLES = frozenset(("button", "menuitem", "tab"))
_DIALOG_ROLES = frozenset(("dialog", "alertdialog"))
_ITEM_ROLES = frozenset(("row", "listitem"))
_SPEAKING_ROLES = frozenset(("heading", "status"))
_CONTAINER_ROLES = frozenset((
    "row", "listitem", "status", "dialog", "region", "article", "form", "group", "complementary",
))  # fmt: skip
_MAX_REASONS = 3
_MAX_SHOWN_CHARS = 80
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Sighting:
    """One screen of a demonstration, the record's values, and what was acted on, if anything."""

    snapshot: Snapshot
    values: Mapping[str, str]
    target: int | None = None
    slot: str | None = None  # of the action


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=_Model)


class _Control(_Model):
    role: str
    label: str
    required: bool = False
    slot: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.role, self.label

    def __str__(self) -> str:
        return f"{self.role} “{self.label[:_MAX_SHOWN_CHARS]}”"


class _Page(_Model):
    scopes: tuple[str, ...]  # where something was acted on: form, dialog, page
    controls: tuple[_Control, ...]  # fields and buttons that were there
    needed: tuple[_Control, ...]  # acted on, and there each time
    choices: tuple[_Control, ...]  # selects, with the slot that is chosen
    shown: tuple[str, ...]  # slots whose value an element must show
    dialogs: tuple[str, ...]
    alerts: tuple[str, ...]


class _Screens(_Model):
    version: int = 1
    start_url: str
    documents: dict[str, _Page]


class _Place(_Model):
    container: str
    slot: str
    role: str
    label: str
    equal: bool  # the element's text is the value, else it contains it


class _Group(_Model):
    container: str
    together: bool  # one container held all places in every demonstration
    places: tuple[_Place, ...]


class _End(_Model):
    version: int = 1
    documents: tuple[str, ...]
    texts: tuple[_Control, ...]
    groups: tuple[_Group, ...]


def mask(text: str, values: Iterable[tuple[str, str]]) -> str:
    """Return `text` normalised, with digits and the (slot, value) pairs' values masked."""
    # Digits go first in both, so that a value like 3 does not tell "order 3" from "order 12".
    masked = _DIGITS.sub("#", normalise(text))
    for name, value in values:
        found = _DIGITS.sub("#", normalise(value))
        if any(c.isalpha() for c in found) and found in masked and at_words(found, masked):
            masked = masked.replace(found, f"<{name}>")
    return masked


def _own_text(element: SnapshotElement) -> str:
    for text in (element.text, element.name):
        if text is not None and text.clear:
            return normalise(text.clear)
    return ""


class _Seen:
    """A snapshot's elements under the names that survive another record and another layout."""

    def __init__(self, snapshot: Snapshot, values: Mapping[str, str]) -> None:
        self.document = snapshot.document or ""
        self.tree = Tree(snapshot)
        self.values = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
        self.plain = {name: normalise(value) for name, value in values.items()}

    def label(self, element: SnapshotElement) -> str:
        name = element.name.clear if element.name else None
        text = element.text.clear if element.text and element.role not in FIELD_ROLES else None
        if element.role in FIELD_ROLES:
            return mask(element.label or name or "", self.values)
        return mask(name or text or element.label or "", self.values)

    def scope(self, element: SnapshotElement) -> str:
        above = self.tree.ancestors(element.index)
        if any(e.role in _DIALOG_ROLES for e in above):
            return "dialog"
        return "form" if any("form" in (e.role, e.tag) for e in above) else "page"

    def control(self, element: SnapshotElement) -> _Control:
        return _Control(
            role=element.role, label=self.label(element), required="required" in element.states
        )

    def controls(self, roles: frozenset[str]) -> dict[tuple[str, str], tuple[_Control, str]]:
        """Map (role, label) to control and scope; what a list repeats is data and left out."""
        found = {}
        for element in self.tree.elements.values():
            if element.role in roles and not self._is_repeated(element):
                control = self.control(element)
                found[control.key] = control, self.scope(element)
        return found

    def _is_repeated(self, element: SnapshotElement) -> bool:
        item = self.tree.item_of(element.index)
        if item is None:
            return False
        holders = [self.tree.elements[item], *self.tree.ancestors(item)]
        return not any(e.role == "navigation" or e.tag == "nav" for e in holders)

    def keys(self) -> set[tuple[str, str]]:
        return {(e.role, self.label(e)) for e in self.tree.elements.values()}

    def spoken(self) -> set[tuple[str, str]]:
        """Return (role, masked text) of what says in what state the page is."""
        return {
            (e.role, mask(_own_text(e), self.values))
            for e in self.tree.elements.values()
            if e.role in _SPEAKING_ROLES and _own_text(e)
        }

    def alerts(self) -> set[str]:
        """Return the masked texts of alerts, with what stands inside."""
        found = set()
        for element in self.tree.elements.values():
            if element.role == "alert":
                inside = sorted(self.tree.descendants(element.index), key=lambda e: e.index)
                texts = [_own_text(e) for e in (element, *inside)]
                found.add(mask(" ".join(t for t in texts if t), self.values))
        return found

    def texts(self) -> set[str]:
        """Return what elements that are no fields show."""
        return {_own_text(e) for e in self.tree.elements.values() if e.role not in FIELD_ROLES} - {
            ""
        }

    def slots_of(self, target: int) -> set[str]:
        """Return slots whose value the element, or a cell of its row, shows."""
        item = self.tree.item_of(target)
        near = [self.tree.elements[target]]
        if item is not None:
            near += [self.tree.elements[item], *self.tree.descendants(item)]
        texts = {_own_text(e) for e in near} - {""}
        return {name for name, value in self.plain.items() if value in texts}


def learn_screen(start_url: str, sightings: Sequence[Sighting]) -> Schema:
    """Return what the demonstrations' screens have in common, for `check_screen`."""
    by_document: dict[str, list[tuple[_Seen, Sighting]]] = {}
    for sighting in sightings:
        seen = _Seen(sighting.snapshot, sighting.values)
        by_document.setdefault(seen.document, []).append((seen, sighting))
    pages = {document: _learn_page(found) for document, found in sorted(by_document.items())}
    return _Screens(start_url=start_url, documents=pages).model_dump(mode="json")


def _learn_page(found: Sequence[tuple[_Seen, Sighting]]) -> _Page:
    known: dict[tuple[str, str], _Control] = {}
    used: dict[tuple[str, str], _Control] = {}
    scopes, dialogs, alerts, pointed = set(), set(), set(), []
    for seen, sighting in found:
        for key, (control, _) in seen.controls(FIELD_ROLES | _BUTTON_ROLES).items():
            if key not in known or control.required:
                known[key] = control
        dialogs |= {seen.label(e) for e in seen.tree.elements.values() if e.role in _DIALOG_ROLES}
        alerts |= seen.alerts()
        if sighting.target is None:
            continue
        element = seen.tree.elements[sighting.target]
        scopes.add(seen.scope(element))
        shows = seen.slots_of(sighting.target)
        if element.role not in FIELD_ROLES and shows:
            pointed.append(shows)  # the target is data: known by what it shows, not by a label
        elif control_label := seen.label(element):
            key = (element.role, control_label)
            used[key] = _Control(role=key[0], label=key[1], slot=sighting.slot)
    everywhere = [seen.keys() for seen, _ in found]
    shown = [set(seen.plain) & _slots_shown(seen) for seen, _ in found]
    always_shown = set.intersection(*shown) if shown else set()
    needed = [c for k, c in sorted(used.items()) if all(k in keys for keys in everywhere)]
    return _Page(
        scopes=tuple(sorted(scopes)),
        controls=tuple(c for _, c in sorted(known.items())),
        needed=tuple(needed),
        choices=tuple(
            c for _, c in sorted(used.items()) if c.slot and c.role in ("combobox", "listbox")
        ),
        shown=tuple(sorted(set.intersection(*pointed) & always_shown)) if pointed else (),
        dialogs=tuple(sorted(dialogs)),
        alerts=tuple(sorted(alerts)),
    )


def _slots_shown(seen: _Seen) -> set[str]:
    texts = seen.texts()
    return {name for name, value in seen.plain.items() if value and value in texts}


def check_screen(
    screen: Mapping[str, Any], snapshot: Snapshot, values: Mapping[str, str] | None = None
) -> str | None:
    """Return why the agent must not act on this screen, or None.

    With the record's `values` it is also checked that they can be chosen and found here.
    Raises ContractError where `screen` is none that this release wrote.
    """
    learnt = _parse(_Screens, screen)
    seen = _Seen(snapshot, values or {})
    page = learnt.documents.get(seen.document)
    if page is None:
        return f"the page {seen.document[:200] or 'without address'} was never seen when it learned"
    reasons = [
        *_interruptions(page, seen),
        *_odd_fields(page, seen),
        *_missing(page, seen),
        *_odd_buttons(page, seen),
        *(_unserved(page, seen) if values is not None else ()),
    ]
    return "; ".join(reasons[:_MAX_REASONS]) or None


def _interruptions(page: _Page, seen: _Seen) -> Iterable[str]:
    for element in seen.tree.elements.values():
        if element.role in _DIALOG_ROLES and (label := seen.label(element)) not in page.dialogs:
            yield f"a dialog “{label[:_MAX_SHOWN_CHARS]}” is open that was never seen"
    for text in sorted(seen.alerts()):
        if text not in page.alerts:
            yield f"an alert says “{text[:_MAX_SHOWN_CHARS]}”"


def _odd_fields(page: _Page, seen: _Seen) -> Iterable[str]:
    known = {c.key: c for c in page.controls}
    for key, (control, scope) in sorted(seen.controls(FIELD_ROLES).items()):
        if scope not in page.scopes:
            continue
        if key not in known:
            kind = "required field" if control.required else "field"
            yield f"there is a new {kind}, {control}"
        elif control.required and not known[key].required:
            yield f"{control} is now required"


def _missing(page: _Page, seen: _Seen) -> Iterable[str]:
    there = seen.keys()
    return (f"{control} is missing" for control in page.needed if control.key not in there)


def _odd_buttons(page: _Page, seen: _Seen) -> Iterable[str]:
    known = {c.key for c in page.controls}
    for key, (control, scope) in sorted(seen.controls(_BUTTON_ROLES).items()):
        if key not in known and scope in page.scopes:
            yield f"there is a new {control}"


def _unserved(page: _Page, seen: _Seen) -> Iterable[str]:
    texts = seen.texts()
    for slot in page.shown:
        if seen.plain.get(slot) and seen.plain[slot] not in texts:
            yield f"nothing on this page shows the value of {slot}"
    wanted = {c.key: c.slot for c in page.choices}
    for element in seen.tree.elements.values():
        choice = wanted.get((element.role, seen.label(element)))
        offered = {normalise(o.clear or "") for o in element.options}
        if choice and offered and seen.plain.get(choice, "") not in offered:
            yield f"{seen.control(element)} does not offer the value of {choice}"


def learn_post_condition(finals: Sequence[tuple[Snapshot, Mapping[str, str]]]) -> Schema:
    """Return what the last screens have in common, for `check_post_condition`.

    `finals` are (snapshot after the last step, the record's values). Raises ContractError without
    any: nothing could then tell whether a run succeeded.
    """
    if not finals:
        raise ContractError("no demonstration shows the screen after its last step: record again")
    seen = [_Seen(snapshot, values) for snapshot, values in finals]
    places = set.intersection(*(_places(s) for s in seen))
    exact = {(p.container, p.slot) for p in places if p.equal}
    kept = [p for p in places if p.equal or (p.container, p.slot) not in exact]
    groups = []
    for container in sorted({p.container for p in kept}):
        own = tuple(
            sorted(
                (p for p in kept if p.container == container),
                key=lambda p: (p.slot, p.role, p.label, p.equal),
            )
        )
        together = all(any(h >= set(own) for h in _holdings(s, container)) for s in seen)
        groups.append(_Group(container=container, together=together, places=own))
    texts = set.intersection(*(s.spoken() for s in seen))
    return _End(
        documents=tuple(sorted({s.document for s in seen})),
        texts=tuple(_Control(role=role, label=text) for role, text in sorted(texts) if text),
        groups=tuple(groups),
    ).model_dump(mode="json")


def check_post_condition(
    post_condition: Mapping[str, Any], snapshot: Snapshot, values: Mapping[str, str]
) -> str | None:
    """Return why this is not what the demonstrations ended with, or None.

    Raises ContractError where `post_condition` is none that this release wrote.
    """
    end = _parse(_End, post_condition)
    seen = _Seen(snapshot, values)
    if seen.document not in end.documents:
        return (
            f"it ended on {seen.document[:200] or 'a page without address'}, not where it learned"
        )
    spoken = seen.spoken()
    reasons = [f"{t} is missing" for t in end.texts if t.key not in spoken]
    for group in end.groups:
        holdings = _holdings(seen, group.container)
        everything = set().union(*holdings) if holdings else set()
        lacking = [p for p in group.places if p not in everything]
        reasons += [
            f"the value of {p.slot} is not shown in a {p.role} “{p.label[:_MAX_SHOWN_CHARS]}”"
            for p in lacking
        ]
        if group.together and not lacking and not any(h >= set(group.places) for h in holdings):
            slots = ", ".join(sorted({p.slot for p in group.places}))
            reasons.append(f"no single {group.container} shows {slots} together")
    return "; ".join(reasons[:_MAX_REASONS]) or None


def _places(seen: _Seen) -> set[_Place]:
    return set().union(*_holdings(seen, None))


def _holdings(seen: _Seen, container: str | None) -> list[set[_Place]]:
    """Return, for each container (of one role, or of any), where it shows which slots."""
    held: dict[int | None, set[_Place]] = {}
    for element in seen.tree.elements.values():
        holder = next(
            (e for e in seen.tree.ancestors(element.index) if e.role in _CONTAINER_ROLES), None
        )
        role = holder.role if holder else ""
        if container is not None and role != container:
            continue
        place = held.setdefault(holder.index if holder else None, set())
        texts = {_own_text(element), normalise(element.value.clear or "") if element.value else ""}
        label = mask(element.label or "", seen.values)
        for slot, value in seen.plain.items():
            for text in texts - {""}:
                if value and (value == text or at_words(value, text)):
                    place.add(
                        _Place(
                            container=role,
                            slot=slot,
                            role=element.role,
                            label=label,
                            equal=value == text,
                        )
                    )
    return list(held.values())


def _parse(model: type[M], untrusted: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(untrusted)
    except ValidationError as error:
        raise ContractError(
            "the module's description of its screens is not readable: train it again"
        ) from error
