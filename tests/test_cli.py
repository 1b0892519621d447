"""The command line: help, the happy path and the errors of every command."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import click
import numpy as np
import pandas as pd
import pytest
import torch

import nvae_bio
from nvae_bio.cli import cli, main
from nvae_bio.data.files import write_anndata
from tests.toys import embedded, fit_settings, prepared_images, raw_counts, trained

COMMANDS = [
    *("prepare", "train", "embed", "audit", "null", "power", "factors", "suggest", "generate", "plot"),
    *("query", "counterfactual", "page", "init", "check", "doctor", "completion", "export"),
    *("simulate", "evaluate", "baseline", "study", "run"),
]
MODEL = ["--weights", "model.safetensors", "--card", "model.json"]
IMAGES = ["--weights", "im.safetensors", "--card", "im.json"]
FIT = fit_settings().model_dump_json()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with raw counts."""
    monkeypatch.chdir(tmp_path)
    raw_counts().write_h5ad("raw.h5ad")
    return tmp_path


def dataset(**values: object) -> str:
    return json.dumps({"kind": "counts", "paths": "raw.h5ad", "n_top_genes": None, **values})


def simulation(**programme: object) -> list[str]:
    """Arguments of `simulate`: one private programme of 5 genes in class c1, but for what is given."""
    own = {"name": "own", "kind": "private", "classes": ["c1"], "share": 0.2, "n_genes": 5, "fold_change": 2}
    values = {
        "kind": "counts",
        "source": {"paths": programme.pop("paths", "raw.h5ad")},
        "classes": {"c0": 30, "c1": 30},
    }
    settings = json.dumps(values | {"programmes": [own | programme]})
    return ["simulate", "--settings", settings, "--output", "sim.h5ad", "--truth", "sim.truth.h5ad"]


def test_every_command_is_known_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(cli.commands) == sorted(COMMANDS)
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert "Example" in said
        assert f"  nvae-bio {command}" in said
        options = [one for one in cli.commands[command].params if isinstance(one, click.Option)]
        assert all(option.help for option in options if option.name != "help"), command


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert nvae_bio.__version__ in capsys.readouterr().out


def test_the_whole_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").write_text(
        "datasets: {toy: {kind: counts, paths: raw.h5ad, n_top_genes: null}}\n"
        f"runs: {{toy: {{dataset: toy, model: {json.loads(FIT)['model']}, training: {{max_epochs: 2}}}}}}\n".replace(
            "None", "null"
        )
    )
    assert main(["prepare", "--settings", "config.yaml:datasets.toy", "--output", "data.h5ad"]) == 0
    for seed in ("0", "1"):
        Path(seed).mkdir()
        model = ["--weights", f"{seed}/model.safetensors", "--card", f"{seed}/model.json"]
        history = ["--history", f"{seed}/history.parquet", "--seed", seed]
        assert main(["train", "--data", "data.h5ad", *model, *history, "--settings", "config.yaml:runs.toy"]) == 0
        output = ["--output", f"{seed}/embedded.h5ad", "--settings", '{"umap": false}']
        assert main(["embed", "--data", "data.h5ad", *model, *output]) == 0
        quick = ["--output", f"{seed}/audit.parquet", "--settings", '{"n_steps": 2, "n_candidates": 1}']
        assert main(["audit", "--data", "data.h5ad", *model, *quick]) == 0
        drawn = ["--samples", f"{seed}/samples.h5ad", "--traversals", f"{seed}/traversals.h5ad"]
        assert main(["generate", "--data", "data.h5ad", *model, *drawn]) == 0
    base = ["--weights", "base.safetensors", "--card", "base.json"]
    cvae = json.dumps({"model": json.loads(FIT)["model"] | {"variant": "cvae", "n_private": 0, "n_shared": 12}})
    assert main(["train", "--data", "data.h5ad", *base, "--history", "base.parquet", "--settings", cvae]) == 0
    for kind in ("no_private", "no_factor"):
        refits = ["--kind", kind, "--refit", "0", "--refit", "1", "--output", f"{kind}.parquet"]
        assert main(["null", "--data", "data.h5ad", *base, *refits, "--settings", "config.yaml:runs.toy"]) == 0
    null_options = ["--null", "no_private.parquet", "--null", "no_factor.parquet"]
    embedded_options = ["--embedded", "0/embedded.h5ad", "--embedded", "1/embedded.h5ad"]
    planting = json.dumps(json.loads(FIT) | {"power": {"n_genes": 5, "fold_changes": [3]}})
    assert main(["power", "--data", "data.h5ad", "--output", "power.parquet", "--settings", planting]) == 0
    evidence = ["--audit", "0/audit.parquet", "--audit", "1/audit.parquet", "--planted", "power.parquet"]
    report = ["--report", "factors.h5ad", "--table", "factors.parquet", "--seeds", "seeds.h5ad"]
    report += ["--scores", "scores.h5ad", "--suspects", "suspects.csv", "--summary", "summary.md"]
    settings = ["--settings", '{"report": {"fdr": 0.5, "min_gain": 0}, "power": {"fold_changes": [3]}}']
    assert main(["factors", *embedded_options, *null_options, *evidence, *report, *settings]) == 0
    assert main(["suggest", "--report", "factors.h5ad", "--output", "suggested.yaml"]) == 0
    capsys.readouterr()
    assert main(["suggest", "--report", "factors.h5ad"]) == 0
    assert capsys.readouterr().out.strip() == Path("suggested.yaml").read_text().strip()
    histories = ["--history", "0/history.parquet", "--history", "1/history.parquet"]
    reports = ["--report", "factors.h5ad", "--seeds", "seeds.h5ad"]
    assert main(["plot", "--output", "figures", "--data", "data.h5ad", *histories, *reports]) == 0
    assert main(["plot", "--output", "figures", "--embedded", "0/embedded.h5ad"]) == 0
    assert main(["plot", "--output", "pages", "--report", "factors.h5ad", "--scores", "scores.h5ad"]) == 0

    assert anndata.read_h5ad("seeds.h5ad").obs["seed"].unique().tolist() == [0, 1]
    found, table = anndata.read_h5ad("factors.h5ad"), pd.read_parquet("factors.parquet")
    assert (
        table["factor"].tolist()
        == found.obs_names.tolist()
        == list(anndata.read_h5ad("scores.h5ad").uns["nvae"]["factors"])
    )
    assert "power" in found.uns["nvae"] and "suspects" in found.uns["nvae"]
    assert Path("summary.md").read_text().startswith("# Factors\n")
    assert list(pd.read_csv("suspects.csv")) == ["sample", "label", "suspicion", "other_class", "nats", "n_seeds"]
    assert {path.stem for path in Path("pages").glob("*.png")} >= {"class-c0", "class-c1", "class-c2"}
    assert anndata.read_h5ad("1/embedded.h5ad").uns["nvae"]["seed"] == 1
    assert len(list(Path("figures").glob("*.png"))) == len(list(Path("figures").glob("*.svg"))) == 9
    assert not list(folder.rglob("*.part*"))


