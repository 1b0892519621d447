"""Is the interferon response, which all cell types share, found in the shared embedding? Kang et al. 2018.

    python docs/studies/kang.py --data FOLDER [--seeds 0 1 2]

FOLDER has kang_muscat_ctrl_stim/kang_muscat_ctrl_stim.h5ad. The class is the cell type; the model never sees the
condition. Settings are those of config/examples/kang.yaml, with the variants of the model beside the N-VAE (total width
of the latents equal: S + K = 10 dims a sample) and PCA of log-normalised counts. Probes are logistic regressions fitted
on training cells and scored on test cells, which no model saw. Writes docs/studies/kang.csv (study, dataset, variant,
seed, metric, value) and the summary in docs/studies/kang.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nvae_bio
from nvae_bio.config import EmbeddingSettings, FitSettings, load_config

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent.parent / "config" / "examples" / "kang.yaml"
VARIANTS = {"nvae": {}, "cvae": {"n_shared": 10}, "vae": {"n_shared": 10}, "per_class": {"n_private": 10}}
Row = tuple[str, float]


def split_of(adata: AnnData, name: str) -> np.ndarray:
    """Rows of a split."""
    return (adata.obs["split"] == name).to_numpy()


def probe_scores(embedding: np.ndarray, adata: AnnData, name: str) -> Iterator[Row]:
    """AUROC of the stimulation within each cell type, and how well the cell type itself can be read off."""
    train, test = split_of(adata, "train"), split_of(adata, "test")
    stimulated = (adata.obs["condition"] == "stim").to_numpy()
    label = adata.obs["label"].astype(str).to_numpy()
    for cell_type in sorted(set(label)):
        own = label == cell_type
        probe = make_pipeline(StandardScaler(), LogisticRegression()).fit(
            embedding[own & train], stimulated[own & train]
        )
        score = roc_auc_score(stimulated[own & test], probe.decision_function(embedding[own & test]))
        yield f"auroc_stimulation_{name}[{cell_type}]", float(score)
    for kind, probe in (("linear", LogisticRegression(max_iter=1000)), ("knn", KNeighborsClassifier(15))):
        predicted = make_pipeline(StandardScaler(), probe).fit(embedding[train], label[train]).predict(embedding[test])
        yield f"type_from_{name}_{kind}", float(balanced_accuracy_score(label[test], predicted))


def kl_scores(embedded: AnnData) -> Iterator[Row]:
    """KL of each class's own block and the largest of another block on its held-out samples, nats a dim."""
    report = nvae_bio.report_factors([embedded])
    obs, kl, classes = report.obs, report.obsm["kl_by_class"], list(report.uns["nvae"]["classes"])
    shared = (obs["kind"] == "shared").to_numpy()
    if shared.any():
        yield "n_shared_above_0.1", float((kl[shared].max(1) > 0.1).sum())
    if not shared.all():
        own = obs["class"].to_numpy()[:, None] == np.array(classes)[None]
        for index, cell_type in enumerate(classes):
            yield f"kl_own_max[{cell_type}]", float(kl[own[:, index], index].max())
        yield "kl_off_block_max", float(kl[~shared][~own[~shared]].max())


def model_scores(prepared: AnnData, settings: FitSettings, variant: str, seed: int) -> Iterator[Row]:
    """Train one variant and score it."""
    model = {**settings.model.model_dump(exclude={"n_shared", "n_private"}), "variant": variant}
    dims = {"n_shared": settings.model.n_shared, "n_private": settings.model.n_private} if variant == "nvae" else {}
    fitted = FitSettings.model_validate(
        {"model": model | dims | VARIANTS[variant], "training": settings.training.model_dump()}
    )
    trained = nvae_bio.train_model(prepared, fitted, seed, progress=False)
    embedded = nvae_bio.embed_data(prepared, trained, EmbeddingSettings(n_draws=50, umap=False))
    yield "elbo_test", float(embedded.obs.loc[split_of(embedded, "test"), "nvae_elbo"].mean())
    for key, name in (("X_nvae_shared", "shared"), ("X_nvae_specific", "specific")):
        if key in embedded.obsm:
            yield from probe_scores(embedded.obsm[key], embedded, name)
    yield from kl_scores(embedded)


def pca_scores(prepared: AnnData, n_components: int) -> Iterator[Row]:
    """PCA of log-normalised counts, fitted on training cells."""
    x = np.log1p(prepared.X.toarray() / prepared.obs["library"].to_numpy()[:, None] * 1e4)
    train = x[split_of(prepared, "train")]
    _, _, axes = np.linalg.svd(train - train.mean(0), full_matrices=False)
    yield from probe_scores((x - train.mean(0)) @ axes[:n_components].T, prepared, "shared")


def summary(table: pd.DataFrame) -> str:
    """Mean and range over seeds of the main figures, as a Markdown table."""
    scores = table.assign(metric=table["metric"].str.replace(r"\[.*\]", "", regex=True))
    rows = ["| metric | " + " | ".join(scores["variant"].unique()) + " |"]
    rows.append("|---|" + "---|" * scores["variant"].nunique())
    for metric in scores["metric"].unique():
        cells = []
        for variant in scores["variant"].unique():
            values = scores.loc[(scores["metric"] == metric) & (scores["variant"] == variant), "value"]
            digits = 1 if metric == "elbo_test" else 3
            cells.append(
                f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"
                if len(values)
                else "–"
            )
        rows.append(f"| `{metric}` | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Run all variants and seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    config = load_config(CONFIG)
    path = arguments.data / "kang_muscat_ctrl_stim" / "kang_muscat_ctrl_stim.h5ad"
    prepared = nvae_bio.prepare_data(config.datasets["kang"].model_copy(update={"paths": [str(path)]}))
    rows = []
    for variant in VARIANTS:
        for seed in arguments.seeds:
            for metric, value in model_scores(prepared, config.runs["kang"].fit, variant, seed):
                rows.append(("kang", "kang_muscat_ctrl_stim", variant, seed, metric, round(value, 4)))
            print(variant, seed, flush=True)
    for metric, value in pca_scores(prepared, 8):
        rows.append(("kang", "kang_muscat_ctrl_stim", "pca8", 0, metric, round(value, 4)))
    table = pd.DataFrame(rows, columns=["study", "dataset", "variant", "seed", "metric", "value"])
    table.to_csv(HERE / "kang.csv", index=False)
    page = HERE / "kang.md"
    text = page.read_text()
    start, end = "<!-- table -->\n", "<!-- /table -->"
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{before}{start}{summary(table)}\n{end}{after}")


if __name__ == "__main__":
    main()
