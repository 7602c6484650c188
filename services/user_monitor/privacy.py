"""Redacts and drops before anything is published: captures in, UiEvents out. Pure.

Reads: a RawCapture, what the user allows there, the user's key. Writes: nothing.
At level `structure` only names of controls, labels and `document` stay clear; at `values` texts
stay clear too. At both, a text that holds a secret becomes its class `secret` and nothing else.
Does not cover: what a picture shows (no source takes any), and what secret_kinds does not cover.
"""

import hashlib
import hmac
import re
from urllib.parse import unquote, unquote_plus

from services.user_monitor.capture import RawCapture, RawElement, RawText
from services.user_monitor.consent import Allowance
from shared.schemas import Element, Level, Snapshot, SnapshotElement, Source, Text, UiEvent
from shared.secret_kinds import REACHES_ON, find_secret, is_secret_label
from shared.texts import (
    WEB_SCHEMES,
    classify,
    document_of,
    is_prose,
    mask_segment,
    origin_of,
    split_url,
)

__all__ = ["Redactor", "classify", "document_of", "safe_keys"]

MAX_CLEAR_CHARS = 8_192
"""A longer text keeps its class only; it is searched for secrets in no case."""

_MIN_HASH_CHARS = 6  # shorter ones are guessed from their hash by whoever gets hold of the key
_HASH_HEX = 32
_SECRET = Text(cls="secret")
_NO_HASH = frozenset({"empty", "bool", "date", "secret"})


_RGB = re.compile(r"rgb\(\d{1,3}, \d{1,3}, \d{1,3}\)")
_WORD = re.compile(r"[a-z]{1,24}[1-6]?(?:-[a-z]{1,24})?")
"""Roles, tags and states; what a page makes up beyond them is data."""

_NAMED_KEY = re.compile(
    r"Enter|Tab|Escape|Backspace|Delete|Insert|Home|End|Page(?:Up|Down)|Arrow(?:Up|Down|Left|Right)"
    r"|F\d{1,2}|ContextMenu|PrintScreen|Pause"
)


def safe_keys(untrusted: str | None) -> str | None:
    """Return a navigation key or hot-key; None for anything that may be a typed character."""
    if not untrusted:
        return None
    held, _, key = untrusted[:-1].rpartition("+")
    key += untrusted[-1]  # which may be the plus sign itself
    modifiers = held.split("+") if held else []
    if not set(modifiers) <= {"Control", "Alt", "Shift", "Meta"}:
        return None
    if _NAMED_KEY.fullmatch(key):
        return untrusted
    if len(key) != 1 and key != "Space":
        return None
    # Alt with a sign may be how a keyboard layout types that sign.
    plain = key == "Space" or (key.isascii() and key.isalnum())
    command = bool({"Control", "Meta"} & set(modifiers))
    if command and (plain or (key.isascii() and "Alt" not in modifiers)):
        return untrusted
    return untrusted if plain and "Alt" in modifiers else None


def _clean_query(query: str, keep: frozenset[str]) -> str:
    """Drop parameters that hold secrets; all, where one may reach over several."""
    if find_secret(unquote_plus(query), keep) in REACHES_ON:
        return ""
    kept = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        forms = {f"?{part}", unquote(value), unquote_plus(value), unquote_plus(name)}
        if not any(find_secret(form, keep) for form in forms) and not is_secret_label(name):
            kept.append(part)
    return "&".join(kept)


def _clean_path(path: str, keep: frozenset[str]) -> str:
    segments = path.split("/")
    cleaned = ["*" if find_secret(unquote(s), keep) else s for s in segments]
    # What is cut in two by a slash is found in the whole path only.
    return "/*" if find_secret(unquote("/".join(cleaned)), keep) else "/".join(cleaned)


def _clean_url(url: str, keep: frozenset[str]) -> str | None:
    """Return a URL without user, secret parameters and secret path segments."""
    parts = split_url(url)
    if parts is None or (parts.scheme not in WEB_SCHEMES and parts.scheme != "file"):
        return document_of(url)
    if is_prose(parts):
        return document_of(url)
    head, mark, tail = parts.fragment.partition("?")
    head = _clean_query(head, keep) if "=" in head else _clean_path(head, keep)
    fragment = head + mark + _clean_query(tail, keep)
    query = _clean_query(parts.query, keep)
    cleaned = origin_of(parts) + _clean_path(parts.path, keep) + (f"?{query}" if query else "")
    return cleaned + (f"#{fragment}" if fragment else "")