def test_the_command_line_gives_what_python_gives(folder: Path) -> None:
    main(["prepare", "--settings", dataset(), "--output", "data.h5ad"])
    main(["train", "--data", "data.h5ad", *MODEL, "--history", "h.parquet", "--settings", FIT, "--seed", "2"])
    prepared = nvae_bio.prepare_data(nvae_bio.config.load_dataset(dataset()))
    in_memory = nvae_bio.train_model(prepared, fit_settings(), 2)
    from_file = nvae_bio.load_model(Path("model.safetensors"), Path("model.json"))
    for name, value in in_memory.network.state_dict().items():
        assert torch.equal(value, from_file.network.state_dict()[name])
    assert pd.read_parquet("h.parquet").equals(in_memory.history)
    assert np.array_equal(anndata.read_h5ad("data.h5ad").X.toarray(), prepared.X.toarray())


def test_a_simulation_goes_the_whole_way(folder: Path) -> None:
    assert main(simulation()) == 0
    data = dataset(paths="sim.h5ad", library_key="library", batch_key="batch", donor_key="donor")
    assert main(["prepare", "--settings", data, "--output", "data.h5ad"]) == 0
    prepared, truth = anndata.read_h5ad("data.h5ad"), anndata.read_h5ad("sim.truth.h5ad")
    assert set(prepared.obs_names) == set(truth.obs_names)
    assert sorted(path.name for path in folder.iterdir()) == ["data.h5ad", "raw.h5ad", "sim.h5ad", "sim.truth.h5ad"]


