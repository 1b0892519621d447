"""The measured tables of docs/comparison.md, made from the committed tables of studies and benchmarks.

python tools/comparison_tables.py            write what stands between the markers of the page
python tools/comparison_tables.py --check    exit code 1 where it is not up to date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from nvae_bio.evaluate.study import by_title, fill_marked, markdown, notes, summary
from tools.generated import write_or_check

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "comparison.md"
STUDIES, RESULTS = ROOT / "docs" / "studies", ROOT / "benchmarks" / "results"
NOT_YET = "Not measured yet."
NAMES = {
    "nvae-default": "nvae-bio",
    "n_private_2": "nvae-bio, K = 2, S = 9",
    "conv": "nvae-bio, convolutions",
    "kl-threshold": "nvae-bio, fixed threshold of the KL",
    "vae": "VAE (this package)",
    "cvae": "CVAE (this package)",
    "multigroupvi": "penalty of multiGroupVI (this package)",
    "drvi": "DRVI",
    "drvi-vanished": "DRVI",
    "cnmf": "cNMF",
    "scvi": "SCVI",
    "scanvi": "SCANVI",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
    "pca_knn": "15 neighbours in PCA",
}


def study_table(
    name: str,
    metrics: Sequence[str],
    variants: Sequence[str] = (),
    datasets: Sequence[str] = (),
    *,
    mean_over: str = "",
    with_notes: bool = False,
) -> str:
    """Mean ± standard deviation over seeds, a line a data set and method, from docs/studies/NAME.csv.

    Args:
        name: of the study.
        metrics: columns.
        variants: which, in this order; all if none is named.
        datasets: which, in this order; all if none is named.
        mean_over: data sets whose names begin so count as one: of each seed the mean over them.
        with_notes: say below who saw the labels, and the versions of the libraries that scored.
    """
    path = STUDIES / f"{name}.csv"
    if not path.exists():
        return NOT_YET
    scores = by_title(pd.read_csv(path))
    if mean_over:
        pooled = scores["dataset"].str.startswith(mean_over)
        keys = ["variant", "seed", "metric"]
        mean = scores[pooled].groupby(keys, sort=False)["value"].mean().reset_index()
        scores = pd.concat([scores[~pooled], mean.assign(dataset=f"mean of {mean_over}…")])
    found = summary(scores, list(metrics))
    for column, wanted in (("variant", variants), ("dataset", datasets)):
        if wanted:
            found = found[found[column].isin(wanted)]
            found = found.sort_values(column, key=partial(_places, wanted), kind="stable")
    found = found.assign(variant=found["variant"].map(lambda variant: NAMES.get(variant, variant)))
    found = found.rename(columns={"variant": "method"})
    table = markdown(found if found["dataset"].nunique() > 1 else found.drop(columns="dataset"))
    if with_notes:
        told = scores[scores["variant"].isin(variants)].replace({"variant": NAMES}).fillna({"package": ""})
        return f"{table}\n\n{notes(told, metrics)}"
    return table


def _places(order: Sequence[str], names: pd.Series) -> pd.Series:
    return names.map(list(order).index)


def speed_table() -> str:
    """Training beside each peer: of the pairs of results/train.csv how many, and the range of their medians."""
    pairs, rows = pd.read_csv(RESULTS / "train.csv"), []
    for peer, found in pairs.groupby("peer", sort=False):
        memory = found["ours_peak_mb"] / found["peer_peak_mb"]
        rows.append((peer, len(found), _range(found["ratio"], 1), _range(memory, 2)))
    columns = ["peer", "pairs", "ours ÷ peer, samples per second", "ours ÷ peer, memory"]
    return markdown(pd.DataFrame(rows, columns=columns))


def _range(values: pd.Series, digits: int) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def fit_table() -> str:
    """Time until the held-out reconstruction of SCVI is reached, from results/quality.csv."""
    found = pd.read_csv(RESULTS / "quality.csv")
    rows = {
        "seed": found["seed"],
        "SCVI, seconds": found["peer_s"].round().astype(int),
        "nvae-bio, seconds": found["ours_s"].round().astype(int),
        "SCVI, reconstruction": found["peer_reconstruction"].map("{:.1f}".format),
        "nvae-bio, reconstruction": found["ours_reconstruction"].map("{:.1f}".format),
    }
    return markdown(pd.DataFrame(rows))


def scale_table() -> str:
    """Largest resident memory of each step from a store, from results/scale_memory.csv; no peer was measured."""
    found = pd.read_csv(RESULTS / "scale_memory.csv")
    shown = found.assign(cells=found["cells"].map("{:,}".format), peak_mb=found["peak_mb"].map("{:,}".format))
    return markdown(shown[["step", "cells", "seconds", "peak_mb"]])


QUERY = (
    "query_accuracy", "query_balanced_accuracy", "query_macro_f1", "query_ece", "query_set_coverage",
    "query_novelty_auroc", "query_novel_known", "query_novel_new",
)  # fmt: skip
FACTORS = ("fdr", "sensitivity", "consensus_precision", "consensus_recall", "gene_auprc", "gene_auprc_private")
KANG = (
    "condition_auroc_shared", "leakage_linear", "leakage_knn", "interferon_top20", "r2_lfc_heldout", "r2_lfc_mean",
    "r2_mean_heldout",
)  # fmt: skip
PBMC = ("lms_smi", "lms_spn", "finer_accuracy_linear", "leakage_linear", "leakage_knn", "scib_bio", "log_px")
PBMC_METHODS = ("nvae-default", "n_private_2", "vae", "multigroupvi", "drvi", "scvi", "scanvi", "pca", "ica", "nmf")
YALE = ("r2_azimuth", "r2_elevation", "r2_azimuth_knn", "r2_elevation_knn", "leakage_linear", "leakage_knn")
PLANTED = ("private_auroc", "private_sensitivity", "private_fdr", "null_p_below_05", "leakage_linear")
MAIN_ROW = "counts_30genes_fc1.5_share20_n300"
TABLES: dict[str, Callable[[], str]] = {
    "factors": partial(
        study_table, "factors", FACTORS, ("nvae-default", "kl-threshold", "drvi-vanished", "cnmf"),
        ("fc1.5", "fc2", "none"),
    ),
    "planted": partial(
        study_table, "planted", PLANTED, ("nvae-default",), (MAIN_ROW, "counts_none", "counts_shift", "images_rot17")
    ),
    "pbmc": partial(study_table, "pbmc", PBMC, PBMC_METHODS, ["pbmc"], with_notes=True),
    "kang": partial(study_table, "kang", KANG, ("nvae-default", "vae", "scvi", "scanvi", "pca", "nmf")),
    "query": partial(
        study_table, "query", QUERY, ("nvae-default", "scanvi", "pca_knn"), mean_over="without_"
    ),
    "yale": partial(study_table, "yale", YALE, ("nvae-default", "conv", "vae", "cvae", "pca", "ica")),
    "speed": speed_table,
    "fit": fit_table,
    "scale": scale_table,
}  # fmt: skip


def render(text: str) -> str:
    """The page with every table made anew.

    Raises:
        ValueError: the markers of a table are not there, once.
    """
    for name, table in TABLES.items():
        text = fill_marked(text, name, table())
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    return write_or_check(
        {TARGET: render(TARGET.read_text(encoding="utf-8"))}, "tools/comparison_tables.py", check=check
    )


if __name__ == "__main__":
    sys.exit(main())
