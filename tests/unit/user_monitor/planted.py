"""Secrets to plant, made up fresh: a name of the kind, and a strategy that draws one."""

import base64
import string

from hypothesis import strategies as st

ALNUM = string.ascii_letters + string.digits


def _text(alphabet: str, size: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=size, max_size=size)


def luhn(body: str) -> str:
    """Return a number with its check digit."""
    total = sum(sum(divmod(int(c) * (2 - place % 2), 10)) for place, c in enumerate(reversed(body)))
    return body + str(-total % 10)


def iban(country: str, body: str) -> str:
    """Return an account number with its check digits."""
    number = int("".join(str(int(c, 36)) for c in body + country + "00"))
    return f"{country}{98 - number % 97:02d}{body}"


def grouped(text: str, size: int, by: str) -> str:
    """Return text in groups, as people write long numbers."""
    return by.join(text[i : i + size] for i in range(0, len(text), size))


SEPARATORS = st.sampled_from(["", " ", "-", ".", "\u00a0", "\u2009", "\u2013"])

_CARD = st.builds(
    lambda start, rest, by: grouped(luhn(start + rest), 4, by),
    st.sampled_from(["4539", "5105", "6011", "2221"]),
    _text(string.digits, 11),
    SEPARATORS,
)
_AMEX = st.builds(lambda rest: luhn("37" + rest), _text(string.digits, 12))
_IBAN = st.builds(
    lambda case, body, by: grouped(iban(case[0], body[: case[1]]), 4, by),
    st.sampled_from([("DE", 18), ("FR", 23), ("NO", 11), ("CH", 17)]),
    _text(string.digits, 23),
    st.sampled_from(["", " ", "\u00a0"]),
)
_EMAIL = st.builds(
    lambda who, at, where: f"{who}{at}{where}.example",
    _text(string.ascii_lowercase, 8),
    st.sampled_from(["@", " (at) ", "[at]"]),
    _text(string.ascii_lowercase, 7),
)
_PHONE = st.builds(
    lambda form, a, b: form.format(a=a, b=b, c=b[:3], d=b[3:]),
    st.sampled_from(["+49 {a} {b}", "+1-{a}-{c}-{d}", "({a}) {c}-{d}", "0{a}/{b}", "{a}-{c}-{d}"]),
    st.integers(201, 988).map(str),
    _text("23456789", 7),
)
_JWT = st.builds(
    lambda payload, sign: ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"' + payload + b'"}', sign)
    ),
    st.binary(min_size=8, max_size=20).map(lambda b: b.hex().encode()),
    st.binary(min_size=32, max_size=32),
)
_KEY_BODY = st.binary(min_size=96, max_size=96).map(lambda b: base64.b64encode(b).decode())
_PASSWORD = _text(ALNUM + "!$%&/()#", 10).filter(lambda p: not p.isspace())

PLANTED: dict[str, st.SearchStrategy[str]] = {
    "card": _CARD | _AMEX,
    "iban": _IBAN,
    "email": _EMAIL,
    "phone": _PHONE,
    "aws": _text(string.ascii_uppercase + string.digits, 16).map(lambda t: "AKIA" + t),
    "github": st.builds(
        lambda kind, t: f"gh{kind}_{t}", st.sampled_from("pousr"), _text(ALNUM, 36)
    ),
    "slack": st.builds(
        lambda kind, n, t: f"xox{kind}-{n}-{t}",
        st.sampled_from("abprs"),
        _text(string.digits, 12),
        _text(ALNUM, 24),
    ),
    "google": _text(ALNUM + "_-", 35).map(lambda t: "AIza" + t),
    "stripe": st.builds(
        lambda kind, t: f"{kind}_{t}",
        st.sampled_from(["sk_live", "sk_test", "rk_live", "pk_live"]),
        _text(ALNUM, 24),
    ),
    "jwt": _JWT,
    "pem": st.builds(
        lambda kind, body: (
            f"-----BEGIN {kind}PRIVATE KEY-----\n{grouped(body, 64, chr(10))}\n"
            f"-----END {kind}PRIVATE KEY-----"
        ),
        st.sampled_from(["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "]),
        _KEY_BODY,
    ),
    "auth": st.one_of(
        _text(ALNUM, 30).map(lambda t: f"Authorization: Bearer {t}"),
        _text(ALNUM, 12).map(lambda t: "Basic " + base64.b64encode(f"jane:{t}".encode()).decode()),
    ),
    "url-credentials": _text(ALNUM, 12).map(lambda t: f"https://jane:{t}@db.example/path"),
    "url-secret": st.builds(
        lambda name, t: f"https://app.example/in?page=2&{name}={t}",
        st.sampled_from(["access_token", "api_key", "token", "password", "sig", "sessionid"]),
        _text(ALNUM, 24),
    ),
    "labelled": st.builds(
        lambda label, p: f"{label}: {p}",
        st.sampled_from(["Password", "password", "pwd", "API key", "Passwort", "PIN", "secret"]),
        _PASSWORD,
    ),
    "id-number": st.builds(
        lambda a, b, c: f"{a:03d}-{b:02d}-{c:04d}",
        st.integers(1, 665),
        st.integers(1, 99),
        st.integers(1, 9999),
    ),
}
