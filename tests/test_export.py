"""A run for other programs: tables, the explorer's file, cards of models; the numbers are those of the run."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scanpy
import yaml
from anndata import AnnData
from scipy import sparse

import nvae_bio
from nvae_bio import schema
from nvae_bio.cli import main
from nvae_bio.config import ExportSettings
from nvae_bio.data.files import SCORE_COLUMNS, read_table, write_anndata, write_csv, write_table
from nvae_bio.errors import UserError
from nvae_bio.export import describe_model, explorer_data, export_tables
from nvae_bio.export.explorer import UNKNOWN
from tests.toys import PREPARED, embedded, prepared_counts, trained

KINDS = ("counts", "images", "features")
CELLXGENE = ("bool", "int32", "float32", "category")  # types of columns that the explorer shows without a change


@cache
def report_of(kind: str, variant: str = "nvae", n_seeds: int = 2) -> Any:
    return nvae_bio.report_factors([embedded(kind, variant, seed) for seed in range(n_seeds)])


def laid_out(kind: str, n_left_out: int = 0) -> AnnData:
    """Embedded samples with a layout, that of the last ones missing."""
    found = embedded(kind).copy()
    layout = np.random.default_rng(0).normal(size=(found.n_obs, 2)).astype(np.float32)
    layout[found.n_obs - n_left_out :] = np.nan
    found.obsm[schema.UMAP] = layout
    return found


def tables_of(kind: str, variant: str = "nvae") -> dict[str, pa.Table]:
    report = report_of(kind, variant)
    seeds = [embedded(kind, variant), embedded(kind, variant, 1)]
    return export_tables(seeds, report.factors, report.embedded)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_have_the_numbers_of_the_run(kind: str) -> None:
    tables, report = tables_of(kind), report_of(kind)
    rows = tables["embeddings"].to_pandas()
    for seed in (0, 1):
        own = rows[rows["seed"] == seed]
        found = embedded(kind, seed=seed)
        assert own["sample"].tolist() == found.obs_names.tolist()
        for name, key in (("shared", schema.SHARED), ("specific", schema.SPECIFIC)):
            values = own[[f"{name}_{i + 1}" for i in range(found.obsm[key].shape[1])]].to_numpy()
            np.testing.assert_allclose(values, found.obsm[key], rtol=1e-6)
        assert own["label"].astype(str).tolist() == found.obs["label"].astype(str).tolist()
    effects = tables["factor_effects"].to_pandas().pivot(index="factor", columns="feature", values="effect")
    ordered = effects.loc[report.factors.obs_names, report.factors.var_names]
    np.testing.assert_allclose(ordered.to_numpy(), report.factors.X, rtol=1e-6)
    classes = tables["factor_classes"].to_pandas().pivot(index="factor", columns="class", values="kl")
    names = [str(name) for name in report.factors.uns["nvae"]["classes"]]
    kl = np.asarray(report.factors.obsm[schema.KL_BY_CLASS])
    np.testing.assert_allclose(classes.loc[report.factors.obs_names, names].to_numpy(), kl, rtol=1e-6)
    scores = tables["factor_scores"].to_pandas()
    assert len(scores) == np.isfinite(report.embedded.obsm[schema.FACTORS]).sum()
    assert scores["score"].notna().all()


def test_columns_are_typed_and_told(tmp_path: Path) -> None:
    for name, table in tables_of("counts").items():
        about = json.loads(table.schema.metadata[b"nvae-bio"])
        assert about["table"] == name
        assert about["version"] == nvae_bio.__version__
        assert about["fingerprint"] == prepared_counts().uns["nvae_data"]["fingerprint"]
        for field in table.schema:
            assert field.metadata[b"meaning"], field.name
            assert not pa.types.is_null(field.type)
            assert field.type != pa.float64()
    factors = tables_of("counts")["factors"]
    assert factors.schema.field("n_found").type == pa.int32()
    assert factors.schema.field("published").type == pa.bool_()
    assert factors.schema.field("kl").metadata[b"unit"] == b"nats"
    private = [kind.as_py() == "private" for kind in factors["kind"]]
    assert [one.as_py() is not None for one in factors["class"]] == private


def test_every_column_of_the_report_is_exported() -> None:
    assert set(report_of("counts").factors.obs) | {"factor"} == set(tables_of("counts")["factors"].column_names)


def test_without_private_or_shared_latents_the_columns_are_left_out() -> None:
    assert not [name for name in tables_of("counts", "cvae")["embeddings"].column_names if name.startswith("specific")]
    alone = export_tables([embedded("counts", "per_class")])
    assert list(alone) == ["embeddings"]
    assert not [name for name in alone["embeddings"].column_names if name.startswith("shared")]


def test_files_of_different_data_are_refused() -> None:
    with pytest.raises(UserError, match="files of 2 data sets"):
        export_tables([embedded("counts"), embedded("images")])
    with pytest.raises(UserError, match="at least one is needed"):
        export_tables([])


@pytest.mark.parametrize("kind", KINDS)
def test_the_explorer_file_opens_in_scanpy_with_the_same_numbers(kind: str, tmp_path: Path) -> None:
    report, source = report_of(kind, n_seeds=1), laid_out(kind)  # of one seed all factors are published
    write_anndata(explorer_data(source, report.factors, report.embedded), tmp_path / "explorer.h5ad")
    found = scanpy.read_h5ad(tmp_path / "explorer.h5ad")
    assert found.obs_names.equals(source.obs_names)
    np.testing.assert_array_equal(found.obsm["X_umap"], source.obsm["X_umap"])
    np.testing.assert_array_equal(found.obsm["X_nvae_shared"], source.obsm["X_nvae_shared"])
    assert found.obs["label"].astype(str).tolist() == source.obs["label"].astype(str).tolist()
    if kind == "counts":
        assert (found.raw.X != source.X).nnz == 0
        again = AnnData(source.X.astype(np.float64), obs=source.obs[["library"]].copy())
        scaled = again.X.multiply(1e4 / again.obs["library"].to_numpy()[:, None]).tocsr()
        np.testing.assert_allclose(found.X.toarray(), np.log1p(scaled.toarray()), rtol=1e-5)
    else:
        np.testing.assert_allclose(found.X, np.asarray(source.X), rtol=1e-6)
        assert found.raw is None
    names = [name for name in found.obs if name.startswith("factor ")]
    assert len(names) == int(report.factors.obs["published"].sum())
    place = list(report.embedded.uns["nvae"]["factors"]).index(names[0].removeprefix("factor "))
    np.testing.assert_allclose(found.obs[names[0]], report.embedded.obsm[schema.FACTORS][:, place], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_explorer_file_has_what_the_explorer_asks_for(kind: str) -> None:
    """Its own checks: unique names, matrices of float32, sparse ones by columns, layouts of 2 dims without infinity."""
    source = laid_out(kind)
    source.obs["text"] = [None if i % 3 else f"t{i % 5}" for i in range(source.n_obs)]
    source.obs["__hidden"] = np.arange(source.n_obs)
    source.obs["endless"] = np.where(np.arange(source.n_obs) % 2, np.inf, 1.0)
    source.obs["flag"] = np.arange(source.n_obs) % 2 == 0
    report = report_of(kind)
    scores = report.embedded.copy()
    made = explorer_data(source, report.factors, scores)
    assert made.obs_names.is_unique and made.var_names.is_unique
    assert made.X.dtype == np.float32
    assert not sparse.issparse(made.X) or made.X.format == "csc"
    for frame in (made.obs, made.var):
        assert frame.columns.is_unique
        assert {str(dtype) for dtype in frame.dtypes} <= set(CELLXGENE)
        assert not any(name.startswith("__") for name in frame)
    levels = [name for name in made.obs if str(made.obs[name].dtype) == "category"]
    assert not made.obs[levels].isna().any().any()
    assert made.obs["text"].iloc[1] == UNKNOWN
    assert not np.isinf(made.obs["endless"]).any()
    assert made.obsm
    for key, layout in made.obsm.items():
        assert key.startswith("X_")
        assert layout.ndim == 2 and layout.shape[1] >= 2 and layout.dtype.kind in "fiu"
        assert not np.isinf(layout).any() and not np.isnan(layout).all()
    assert len(made.uns["label_colors"]) == len(made.obs["label"].cat.categories)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in made.uns["label_colors"])


def test_samples_without_a_layout_are_left_out_with_a_line_or_kept(caplog: pytest.LogCaptureFixture) -> None:
    source = laid_out("counts", n_left_out=40)
    with caplog.at_level("INFO", "nvae_bio"):
        made = explorer_data(source)
    assert made.n_obs == made.raw.n_obs == source.n_obs - 40
    assert "40 of 300 samples have no place in X_umap and are left out" in caplog.text
    assert np.isfinite(made.obsm["X_umap"]).all()
    kept = explorer_data(source, settings=ExportSettings(samples="all"))
    assert kept.n_obs == source.n_obs
    assert np.isnan(kept.obsm["X_umap"]).all(1).sum() == 40
    assert np.isfinite(kept.obsm["X_nvae_shared"]).all()


def test_without_a_umap_the_embedding_is_the_layout_and_without_both_it_says_so() -> None:
    assert "X_umap" not in explorer_data(embedded("counts")).obsm
    bare = embedded("counts").copy()
    bare.obsm = {key: table[:, :1] for key, table in bare.obsm.items()}
    with pytest.raises(UserError, match="no layout of two dims"):
        explorer_data(bare)
    with pytest.raises(UserError, match="are not those of --embedded"):
        explorer_data(embedded("counts"), scores=report_of("counts").embedded[::-1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a run."""
    monkeypatch.chdir(tmp_path)
    report = report_of("counts")
    for seed in (0, 1):
        write_anndata(embedded("counts", seed=seed).copy(), tmp_path / f"{seed}.h5ad")
    write_anndata(report.factors.copy(), tmp_path / "factors.h5ad")
    write_anndata(report.embedded.copy(), tmp_path / "scores.h5ad")
    nvae_bio.save_model(trained("counts"), tmp_path / "model.safetensors", tmp_path / "model.json")
    write_table(trained("counts").history, tmp_path / "history.parquet")
    rows = [("cells", "mine", seed, "log_px", -100.5 - seed, "", True) for seed in (0, 1)]
    rows += [("cells", "mine", seed, "scib_bio", 0.25 + seed, "scib-metrics 1.2", True) for seed in (0, 1)]
    write_csv(pd.DataFrame(rows, columns=SCORE_COLUMNS), tmp_path / "scores.csv")
    return tmp_path


