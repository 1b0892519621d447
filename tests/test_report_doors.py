"""The doors of the factor report: real gene sets, one seed, no donors, and wrong input, in Python and by command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import hypergeom

from nvae_bio import audit_labels, report_factors, save_model
from nvae_bio.cli import main
from nvae_bio.config import AuditSettings, FactorSettings, PowerSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.factors.null import refit_null
from nvae_bio.factors.power import plant_and_find
from nvae_bio.factors.report import FactorReport
from tests.test_consensus import make_embedded, make_null, run_of
from tests.test_enrichment import MARKERS, make_gmt
from tests.toys import CLASSES, embedded, fit_settings, prepared_counts, trained

OUTPUTS = {
    "--report": "factors.h5ad", "--table": "factors.parquet", "--seeds": "seeds.h5ad", "--scores": "scores.h5ad",
    "--suspects": "suspects.csv", "--summary": "summary.md",
}  # fmt: skip
OLD = b"what an earlier run wrote"
CALLED = 1e-3  # q, far below that of random sets, of which one in twenty may have a q below .05
N_TOP = 15  # genes of a direction that are tested for gene sets
PLACES = {  # where the toy has the genes of a set: moved by a factor, or, those of monocytes, by none
    "INTERFERON_RESPONSE": range(15), "T_CELL": range(50, 59), "B_CELL": range(40, 49),
    "MONOCYTE": [*range(15, 20), *range(35, 40)],
}  # fmt: skip


@dataclass
class Given:
    """What a report is made of; the null is that of `make_null` unless there is to be none."""

    embedded: list[AnnData]
    audits: list[pd.DataFrame] = field(default_factory=list)
    planted: pd.DataFrame | None = None
    report: dict[str, Any] = field(default_factory=dict)
    power: dict[str, Any] | None = None
    has_null: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """As a file has them."""
        return {"report": {"n_bootstrap": 100, **self.report}, "power": self.power}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_report(given: Given) -> FactorReport:
    """By the Python function."""
    settings = FactorSettings.model_validate(given.settings)
    return report_factors(
        given.embedded, settings, make_null() if given.has_null else None, given.audits, given.planted
    )


def make_arguments(given: Given, outputs: dict[str, str] | None = None) -> list[str]:
    """Write all that is given; the arguments of `nvae-bio` that make the same report."""
    arguments = ["factors", "--settings", json.dumps(given.settings)]
    for place, adata in enumerate(given.embedded):
        write_anndata(adata, Path(f"embedded-{place}.h5ad"))
        arguments += ["--embedded", f"embedded-{place}.h5ad"]
    for place, table in enumerate(given.audits):
        table.rename_axis("sample").reset_index().to_parquet(f"audit-{place}.parquet")
        arguments += ["--audit", f"audit-{place}.parquet"]
    if given.planted is not None:
        given.planted.to_parquet("planted.parquet")
        arguments += ["--planted", "planted.parquet"]
    if given.has_null:
        make_null().to_parquet("null.parquet")
        arguments += ["--null", "null.parquet"]
    return [*arguments, *(part for pair in (outputs or OUTPUTS).items() for part in pair)]


def make_reports(given: Given) -> tuple[FactorReport, AnnData, list[str]]:
    """The report by the Python function; and by the command the report and the lines of its summary."""
    found = make_report(given)
    assert main(make_arguments(given)) == 0
    return found, anndata.read_h5ad("factors.h5ad"), Path("summary.md").read_text().splitlines()


def make_snapshot() -> dict[Path, bytes]:
    """All files below the working folder."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def check_one_line(text: str, said: Sequence[str]) -> None:
    assert len(text.strip().splitlines()) == 1, text
    for part in said:
        assert part in text


