"""Reads demonstrations of web tasks, recorded as DOM states, as what the browser source would see.

The format is that of the MiniWoB++ demonstrations (Liu et al., 2018, arXiv:1802.08802): one JSON
object a line, `{utterance, states: [{time, action, dom}]}`. Reads bytes, writes nothing. What a
recording says of itself (task, batch, worker, number, reward) never reaches a capture.

What a state shows at the press of a button is kept, but for how the pointer had changed it by then:
classes of hover, focus and press are dropped, a colour is the one before. Typing is one edit with
the field's final value; a click on a label is one on its control. The instruction is on the page
but in no recorded tree: it becomes an element of each snapshot, as the live page has it.

Not covered: which option of a native list was chosen where the browser recorded no event for it;
then the options that the instruction names are taken. Where the pointer rested is in no recording
either: what was hidden before the first press is taken to have been opened by it. Scrolling is left
out: an agent brings into view what it acts on.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from services.user_monitor.capture import RawCapture, RawElement, RawSnapshot
from shared.errors import CaptureError, ConfigError
from shared.schemas.raw_events import Action, Box, Shown

__all__ = ["read_demonstrations"]

Dom = Mapping[str, Any]

_URL = "https://demonstrations.example/page"
_APPLICATION = "demonstrations.example"
_FIRST_MS = 1_500_000_000_000  # the recordings know no date
_BETWEEN_MS = 1_000  # from the end of one demonstration to the next
_MAX_CHARS = 200  # as page.js

_INPUT_ROLES = {
    "checkbox": "checkbox", "radio": "radio", "range": "slider", "number": "spinbutton",
    "search": "searchbox", "button": "button", "submit": "button", "reset": "button",
    "image": "button", "file": "button", "color": "button",
}  # fmt: skip
_TAG_ROLES = {
    "a": "link", "button": "button", "form": "form", "h1": "heading", "h2": "heading",
    "h3": "heading", "h4": "heading", "h5": "heading", "h6": "heading", "li": "listitem",
    "ol": "list", "option": "option", "p": "paragraph", "select": "combobox", "table": "table",
    "td": "cell", "textarea": "textbox", "th": "columnheader", "tr": "row", "ul": "list",
}  # fmt: skip
_FIELDS = frozenset(("textbox", "searchbox", "spinbutton", "slider"))
_TOGGLES = frozenset(("checkbox", "radio"))
_ACTIONABLE = _FIELDS | _TOGGLES | {"button", "link", "combobox", "listbox", "option"}
_NAMED = frozenset(("button", "link", "heading", "columnheader"))
_MIXED = frozenset(("generic", "paragraph", "heading", "listitem"))
_BORROWS = frozenset((
    "cell", "listitem", "heading", "link", "button", "option", "columnheader", "paragraph",
))  # fmt: skip
_INLINE = frozenset(("a", "b", "code", "em", "i", "mark", "small", "span", "strong", "t", "u"))
_SHAPES = frozenset(("circle", "ellipse", "line", "path", "polygon", "rect", "text", "tspan"))
_NEVER = frozenset(("t", "option", "br", "svg", "canvas", "g"))
_SKIPPED = frozenset(("t", "option", "br", "canvas"))
_FRAME = "mturk_form"  # the recorder's own form around the page
_POINTED = re.compile(r"hover|focus|(^|-)active|selecting")
_LISTBOX_PX = 30  # a native list that is higher shows several options
_KEYS = {13: "Enter", 27: "Escape", 37: "ArrowLeft", 38: "ArrowUp", 39: "ArrowRight",
         40: "ArrowDown"}  # fmt: skip
_RGB = re.compile(r"rgb\(\d{1,3}, \d{1,3}, \d{1,3}\)")


def read_demonstrations(
    stream: BinaryIO, columns: Mapping[str, str] | None = None
) -> Iterator[RawCapture]:
    """Yield the captures of all demonstrations, in the file's order.

    Raises CaptureError at a bad line, ConfigError for a column map, which the format has no use of.
    """
    if columns is not None:
        raise ConfigError("demonstrations have no columns: leave the column map out")
    start_ms = _FIRST_MS
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            untrusted = json.loads(line)
            reader = _Demonstration(str(untrusted["utterance"]), untrusted["states"])
            captures = list(reader.captures(start_ms))
            start_ms += max((int(s["time"]) for s in untrusted["states"]), default=0) + _BETWEEN_MS
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as e:
            raise CaptureError(
                f"line {number} is no demonstration ({type(e).__name__}): correct the log"
            ) from None
        yield from captures


@dataclass
class _Node:
    """One element of a recorded tree."""

    untrusted: Dom
    tag: str
    role: str
    parent: "_Node | None"
    children: list["_Node"] = field(default_factory=list)
    index: int | None = None  # in the snapshot

    @property
    def ref(self) -> int:
        return int(self.untrusted.get("ref", 0))

    @property
    def classes(self) -> tuple[str, ...]:
        given = self.untrusted.get("classes")
        words = given.split() if isinstance(given, str) else []
        return tuple(w[:40] for w in words if not _POINTED.search(w))[:8]

    @property
    def value(self) -> str | None:
        value = self.untrusted.get("value")
        return value if isinstance(value, str) else None

    @property
    def is_secret(self) -> bool:
        return bool(self.untrusted["tag"] == "INPUT_password")

    def walk(self) -> Iterator["_Node"]:
        yield self
        for child in self.children:
            yield from child.walk()


def _node(untrusted: Dom, parent: _Node | None = None) -> _Node:
    tag, _, kind = str(untrusted["tag"]).lower().partition("_")
    role = _INPUT_ROLES.get(kind, "textbox") if tag == "input" else _TAG_ROLES.get(tag, "generic")
    if tag == "select" and float(untrusted["height"]) > _LISTBOX_PX:
        role = "listbox"
    node = _Node(untrusted, tag, role, parent)
    node.children = [_node(child, node) for child in untrusted.get("children", ())]
    return node


def _short(text: object) -> str:
    return re.sub(r"\s+", " ", str(text or "")).strip()[:_MAX_CHARS]


def _all_text(node: _Node, skip: _Node | None = None) -> str:
    if node is skip or node.tag in ("select", "textarea"):
        return ""
    own = [str(node.untrusted.get("text") or "")]
    return _short(" ".join(own + [_all_text(child, skip) for child in node.children]))


def _own_text(node: _Node) -> str:
    if node.tag in ("input", "textarea", "select"):
        return ""
    parts = [c for c in node.children if c.tag == "t"]
    if parts and node.role in _MIXED and all(c.tag in _INLINE for c in node.children):
        return _all_text(node)
    return _short(" ".join([str(node.untrusted.get("text") or ""), *map(_all_text, parts)]))


def _lender(node: _Node) -> _Node | None:
    """Return the one plain wrapper inside a node whose text reads as the node's, as page.js does.

    There a wrapper with a role or a place in the order of tabs lends nothing. No recording has
    either, but what a widget's script gives them to has an id as well.
    """
    if node.role not in _BORROWS or _own_text(node):
        return None
    only = node
    while True:
        children = [c for c in only.children if c.tag not in _SKIPPED]
        if len(children) != 1:
            return None
        [only] = children
        if only.role != "generic" or only.tag == "label" or only.untrusted.get("id"):
            return None
        if _own_text(only):
            return None if any(c.tag != "t" for c in only.children) else only


def _label(node: _Node) -> str:
    above = node.parent
    while above is not None:
        if above.tag == "label":
            return _all_text(above, node)
        above = above.parent
    if node.parent is None:
        return ""
    siblings = node.parent.children
    before = siblings[siblings.index(node) - 1] if siblings.index(node) else None
    text = _all_text(before) if before is not None and before.tag == "t" else ""
    return re.sub(r"\s*[:*]+$", "", text)


def _repeats(node: _Node) -> bool:
    """Tell whether a sibling is built alike: the item of a list that has no tags of one."""
    if not node.classes or not node.children or node.parent is None:
        return False
    kind = node.tag, node.classes[0]
    return sum((c.tag, *c.classes[:1]) == kind for c in node.parent.children) > 1


def _is_leaf(node: _Node) -> bool:
    return not node.children and not _own_text(node)


def _colour_of(node: _Node) -> str | None:
    colour = node.untrusted.get("bgColor")
    return colour if isinstance(colour, str) and _RGB.fullmatch(colour) else None


def _wanted(node: _Node) -> bool:
    if node.tag in _NEVER or node.untrusted.get("id") == _FRAME:
        return False
    if node.tag == "body":
        return bool(_own_text(node))
    if node.role != "generic" or node.tag in _SHAPES or node.tag == "label" or _own_text(node):
        return True
    if _is_leaf(node):
        return bool(node.classes or node.untrusted.get("id") or _colour_of(node))
    return _repeats(node)


class _Demonstration:
    """One demonstration's states as captures."""

    def __init__(self, utterance: str, states: Sequence[Mapping[str, Any]]) -> None:
        self._utterance = utterance
        self._states = states
        self._roots = [_node(state["dom"]) for state in states]
        self._colours: dict[int, str] = {}  # by ref: as it was before the pointer came
        self._num_seen = 0

    def captures(self, start_ms: int) -> Iterator[RawCapture]:
        """Yield what was done. A long function: it is the order of a person's events."""
        edited: tuple[int, int] | None = None  # (state, ref) of the field that is written in
        opened: tuple[int, int] | None = None  # the same of a native list
        pressed = 0
        for at, state in enumerate(self._states):
            action = state["action"]
            if action is None:
                continue
            kind, target = action["type"], self._target(at)
            if kind in ("mousedown", "keydown") and edited and self._left(at, kind, target, edited):
                yield from self._edit(edited, at, start_ms)
                edited = None
            if (
                kind in ("mousedown", "keydown")
                and opened
                and (target is None or target.tag not in ("select", "option"))
            ):
                yield from self._choice(opened, at, start_ms)
                opened = None
            if kind == "mousedown":
                pressed = at
                chosen = target
                while chosen is not None and chosen.tag == "option":
                    chosen = chosen.parent
                if chosen is not None and chosen.tag == "select":
                    opened = opened or (at, chosen.ref)
                elif target is not None and target.role == "spinbutton":
                    edited = edited or (at, target.ref)  # its arrows change it like keys
                elif not self._is_clicked_later(at):
                    yield from self._click(at, target, start_ms)
            elif kind == "click" and target is not None and target.tag not in ("select", "option"):
                if target.role != "spinbutton" and not self._hands_on(at, target):
                    snap_at = pressed if pressed and self._is_near(pressed, at) else at
                    yield from self._click(snap_at, target, start_ms)
            elif kind == "keydown":
                if target is not None and target.role in _FIELDS:
                    if action["keyCode"] == 13 and target.tag == "input":
                        if edited:
                            yield from self._edit(edited, at, start_ms)
                            edited = None
                        yield self._capture(Action.KEY, at, target, start_ms, keys="Enter")
                    else:
                        edited = edited or (at, target.ref)
                elif target is not None and target.tag == "select":
                    opened = opened or (at, target.ref)
        last = len(self._states) - 1
        if edited:
            yield from self._edit(edited, last, start_ms)
        if opened:
            yield from self._choice(opened, last, start_ms)

    def _target(self, at: int) -> _Node | None:
        found = [n for n in self._roots[at].walk() if n.untrusted.get("recordingTarget")]
        return found[0] if found else None

    def _by_ref(self, at: int, ref: int) -> _Node | None:
        return next((n for n in self._roots[at].walk() if n.ref == ref), None)

    def _left(self, at: int, kind: str, target: _Node | None, edited: tuple[int, int]) -> bool:
        if target is not None and target.ref == edited[1] and target.role == "spinbutton":
            return False
        return kind == "mousedown" or (target is not None and target.ref != edited[1])

    def _is_near(self, pressed: int, at: int) -> bool:
        between = [s["action"]["type"] for s in self._states[pressed + 1 : at] if s["action"]]
        return all(kind in ("mouseup", "click", "scroll") for kind in between)

    def _is_clicked_later(self, at: int) -> bool:
        """Tell whether a click follows a press: else the press itself ended the task."""
        for state in self._states[at + 1 :]:
            kind = state["action"]["type"] if state["action"] else None
            if kind == "click":
                return True
            if kind in ("mousedown", "keydown"):
                return False
        return False

    def _hands_on(self, at: int, target: _Node) -> bool:
        """Tell whether it is a label's click, which the browser repeats on the label's control."""
        inside: _Node | None = target
        while inside is not None and inside.tag != "label":
            if inside.role in _TOGGLES:
                return False
            inside = inside.parent
        if inside is None or not any(n.role in _TOGGLES for n in inside.walk()):
            return False
        following = self._states[at + 1] if at + 1 < len(self._states) else None
        return bool(following and following["action"] and following["action"]["type"] == "click")

    def _click(self, at: int, target: _Node | None, start_ms: int) -> Iterator[RawCapture]:
        if target is None or target.tag == "body":
            return
        ref = target.ref
        node = self._by_ref(at, ref) or target
        yield from self._hovers(at, node, start_ms)
        value = None
        if node.role in _TOGGLES:
            value = str(not node.untrusted.get("value")).lower()
        yield self._capture(Action.CLICK, at, node, start_ms, value=value)

    def _hovers(self, at: int, node: _Node, start_ms: int) -> Iterator[RawCapture]:
        """Yield where the pointer rested before the first press, if that opened what was pressed.

        What is pressed first and was not there before can only have been opened by the pointer. A
        menu inside another of its kind was opened after it, with the outer one there already.
        """
        pressed = (s["action"]["type"] for s in self._states[:at] if s["action"])
        if at == 0 or any(kind in ("mousedown", "keydown") for kind in pressed):
            return
        before = {(n.ref, n.tag) for n in self._roots[at - 1].walk()}
        around: list[_Node] = []
        inside: _Node | None = node.parent
        while inside is not None:
            around.insert(0, inside)
            inside = inside.parent
        new = [n for n in around if (n.ref, n.tag) not in before]
        for opened in [n for n in new if n.tag == new[0].tag and n.role == "list"]:
            holder = opened.parent
            if holder is None:
                continue
            shown = [c for c in holder.children if c is not opened and _all_text(c)]
            rested = next((c for c in shown if c.tag != "t"), holder)
            yield self._capture(Action.HOVER, at, rested, start_ms, without=opened)

    def _edit(self, edited: tuple[int, int], until: int, start_ms: int) -> Iterator[RawCapture]:
        first, ref = edited
        before, after = self._by_ref(first, ref), self._by_ref(until, ref)
        if before is None:
            return
        for at in range(until, first, -1):  # a field may be gone by then
            after = self._by_ref(at, ref)
            if after is not None:
                break
        value = after.value if after is not None else None
        if value is not None and value != before.value:
            yield self._capture(Action.EDIT, first, before, start_ms, value=value)

    def _choice(self, opened: tuple[int, int], until: int, start_ms: int) -> Iterator[RawCapture]:
        first, ref = opened
        before = self._by_ref(first, ref)
        options = [] if before is None else _options(before)
        pressed = [
            _all_text(t)
            for at in range(first, until + 1)
            if (t := self._target(at)) is not None and t.tag == "option"
        ]
        named = [o for o in options if _names(self._utterance, o)]
        if before is not None and before.role == "listbox":
            # Of several presses the misses cannot be told from what was chosen but by the words.
            chosen = [o for o in named if o in pressed] or named or pressed[-1:]
        else:
            chosen = pressed[-1:] or named
            chosen = chosen if len(chosen) == 1 else []
        if before is not None:  # that something was chosen is known even where what is not
            for value in chosen or (None,):
                yield self._capture(Action.SELECT, first, before, start_ms, value=value)

    def _capture(
        self,
        action: Action,
        at: int,
        node: _Node,
        start_ms: int,
        *,
        value: str | None = None,
        keys: str | None = None,
        without: _Node | None = None,
    ) -> RawCapture:
        elements = self._elements(at, without)
        own = self._by_ref(at, node.ref) or node
        index = _acted_on(own)
        element = elements[index] if index is not None else None
        return RawCapture(
            action=action,
            untrusted_application=_APPLICATION,
            time_ms=start_ms + int(self._states[at]["time"]),
            untrusted_title="",
            untrusted_url=_URL,
            element=element if element is not None else RawElement(untrusted_role=node.role),
            untrusted_value=None if node.is_secret else value,
            shown=_where(value, elements) if node.is_secret and value else None,
            keys=keys,
            snapshot=RawSnapshot(tuple(elements)),
        )

    def _elements(self, at: int, without: _Node | None = None) -> list[RawElement]:
        """Return the elements of one state, the instruction first, `without` left out."""
        for earlier in range(self._num_seen, at):
            for node in self._roots[earlier].walk():
                colour = _colour_of(node)
                if colour and not node.untrusted.get("recordingTarget"):
                    self._colours.setdefault(node.ref, colour)
        self._num_seen = max(self._num_seen, at)
        elements = [
            RawElement(
                untrusted_role="generic",
                index=0,
                untrusted_tag="div",
                untrusted_id="query",
                untrusted_text=self._utterance,
                box=Box(x_px=0, y_px=0, width_px=160, height_px=50),
            )
        ]
        self._visit(self._roots[at], None, elements, without)
        return elements

    def _visit(
        self, node: _Node, parent: int | None, elements: list[RawElement], without: _Node | None
    ) -> None:
        if node is without:
            return
        inside, lender = parent, _lender(node)
        if _wanted(node):
            inside = node.index = len(elements)
            elements.append(self._element(node, lender or node, parent, inside))
        if node.tag not in ("select", "textarea"):
            for child in node.children:
                if child is not lender:
                    self._visit(child, inside, elements, without)

    def _element(self, node: _Node, lender: _Node, parent: int | None, index: int) -> RawElement:
        untrusted, field_like = node.untrusted, node.role in _FIELDS or node.role in _TOGGLES
        label = _label(node) if field_like or node.tag == "select" else ""
        name = label if field_like else ""
        if node.role in _NAMED or node.tag == "label":
            name = _all_text(node) or _short(node.value if node.tag == "input" else "")
        colour = self._colours.get(node.ref, _colour_of(node)) if _is_leaf(node) else None
        states = []
        if untrusted.get("value") is True:
            states.append("checked")
        if untrusted.get("focused"):
            states.append("focused")
        return RawElement(
            untrusted_role=node.role,
            index=index,
            parent=parent,
            untrusted_tag=node.tag,
            untrusted_id=str(untrusted.get("id") or "")[:_MAX_CHARS] or None,
            untrusted_name=name or None,
            name_is_control=bool(name) and (field_like or node.role in ("button", "columnheader")),
            untrusted_label=label or None,
            untrusted_text=_own_text(lender) or None,
            untrusted_value=None if node.is_secret or node.value is None else _short(node.value),
            is_secret=node.is_secret,
            states=tuple(states),
            untrusted_options=tuple(_options(node)) if node.tag == "select" else (),
            untrusted_classes=node.classes,
            untrusted_colour=None if name else colour,
            box=Box(
                x_px=float(untrusted["left"]),
                y_px=float(untrusted["top"]),
                width_px=float(untrusted["width"]),
                height_px=float(untrusted["height"]),
            ),
        )


def _where(secret: str, elements: Sequence[RawElement]) -> Shown | None:
    for element in elements:
        text = element.untrusted_text if isinstance(element.untrusted_text, str) else ""
        found = re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)
        if found and element.index is not None:
            return Shown(index=element.index, start=found.start(), end=found.end())
    return None


def _acted_on(node: _Node) -> int | None:
    """Return the control around a node, else the nearest element of the snapshot."""
    nearest: int | None = None
    at: _Node | None = node
    while at is not None:
        if at.index is not None:
            nearest = at.index if nearest is None else nearest
            if at.role in _ACTIONABLE:
                return at.index
        at = at.parent
    return nearest


def _options(select: _Node) -> list[str]:
    return [_all_text(node) for node in select.walk() if node.tag == "option"]


def _names(utterance: str, option: str) -> bool:
    return bool(option) and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", utterance) is not None
