"""Write records for an agent to a CSV file, and read them back."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_records(
    path: Path, records: Sequence[Mapping[str, str]], columns: Mapping[str, str]
) -> None:
    """Write one line per record; `columns` says which label each column's values come from.

    Raises:
        KeyError: a record lacks such a label.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for record in records:
            writer.writerow([record[label] for label in columns.values()])


def read_records(path: Path) -> list[dict[str, str]]:
    """Read what `write_records` wrote, as column → value."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
