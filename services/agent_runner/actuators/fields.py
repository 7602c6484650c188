"""What fields take and hold: orders of date parts, options of lists, equal texts. Pure."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from shared.errors import StepRefused

__all__ = ["DATE_FORMS", "date_parts", "holds", "option_reading"]

_DATE = r"(?P<Y>\d{4})-(?P<M>\d\d)-(?P<D>\d\d)"
_TIME = r"(?P<H>\d\d):(?P<m>\d\d)"
_DATE_ORDERS = ("MDY", "DMY", "YMD")
_TIME_ORDERS = ("hmp", "Hm")

DATE_FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "date": (_DATE, _DATE_ORDERS),
    "time": (_TIME, _TIME_ORDERS),
    "month": (r"(?P<Y>\d{4})-(?P<M>\d\d)", ("MY", "YM")),
    "week": (r"(?P<Y>\d{4})-W(?P<W>\d\d)", ("WY", "YW")),
    "datetime-local": (
        f"{_DATE}T{_TIME}",
        tuple(date + clock for date in _DATE_ORDERS for clock in _TIME_ORDERS),
    ),
}
"""Type of input -> the form of its value, and the orders in which locales take its parts.

Source of the forms: HTML Living Standard, 2.3.5 Dates and times.
"""


def date_parts(form: str, text: str) -> dict[str, str] | None:
    """Split a date or time into what is typed for each letter of an order; None: not one."""
    match = re.fullmatch(form, text.strip())
    if match is None:
        return None
    parts: dict[str, str] = match.groupdict()
    hour = int(parts.get("H", "0"))
    return parts | {"h": f"{(hour + 11) % 12 + 1:02}", "p": "AM" if hour < 12 else "PM"}


def holds(held: str, text: str, kind: str) -> bool:
    """Tell whether a field took a text, spaces apart; a number field by the amount."""
    if " ".join(held.split()) == " ".join(text.split()):
        return True
    if kind == "number":
        with contextlib.suppress(ValueError):
            return float(held) == float(text)
    return False


def option_reading(options: Sequence[dict[str, Any]], text: str, where: str) -> int:
    """Return the place of the one option that reads `text`, in any case. Errors: StepRefused."""
    wanted = " ".join(text.split())
    for form in (str, str.casefold):
        found = [i for i, option in enumerate(options) if form(option["text"]) == form(wanted)]
        if len(found) == 1:
            if options[found[0]]["disabled"]:
                raise StepRefused(f"the wanted option of {where} is disabled")
            return found[0]
        if found:
            raise StepRefused(f"{len(found)} options of {where} read the same")
    raise StepRefused(f"{where} has no option of that text")