class Redactor:
    """Turn what a source saw into what may be kept, for one user's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def use(self, key: bytes) -> None:
        """Hash with another key from now on."""
        self._key = key

    def hash(self, text: str) -> str:
        """Return the keyed hash by which equal texts are known to be equal.

        Source: HMAC-SHA256 (RFC 2104), the first 128 bits.
        """
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:_HASH_HEX]

    def text(
        self,
        untrusted: RawText,
        allowed: Allowance,
        *,
        label: str | None = None,
        control: bool = False,
    ) -> Text:
        """Filter one text; `label` is that of its field, `control` marks a control's name."""
        if isinstance(untrusted, Text):
            if untrusted.clear is None:  # redacted when it was recorded: nothing left to hide
                return untrusted
            untrusted = untrusted.clear
        stripped = untrusted.strip()
        cls = classify(stripped)
        if cls == "empty":
            return Text(cls=cls)
        if len(stripped) > MAX_CLEAR_CHARS:
            return Text(cls="text")
        if find_secret(stripped, allowed.keep, label):
            return _SECRET
        if control or allowed.level is Level.VALUES:
            return Text(cls=cls, clear=stripped)
        if cls in _NO_HASH or len(stripped) < _MIN_HASH_CHARS:
            return Text(cls=cls)
        return Text(cls=cls, hash=self.hash(stripped))

    def url(self, untrusted: RawText, allowed: Allowance) -> Text:
        """Filter a URL: full without its secrets at `values`, else origin and masked path."""
        if isinstance(untrusted, Text):
            if untrusted.clear is None:
                return untrusted
            untrusted = untrusted.clear
        cleaned = _clean_url(untrusted, allowed.keep)
        if cleaned is None or len(cleaned) > MAX_CLEAR_CHARS:
            return _SECRET
        if allowed.level is Level.VALUES:
            secret = find_secret(cleaned, allowed.keep | {"entropy", "phone"})
            return _SECRET if secret else Text(cls="url", clear=cleaned)
        return Text(cls="url", clear=document_of(untrusted), hash=self.hash(cleaned))

    def label(self, untrusted: str | None) -> str | None:
        """Filter what is always clear: None where it holds a secret."""
        if not untrusted or len(untrusted) > MAX_CLEAR_CHARS or find_secret(untrusted):
            return None
        return untrusted.strip() or None

    def field_label(self, raw: RawElement, allowed: Allowance) -> str | None:
        """Filter an element's label: a row's header is data at level `structure`."""
        if raw.label_is_data and allowed.level is not Level.VALUES:
            return None
        return self.label(raw.untrusted_label)

    def identifier(self, untrusted: str | None, allowed: Allowance) -> str | None:
        """Filter an element's id: numbers in it are data at level `structure`."""
        clean = self.label(untrusted)
        if clean is None or allowed.level is Level.VALUES:
            return clean
        return mask_segment(clean)

    def element(self, raw: RawElement, allowed: Allowance) -> Element:
        """Filter the element that an event acted on."""
        return Element(
            role=_role(raw),
            element_id=self.identifier(raw.untrusted_id, allowed),
            selector=self.label(raw.untrusted_selector),
            name=_some(self, raw.untrusted_name, allowed, control=raw.name_is_control),
            label=self.field_label(raw, allowed),
            box=raw.box,
            index=raw.index,
        )

    def snapshot_element(self, raw: RawElement, place: int, allowed: Allowance) -> SnapshotElement:
        """Filter one element of a snapshot; `place` is its index where it names none."""
        label = raw.untrusted_label
        secret = raw.is_secret or _names_secret(raw)
        secret_text = raw.is_secret or (secret and not raw.name_is_control)
        options = (self.text(option, allowed, label=label) for option in raw.untrusted_options)
        return SnapshotElement(
            index=place if raw.index is None else raw.index,
            parent=raw.parent,
            role=_role(raw),
            tag=raw.untrusted_tag if _WORD.fullmatch(raw.untrusted_tag) else "",
            element_id=self.identifier(raw.untrusted_id, allowed),
            name=_some(self, raw.untrusted_name, allowed, control=raw.name_is_control),
            label=self.field_label(raw, allowed),
            text=None if secret_text else _some(self, raw.untrusted_text, allowed, label=label),
            value=None if secret else _some(self, raw.untrusted_value, allowed, label=label),
            states=tuple(state for state in raw.states if _WORD.fullmatch(state)),
            options=tuple(options),
            classes=tuple(
                filter(None, (self.identifier(c, allowed) for c in raw.untrusted_classes))
            )
            or None,
            colour=_colour(raw.untrusted_colour),
            box=raw.box,
        )

    def snapshot(self, capture: RawCapture, allowed: Allowance) -> Snapshot | None:
        """Filter the element tree before the action."""
        if capture.snapshot is None:
            return None
        return Snapshot(
            application=_application(capture),
            level=allowed.level,
            document=_document(capture),
            title=_some(self, capture.untrusted_title, allowed),
            elements=tuple(
                self.snapshot_element(raw, place, allowed)
                for place, raw in enumerate(capture.snapshot.elements)
            ),
        )

    def event(
        self,
        capture: RawCapture,
        allowed: Allowance,
        *,
        event_id: str,
        user_id: str,
        source: Source,
        session: str,
        seq: int,
        boot_id: str | None,
        snapshot: str | None,
        demonstration: str | None,
        showing: int | None,
    ) -> UiEvent:
        """Filter one capture; `snapshot` is the digest of the filtered snapshot."""
        raw = capture.element
        return UiEvent(
            id=event_id,
            time_ms=capture.time_ms,
            user_id=user_id,
            source=source,
            session=session,
            seq=seq,
            boot_id=boot_id if capture.boottime_ms is not None else None,
            boottime_ms=capture.boottime_ms,
            action=capture.action,
            application=_application(capture),
            level=allowed.level,
            window=_some(self, capture.untrusted_title, allowed),
            url=self.url(capture.untrusted_url, allowed) if capture.untrusted_url else None,
            document=_document(capture),
            target=capture.target,
            element=self.element(raw, allowed) if raw else None,
            value=self._value(capture, allowed),
            shown=capture.shown if allowed.level is Level.VALUES else None,
            keys=safe_keys(capture.keys),
            activity=self.identifier(capture.untrusted_activity, allowed),
            count=capture.count,
            snapshot=snapshot,
            demonstration=demonstration,
            showing=showing,
        )

    def _value(self, capture: RawCapture, allowed: Allowance) -> Text | None:
        raw = capture.element
        if capture.untrusted_value is None:
            return None
        if raw is not None and (raw.is_secret or _names_secret(raw) or is_secret_label(_name(raw))):
            return _SECRET
        label = raw.untrusted_label if raw else None
        return self.text(capture.untrusted_value, allowed, label=label)


def _names_secret(raw: RawElement) -> bool:
    field_name = _name(raw) if raw.name_is_control else None
    return any(map(is_secret_label, (raw.untrusted_label, field_name, raw.untrusted_id)))


def _name(raw: RawElement) -> str | None:
    name = raw.untrusted_name
    return name.clear if isinstance(name, Text) else name


def _some(
    redactor: Redactor,
    untrusted: RawText | None,
    allowed: Allowance,
    *,
    label: str | None = None,
    control: bool = False,
) -> Text | None:
    if untrusted is None or untrusted == "":
        return None
    return redactor.text(untrusted, allowed, label=label, control=control)


def _colour(untrusted: str | None) -> str | None:
    return untrusted if untrusted and _RGB.fullmatch(untrusted) else None


def _role(raw: RawElement) -> str:
    return raw.untrusted_role if _WORD.fullmatch(raw.untrusted_role) else "generic"


def _application(capture: RawCapture) -> str:
    name = capture.untrusted_application
    return name[:200] if name and not find_secret(name) else "unknown"


def _document(capture: RawCapture) -> str | None:
    url = capture.untrusted_url
    clear = url.clear if isinstance(url, Text) else url
    return document_of(clear) if clear else None
