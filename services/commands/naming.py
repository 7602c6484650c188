"""What a person means by an id, the beginning of one, or a name. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from shared.errors import ConflictError, NotFound

__all__ = ["pick", "short"]

_SHOWN = 8
"""Ids are hashes: so many characters of one tell it from its neighbours in a table."""

_LISTED = 5


def short(id_: str) -> str:
    """Return the beginning of an id, as tables show it and `pick` takes it."""
    return id_[:_SHOWN]


def pick(
    items: Iterable[Mapping[str, Any]], wanted: str, what: str, ids: tuple[str, ...], name: str = ""
) -> Mapping[str, Any]:
    """Return the one item that `wanted` names: by a field of `ids`, its beginning, or `name`.

    Raises NotFound where none fits and ConflictError where several do.
    """
    there = list(items)
    for fits in (
        [item for item in there if any(item.get(field) == wanted for field in ids)],
        [item for item in there if name and item.get(name) == wanted],
        [item for item in there if any(str(item.get(f)).startswith(wanted) for f in ids)],
        [item for item in there if name and str(item.get(name)).casefold() == wanted.casefold()],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            listed = ", ".join(_called(item, ids, name) for item in fits[:_LISTED])
            raise ConflictError(f"{what} {wanted} could be any of {listed}: give more of the id")
    listed = ", ".join(_called(item, ids, name) for item in there[:_LISTED])
    known = f"there are {listed}" if len(there) <= _LISTED else f"there are {listed} and others"
    raise NotFound(f"there is no {what} {wanted}: {known if there else 'there is none at all'}")


def _called(item: Mapping[str, Any], ids: tuple[str, ...], name: str) -> str:
    id_ = short(str(item.get(ids[0])))
    return f"{id_} ({item[name]})" if name and item.get(name) else id_
