"""The records a run works through: parameter name -> value, from a CSV text or a request.

Reads text and the routine's parameters, writes nothing. Everything wrong is said before anything
starts, by name and line and never by value. Does not cover where a value comes from on the screen
(`screen.py`).
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from shared.errors import ContractError
from shared.schemas import Parameter, ParameterSource
from shared.schemas.programmes import PREVIOUS
from shared.transforms import complete

__all__ = ["MAX_RECORDS", "MAX_VALUE_CHARS", "check_records", "parameter_name", "read_csv"]

MAX_RECORDS = 10_000
MAX_VALUE_CHARS = 10_000

Values = dict[str, str]


def parameter_name(text: str) -> str:
    """Return `text` as parameters are named: lower case, words joined by underscores."""
    return re.sub(r"[^\w]+", "_", text.strip().lower()).strip("_")


def read_csv(text: str) -> list[Values]:
    """Return one record for each line of a CSV text whose first line names the parameters.

    The separator is comma, semicolon or tab, whichever the first line holds most of; a byte order
    mark is skipped, empty lines too. Raises ContractError that names the line.
    """
    text = text.removeprefix("\ufeff")
    first = text.lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    header: list[str] | None = None
    records: list[Values] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells)
            elif len(cells) != len(header):
                raise ContractError(
                    f"line {reader.line_num} has {len(cells)} fields, the header has "
                    f"{len(header)}: quote a field that contains the separator"
                )
            else:
                records.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise ContractError(f"line {reader.line_num} is not CSV ({error})") from error
    if not records:
        raise ContractError("the CSV file has no record: give a header line and one line a record")
    return records


def _header(cells: Sequence[str]) -> list[str]:
    header = [parameter_name(cell) for cell in cells]
    if "" in header:
        raise ContractError(f"column {header.index('') + 1} has no name: name every column")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ContractError(f"the header repeats {', '.join(repeated)}: name each column once")
    return header


def check_records(
    records: Sequence[Mapping[str, str]],
    parameters: Sequence[Parameter],
    *,
    from_screen: bool,
    unused: frozenset[str] = frozenset(),
) -> list[Values]:
    """Return `records` with all that can be computed, once each names the parameters it must.

    With `from_screen`, parameters that stood on the screen may be left out; `unused` ones, and
    those that a programme computes, may always be. Raises ContractError that names what is unknown,
    missing or cannot be computed, and the first record concerned (counted from 1).
    """
    known = {parameter.name for parameter in parameters} | unused
    programmes = {p.name: p.programme for p in parameters if p.programme is not None}
    needed = {
        p.name for p in parameters
        if p.programme is None and not (from_screen and p.source is ParameterSource.SCREEN)
    }  # fmt: skip
    if not records:
        raise ContractError("there is no record to work on: give at least one")
    if len(records) > MAX_RECORDS:
        raise ContractError(f"{len(records)} records are more than {MAX_RECORDS}: split them")
    checked: list[Values] = []
    for number, record in enumerate(records, start=1):
        before = checked[-1] if checked else {}
        first = {n for n, p in programmes.items() if PREVIOUS in p.inputs and n not in before}
        _check_names(number, set(record), known, needed | first)
        for name, value in record.items():
            if len(value) > MAX_VALUE_CHARS:
                raise ContractError(
                    f"record {number}: {name} has {len(value)} characters, more than "
                    f"{MAX_VALUE_CHARS}"
                )
        try:
            checked.append(complete(record, programmes, before))
        except ContractError as error:
            raise ContractError(f"record {number}: {error}") from error
    return checked


def _check_names(number: int, given: set[str], known: set[str], needed: set[str]) -> None:
    unknown, missing = sorted(given - known), sorted(needed - given)
    if not unknown and not missing:
        return
    wrong = [f"unknown {', '.join(unknown)}"] if unknown else []
    wrong += [f"missing {', '.join(missing)}"] if missing else []
    takes = ", ".join(sorted(known)) or "no parameter"
    raise ContractError(f"record {number}: {' and '.join(wrong)}; this routine takes {takes}")