def test_the_command_writes_whole_tables_that_are_read_again(folder: Path) -> None:
    arguments = ["--embedded", "0.h5ad", "--embedded", "1.h5ad", "--report", "factors.h5ad", "--scores", "scores.h5ad"]
    assert main(["export", *arguments, "--output", "out"]) == 0
    expected = {"embeddings", "factors", "factor_classes", "factor_effects", "factor_scores"}
    assert {path.stem for path in Path("out").iterdir()} == expected | {"explorer"}
    for name, table in tables_of("counts").items():
        path = Path("out") / f"{name}.parquet"
        stored = pq.read_table(path)
        assert stored.equals(table)
        assert stored.schema.field(0).metadata[b"meaning"] == table.schema.field(0).metadata[b"meaning"]
        assert len(read_table(path)) == table.num_rows  # its checksum is right
    assert anndata.read_h5ad("out/explorer.h5ad").n_obs == 300


def test_a_model_card_has_the_figures_of_its_files_and_says_what_is_absent(folder: Path) -> None:
    files = ["--history", "history.parquet", "--embedded", "0.h5ad", "--report", "factors.h5ad"]
    command = ["export", "--card", "model.json", *files, "--evaluation", "scores.csv", "--model-card", "card.md"]
    assert main(command) == 0
    text, model = Path("card.md").read_text(), trained("counts")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == [
        *("Model details", "Intended use", "Data", "Training", "Evaluation", "Factors", "Limits", "How to load it"),
        "Licence and citation",
    ]
    assert model.card.fingerprint in text
    assert json.loads(Path("model.json").read_text())["weights_sha256"] in text
    assert "| `log_px` | -100.5 |" in text and "-101.5" not in text
    assert "The model was told the classes." in text and "| `scib_bio` (scib-metrics 1.2) | 0.25 |" in text
    best = model.history.query("epoch == @model.card.best_epoch and split == 'validation'")["elbo"].item()
    assert f"{best:,.4g}" in text
    counts = embedded("counts").obs.query("label == 'c1'")["split"].value_counts()
    assert f"| c1 | {counts['train']} | {counts['validation']} | {counts['test']} |" in text
    assert "absent" not in text and "not among the files" not in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "nvae-bio"
    bare = describe_model(model.card)
    assert bare.count("not among the files that this card was made from") == 4
    assert not re.search(r"elbo|log_px", bare.split("## Evaluation")[1].split("## Limits")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_cards_of_all_kinds_and_the_code_in_them_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = trained(kind)
    text = describe_model(model.card, embedded(kind), model.history, None, report_of(kind).factors)
    nvae_bio.save_model(model, Path("model.safetensors"), Path("model.json"))
    program = text.split("```python\n")[1].split("```")[0].replace("prepared, trained)", "prepared, trained, NO_UMAP)")
    from tests.toys import NO_UMAP

    space: dict[str, Any] = {"prepared": PREPARED[kind](), "NO_UMAP": NO_UMAP}
    exec(program, space)
    np.testing.assert_array_equal(space["embedded"].obsm["X_nvae_shared"], embedded(kind).obsm["X_nvae_shared"])


def test_a_card_that_was_changed_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("model.json").write_text(Path("model.json").read_text().replace('"seed": 0', '"seed": 7'))
    assert main(["export", "--card", "model.json", "--model-card", "card.md"]) == 2
    assert "model.json: changed since it was written" in capsys.readouterr().err
    assert not Path("card.md").exists()
