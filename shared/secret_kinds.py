"""Finds texts that are secrets by their shape, or by the label they stand beside. Pure.

Reads: one text and, where known, the label of its field. Writes: nothing.
Does not cover: a password typed into a field that nothing names as one, prose that gives a secret
away, and secrets spread over several texts.
"""

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from urllib.parse import unquote

__all__ = ["KEEPABLE", "KINDS", "REACHES_ON", "find_secret", "is_secret_label", "normalise"]

KEEPABLE = frozenset({"email", "phone", "iban"})
"""Ordinary data in many forms: a consent may name them to be kept. All other kinds never are."""

REACHES_ON = frozenset({"labelled", "auth-header", "private-key"})
"""Kinds whose end cannot be told: a separator may be part of the secret."""

_FIELD_WORDS = (
    r"pass[ _-]?(?:word|wd|phrase|code|key)s?|pwd|passwort|kennwort|losungswort|mot[ _]de[ _]passe|"
    r"contrase[nñ]a|senha|wachtwoord|parola|l[oö]senord|has[lł]o|пароль|密码|密碼|パスワード|비밀번호|"
    r"secret|credentials?|api[ _-]?key|access[ _-]?key|private[ _-]?key|client[ _-]?secret|"
    r"(?:auth|access|refresh|session|bearer|csrf|xsrf|security|id)?[ _-]?token|"
    r"security[ _-]?(?:code|answer)|recovery[ _-]?(?:code|phrase|key)|seed[ _-]?phrase|"
    r"cvv2?|cvc2?|csc|pin(?:[ _-]?code)?|otp|one[ _-]?time[ _-]?(?:code|password)|[2m]fa|tan|"
    r"ssn|social[ _-]?security(?:[ _-]?(?:number|no\.?))?|passport(?:[ _-]?(?:number|no\.?))?|"
    r"tax[ _-]?id|steuer-?(?:id|nummer)"
)
_SECRET_LABEL = re.compile(rf"(?<![^\W_])(?:{_FIELD_WORDS})(?![^\W_])", re.I)
_PHONE_LABEL = re.compile(
    r"(?<![^\W_])(?:tele)?(?:phone|fon|fono|fax|mobile|handy|tel|cell)(?![^\W_])", re.I
)
_NO_SECRET = re.compile(r"\A(?!.*\S{16})[^0-9@:=]*\Z", re.S)
_WORDED = re.compile(r"\b(?:bearer|basic|digest)\b|[(\[{]\s?at\s?[)\]}]", re.I)


def normalise(text: str) -> str:
    """Undo what hides a secret from a pattern: odd digits, dashes, spaces, invisible characters."""
    if text.isascii():
        return text
    plain = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category == "Nd":
            plain.append(str(unicodedata.decimal(char)))
        elif category == "Pd" or char == "\u2212":
            plain.append("-")
        elif category == "Zs":
            plain.append(" ")
        elif category != "Cf":
            plain.append(char)
    return "".join(plain)


def _luhn(digits: str) -> bool:
    # Source: ISO/IEC 7812-1, annex B.
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_DIGIT_RUN = re.compile(r"\d+(?:[ \t\n._/-]{1,3}\d+)*")
_GROUP = re.compile(r"\d+")
_CARD_PREFIX = re.compile(r"4|5|6|3[04-9]|22[2-9]|2[3-6]|27[01]|2720")


