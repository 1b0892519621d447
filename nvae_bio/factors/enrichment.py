"""Gene sets among the top genes of each factor, by the hypergeometric test against the genes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from nvae_bio.data.files import read_file
from nvae_bio.errors import UserError

DIRECTIONS = {"up": 1, "down": -1}  # sign of the effects whose genes are tested
COLUMNS = ("factor", "direction", "set", "n_overlap", "n_set", "n_top", "fold", "p", "q", "genes")
GMT = "gene sets in a .gmt file"
GMT_LINE = "a line has a name, a description and one gene at least, with tabs between them"


def read_gene_sets(path: Path) -> pd.DataFrame:
    """Gene sets of a GMT file, the format of MSigDB: a line a set, with its name, a description and its genes.

    Tabs alone separate: the words of a description are no genes, as they would be with decoupler's reader. Empty lines
    are left out.

    Args:
        path: text file, usually `.gmt`.

    Returns:
        Columns source (name of the set) and target (gene): a row a gene of a set, each once, in the file's order.

    Raises:
        UserError: no such file, no text, a line without a name or gene, no set, or two sets of one name.
    """
    text = read_file(path, lambda path: path.read_text(encoding="utf-8-sig"), GMT)
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, _, *genes = [column.strip() for column in line.split("\t")] + [""] * 2
        genes = [gene for gene in genes if gene]
        if not name or not genes:
            raise UserError(f"{path}: line {number} ({line[:40]!r}) is no gene set; {GMT_LINE}")
        if name in sets:
            raise UserError(f"{path}: line {number}: there is a gene set {name!r} already; each name may stand once")
        sets[name] = list(dict.fromkeys(genes))
    if not sets:
        raise UserError(f"{path}: holds no gene set; {GMT_LINE}")
    rows = [(name, gene) for name, genes in sets.items() for gene in genes]
    return pd.DataFrame(rows, columns=["source", "target"])


def enrich(
    effect: np.ndarray,
    names: Sequence[str],
    factors: Sequence[str],
    sets: pd.DataFrame,
    n_top: int,
    min_genes: int = 3,
) -> tuple[pd.DataFrame, list[str]]:
    """Over-representation of each gene set among the top genes of each factor, up and down.

    Of N tested genes, m are in the set and n are the top ones; if these were drawn at random, the number k in both
    would be hypergeometric, and p = P(K ≥ k): Fisher's exact test, one-sided. The genes of the data are the
    background, and a set is first cut to them. Against all genes of the genome each set of expressed genes would
    seem enriched.

    Args:
        effect: of each factor on each gene, (factors, genes), of any unit; a gene whose effect is 0 or NaN is tested,
            but never a top one.
        names: of the genes of the data, each once, (genes,).
        factors: names, (factors,).
        sets: columns source and target, as of `read_gene_sets`.
        n_top: genes of each direction, at most: those of the largest effects of its sign.
        min_genes: sets with fewer genes in the data are not tested.

    Returns:
        A table, a row for each factor, direction and tested set, by factor and direction as given and then by p:
        factor, direction (up or down), set, n_overlap (k), n_set (m), n_top (n), fold (k / n over m / N), p, q
        (Benjamini and Hochberg, over all rows) and genes (the k, strongest first, comma-separated); and notes, a
        sentence each, on what was not tested.

    Raises:
        UserError: no gene of any set is in the data.

    References: Fisher (1922), doi:10.2307/2340521; Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.
    The choice of the background: Timmons et al. (2015), doi:10.1186/s13059-015-0761-7.
    """
    known, notes = _sets_of_data(sets, names, min_genes)
    parts = []
    for factor, row in zip(factors, effect, strict=True):
        for direction, sign in DIRECTIONS.items():
            top = _top_genes(sign * row, names, n_top)
            if not top:
                notes.append(f"factor {factor} moves no gene {direction}: no gene set is tested there")
            elif not known.empty:
                parts.append(_test(top, known, len(names)).assign(factor=factor, direction=direction))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS)), notes
    table = pd.concat(parts, ignore_index=True)
    table["q"] = false_discovery_control(table["p"])
    return table[list(COLUMNS)], notes


def _sets_of_data(sets: pd.DataFrame, names: Sequence[str], min_genes: int) -> tuple[pd.DataFrame, list[str]]:
    """The sets cut to the genes of the data, without those that are too small then, and a note on these."""
    sets = sets[["source", "target"]].drop_duplicates()
    known = sets[sets["target"].isin(names)]
    if known.empty:
        raise UserError(_no_match(sets["target"], names))
    sizes, n_sets = known["source"].value_counts(), sets["source"].nunique()
    large = sizes.index[sizes >= min_genes]
    if len(large) == n_sets:
        return known, []
    note = f"{n_sets - len(large)} of {n_sets} gene sets have fewer than {min_genes} genes in the data"
    return known[known["source"].isin(large)], [f"{note} and are not tested"]


def _no_match(targets: pd.Series, names: Sequence[str]) -> str:
    """Why no gene of the sets may be in the data, with an example of both."""
    of_data = {name.casefold(): name for name in reversed(names)}
    alike = next((gene for gene in targets if gene.casefold() in of_data), None)
    gene = targets.iloc[0] if alike is None else alike
    name = names[0] if alike is None else of_data[alike.casefold()]
    why = "name them the same way" if alike is None else "they differ in upper and lower case; of another species?"
    return f"report.gene_sets: no gene of them is in the data; the sets have {gene!r}, the data {name!r}: {why}"


def _top_genes(effect: np.ndarray, names: Sequence[str], n_top: int) -> list[str]:
    """Names of the largest positive effects, strongest first; of equal ones, the first."""
    order = np.argsort(-effect, kind="stable")  # NaN last
    return [names[gene] for gene in order[:n_top] if effect[gene] > 0]


def _test(top: list[str], known: pd.DataFrame, n_genes: int) -> pd.DataFrame:
    """Columns set, n_overlap, n_set, n_top, fold, p and genes, a row a set, the smallest p first."""
    rank = pd.Series(range(len(top)), index=top)
    shared = known.assign(rank=known["target"].map(rank)).dropna().sort_values("rank").groupby("source")["target"]
    table = known.groupby("source", sort=False).size().rename_axis("set").to_frame("n_set")
    table["n_overlap"] = shared.size().reindex(table.index, fill_value=0)
    table["n_top"] = len(top)
    table["fold"] = (table["n_overlap"] / len(top)) / (table["n_set"] / n_genes)
    table["genes"] = shared.agg(",".join).reindex(table.index, fill_value="")
    table["p"] = _p_values(table[["n_overlap", "n_set"]], top, known, n_genes)
    return table.reset_index().sort_values("p", kind="stable")


def _p_values(counts: pd.DataFrame, top: list[str], known: pd.DataFrame, n_genes: int) -> np.ndarray:
    """P(K ≥ n_overlap) of each set, (sets,); 1 where nothing overlaps.

    p depends on both numbers alone, so that one set stands for all that share them: of some thousand, a hundred.
    decoupler's `ora` has no such p: its test is two-sided, and finds depleted sets too.
    """
    import decoupler  # here: takes seconds, and is needed only where there are gene sets

    pairs = counts[counts["n_overlap"] > 0].drop_duplicates()
    if pairs.empty:
        return np.ones(len(counts))
    standing = known[known["source"].isin(pairs.index)]
    tested = decoupler.mt.query_set(top, standing, alternative="greater", n_bg=n_genes, tmin=1)
    pairs = pairs.assign(p=tested.set_index("source")["pval"])
    return np.asarray(counts.merge(pairs, how="left")["p"].fillna(1.0))