ERRORS = {
    "no such command": (["trane"], "No such command 'trane'"),
    "missing option": (["train"], "Missing option"),
    "unknown option": (["plot", "--colour", "red"], "No such option"),
    "negative seed": (["train", "--seed", "-1"], "-1 is not in the range"),
    "unknown key": (
        ["prepare", "--settings", dataset(n_top_gene=5), "--output", "x.h5ad"],
        "--settings: n_top_gene: unknown key; did you mean 'n_top_genes'?",
    ),
    "not JSON": (["prepare", "--settings", "{oh", "--output", "x.h5ad"], "--settings: not valid JSON"),
    "no settings file": (["prepare", "--settings", "no.yaml", "--output", "x.h5ad"], "no.yaml: cannot be read"),
    "no raw file": (["prepare", "--settings", dataset(paths="no.h5ad"), "--output", "x.h5ad"], "no.h5ad: no such file"),
    "no label": (["prepare", "--settings", dataset(label_key="kind"), "--output", "x.h5ad"], "'kind'"),
    "no prepared file": (
        ["train", "--data", "no.h5ad", *MODEL, "--history", "h.parquet"],
        "no.h5ad: no such file or folder",
    ),
    "not prepared": (
        ["train", "--data", "raw.h5ad", *MODEL, "--history", "h.parquet"],
        "raw.h5ad: no uns['nvae_data']; was it written by `nvae-bio prepare`?",
    ),
    "likelihood": (
        ["train", "--data", "data.h5ad", *MODEL, "--history", "h.parquet",
         "--settings", '{"model": {"likelihood": "bernoulli"}}'],
        "model.likelihood: 'bernoulli' does not fit data of kind 'counts'; allowed: negative_binomial, zero_"
        "inflated_negative_binomial, poisson",
    ),
    "truncated": (
        ["train", "--data", "cut.h5ad", *MODEL, "--history", "h.parquet"],
        "cut.h5ad: cannot be read as an .h5ad",
    ),
    "no model": (["embed", "--data", "data.h5ad", *MODEL, "--output", "x.h5ad"], "model.json: no such file"),
    "other data": (
        ["generate", "--data", "data.h5ad", "--weights", "im.safetensors", "--card", "im.json", "--samples", "x.h5ad",
         "--traversals", "y.h5ad"],
        "of kind 'counts', the model was trained on 'images'",
    ),
    "no base model": (["null", "--data", "data.h5ad", *MODEL, "--output", "x.parquet"], "model.json: no such file"),
    "base of other data": (
        ["null", "--data", "data.h5ad", *IMAGES, "--output", "x.parquet"],
        "the data are of kind 'counts', the model was trained on 'images'",
    ),
    "base with private latents": (
        ["null", "--data", "im.h5ad", *IMAGES, "--output", "x.parquet"],
        "null: the base model is of variant 'nvae', with private latents; allowed: cvae, vae",
    ),
    "kind of null": (["null", "--kind", "none"], "'none' is not one of 'no_private', 'no_factor', 'permuted_labels'"),
    "negative refit": (["null", "--refit", "-1"], "-1 is not in the range"),
    "refit twice": (
        ["null", "--data", "im.h5ad", *IMAGES, "--refit", "2", "--refit", "2", "--output", "x.parquet"],
        "refits: 2, 2; at least one, and different from each other",
    ),
    "no null": (
        ["factors", "--embedded", "em.h5ad", "--null", "no.parquet", "--report", "x.h5ad", "--table", "y.parquet"],
        "no.parquet: no such file or folder; expected a parquet table",
    ),
    "not a null": (
        ["factors", "--embedded", "em.h5ad", "--null", "h.parquet", "--report", "x.h5ad", "--table", "y.parquet"],
        "null: no column 'kind'; needed: kind, refit, statistic, class, dim, value",
    ),
    "nothing embedded": (["factors", "--report", "x.h5ad", "--table", "y.parquet"], "Missing option '--embedded'"),
    "not embedded": (
        ["factors", "--embedded", "data.h5ad", "--report", "x.h5ad", "--table", "y.parquet"],
        "data.h5ad: no uns['nvae']; was it written by `nvae-bio embed`?",
    ),
    "nothing to draw": (["plot", "--output", "figures"], "plot: nothing to draw"),
    "traversals alone": (["plot", "--output", "figures", "--traversals", "x.h5ad"], "--traversals needs --seeds"),
    "scores alone": (["plot", "--output", "figures", "--scores", "x.h5ad"], "--scores needs --report"),
    "seeds as report": (
        ["plot", "--output", "figures", "--report", "seeds.h5ad"],
        "seeds.h5ad: no obs['published']; allowed: the --report of `nvae-bio factors`, not its --seeds",
    ),
    "audit without a model": (["audit", "--data", "data.h5ad", *MODEL, "--output", "x.parquet"], "model.json: no such"),
    "audit of other data": (
        ["audit", "--data", "data.h5ad", *IMAGES, "--output", "x.parquet"],
        "the data are of kind 'counts', the model was trained on 'images'",
    ),
    "no audit": (
        ["factors", "--embedded", "em.h5ad", "--audit", "h.parquet", "--report", "x.h5ad"],
        "h.parquet: no columns 'sample' and 'suspicion'; was it written by `nvae-bio audit`?",
    ),
    "power of pictures": (
        ["power", "--data", "im.h5ad", "--output", "x.parquet"],
        "power: planting needs counts; the data are of kind 'images'",
    ),
    "genes of a programme": (
        ["power", "--data", "data.h5ad", "--output", "x.parquet", "--settings", '{"power": {"n_genes": 21}}'],
        "power.n_genes: 21 for each of 3 classes, none in two of them, but the data have 60 genes; allowed: at most 20",
    ),
    "planting twice": (
        ["power", "--data", "data.h5ad", "--output", "x.parquet", "--planting", "1", "--planting", "1",
         "--settings", '{"power": {"n_genes": 2}}'],
        "runs: 1, 1; at least one, and different from each other",
    ),
    "associate": (
        ["factors", "--embedded", "em.h5ad", "--report", "x.h5ad", "--settings", '{"report": {"associate": ["sex"]}}'],
        "'sex'",
    ),
    "no gene sets": (
        ["factors", "--embedded", "em.h5ad", "--report", "x.h5ad", "--settings", '{"report": {"gene_sets": "no.gmt"}}'],
        "no.gmt: no such file or folder; expected gene sets in a .gmt file",
    ),
    "suggest of no report": (["suggest", "--report", "data.h5ad"], "data.h5ad: no uns['nvae']"),
    "not a report": (["plot", "--output", "figures", "--report", "data.h5ad"], "data.h5ad: no uns['nvae']"),
    "programme of no class": (
        simulation(classes=["c9"]), "--settings: programmes.0.classes: 'c9' is no class; allowed: c0, c1"
    ),
    "too many genes": (simulation(n_genes=61), "programmes: own: 61 genes are asked for, but only"),
    "fold change 0": (simulation(fold_change=0), "programmes.0.fold_change: 0 is not allowed: should be greater"),
    "share 0": (simulation(share=0), "programmes.0.share: 0 is not allowed: should be greater than 0"),
    "no source": (simulation(paths="no.h5ad"), "no.h5ad: no such file"),
    "nothing to export": (["export", "--embedded", "em.h5ad"], "export: nothing to write; give --output, --model-card"),
    "export of no seed": (["export", "--output", "out"], "export: --output needs --embedded"),
    "card of no model": (["export", "--model-card", "x.md"], "export: --model-card needs --card"),
    "card of other data": (
        ["export", "--card", "im.json", "--embedded", "other.h5ad", "--model-card", "x.md"],
        "other.h5ad: of other data than im.json (their fingerprints differ)",
    ),
    "export of prepared data": (["export", "--embedded", "data.h5ad", "--output", "out"], "data.h5ad: no uns['nvae']"),
    "export of seeds of two data sets": (
        ["export", "--embedded", "em.h5ad", "--embedded", "other.h5ad", "--output", "out"],
        "export: files of 2 data sets (their fingerprints differ); allowed: of one run",
    ),
    "seeds as report of an export": (
        ["export", "--embedded", "em.h5ad", "--report", "seeds.h5ad", "--output", "out"],
        "seeds.h5ad: no obs['published']",
    ),
    "no config": (["check", "no.yaml"], "no.yaml: cannot be read"),
    "no shell": (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    "no file to look into": (["init"], "Missing argument 'FILES...'"),
    "folder in the way": (["prepare", "--settings", dataset(), "--output", "raw.h5ad/x.h5ad"], "raw.h5ad"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_ends_in_one_line_exit_code_2_and_no_output(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = ERRORS[case]
    write_anndata(nvae_bio.prepare_data(nvae_bio.config.load_dataset(dataset())), Path("data.h5ad"))
    Path("cut.h5ad").write_bytes(Path("data.h5ad").read_bytes()[:2000])
    nvae_bio.save_model(trained("images"), Path("im.safetensors"), Path("im.json"))
    write_anndata(prepared_images(), Path("im.h5ad"))
    write_anndata(embedded("images"), Path("em.h5ad"))
    write_anndata(embedded("counts"), Path("other.h5ad"))
    write_anndata(nvae_bio.report_seeds([embedded("images")]), Path("seeds.h5ad"))
    trained("images").history.to_parquet("h.parquet")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("nvae-bio: ")
    assert said in lines[0]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_existing_output_survives_a_failed_step(folder: Path) -> None:
    write_anndata(prepared_images(), Path("data.h5ad"))
    before = Path("data.h5ad").read_bytes()
    assert main(["prepare", "--settings", dataset(min_samples_per_class=1000), "--output", "data.h5ad"]) == 2
    assert Path("data.h5ad").read_bytes() == before