def _card_shapes(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the spans of groups that people write card numbers in."""
    for first in range(len(sizes)):
        total = 0
        for last in range(first, min(len(sizes), first + 19)):
            total += sizes[last]
            if total > 19:
                break
            groups = sizes[first : last + 1]
            even = len(set(groups[:-1])) <= 1 and groups[-1] <= groups[0]
            if total >= 13 and (even or groups in ([4, 6, 5], [4, 6, 4], [6, 13])):
                yield first, last + 1


def _card(text: str) -> bool:
    for run in _DIGIT_RUN.finditer(text):
        groups = _GROUP.findall(run.group())
        if sum(map(len, groups)) < 13:
            continue
        for first, end in _card_shapes([len(g) for g in groups]):
            digits = "".join(groups[first:end])
            if _CARD_PREFIX.match(digits) and _luhn(digits):
                return True
    return False


# Source: SWIFT IBAN registry, total length by country.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}[ -]?\d(?:[ .-]{0,2}[A-Z0-9]){12,40}", re.I)


def _iban(text: str) -> bool:
    for match in _IBAN.finditer(text):
        compact = re.sub(r"[ .-]", "", match.group()).upper()
        compact = compact[: _IBAN_LENGTHS.get(compact[:2], 0)]
        if len(compact) < 15 or len(compact) != _IBAN_LENGTHS[compact[:2]]:
            continue
        # Source: ISO 13616, mod 97 over the rotated number with letters as 10..35.
        if int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1:
            return True
    return False


_PHONE = re.compile(
    r"(?<![\w.])(?:\+|00(?=[1-9]))\d(?:[ ()./-]{0,3}\d){6,14}(?!\d)"
    r"|(?<![\w.])\(\d{2,5}\)[ /.-]{0,2}\d(?:[ .-]?\d){4,9}(?!\d)"
    r"|(?<![\w.-])(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}(?![\w-])"
    r"|(?<![\w.-])0\d{1,5}[ ./-]{1,3}\d(?:[ -]?\d){4,9}(?![\w.-])"
)
_DAY = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}")


def _phone(text: str) -> bool:
    return any(not _DAY.match(m.group()) for m in _PHONE.finditer(text))


_AUTH = re.compile(r"\b(bearer|basic|digest|token)\s+([A-Za-z0-9+/_.~-]{8,}={0,2})", re.I)


def _auth(text: str) -> bool:
    for scheme, value in _AUTH.findall(text):
        if scheme.lower() == "basic":
            try:
                padded = value + "=" * (-len(value) % 4)
                if b":" in base64.b64decode(padded, validate=True):
                    return True
            except (binascii.Error, ValueError):
                continue
        elif re.search(r"\d|[a-z][A-Z]", value):
            return True
    return "authorization:" in text.lower()


_TOKENISH = re.compile(r"[A-Za-z0-9+/_~-]{20,}")


def _entropy(text: str) -> bool:
    """Find random strings: letters of both cases and digits that alternate as no word does."""
    for token in _TOKENISH.findall(text):
        kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in token if c.isalnum()]
        changes = sum(a != b for a, b in pairwise(kinds))
        if set(kinds) == {"d", "u", "l"} and changes >= 0.33 * len(kinds):
            return True
    return False


_INSEE = re.compile(r"(?<!\d)([12]) ?(\d\d) ?(\d\d) ?(\d[\dAB]) ?(\d{3}) ?(\d{3}) ?(\d\d)(?!\d)")
_DNI = re.compile(r"(?<!\w)(\d{8})-?([A-Z])(?!\w)")
_ID_NUMBER = re.compile(
    r"(?<![\w-])(?!000|666|9\d\d)\d{3}[-.](?!00)\d\d[-.](?!0000)\d{4}(?![\w-])"
    r"|(?<!\w)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?!\w)"
)


def _id_number(text: str) -> bool:
    """Find numbers of the US, the UK, France and Spain that name one person."""
    if _ID_NUMBER.search(text):
        return True
    for match in _INSEE.finditer(text):
        body = "".join(match.groups()[:-1]).replace("2A", "19").replace("2B", "18")
        if body.isdigit() and 97 - int(body) % 97 == int(match.group(7)):
            return True
    return any(
        "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == letter
        for number, letter in _DNI.findall(text)
    )


_EMAIL = re.compile(
    r"[^\s@<>()\[\],;:\"]+\s?(?:@|[(\[{]\s?at\s?[)\]}])\s?[^\s@<>()\[\],;:\"]+"
    r"\s?(?:\.|[(\[{]\s?dot\s?[)\]}])\s?[^\W\d_]{2,}",
    re.I,
)
_AT = re.compile(r"@|[(\[{]\s?at\s?[)\]}]", re.I)


def _email(text: str) -> bool:
    return _AT.search(text) is not None and _EMAIL.search(text) is not None


def _pattern(pattern: str, flags: int = 0) -> Callable[[str], bool]:
    compiled = re.compile(pattern, flags)
    return lambda text: compiled.search(text) is not None


KINDS: dict[str, Callable[[str], bool]] = {
    "private-key": _pattern(
        r"-----\s?BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File|AGE-SECRET-KEY-1"
    ),
    "jwt": _pattern(r"eyJ[A-Za-z0-9_-]{5,}\s?\.\s?[A-Za-z0-9_-]{5,}"),
    "aws-key": _pattern(r"(?<![A-Z0-9])(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ANVA|ABIA)[A-Z0-9]{12,}"),
    "github-token": _pattern(r"gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"),
    "slack-token": _pattern(r"xox[a-z]-[\w-]{8,}|xapp-[\w-]{8,}|hooks\.slack\.com/services/\S+"),
    "google-key": _pattern(r"AIza[\w-]{30,}|ya29\.[\w.-]{10,}|GOCSPX-[\w-]{10,}"),
    "stripe-key": _pattern(r"(?:[srp]k|rk)_(?:live|test)_\w{8,}|whsec_\w{8,}"),
    "vendor-token": _pattern(
        r"\bsk-[\w-]{16,}|npm_\w{30,}|pypi-[\w-]{16,}|\bhf_\w{20,}|dop_v1_\w{20,}|dckr_pat_[\w-]{16,}"
        r"|SG\.[\w-]{10,}\.[\w-]{10,}|shp(?:at|ca|pa|ss)_\w{16,}|sq0[a-z]{3}-[\w-]{16,}|\bkey-\w{30,}"
    ),
    "auth-header": _auth,
    "url-credentials": _pattern(r"[a-z][a-z0-9+.-]*://[^\s/?#@]*:[^\s/?#@]*@", re.I),
    "url-secret": _pattern(
        r"[?&#;](?:[^\s=&#?]*(?:token|secret|passw|pwd|api[_-]?key|access[_-]?key|credential|"
        r"signature)[^\s=&#]*|(?:[\w-]*[_-])?(?:auth|sig|session(?:[_-]?id)?|sid|otp|jwt)|"
        r"key)=[^\s&#]|[?&#;]code=[^\s&#]{10}",
        re.I,
    ),
    "labelled": _pattern(
        rf"(?<![^\W_])(?:{_FIELD_WORDS})(?:\s+is)?[\"']?\s*[:=]+>?\s*[\"']?[^\s\"']{{3,}}", re.I
    ),
    "card": _card,
    "id-number": _id_number,
    "iban": _iban,
    "email": _email,
    "phone": _phone,
    "entropy": _entropy,
}
"""Name of a kind -> whether a normalised text contains one."""


def is_secret_label(label: str | None) -> bool:
    """Say whether a field with this label or id holds a secret."""
    if not label:
        return False
    # fieldName and field_name are the same words to a person.
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normalise(label))
    return _SECRET_LABEL.search(spaced) is not None


def find_secret(
    text: str, keep: frozenset[str] = frozenset(), label: str | None = None
) -> str | None:
    """Return the first kind of secret in `text`, or None.

    `keep`: kinds to let pass; `label`: that of the field the text stands in.
    """
    if not text.strip():
        return None
    if label and is_secret_label(label):
        return "labelled"
    plain = normalise(text)
    if "%" in plain and (decoded := unquote(plain)) != plain:  # as in the query of a URL
        found = find_secret(decoded, keep, label)
        if found:
            return found
    if _NO_SECRET.match(plain) and not _WORDED.search(plain) and "-----" not in plain:
        return None
    for kind, contains in KINDS.items():
        if kind not in keep and contains(plain):
            return kind
    named_phone = label and "phone" not in keep and _PHONE_LABEL.search(label)
    if named_phone and sum(c.isdigit() for c in plain) >= 6:
        return "phone"
    return None
