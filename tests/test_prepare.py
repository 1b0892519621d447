"""The step: what is kept, what is chosen, how it is split, and what is said about it."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

from nvae_bio.errors import UserError
from nvae_bio.prepare import prepare, prepare_data
from nvae_bio.prepare.classes import allot
from nvae_bio.prepare.record import fingerprint
from nvae_bio.prepare.split import draw_parts, split_samples
from tests.data_files import settings, toy_counts, toy_features, toy_pixels

PBMC = {"builtin": "pbmc68k", "label_key": "bulk_labels", "rare_classes": "drop", "min_samples_per_class": 20}


def removed(adata: AnnData) -> pd.DataFrame:
    return adata.uns["nvae_data"]["removed"].set_index("step")


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


# --- the prepared file -----------------------------------------------------------------------------------------------


def test_a_counts_file_holds_the_contract(tmp_path: Path) -> None:
    prepare(settings(**PBMC, n_top_genes=300), tmp_path / "new" / "pbmc.h5ad")
    adata = anndata.read_h5ad(tmp_path / "new" / "pbmc.h5ad")
    data = adata.uns["nvae_data"]
    assert adata.shape == (660, 300)
    assert isinstance(adata.X, sparse.csr_matrix) and adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all() and (adata.X.data > 0).all()
    assert adata.obs["split"].cat.categories.tolist() == ["train", "validation", "test"]
    assert list(data["classes"]) == sorted(adata.obs["label"].cat.categories)
    assert adata.obs["library"].dtype == np.float64 and (adata.obs["library"] > dense(adata).sum(axis=1)).all()
    assert {"bulk_labels", "phase"} <= set(adata.obs) and "__library__" not in adata.obs
    assert data["kind"] == "counts" and list(data["source"]) == ["built-in pbmc68k"]
    assert len(data["fingerprint"]) == 64 and json.loads(data["settings"])["n_top_genes"] == 300
    assert data["removed"].columns.tolist() == ["step", "what", "reason", "n_removed", "n_left"]
    assert set(data["removed"]["what"]) <= {"cells", "genes", "samples", "features"}
    assert data["qc"].columns.tolist() == ["n_genes", "n_counts", "mito_share", "kept"] and len(data["qc"]) == 700


def test_an_images_file_holds_the_contract() -> None:
    adata = prepare_data(settings("images", builtin="digits"))
    assert adata.X.dtype == np.float32 and adata.X.min() == 0 and adata.X.max() == 1
    assert adata.var.columns.tolist() == ["channel", "row", "column"]
    assert adata.var["row"].tolist() == np.repeat(np.arange(8), 8).tolist()
    assert adata.uns["nvae_data"]["image_shape"] == [1, 8, 8]
    assert "library" not in adata.obs and "qc" not in adata.uns["nvae_data"]


def test_two_preparations_are_equal_in_every_bit() -> None:
    one, two = (prepare_data(settings(**PBMC, n_top_genes=100, max_samples=400)) for _ in range(2))
    assert one.uns["nvae_data"]["fingerprint"] == two.uns["nvae_data"]["fingerprint"]
    pd.testing.assert_frame_equal(one.obs, two.obs)
    assert (one.X != two.X).nnz == 0
    other = prepare_data(settings(**PBMC, n_top_genes=100, max_samples=400, split={"seed": 1}))
    assert other.uns["nvae_data"]["fingerprint"] != one.uns["nvae_data"]["fingerprint"]


def _change_count(adata: AnnData) -> None:
    adata.X.data[7] += 1


def _change_label(adata: AnnData) -> None:
    adata.obs["label"] = adata.obs["label"].cat.rename_categories({"type 0": "type zero"})


def _change_split(adata: AnnData) -> None:
    adata.obs["split"] = np.roll(adata.obs["split"].astype(str), 1)


def _change_library(adata: AnnData) -> None:
    adata.obs["library"] += np.arange(adata.n_obs) == 3


def _change_gene(adata: AnnData) -> None:
    adata.var_names = ["other", *adata.var_names[1:]]


@pytest.mark.parametrize("change", [_change_count, _change_label, _change_split, _change_library, _change_gene])
def test_the_fingerprint_tells_what_a_model_would_see(change: Callable[[AnnData], None], tmp_path: Path) -> None:
    adata = prepare_data(settings(), toy_counts())
    before = fingerprint(adata)
    assert before == adata.uns["nvae_data"]["fingerprint"]
    adata.copy().write_h5ad(tmp_path / "a.h5ad")
    assert fingerprint(anndata.read_h5ad(tmp_path / "a.h5ad")) == before  # whatever types a file brings back
    change(adata)
    assert fingerprint(adata) != before


def test_the_order_of_samples_changes_neither_split_nor_genes() -> None:
    adata = toy_counts(150, 80)
    options = settings(n_top_genes=30, donor_key="person", max_samples=120)
    one = prepare_data(options, adata)
    two = prepare_data(options, adata[np.random.default_rng(0).permutation(150)].copy())
    assert set(one.obs_names) == set(two.obs_names) and one.var_names.tolist() == two.var_names.tolist()
    assert (one.obs["split"] == two.obs["split"].loc[one.obs_names]).all()


def test_memory_and_file_give_the_same(tmp_path: Path) -> None:
    adata = toy_counts()
    before = adata.copy()
    adata.copy().write_h5ad(tmp_path / "a.h5ad")
    one = prepare_data(settings(batch_key="run"), adata)
    prepare(settings(batch_key="run", paths=str(tmp_path / "a.h5ad")), tmp_path / "p.h5ad")
    two = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert one.uns["nvae_data"]["fingerprint"] == two.uns["nvae_data"]["fingerprint"]
    pd.testing.assert_frame_equal(one.obs.astype(str), two.obs.astype(str))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0 and not adata.uns


def test_no_column_of_the_source_is_lost() -> None:
    adata = toy_counts()
    adata.obs["split"] = "mine"
    adata.obs["batch"] = adata.obs["run"]
    adata.obs["label"] = adata.obs["cell_type"]
    adata.obs["source_split"] = "theirs"
    adata.obs["mixed"] = [1, "two", None] * 30
    adata.obs["a/b"] = pd.Timestamp("2020-01-01")
    adata.obs["range"] = pd.cut(adata.obs["depth"], 3)
    adata.obs[7] = 1.5
    prepared = prepare_data(settings(label_key="label", batch_key="batch", join_classes={"x": ["type 0"]}), adata)
    assert prepared.obs["source_source_split"].unique().tolist() == ["mine"]
    assert prepared.obs["source_split"].unique().tolist() == ["theirs"]
    assert prepared.obs["source_label"].tolist() == adata.obs["label"].tolist()  # as it was before classes were joined
    assert "source_batch" not in prepared.obs  # the very same as batch
    assert prepared.obs["mixed"].tolist()[:2] == ["1", "two"] and prepared.obs["mixed"].isna().sum() == 30
    assert prepared.obs["a_b"].iloc[0].startswith("2020-01-01") and prepared.obs["7"].iloc[0] == 1.5


def test_awkward_columns_survive_writing(tmp_path: Path) -> None:
    adata = toy_counts()
    adata.obs["mixed"] = [1, "two", None] * 30
    adata.obs["a/b"] = pd.Timestamp("2020-01-01")
    adata.obs["range"] = pd.cut(adata.obs["depth"], 3)
    adata.obs["whole"] = pd.array([1, None, 3] * 30, dtype="Int64")
    adata.obs["text"] = pd.array(["a", None, "b"] * 30, dtype="string")
    adata.obs["empty"] = None
    adata.obs["maybe"] = [True, None, False] * 30
    adata.obs["person"] = adata.obs["person"].where(np.arange(90) > 5)
    prepared = prepare_data(settings(donor_key="person"), adata)
    prepared.write_h5ad(tmp_path / "p.h5ad")
    again = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert again.obs["whole"].isna().sum() == 30 and again.obs["donor"].isna().sum() == 6
    assert again.obs["text"].isna().sum() == 30 and again.obs["maybe"].isna().sum() == 30


# --- classes ---------------------------------------------------------------------------------------------------------


def test_unlabeled_values_and_missing_labels_have_no_class() -> None:
    adata = toy_counts()
    adata.obs["cell_type"] = adata.obs["cell_type"].mask(np.arange(90) < 9, "unknown").mask(np.arange(90) < 3)
    prepared = prepare_data(settings(unlabeled_values=["unknown"]), adata)
    assert prepared.obs["label"].isna().sum() == 9 and len(prepared.uns["nvae_data"]["classes"]) == 3
    assert set(prepared.obs.loc[prepared.obs["label"].isna(), "split"]) == {"train", "validation", "test"}


@pytest.mark.parametrize("kind", ["float64", "float32", "category", "Int64"])
def test_numbers_as_labels_are_whole_numbers(kind: str) -> None:
    adata = toy_counts()
    numbers = pd.Series(np.arange(90) % 3, index=adata.obs_names).mask(np.arange(90) < 6)
    adata.obs["cell_type"] = numbers.astype(kind)
    prepared = prepare_data(settings(), adata)
    assert prepared.uns["nvae_data"]["classes"] == ["0", "1", "2"] and prepared.obs["label"].isna().sum() == 6


@pytest.mark.parametrize(("rare", "n_left", "n_missing"), [("drop", 84, 0), ("unlabeled", 90, 6)])
def test_rare_classes_are_dropped_or_made_unlabeled(rare: str, n_left: int, n_missing: int) -> None:
    adata = toy_counts()
    adata.obs["cell_type"] = adata.obs["cell_type"].mask(np.arange(90) < 6, "few")
    prepared = prepare_data(settings(rare_classes=rare, min_samples_per_class=20), adata)
    assert prepared.n_obs == n_left and prepared.obs["label"].isna().sum() == n_missing
    row = removed(prepared).loc["rare_classes"]
    assert row["n_removed"] == 90 - n_left and row["n_left"] == n_left and "few" in row["reason"]


def test_classes_are_joined() -> None:
    joined = {"T": ["CD4+/CD25 T Reg", "CD4+/CD45RA+/CD25- Naive T", "CD4+/CD45RO+ Memory"]}
    adata = prepare_data(settings(**PBMC, join_classes=joined))
    assert adata.obs["label"].value_counts()["T"] == 68 + 8 + 19
    assert not set(joined["T"]) & set(adata.obs["label"])


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    floor=st.integers(0, 20),
    share=st.floats(0, 1),
)
def test_a_part_is_allotted_in_proportion_above_a_floor(sizes: list[int], floor: int, share: float) -> None:
    n = np.array(sizes)
    floors = np.minimum(n, floor)
    total = int(floors.sum() + share * (n.sum() - floors.sum()))
    kept = allot(n, floors, total)
    assert kept.sum() == total and (kept >= floors).all() and (kept <= n).all()
    if (n * total / n.sum() >= floors).all():
        assert np.abs(kept - n * total / n.sum()).max() < 1


def test_max_samples_keeps_shares_of_classes_and_order() -> None:
    adata = toy_counts(200)
    adata.obs["cell_type"] = np.where(np.arange(200) < 150, "big", "small")
    prepared = prepare_data(settings(max_samples=80), adata)
    assert prepared.obs["label"].value_counts().to_dict() == {"big": 60, "small": 20}
    assert prepared.obs_names.tolist() == [n for n in adata.obs_names if n in set(prepared.obs_names)]
    assert removed(prepared).loc["max_samples", ["n_removed", "n_left"]].tolist() == [120, 80]


# --- splits ----------------------------------------------------------------------------------------------------------


@hypothesis_settings(deadline=None)
@given(
    sizes=st.lists(st.integers(5, 60), min_size=2, max_size=5),
    n_unlabeled=st.integers(0, 20),
    n_donors=st.integers(1, 6),
    shares=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
    seed=st.integers(0, 1000),
)
def test_a_split_is_stratified_by_class_and_spread_over_donors(
    sizes: list[int], n_unlabeled: int, n_donors: int, shares: tuple[float, float], seed: int
) -> None:
    labels = [str(c) for c, n in enumerate(sizes) for _ in range(n)] + [None] * n_unlabeled
    label = pd.Series(labels, index=[f"s{i}" for i in range(len(labels))], dtype=object)
    rng = np.random.default_rng(seed)
    donor = pd.Series([f"d{d}" for d in rng.integers(0, n_donors, len(labels))], index=label.index, dtype=object)
    options = settings(split={"test": shares[0], "validation": shares[1], "seed": seed}).split
    split, fold = split_samples(label, donor, None, options, "here")

    assert fold is None
    for members in (*((label == str(c)).to_numpy() for c in range(len(sizes))), label.isna().to_numpy()):
        n, n_test = int(members.sum()), int((split[members] == "test").sum())
        assert abs(n_test - n * shares[0]) <= 1
        if n and label[members].notna().all():
            assert set(split[members]) == {"train", "validation", "test"}
        for one in donor.unique():  # each donor gives its share of the class's test samples, to less than one sample
            of_donor = members & (donor == one).to_numpy()
            n_here = int((split[of_donor] == "test").sum())
            assert abs(n_here - of_donor.sum() * n_test / max(n, 1)) < 1


def test_a_split_depends_on_names_and_seed_only() -> None:
    label = pd.Series(list("aabb") * 20, index=[f"s{i}" for i in range(80)], dtype=object)
    shares = {"test": 0.2, "validation": 0.1}
    order = np.random.default_rng(1).permutation(80)
    one = pd.Series(draw_parts(label, None, shares, np.random.default_rng(0)), index=label.index)
    two = pd.Series(draw_parts(label.iloc[order], None, shares, np.random.default_rng(0)), index=label.index[order])
    other = pd.Series(draw_parts(label, None, shares, np.random.default_rng(3)), index=label.index)
    assert (one == two.loc[one.index]).all() and not (one == other).all()


@pytest.mark.parametrize("test_fold", range(3))
def test_donors_are_held_out_whole(test_fold: int) -> None:
    options = settings(donor_key="person", split={"by": "donor", "n_folds": 3, "test_fold": test_fold})
    prepared = prepare_data(options, toy_counts())
    assert (prepared.obs.groupby("donor", observed=True)["split"].nunique() == 1).all()
    assert (prepared.obs["split"] == "test").tolist() == (prepared.obs["fold"] == test_fold).tolist()
    assert (prepared.obs["split"] == "validation").tolist() == (prepared.obs["fold"] == (test_fold + 1) % 3).tolist()
    assert prepared.obs["fold"].nunique() == 3


def test_every_donor_is_tested_once_over_the_folds() -> None:
    def held_out(fold: int) -> pd.Series:
        options = settings(donor_key="person", split={"by": "donor", "n_folds": 4, "test_fold": fold})
        return prepare_data(options, toy_counts()).obs["split"] == "test"

    assert (sum(held_out(fold).astype(int) for fold in range(4)) == 1).all()


def test_the_sources_own_split_is_used_and_completed() -> None:
    adata = toy_counts()
    adata.obs["split"] = np.where(np.arange(90) < 60, "Training", "testing")
    prepared = prepare_data(settings(split={"key": "split"}), adata)
    assert (prepared.obs["split"].iloc[60:] == "test").all()
    drawn = prepared.obs["split"].iloc[:60]
    assert drawn.value_counts().to_dict() == {"train": 54, "validation": 6, "test": 0}
    assert prepared.obs.loc[prepared.obs["split"] == "validation", "label"].value_counts().tolist() == [2, 2, 2]
    assert prepared.obs["source_split"].tolist() == adata.obs["split"].tolist()


HELD_OUT = {"cell_type": "type 1", "treated": "x"}


def treated_counts() -> AnnData:
    adata = toy_counts()
    adata.obs["treated"] = np.where(np.arange(90) % 2, "x", "y")
    return adata


def test_samples_that_are_held_out_are_tested_and_the_rest_is_split_as_ever() -> None:
    adata = treated_counts()
    prepared = prepare_data(settings(hold_out=HELD_OUT), adata)
    held = ((adata.obs["cell_type"] == "type 1") & (adata.obs["treated"] == "x")).to_numpy()
    assert held.sum() == 15
    assert (prepared.obs["split"][held] == "test").all()
    rest = prepare_data(settings(), adata[~held].copy())
    assert prepared.obs["split"][~held].tolist() == rest.obs["split"].tolist()
    assert json.loads(prepared.uns["nvae_data"]["settings"])["hold_out"] == HELD_OUT


def test_held_out_samples_change_nothing_that_is_fitted() -> None:
    adata = treated_counts()
    held = ((adata.obs["cell_type"] == "type 1") & (adata.obs["treated"] == "x")).to_numpy()
    counts = dense(adata)
    counts[held] = np.random.default_rng(5).poisson(20, size=(held.sum(), counts.shape[1]))
    one, two = (
        prepare_data(
            settings(n_top_genes=20, hold_out=HELD_OUT),
            AnnData(sparse.csr_matrix(x), obs=adata.obs, var=adata.var),
        )
        for x in (dense(adata), counts)
    )
    assert one.var_names.tolist() == two.var_names.tolist()


def test_held_out_samples_of_donors_are_of_the_fold_that_is_tested() -> None:
    options = settings(
        donor_key="person",
        split={"by": "donor", "n_folds": 3, "test_fold": 1},
        hold_out={"cell_type": "type 0", "person": "donor 1"},
    )
    prepared = prepare_data(options, toy_counts())
    held = ((prepared.obs["label"] == "type 0") & (prepared.obs["donor"] == "donor 1")).to_numpy()
    assert held.any() and (prepared.obs["split"][held] == "test").all()
    assert (prepared.obs["split"] == "test").tolist() == (prepared.obs["fold"] == 1).tolist()


def test_whole_classes_can_be_held_out_unlabelled() -> None:
    classes = ["type 2"]
    options = settings(hold_out={"cell_type": classes}, unlabeled_values=classes)
    prepared = prepare_data(options, toy_counts())
    held = prepared.obs["cell_type"].isin(classes)
    assert held.any() and (prepared.obs["split"][held] == "test").all() and prepared.obs["label"][held].isna().all()
    assert {"train", "validation", "test"} == set(prepared.obs["split"][~held])


def test_what_is_held_out_can_be_all_of_the_test_part() -> None:
    prepared = prepare_data(settings(hold_out={"person": "donor 1"}, split={"test": 0}), toy_counts())
    assert ((prepared.obs["split"] == "test") == (prepared.obs["person"] == "donor 1")).all()


@pytest.mark.parametrize(
    ("hold_out", "said"),
    [
        ({"cell_type": ["type 1", "B"]}, "hold_out.cell_type: no sample has 'B'; allowed: type 0, type 1, type 2"),
        ({"all": ["one", "one"]}, "hold_out: all samples have all 'one' or 'one'; allowed: some without, to train on"),
        ({"type": "B"}, "hold_out: no column 'type'; allowed: cell_type, "),
        ({"cell_type": "B"}, "hold_out.cell_type: no sample has 'B'; allowed: type 0, type 1, type 2"),
        (
            {"cell_type": "type 1", "only_a": "yes"},
            "hold_out: no sample has all of cell_type 'type 1', only_a 'yes'; allowed: at least 1",
        ),
        ({"all": "one"}, "hold_out: all samples have all 'one'; allowed: some without, to train on"),
        ({"cell_type": "type 1"}, "split: class 'type 1' has no training samples"),
    ],
)
def test_samples_that_cannot_be_held_out_end_in_one_line(hold_out: dict[str, Any], said: str) -> None:
    adata = treated_counts()
    adata.obs["only_a"] = np.where(adata.obs["cell_type"] == "type 0", "yes", "no")
    adata.obs["all"] = "one"
    with pytest.raises(UserError, match=re.escape(said)):
        prepare_data(settings(hold_out=hold_out), adata)


@pytest.mark.parametrize("kind", ["counts", "features"])
def test_dropped_samples_are_as_if_they_had_never_been(kind: str) -> None:
    adata = toy_counts()
    rng = np.random.default_rng(0)
    adata.obs["doublet"] = rng.random(adata.n_obs) < 0.2
    adata.obs["tube"] = rng.choice(["a", "b", "c", "d"], adata.n_obs)
    of_kind = {"kind": kind, "label_key": "cell_type"}
    prepared = prepare_data(settings(**of_kind, drop={"doublet": True, "tube": ["b", "c"]}), adata)
    kept = (~adata.obs["doublet"] & ~adata.obs["tube"].isin(["b", "c"])).to_numpy()
    rest = prepare_data(settings(**of_kind), adata[kept].copy())
    assert 0 < kept.sum() < adata.n_obs and prepared.obs_names.tolist() == adata.obs_names[kept].tolist()
    assert prepared.uns["nvae_data"]["fingerprint"] == rest.uns["nvae_data"]["fingerprint"]
    first, second = removed(prepared).loc["drop"].itertuples()
    assert (first.reason, first.n_removed) == ("doublet 'True'", adata.obs["doublet"].sum())
    assert second.reason == "tube 'b' or 'c'" and second.n_left == kept.sum() == first.n_left - second.n_removed


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        ({"doublet": "yes"}, "drop: no column 'doublet'; allowed: cell_type, "),
        ({"cell_type": ["type 1", "B"]}, "drop.cell_type: no sample has 'B'; allowed: type 0, type 1, type 2"),
        ({"all": "one", "cell_type": ["type 1"]}, "drop: all samples have all 'one' or cell_type 'type 1'; allowed: "),
    ],
)
def test_samples_that_cannot_be_dropped_end_in_one_line(drop: dict[str, Any], said: str) -> None:
    adata = toy_counts()
    adata.obs["all"] = "one"
    with pytest.raises(UserError, match=re.escape(said)):
        prepare_data(settings(drop=drop), adata)


# --- counts ----------------------------------------------------------------------------------------------------------


def test_quality_control_drops_and_counts_cells() -> None:
    adata = toy_counts()
    counts = dense(adata)
    counts[:4] = 0
    counts[:4, 0] = [0, 2, 3, 40]  # no counts, too few counts, too few counts, one gene only
    counts[4, 39] = 500
    adata.X = sparse.csr_matrix(counts)
    adata.var_names = [*adata.var_names[:39], "mt-Co1"]
    options = settings(qc={"min_counts": 5, "min_genes": 3, "max_mito_share": 0.5})
    prepared = prepare_data(options, adata)
    rows = removed(prepared)
    assert rows.loc[["qc.min_counts", "qc.min_genes", "qc.max_mito_share"], "n_removed"].tolist() == [3, 1, 1]
    assert prepared.obs_names.tolist() == adata.obs_names[5:].tolist()
    qc = prepared.uns["nvae_data"]["qc"]
    assert qc["kept"].tolist() == [False] * 5 + [True] * 85
    np.testing.assert_allclose(qc["mito_share"].iloc[4], 500 / counts[4].sum())
    np.testing.assert_array_equal(qc["n_counts"], counts.sum(axis=1))
    np.testing.assert_array_equal(prepared.obs["n_genes"], (counts[5:] > 0).sum(axis=1))


def test_the_table_of_quality_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvae_bio.prepare.step.N_QC_CELLS", 20)
    one, two = (prepare_data(settings(), toy_counts()).uns["nvae_data"]["qc"] for _ in range(2))
    assert len(one) == 20 and one.index.tolist() == two.index.tolist() != toy_counts().obs_names[:20].tolist()


def test_genes_are_chosen_on_training_cells_only() -> None:
    adata = toy_counts(200, 120)
    options = settings(n_top_genes=30, qc={"min_cells": 60}, split={"seed": 3})
    one = prepare_data(options, adata)
    held_out = (one.obs["split"] != "train").to_numpy()
    counts = dense(adata)
    counts[held_out] = np.random.default_rng(5).poisson(20, size=(held_out.sum(), 120))
    two = prepare_data(options, AnnData(sparse.csr_matrix(counts), obs=adata.obs, var=adata.var))
    assert one.var_names.tolist() == two.var_names.tolist() and one.n_vars == 30
    assert (one.obs["split"] == two.obs["split"]).all()
    counts[~held_out] = np.random.default_rng(6).poisson(2, size=((~held_out).sum(), 120))
    three = prepare_data(options, AnnData(sparse.csr_matrix(counts), obs=adata.obs, var=adata.var))
    assert three.var_names.tolist() != one.var_names.tolist()  # while training cells do change it


def test_genes_of_few_training_cells_are_dropped() -> None:
    adata = toy_counts()
    train = (prepare_data(settings(), adata).obs["split"] == "train").to_numpy()
    counts = dense(adata)
    counts[:, 5] = 0
    counts[np.flatnonzero(train)[:2], 5] = 1  # two training cells,
    counts[~train, 5] = 1  # and every other cell
    prepared = prepare_data(settings(), AnnData(sparse.csr_matrix(counts), obs=adata.obs, var=adata.var))
    assert "GENE5" not in prepared.var_names and prepared.n_vars == 39
    assert removed(prepared).loc["qc.min_cells", "n_removed"] == 1
    np.testing.assert_array_equal(prepared.obs["library"], counts.sum(axis=1))  # counted before genes were dropped


def test_variable_genes_are_chosen_per_batch() -> None:
    rng = np.random.default_rng(0)
    adata = toy_counts(200, 120)
    batch = np.arange(200) % 4 < 2
    rate = np.tile(rng.uniform(2, 40, size=120), (200, 1))
    rate[batch, :10] *= 1.9
    rate[~batch, :10] *= 0.1  # these differ between batches, and not within
    adata.X = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    adata.obs["run"] = np.where(batch, "a", "b")
    plain = prepare_data(settings(n_top_genes=10), adata)
    by_batch = prepare_data(settings(n_top_genes=10, batch_key="run"), adata)
    assert sorted(plain.var_names) == sorted(adata.var_names[:10])
    assert len(set(by_batch.var_names) & set(adata.var_names[:10])) < 5


def test_all_genes_stay_where_fewer_exist_than_are_asked_for() -> None:
    assert prepare_data(settings(n_top_genes=2000), toy_counts()).n_vars == 40


def test_the_library_can_be_named() -> None:
    adata = toy_counts()
    adata.obs["all_counts"] = dense(adata).sum(axis=1) * 3
    prepared = prepare_data(settings(library_key="all_counts"), adata)
    np.testing.assert_array_equal(prepared.obs["library"], adata.obs["all_counts"])


def test_joined_files_have_their_batch_without_a_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        adata = toy_counts()
        adata.obs_names = f"{name}-" + adata.obs_names
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    prepared = prepare_data(settings(paths=[str(tmp_path / "one.h5ad"), str(tmp_path / "two.h5ad")]))
    assert prepared.obs["batch"].value_counts().to_dict() == {"one": 90, "two": 90}


# --- features --------------------------------------------------------------------------------------------------------


def test_features_are_scaled_by_training_samples_only(tmp_path: Path) -> None:
    table = toy_features(100)
    table["constant"] = 4.0
    table.to_csv(tmp_path / "t.csv", index=False)
    options = settings("features", paths=str(tmp_path / "t.csv"))
    prepared = prepare_data(options)
    train = (prepared.obs["split"] == "train").to_numpy()
    assert prepared.X.dtype == np.float32 and prepared.var_names.tolist() == [f"f{i}" for i in range(5)]
    np.testing.assert_allclose(prepared.X[train].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.X[train].std(axis=0), 1, atol=1e-5)
    restored = prepared.X * prepared.var["std"].to_numpy() + prepared.var["mean"].to_numpy()
    np.testing.assert_allclose(restored, table[[f"f{i}" for i in range(5)]], atol=1e-5)
    assert removed(prepared).loc["constant", ["n_removed", "n_left"]].tolist() == [1, 5]
    plain = prepare_data(settings("features", paths=str(tmp_path / "t.csv"), standardize=False))
    np.testing.assert_allclose(plain.X, table[[f"f{i}" for i in range(5)]].astype(np.float32))
    assert "mean" not in plain.var


def test_a_feature_that_only_held_out_samples_vary_in_is_dropped(tmp_path: Path) -> None:
    table = toy_features(100)
    options = settings("features", paths=str(tmp_path / "t.csv"))
    table.to_csv(tmp_path / "t.csv", index=False)
    train = (prepare_data(options).obs["split"] == "train").to_numpy()
    table["f2"] = table["f2"].where(~train, 1.0)
    table.to_csv(tmp_path / "t.csv", index=False)
    assert prepare_data(options).var_names.tolist() == ["f0", "f1", "f3", "f4"]


def test_images_in_memory_are_prepared() -> None:
    labels = pd.DataFrame({"label": [i % 2 for i in range(40)]}, index=map(str, range(40)))
    adata = AnnData(toy_pixels(40, (3 * 12 * 10,)), obs=labels)
    prepared = prepare_data(settings("images", image_shape=(3, 12, 10), crop=(10, 10), resize=(8, 8)), adata)
    assert prepared.uns["nvae_data"]["image_shape"] == [3, 8, 8] and prepared.n_vars == 192
    assert prepared.uns["nvae_data"]["classes"] == ["0", "1"]
    assert prepared.uns["nvae_data"]["source"] == ["AnnData in memory"]


# --- larger real sets ------------------------------------------------------------------------------------------------

SCRNA = {"kind": "counts", "label_key": "cell_type", "n_top_genes": 2000, "min_samples_per_class": 20}
REAL = {
    "kang_muscat_ctrl_stim": (
        "kang_muscat_ctrl_stim.h5ad",
        {**SCRNA, "batch_key": "batch", "condition_key": "condition"},
    ),
    "kang_ctrl_8donors": (
        "kang_ctrl_8donors.h5ad",
        {**SCRNA, "donor_key": "batch", "n_top_genes": 500, "split": {"by": "donor", "n_folds": 4}},
    ),
    "pbmc3k": ("pbmc3k.h5ad", {**SCRNA, "unlabeled_values": ["unlabelled"], "rare_classes": "unlabeled"}),
    "mnist": (
        ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"),
        {"kind": "images", "max_samples": 2000, "split": {"key": "source_split"}},
    ),
    "extended_yale_b": (
        "yaleb_48x42.npz",
        {"kind": "images", "image_key": "X", "label_key": "subject", "donor_key": "subject", "max_samples": 1500},
    ),
    "pbc_blood": (
        "pbc_28.npz",
        {"kind": "images", "image_key": "X", "label_key": "y", "max_samples": 1000, "split": {"key": "split"}},
    ),
    "paul15_3004genes": ("paul15_3004genes.h5ad", {**SCRNA, "batch_key": "batch", "n_top_genes": None}),
}


def real(name: str) -> AnnData:
    """The prepared real data set, or a skip where the folder of data sets is not told."""
    if "NVAE_BIO_DATA" not in os.environ:
        pytest.skip("NVAE_BIO_DATA is not set")
    files, values = REAL[name]
    folder = Path(os.environ["NVAE_BIO_DATA"]) / name
    paths = [str(folder / file) for file in ((files,) if isinstance(files, str) else files)]
    return prepare_data(settings(**values, paths=paths))


def test_real_kang() -> None:
    adata = real("kang_muscat_ctrl_stim")
    assert adata.shape == (1556, 1267) and adata.obs["condition"].value_counts().to_dict() == {"stim": 806, "ctrl": 750}
    assert adata.obs["batch"].nunique() == 2 and len(adata.uns["nvae_data"]["classes"]) == 5


def test_real_kang_by_donor() -> None:
    adata = real("kang_ctrl_8donors")
    assert adata.shape == (12261, 500) and adata.obs["donor"].nunique() == 8
    assert (adata.obs.groupby("donor", observed=True)["split"].nunique() == 1).all()
    train = adata.obs[adata.obs["split"] == "train"]
    assert set(train["label"]) == set(adata.obs["label"])


def test_real_pbmc3k_with_cells_without_label() -> None:
    adata = real("pbmc3k")
    assert adata.n_vars == 2000 and adata.obs["label"].isna().sum() >= 62
    np.testing.assert_allclose(adata.obs["library"], adata.obs["n_counts"])
    assert (adata.obs["mito_share"] < 1).all() and adata.obs["mito_share"].max() > 0.05


def test_real_mnist_in_part() -> None:
    adata = real("mnist")
    assert adata.shape == (2000, 784) and adata.uns["nvae_data"]["classes"] == [str(d) for d in range(10)]
    held_out = adata.obs["source_split"] == "test"
    assert (held_out == (adata.obs["split"] == "test")).all() and 200 < held_out.sum() < 400
    assert set(adata.obs["split"]) == {"train", "validation", "test"}


def test_real_faces() -> None:
    adata = real("extended_yale_b")
    assert adata.uns["nvae_data"]["image_shape"] == [1, 48, 42] and adata.n_obs == 1500
    assert {"azimuth", "elevation", "subject"} <= set(adata.obs) and adata.obs["label"].nunique() == 38


def test_real_blood_cells_in_colour() -> None:
    adata = real("pbc_blood")
    assert adata.uns["nvae_data"]["image_shape"] == [3, 28, 28] and adata.shape == (1000, 2352)
    named = adata.obs["source_split"].replace({"val": "validation"})
    assert named.tolist() == adata.obs["split"].tolist()


def test_real_paul15_with_all_genes() -> None:
    adata = real("paul15_3004genes")
    assert adata.n_obs == 2660 and adata.obs["batch"].nunique() == 16
    assert adata.n_vars == 3004 - removed(adata).loc["qc.min_cells", "n_removed"]


def test_what_a_factor_report_will_lack_is_said(caplog: pytest.LogCaptureFixture) -> None:
    adata = toy_counts()
    adata.obs["split"] = np.array(["train", "train", "validation", "test"])[np.arange(90) % 4]
    adata.obs["person"] = adata.obs["person"].where(np.arange(90) % 9 > 0)
    prepare_data(settings(split={"key": "split"}, donor_key="person"), adata)
    assert "10 of 90 samples have no donor: intervals over donors cannot be had" in caplog.text
    assert "no held-out sample" not in caplog.text
    caplog.clear()
    adata.obs.loc[adata.obs["cell_type"] == "type 1", "split"] = "train"
    prepare_data(settings(split={"key": "split"}), adata)
    assert "no held-out sample of class 'type 1': its factors cannot be judged" in caplog.text
    assert "no donor" not in caplog.text


# --- the choice of genes ---------------------------------------------------------------------------------------------


def by_scanpy(train: AnnData, n_top: int, batch_key: str | None) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = scanpy.pp.highly_variable_genes(
            train, flavor="seurat_v3", n_top_genes=n_top, batch_key=batch_key, inplace=False
        )
    return sorted(train.var_names[table["highly_variable"]])


def assert_chosen_by_scanpy(n_top: int, **options: Any) -> None:
    everything = prepare_data(settings(n_top_genes=None, **options))
    batch_key = "batch" if "batch_key" in options else None
    train = everything[everything.obs["split"] == "train"].copy()
    assert sorted(prepare_data(settings(n_top_genes=n_top, **options)).var_names) == by_scanpy(train, n_top, batch_key)


@pytest.mark.parametrize("n_top", [50, 300])
def test_variable_genes_are_those_of_scanpy(n_top: int) -> None:
    assert_chosen_by_scanpy(n_top, **PBMC)


@pytest.mark.parametrize("options", [{}, {"batch_key": "batch"}])
def test_variable_genes_of_real_cells_are_those_of_scanpy(options: dict[str, str], data_folder: Path) -> None:
    path = data_folder / "kang_ctrl_8donors" / "kang_ctrl_8donors.h5ad"
    assert_chosen_by_scanpy(500, paths=str(path), rare_classes="drop", **options)
