"""What each key of a file, or of an AnnData in a notebook, is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from nvae_bio.errors import UserError, listed
from nvae_bio.schema.mapped import NOTEBOOK
from nvae_bio.schema.reference import FILES, KINDS
from nvae_bio.schema.slot import Kind, Slot

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = ["shape", "unit", "meaning", "only with"]


def describe(what: AnnData | str) -> pd.DataFrame:
    """What each key of nvae-bio in an AnnData is, or each key that a kind of file can have.

    Args:
        what: AnnData that a step returned, that was read from its file, or to which `NVAE.embed` or `nvae_bio.tl` added
            keys; or the name of a kind of file or table, such as `embedded`, `factors` or `audit.parquet`.

    Returns:
        A row a key, by its name in Python (`obsm["nvae_kl_private"]`): `shape` in symbols (n samples, G features, C
        classes, S shared dims, K private dims a class, F factors), `unit`, `meaning`, and `only with`: what it takes
        for the key to be there, empty for nothing. Of an AnnData also `size`, its shape in numbers; keys that nvae-bio
        did not write have no row.

    Raises:
        UserError: no such kind.

    >>> describe("truth").loc['obsm["activity"]', "shape"]
    'n, P'
    """
    if isinstance(what, str):
        if what not in KINDS:
            raise UserError(f"describe: no kind of file {what!r}; allowed: {listed(KINDS)}")
        kind = KINDS[what]
        return _table([(slot.name, slot, None) for slot in kind.all_slots], with_size=False)
    own, found = kind_of(what), []
    for where, key, value in keys_of(what):
        slot = own.find(where, key) or _elsewhere(where, key)
        if slot is not None and not slot.key.startswith("{"):  # a column of the source is not ours
            found.append((Slot(slot.where, key, "", "").name, slot, value))
    return _table(found, with_size=True)


def keys_of(adata: AnnData) -> Iterator[tuple[str, str, Any]]:
    """Part, key and value of all that an AnnData has; in uns `/` leads into a mapping, and each of its keys is one."""
    if adata.X is not None:
        yield "X", "", adata.X
    if adata.raw is not None:
        yield "raw", "", adata.raw.X
    for where in ("layers", "obs", "var", "obsm", "varm"):
        part = getattr(adata, where)
        for key in part:
            yield where, str(key), part[key]
    yield from _entries(adata.uns)


def _entries(mapping: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{before}{key}/")
        else:
            yield "uns", f"{before}{key}", value


def kind_of(adata: AnnData) -> Kind:
    """The kind of file that an AnnData is: of those whose keys in uns it has, the one of whose other keys it has most.

    One that is no file of ours is a notebook's.
    """
    keys = [(where, key) for where, key, _ in keys_of(adata)]

    def has(slot: Slot) -> bool:
        return any(slot.matches(*key) for key in keys)

    def score(kind: Kind) -> int:
        return sum(1 if has(slot) else -1 for slot in kind.all_slots if not slot.when)

    possible = [
        kind
        for kind in FILES.values()
        if all(has(slot) for slot in kind.all_slots if slot.where == "uns" and not slot.when)
    ]
    return max(possible, key=score, default=NOTEBOOK)


def _elsewhere(where: str, key: str) -> Slot | None:
    """What a key is that only we write, in whatever file it is known."""
    found = (kind.find(where, key) for kind in FILES.values() if "nvae" in key)
    return next((slot for slot in found if slot is not None and not slot.key.startswith("{")), None)


def _table(found: list[tuple[str, Slot, Any]], *, with_size: bool) -> pd.DataFrame:
    rows = [(_text(slot), slot.unit, slot.meaning, slot.when) for _, slot, _ in found]
    table = pd.DataFrame(
        rows, columns=COLUMNS, index=pd.Index([name for name, _, _ in found], name="key", dtype=object)
    )
    if with_size:
        table.insert(1, "size", [tuple(getattr(value, "shape", ())) for _, _, value in found])
    return table


def _text(slot: Slot) -> str:
    return f"table: {', '.join(slot.column_names)}" if slot.columns else slot.shape
