"""What kind of text this is, and which document a URL names: words that all rooms must share.

The monitor writes them into events and snapshots, the runner into what it observes: equal pages
must read equal. Pure.
"""

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

from shared.secret_kinds import REACHES_ON, find_secret

__all__ = [
    "WEB_SCHEMES",
    "classify",
    "document_of",
    "is_prose",
    "mask_segment",
    "origin_of",
    "split_url",
]

_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]*\.?"  # en, de
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[ap]\.?m\.?)?(?:\s?(?:z|[+-]\d{2}:?\d{2}))?"
_DATE = (
    rf"(?:\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:\d{{4}}|\d{{2}})|"
    rf"\d{{1,2}}\.?\s{_MONTH}\s\d{{4}}|{_MONTH}\s\d{{1,2}},?\s\d{{4}}|\d{{4}}-w\d{{2}}|\d{{4}}-\d{{2}})"
)
_CLASSES = tuple(
    (name, re.compile(pattern, re.I))
    for name, pattern in (
        ("bool", r"true|false|yes|no|on|off|ja|nein|oui|non|checked|unchecked"),
        ("date", rf"{_DATE}(?:(?:[t,]|\s)\s*{_TIME})?|{_TIME}"),
        (
            "number",
            r"[+-]?\s?(?:[$€£¥]|[a-z]{3}\s)?\s?[+-]?(?:\d{1,3}(?:[.,'\s]\d{3})+|\d+)(?:[.,]\d+)?"
            r"\s?(?:%|[$€£¥]|[a-z]{3})?",
        ),
        ("email", r"[^\s@]+@[^\s@]+\.[^\s@]+"),
        ("url", r"[a-z][a-z0-9+.-]*://\S+|www\.\S+"),
        ("phone", r"(?=(?:\D*\d){7,15}\D*\Z)\+?[\d\s()./-]+"),
        ("word", r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*"),
        ("code", r"(?=\S*\d)\S{1,64}"),
    )
)


def classify(text: str) -> str:
    """Return the class of a text: empty bool date number email url phone word code or text."""
    stripped = text.strip()
    if not stripped:
        return "empty"
    if len(stripped) > 2_048:
        return "text"
    return next((name for name, form in _CLASSES if form.fullmatch(stripped)), "text")


_VERSION = re.compile(r"v\d{1,3}", re.I)
_HEX = re.compile(r"(?=.*\d)[0-9a-f-]{8,}", re.I)
WEB_SCHEMES = frozenset({"http", "https", "ws", "wss"})


def mask_segment(segment: str) -> str:
    """Mask what in one segment of a path, or in an id, is data: numbers, ids, names."""
    plain = unquote(segment)
    if _VERSION.fullmatch(plain):
        return plain
    if (
        len(plain) > 48
        or _HEX.fullmatch(plain)
        or any(c in plain for c in "@=;,&:+ ")
        or not plain.isascii()
        or find_secret(plain)
    ):
        return "*"
    return re.sub(r"\d+(?:[._-]?\d+)*", "*", plain)


def _mask_path(path: str) -> str:
    return "/".join(mask_segment(segment) for segment in path.split("/"))


def split_url(url: str) -> SplitResult | None:
    """Return the parts of a URL, or None for what is no URL."""
    try:
        # urlsplit would drop white space inside and so join what it keeps apart.
        parts = urlsplit(re.sub(r"\s", lambda match: quote(match.group()), url.strip()))
        _ = parts.port  # raises for ports that are not numbers
    except ValueError:
        return None
    return parts if parts.scheme else None


def origin_of(parts: SplitResult) -> str:
    """Return scheme, host and port."""
    host = (parts.hostname or "").lower()
    if find_secret(host):
        host = "*"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def is_prose(parts: SplitResult) -> bool:
    """Say whether a URL carries words with a secret that may reach over its separators."""
    whole = unquote(parts._replace(scheme="", netloc="").geturl())
    return any(c.isspace() for c in whole) and find_secret(whole) in REACHES_ON


def document_of(url: str) -> str | None:
    """Return origin and path with ids, numbers and dates masked; None for what is no URL.

    Of a file only its extension, of data: and the like only the scheme.
    """
    parts = split_url(url)
    if parts is None:
        return None
    if parts.scheme == "about":
        return f"about:{mask_segment(parts.path)}"
    if parts.scheme == "file":
        suffix = re.search(r"\.[A-Za-z]{1,5}\Z", parts.path)
        return "file:///*" + (suffix.group() if suffix else "")
    if parts.scheme not in WEB_SCHEMES and not parts.scheme.endswith("-extension"):
        return f"{parts.scheme}:"
    if is_prose(parts):
        return f"{origin_of(parts)}/*"
    route = ""
    if parts.fragment.startswith(("/", "!/")):  # a page that routes by its fragment
        route = "#" + _mask_path(parts.fragment.split("?")[0])
    return origin_of(parts) + (_mask_path(parts.path) or "/") + route
