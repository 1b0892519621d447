"""Every kind of file, and each key in it: what the reference in docs/outputs.md and `nvae_bio.describe` are made from.

>>> KINDS["embedded"].find("obsm", "X_nvae").shape
'n, S + C·K'
"""

from __future__ import annotations

from nvae_bio.schema import drawn, factors, mapped, samples, tables
from nvae_bio.schema.provenance import PROVENANCE
from nvae_bio.schema.slot import Kind

FILES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        samples.PREPARED, samples.EMBEDDED, samples.SCORES, factors.REPORT, factors.SEEDS, drawn.DRAWN,
        drawn.TRAVERSALS, drawn.INTERPOLATIONS, drawn.SWAPS, mapped.MAPPED, mapped.CHANGED, mapped.EXPLORER,
        mapped.NOTEBOOK, mapped.NOTEBOOK_QUERY, drawn.SIMULATED, drawn.TRUTH,
    )
}  # fmt: skip
TABLES: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        tables.HISTORY, tables.AUDIT, tables.NULL, tables.POWER, tables.FLAT, tables.SUSPECTS, tables.CHANGES,
        tables.SCORES, tables.STORED, tables.EMBEDDINGS, tables.FACTORS, tables.FACTOR_CLASSES, tables.FACTOR_EFFECTS,
        tables.FACTOR_SCORES,
    )
}  # fmt: skip
KINDS: dict[str, Kind] = FILES | TABLES | {PROVENANCE.name: PROVENANCE}