def check_command_refused(
    arguments: Sequence[str], outputs: Sequence[str], said: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line; what was there before stays, and nothing is left over."""
    for name in outputs:
        Path(name).write_bytes(OLD)
    before = make_snapshot()
    capsys.readouterr()
    assert main(arguments) == 2
    text = capsys.readouterr().err
    check_one_line(text, ["nvae-bio: ", *said])
    assert make_snapshot() == before


def check_refused(given: Given, said: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By the function and by the command alike."""
    arguments = make_arguments(given)
    with pytest.raises(UserError) as caught:
        make_report(given)
    check_one_line(str(caught.value), said)
    check_command_refused(arguments, list(OUTPUTS.values()), said, capsys)


# --- gene sets -------------------------------------------------------------------------------------------------------


def make_named(turn: int = 1) -> list[AnnData]:
    """Three seeds of genes with real names.

    One shared factor raises the interferon genes and lowers those of T cells, and the factor of c1 raises those of B
    cells; with turn −1 all factors point the other way. All other effects on genes with a name are noise.
    """
    run, rng = run_of(), np.random.default_rng(5)
    names = [f"GENE{place}" for place in range(run[0].n_vars)]
    for name, places in PLACES.items():
        for place, gene in zip(places, MARKERS[name].split(), strict=False):
            names[place] = gene
    for adata in run:
        adata.var_names = names
        shared = adata.varm["nvae_effect_shared"]
        of_f0 = int(np.abs(shared[0]).argmax())
        moved = np.zeros(shared.shape)
        moved[50:59, of_f0] = -np.sign(shared[0, of_f0])
        for stem, change in (("nvae_effect_shared", moved), ("nvae_effect_class_1", 0)):
            noise = 0.02 * rng.normal(size=adata.varm[stem].shape)
            for key in (stem, f"{stem}_lower", f"{stem}_upper"):
                adata.varm[key] = turn * (adata.varm[key] + change + noise)
        for key in ("X_nvae_shared", "X_nvae_specific"):
            adata.obsm[key] = turn * adata.obsm[key]
    return run


def make_sets(path: Path, names: Sequence[str]) -> Path:
    """The markers, and twenty random sets of ten genes of the data among many others."""
    rng, elsewhere = np.random.default_rng(6), " ".join(f"ELSEWHERE{place}" for place in range(100))
    random = {f"RANDOM{k}": f"{' '.join(rng.choice(names, 10, replace=False))} {elsewhere}" for k in range(20)}
    return make_gmt(path, {**random, **MARKERS})


def make_enriched(turn: int = 1) -> Given:
    run = make_named(turn)
    sets = make_sets(Path("sets.gmt"), list(run[0].var_names))
    return Given(run, report={"gene_sets": str(sets), "n_enriched": N_TOP})


@cache
def make_enriched_report(turn: int) -> AnnData:
    return make_report(make_enriched(turn)).factors


@pytest.mark.parametrize("turn", [1, -1])
def test_the_set_of_a_factor_is_its_first_and_no_other_is_enriched(turn: int) -> None:
    found = make_enriched_report(turn)
    table = found.uns["nvae"]["enrichment"]
    up, down = ("up", "down") if turn == 1 else ("down", "up")
    (shared,) = (name for name in found.obs_names if "ISG15" in str(found.obs.loc[name, f"top_{up}"]).split(", "))
    assert shared.startswith("shared")
    planted = [(shared, up, "INTERFERON_RESPONSE"), (shared, down, "T_CELL"), ("c1 1", up, "B_CELL")]
    by_place = table.groupby(["factor", "direction"], sort=False)
    for factor, direction, name in planted:
        first = by_place.get_group((factor, direction)).iloc[0]
        assert (first["set"], first["n_overlap"]) == (name, len(PLACES[name]))
        assert first["q"] < CALLED
        assert set(first["genes"].split(",")) == set(found.var_names[list(PLACES[name])])
    called = table[table["q"] < CALLED]
    assert set(called[["factor", "direction", "set"]].itertuples(index=False, name=None)) == set(planted)
    assert by_place.ngroups == 2 * found.n_obs


def test_the_background_is_the_genes_of_the_data() -> None:
    found = make_enriched_report(1)
    table = found.uns["nvae"]["enrichment"]
    sizes = table.drop_duplicates("set").set_index("set")["n_set"]
    assert sizes["INTERFERON_RESPONSE"] == 15  # IRF7, the sixteenth, is none of the data's
    assert (sizes[sizes.index.str.startswith("RANDOM")] == 10).all() and len(sizes) == 24
    assert (table["n_top"] == N_TOP).all()
    expected = hypergeom.sf(table["n_overlap"] - 1, found.n_vars, table["n_set"], N_TOP)
    np.testing.assert_allclose(table["p"].to_numpy(float), expected, rtol=1e-8)
    assert "1 of 25 gene sets have fewer than 3 genes in the data and are not tested" in found.uns["nvae"]["notes"]


def test_a_file_has_the_gene_sets_that_python_has() -> None:
    found, from_file, lines = make_reports(make_enriched())
    table = found.factors.uns["nvae"]["enrichment"]
    found.factors.write_h5ad("again.h5ad")
    for read in (from_file, anndata.read_h5ad("again.h5ad")):
        again = read.uns["nvae"]["enrichment"]
        pd.testing.assert_frame_equal(again.astype(table.dtypes), table, check_index_type=False)
    assert lines == found.lines
    assert "- 1 of 25 gene sets have fewer than 3 genes in the data and are not tested" in lines
    said = {line.split("**")[1]: line for line in lines if line.startswith("- **")}
    assert [name for name in MARKERS if name in said["c1 1"]] == ["B_CELL"]
    assert [name for name in MARKERS if name in said["shared 1"]] == ["INTERFERON_RESPONSE", "T_CELL"]
    assert json.loads(from_file.uns["nvae"]["report"])["gene_sets"] == "sets.gmt"


# --- a class without held-out samples --------------------------------------------------------------------------------


def make_unheld(adata: AnnData) -> AnnData:
    """A copy in which all samples of c1 train."""
    adata, split = adata.copy(), adata.obs["split"].astype(object)
    adata.obs["split"] = pd.Categorical(split.where(adata.obs["label"] != "c1", "train"))
    return adata


UNHELD = ["class 'c1'", "no held-out sample", "'validation' or 'test'"]


@pytest.mark.parametrize("seeds", [(0,), (1,), (0, 1)])
def test_a_class_without_held_out_samples_cannot_be_reported(
    seeds: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one seed or in all."""
    run = run_of(2)
    for seed in seeds:
        run[seed] = make_unheld(run[seed])
    check_refused(Given(run), UNHELD, capsys)


def test_nor_can_its_null_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    prepared, base = make_unheld(prepared_counts()), trained("counts", "cvae")
    with pytest.raises(UserError) as caught:
        refit_null(prepared, base, fit_settings())
    check_one_line(str(caught.value), UNHELD)
    write_anndata(prepared, Path("data.h5ad"))
    save_model(base, Path("base.safetensors"), Path("base.json"))
    model = ["--weights", "base.safetensors", "--card", "base.json", "--settings", fit_settings().model_dump_json()]
    arguments = ["null", "--data", "data.h5ad", *model, "--output", "null.parquet"]
    check_command_refused(arguments, ["null.parquet"], UNHELD, capsys)


def test_nor_its_power(capsys: pytest.CaptureFixture[str]) -> None:
    prepared, power = make_unheld(prepared_counts()), {"n_genes": 5, "fold_changes": [3]}
    with pytest.raises(UserError) as caught:
        plant_and_find(prepared, fit_settings(), PowerSettings.model_validate(power))
    check_one_line(str(caught.value), UNHELD)
    write_anndata(prepared, Path("data.h5ad"))
    settings = json.dumps(json.loads(fit_settings().model_dump_json()) | {"power": power})
    arguments = ["power", "--data", "data.h5ad", "--output", "power.parquet", "--settings", settings]
    check_command_refused(arguments, ["power.parquet"], UNHELD, capsys)


def test_but_its_labels_are_audited() -> None:
    """The audit compares with training samples alone."""
    prepared, model, quick = make_unheld(prepared_counts()), trained("counts"), {"n_steps": 2, "n_candidates": 1}
    table = audit_labels(prepared, model, AuditSettings.model_validate(quick))
    assert table.index.tolist() == prepared.obs_names.tolist()
    assert np.isfinite(table.loc[(prepared.obs["label"] == "c1").to_numpy(), ["bound_own", "unlike"]]).all(axis=None)
    write_anndata(prepared, Path("data.h5ad"))
    save_model(model, Path("model.safetensors"), Path("model.json"))
    files = ["--weights", "model.safetensors", "--card", "model.json", "--output", "audit.parquet"]
    assert main(["audit", "--data", "data.h5ad", *files, "--settings", json.dumps(quick)]) == 0
    assert pd.read_parquet("audit.parquet")["sample"].tolist() == prepared.obs_names.tolist()


# --- one seed, and no donors -----------------------------------------------------------------------------------------


def test_one_seed_is_said_in_the_summary_and_in_the_notes() -> None:
    found, from_file, lines = make_reports(Given(run_of(1)))
    assert found.factors.obs_names.tolist() == from_file.obs_names.tolist() == ["shared 1", "shared 2", "c1 1"]
    for said in (lines, found.lines):
        assert "one seed" in said[2] and "seeds" not in said[2]
        assert any(line.startswith("- one seed only: whether another would find the same") for line in said)
    for report in (found.factors, from_file):
        assert [note for note in report.uns["nvae"]["notes"] if note.startswith("one seed only")]
        assert report.uns["nvae"]["seeds"].tolist() == [0]
    of_three = make_report(Given(run_of())).lines
    assert "3 seeds" in of_three[2] and not [line for line in of_three if "one seed only" in line]


def make_without_donors(adata: AnnData) -> AnnData:
    del adata.obs["donor"]
    return adata


UNKNOWN_DONORS = [
    "- no donor key: donor is not audited",
    "- no donor key: factors are not compared with a donor",
]


def test_unknown_donors_are_said_in_leakage_and_notes_and_associations() -> None:
    found, from_file, lines = make_reports(Given([make_without_donors(make_embedded(0))]))
    assert lines == found.lines
    assert set(UNKNOWN_DONORS) <= set(lines)
    for report in (found.factors, from_file):
        tables = report.uns["nvae"]
        assert UNKNOWN_DONORS[1][2:] in tables["notes"]
        condition = tables["associations"].query("column == 'condition'")
        assert len(condition) == report.n_obs
        assert (condition["donor_test"] == "no donor key").all() and (condition["n_donors"] == 0).all()
        assert condition["p"].notna().all() and condition["donor_p"].isna().all()
        donor = tables["leakage"].query("target == 'donor'")
        assert (donor["verdict"] == "not audited").all() and (donor["note"] == "no donor key").all()
        assert not (report.obs["resampled"].astype(str) == "donors").any()


def test_known_donors_are_used() -> None:
    found, from_file, lines = make_reports(Given(run_of(1)))
    assert lines == found.lines
    assert not set(UNKNOWN_DONORS) & set(lines)
    assert any(line.startswith("- donor from z_s: balanced accuracy") for line in lines)
    for report in (found.factors, from_file):
        assert (report.obs["resampled"].astype(str) == "donors").all()
        condition = report.uns["nvae"]["associations"].query("column == 'condition'")
        assert (condition["donor_test"] == "paired, 7 donors").all() and condition["donor_p"].notna().all()


def test_samples_without_a_donor_are_in_no_test_over_donors() -> None:
    """Every third sample has no donor, and those of two donors neither."""
    adata = make_embedded(0)
    donor = adata.obs["donor"].astype(object).where(~adata.obs["donor"].isin(["d5", "d6"]), None)
    donor.iloc[::3] = None
    adata.obs["donor"] = pd.Categorical(donor)
    known = int((adata.obs["donor"].notna() & (adata.obs["split"] != "train")).sum())
    found, from_file, _ = make_reports(Given([adata]))
    for report in (found.factors, from_file):
        condition = report.uns["nvae"]["associations"].query("column == 'condition'")
        assert (condition["donor_test"] == "paired, 5 donors").all() and (condition["n_donors"] == 5).all()
        leak = report.uns["nvae"]["leakage"].query("target == 'donor' and latent == 'z_s'")
        assert (leak["n_held_out"] == known).all() and np.allclose(leak["chance"], 1 / 5)


def test_intervals_are_over_donors_only_where_each_sample_has_one() -> None:
    for n_unknown, is_estimable in ((0, True), (1, False)):
        run = run_of(1)
        run[0].obs["donor"] = run[0].obs["donor"].astype(object)
        for name in CLASSES:
            rows = np.flatnonzero((run[0].obs["label"] == name) & (run[0].obs["split"] != "train"))
            run[0].obs.iloc[rows[:n_unknown], run[0].obs.columns.get_loc("donor")] = None
        found = make_report(Given(run))
        assert ((found.factors.obs["resampled"].astype(str) == "donors") == is_estimable).all()
        assert any("donor interval not estimable" in line for line in found.lines) != is_estimable


# --- what does not fit together --------------------------------------------------------------------------------------


def make_audit(names: Sequence[str]) -> pd.DataFrame:
    """An audit of samples of which none is a suspect."""
    numbers = {"bound_own": 0.0, "bound_best": 0.0, "log_odds": -1.0, "classifier_probability": 0.5, "unlike": 0.5}
    said = {"bound_class": "c0", "classifier_class": "c0", "suspicion": ""}
    return pd.DataFrame({**numbers, **said}, index=pd.Index(list(names)))


def make_audited(*names: Sequence[str]) -> Given:
    """Two seeds, and audits of the samples of these names; those of the seeds first."""
    run = run_of(2)
    return Given(run, [make_audit(run[0].obs_names), *map(make_audit, names)])


def make_planted(**values: object) -> pd.DataFrame:
    rows = [
        {
            "run": run, "fold_change": fold, "class": y, "own_block": 5.0, "hidden": 0.0, "r_block": 0.9,
            "r_hidden": 0.0, "n_genes": 30, "mean_count": 1.0, "n_cells": 100,
        }
        for run in range(10) for fold in (1.5, 2.0) for y in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**values)


def make_measured(planted: pd.DataFrame, power: dict[str, Any] | None = None) -> Given:
    return Given(run_of(1), planted=planted, power={"fold_changes": [1.5, 2.0]} if power is None else power)


def make_second(change: Callable[[AnnData], AnnData | None]) -> Given:
    """Two seeds, of which the second is changed, in place or by what comes back."""
    run = run_of(2)
    changed = change(run[1])
    return Given([run[0], run[1] if changed is None else changed])


def make_with_sets(text: str | bytes | None) -> Given:
    """One seed, and gene sets in a file of this content; no file where it is None."""
    if text is not None:
        Path("sets.gmt").write_bytes(text.encode() if isinstance(text, str) else text)
    return Given(run_of(1), report={"gene_sets": "sets.gmt"})


def make_twice() -> Given:
    adata = make_embedded(0)
    return Given([adata, adata])


WRONG: dict[str, tuple[Callable[[], Given], list[str]]] = {
    "other data": (
        lambda: make_second(lambda adata: adata.uns["nvae"].update(fingerprint="other")),
        ["the embedded data sets differ in uns['nvae']['fingerprint']", "seeds of one run"],
    ),
    "other variant": (
        lambda: make_second(lambda adata: adata.uns["nvae"].update(variant="cvae")),
        ["the embedded data sets differ in uns['nvae']['variant']", "seeds of one run"],
    ),
    "seed twice": (make_twice, ["two of the embedded data sets have the same seed"]),
    "null of another model": (
        lambda: Given([embedded("counts")]), ["null: refits of a model with other classes or latent dims", "refit"]
    ),
    "too few audits": (make_audited, ["1 audits for 2 embedded data sets", "one a seed, or none"]),
    "audit of other samples": (
        lambda: make_audited([f"z{i}" for i in range(300)]), ["an audit is of other samples than the embedded data"]
    ),
    "audit of some samples": (
        lambda: make_audited(run_of(1)[0].obs_names[:9]), ["an audit is of other samples than the embedded data"]
    ),
    "planted twice": (
        lambda: make_measured(pd.concat([make_planted(), make_planted(run=9)])), ["planting 9 is there twice"]
    ),
    "planted without settings of power": (
        lambda: Given(run_of(1), planted=make_planted()), ["(--planted) are given without `power`", "allowed"]
    ),
    "planted without a null": (
        lambda: replace(make_measured(make_planted()), has_null=False), ["(--planted) are given without a null (--nul"]
    ),
    "no planting at the reference": (
        lambda: make_measured(make_planted(), {"fold_changes": [3]}),
        ["at the reference fold change 3", "allowed: 1.5, 2"],
    ),
    "no gene sets": (lambda: make_with_sets(None), ["sets.gmt: no such file or folder; expected gene sets in a .gmt"]),
    "gene set without tabs": (
        lambda: make_with_sets("A\tof a\tf0\tf1\nB of b f2\n"),
        ["sets.gmt: line 2 ('B of b f2') is no gene set; a line has a name, a description and one gene at least"],
    ),
    "gene sets that are no text": (
        lambda: make_with_sets(b"\x89HDF\r\n\x1a\n\xff"), ["sets.gmt: cannot be read as gene sets in a .gmt file"]
    ),
    "gene sets of other names": (
        lambda: make_with_sets("A\t\tENSG01\tENSG02\n"),
        ["report.gene_sets: no gene of them is in the data", "'ENSG01'", "'f0'", "name them the same way"],
    ),
    "gene sets of another species": (
        lambda: make_with_sets("A\t\tF3\n"), ["report.gene_sets: no gene of them", "'F3'", "'f3'", "upper and lower"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_leaves_what_was_there(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = WRONG[case]
    check_refused(make(), said, capsys)


def test_audits_of_other_variants_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    given = make_audited()
    given.audits.append(given.audits[0].assign(borrowed_from="c1", borrowed_gain=0.0))
    check_refused(given, ["the audits are of different samples or variants", "those of one run"], capsys)


def test_what_fits_is_reported() -> None:
    """The same parts as those that are refused, put right."""
    names, measured = run_of(1)[0].obs_names, make_measured(make_planted())
    given = replace(make_audited(names), planted=measured.planted, power=measured.power)
    found, from_file, lines = make_reports(given)
    assert len(found.factors.uns["nvae"]["suspects"]) == 0 and "## Samples to look at" in lines
    assert list(pd.read_csv("suspects.csv")) == ["sample", "label", "suspicion", "other_class", "nats", "n_seeds"]
    assert len(found.factors.uns["nvae"]["power"]) == len(from_file.uns["nvae"]["power"]) == 6
    assert len([line for line in lines if "would be found in 10 of 10 runs" in line]) == 3


# --- what does not belong together ------------------------------------------------------------------------------------


def make_two_runs() -> Given:
    """Models of the same data with other latent dims, as if they were seeds of one run."""
    return Given([make_embedded(0), embedded("counts", seed=1)], has_null=False)


def make_without(column: str) -> Given:
    """An audit that lacks a column, as one of another version may."""
    given = make_audited()
    return Given(given.embedded[:1], [given.audits[0].drop(columns=column)])


APART: dict[str, tuple[Callable[[], Given], list[str]]] = {
    "samples in another order": (lambda: make_second(lambda adata: adata[::-1].copy()), ["samples"]),
    "some samples alone": (lambda: make_second(lambda adata: adata[:250].copy()), ["samples"]),
    "some features alone": (lambda: make_second(lambda adata: adata[:, :50].copy()), ["features"]),
    "seeds of two runs": (make_two_runs, ["seeds of one run"]),
    "no planted table": (lambda: make_measured(make_null()), ["'run'"]),
    "planted in other classes": (
        lambda: make_measured(make_planted().replace({"class": {2: 7}})), ["class"]
    ),
    "planted in some classes": (lambda: make_measured(make_planted().query("`class` < 2")), ["'c2'"]),
    "audit without a column": (lambda: make_without("log_odds"), ["'log_odds'"]),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_what_does_not_fit_is_refused_in_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, said = APART[case]
    check_refused(make(), said, capsys)


UNNAMED: dict[str, tuple[Callable[[], Given], str]] = {
    "other data": (WRONG["other data"][0], "embedded-1.h5ad"),
    "class not held out": (lambda: make_second(make_unheld), "embedded-1.h5ad"),
    "audit of other samples": (WRONG["audit of other samples"][0], "audit-1.parquet"),
    "planted twice": (WRONG["planted twice"][0], "planted.parquet"),
}


@pytest.mark.parametrize("case", UNNAMED)
def test_the_line_names_the_file(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, name = UNNAMED[case]
    check_command_refused(make_arguments(make()), list(OUTPUTS.values()), [name], capsys)


def test_an_output_that_cannot_be_written_leaves_all_others_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a_file").write_bytes(OLD)
    outputs = {**OUTPUTS, "--summary": "a_file/summary.md"}
    arguments = make_arguments(Given(run_of(1)), outputs)
    there = [name for option, name in OUTPUTS.items() if option != "--summary"]
    check_command_refused(arguments, there, ["a_file"], capsys)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--report", "embedded-0.h5ad", ["embedded-0.h5ad is read too"]),
        ("--scores", "audit-0.parquet", ["audit-0.parquet is read too"]),
        ("--seeds", "./factors.h5ad", ["factors.h5ad is written too"]),
    ],
)
def test_no_file_is_named_twice(option: str, value: str, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = make_arguments(make_audited(run_of(1)[0].obs_names), {**OUTPUTS, option: value})
    there = [name for name in OUTPUTS.values() if name != OUTPUTS[option]]
    check_command_refused(arguments, there, [*said, "give each file that is written once"], capsys)


def test_a_sample_alone_has_no_interval_and_no_nan_is_written() -> None:
    run = run_of(2)
    for adata in run:
        adata.obs = adata.obs.drop(columns="donor", errors="ignore")
        rows = np.flatnonzero((adata.obs["label"] == "c1") & (adata.obs["split"] != "train"))
        adata.obs.iloc[rows[1:], adata.obs.columns.get_loc("split")] = "train"
    lines = make_report(Given(run)).lines
    assert any("(too few samples for an interval) nats a sample of c1" in line for line in lines)
    assert not any("nan" in line for line in lines)


def test_that_nothing_was_audited_or_planted_is_said() -> None:
    lines = make_report(Given(run_of(1), power={})).lines
    assert any(line.startswith("- no audit was made") for line in lines)
    assert any(line.startswith("- power is on in the settings, but no plantings are given") for line in lines)
    lines = make_report(make_audited(run_of(1)[0].obs_names)).lines
    assert not any("no audit was made" in line or "power is on" in line for line in lines)
