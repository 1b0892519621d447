"""Studies: what a few lines of a config stand for, and how scores are gathered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from nvae_bio.config import FitSettings, StudySettings, WorkflowSettings, load_config, parse_settings
from nvae_bio.data.files import SCORE_COLUMNS
from nvae_bio.errors import UserError
from nvae_bio.evaluate.study import marked, notes, of_metric, page_text, plot_scores, study, summary
from tools import gather_study

ROOT = Path(__file__).resolve().parent.parent
CONFIG: dict[str, Any] = {
    "study": {
        "name": "s",
        "evaluate": "planted",
        "metrics": {"m": 0.5},
        "base": {"model": {"n_shared": 3, "hidden": [16]}, "report": {"n_refits": 2}},
        "variants": {
            "nvae-default": {},
            "wide": {"model": {"hidden": [32, 32]}},
            "wrong": {"report": {"null_kind": "permuted_labels"}},
        },
        "rows": {
            "cells_fc1.5": {"dataset": "cells", "variants": {"nvae-default": 2, "wrong": [1], "wide": 1}},
            "digits": {"variants": {"wide": [4, 7]}},
        },
    },
    "simulations": {
        "sim": {"kind": "counts", "source": {"builtin": "pbmc68k"}, "classes": {"x": 9, "y": 9}, "seed": 99}
    },
    "datasets": {
        "cells": {"kind": "counts", "paths": "resources/simulated/sim.h5ad", "n_top_genes": None},
        "digits": {"kind": "images", "builtin": "digits"},
    },
}


def make_config(**changes: Any) -> dict[str, Any]:
    """The config with keys of its study changed."""
    values = copy.deepcopy(CONFIG)
    values["study"] |= changes
    return values


CONDITION: dict[str, Any] = {
    "study": {
        "name": "c",
        "evaluate": "condition",
        "condition": {"control": "no", "treated": "yes"},
        "metrics": {"m": None},
        "base": {"model": {"n_shared": 7}},
        "variants": {"nvae-default": {}, "pca": {"baseline": "pca"}},
        "rows": {
            "cells": {"variants": {"nvae-default": 2, "pca": [0, 5]}},
            "without_b": {"title": "cells", "variants": {"nvae-default": 1, "pca": 1}},
        },
    },
    "datasets": {
        "cells": {"kind": "counts", "paths": "cells.h5ad", "condition_key": "drug"},
        "without_b": {
            "kind": "counts", "paths": "cells.h5ad", "condition_key": "drug", "hold_out": {"label": "b", "drug": "yes"}
        },
    },
}  # fmt: skip


def make_condition(changes: dict[str, Any], dataset: dict[str, Any] | None = None) -> dict[str, Any]:
    """The study of a condition with keys of the study, and of its data set `without_b`, changed."""
    values = copy.deepcopy(CONDITION)
    values["study"] |= changes
    values["datasets"]["without_b"] |= dataset or {}
    return values


def make_scores(rows: list[tuple[str, str, int, str, float]]) -> pd.DataFrame:
    """A table of scores of methods that saw the labels."""
    return pd.DataFrame([(*row, "", True) for row in rows], columns=SCORE_COLUMNS)


def test_a_simulated_row_has_a_simulation_a_data_set_and_a_run_for_each_seed() -> None:
    config = WorkflowSettings.model_validate(CONFIG)
    assert list(config.runs) == [
        "cells_fc1.5.nvae-default.0", "cells_fc1.5.nvae-default.1", "cells_fc1.5.wrong.1", "cells_fc1.5.wide.0",
        "digits.wide",
    ]  # fmt: skip
    for seed in (0, 1):
        run, simulation = config.runs[f"cells_fc1.5.nvae-default.{seed}"], config.simulations[f"sim.{seed}"]
        assert (run.dataset, run.seeds, simulation.seed) == (f"cells.{seed}", [seed], seed)
        assert config.datasets[run.dataset].paths == [f"resources/simulated/sim.{seed}.h5ad"]
        assert config.datasets[run.dataset].model_dump(exclude={"paths"}) == config.datasets["cells"].model_dump(
            exclude={"paths"}
        )
        assert config.simulated[run.dataset] == f"sim.{seed}"
    assert config.simulations["sim"].seed == 99


def test_a_row_changes_keys_of_the_base_for_all_its_variants() -> None:
    base = {"report": {"n_refits": 9, "null_kind": "no_private"}}
    rows = {"digits": {"base": base, "variants": {"nvae-default": 1, "wrong": 1}}, "cells": {"variants": {"wide": 1}}}
    runs = WorkflowSettings.model_validate(make_config(rows=rows)).runs
    assert [runs[name].report.n_refits for name in ("digits.nvae-default", "digits.wrong", "cells.wide.0")] == [9, 9, 2]
    assert runs["digits.wrong"].report.null_kind == "permuted_labels"


def test_real_data_have_one_run_with_all_seeds() -> None:
    run = WorkflowSettings.model_validate(CONFIG).runs["digits.wide"]
    assert (run.dataset, run.seeds) == ("digits", [4, 7])


def test_a_variant_changes_single_keys_of_the_base() -> None:
    runs = WorkflowSettings.model_validate(CONFIG).runs
    wide = runs["cells_fc1.5.wide.0"]
    assert (wide.model.hidden, wide.model.n_shared, wide.report.n_refits) == ((32, 32), 3, 2)
    assert runs["cells_fc1.5.nvae-default.0"].model.hidden == (16,)


def test_runs_that_differ_in_their_report_are_trained_once() -> None:
    config = WorkflowSettings.model_validate(CONFIG)
    shared = {name: source for name, source in config.trained_as.items() if name != source}
    assert shared == {"cells_fc1.5.wrong.1": "cells_fc1.5.nvae-default.1"}
    runs = {"one": {"dataset": "digits"}, "other": {"dataset": "digits"}}
    plain = WorkflowSettings.model_validate({"datasets": {"digits": CONFIG["datasets"]["digits"]}, "runs": runs})
    assert plain.trained_as == {"one": "one", "other": "other"}
    assert plain.study_runs == {}


def test_a_study_comes_back_from_its_own_json() -> None:
    config = WorkflowSettings.model_validate(CONFIG)
    assert WorkflowSettings.model_validate_json(config.model_dump_json()) == config


def test_the_shipped_default_is_left_untouched() -> None:
    for path in (ROOT / "config" / "studies").glob("*.yaml"):
        config = load_config(path)
        defaults = [name for name, run in config.study_runs.items() if run.variant == "nvae-default"]
        assert defaults
        for name in defaults:
            assert config.runs[name].fit == FitSettings().for_kind(config.datasets[config.runs[name].dataset].kind)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": {"v": {"model": {"n_shred": 3}}}}, "study: variants.v: model.n_shred: unknown key; did you mean"),
        (
            {"figures": {"mice": ["posterior"]}},
            "study: figures: 'mice' is no variant that is trained; allowed: nvae-default, wide, wrong",
        ),
        (
            {"figures": {"nvae-default": ["samples"]}},
            "study.figures.nvae-default: 'samples' is of pictures; row 'cells_fc1.5' has data of kind 'counts'",
        ),
        ({"base": {"seeds": [1]}}, "study: variants.nvae-default.seeds: this key is set by the rows"),
        ({"rows": {"r": {"variants": {"none": 3}}}}, "study: rows.r.variants: 'none' is no variant; allowed: nvae-def"),
        (
            {"rows": {"mice": {"variants": {"wide": 3}}}},
            "study.rows.mice: 'mice' is no data set; allowed: cells, digits",
        ),
        (
            {"rows": {"digits": {"base": {"seeds": [1]}, "variants": {"wide": 1}}}},
            "study: rows.digits.variants.wide.seeds: this key is set by the rows",
        ),
        (
            {"rows": {"digits": {"base": {"report": {"n_refits": -1}}, "variants": {"wide": 1}}}},
            "study: rows.digits.variants.wide: report.n_refits: -1 is not allowed",
        ),
        ({"rows": {"digits": {"variants": {"wide": []}}}}, "study: rows.digits.variants.wide: at least one seed"),
        ({"metric": {}}, "study.metric: unknown key; did you mean 'metrics'?"),
    ],
)
def test_a_wrong_study_ends_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        parse_settings(make_config(**changes), WorkflowSettings, "here")
    assert str(error.value).startswith(f"here: {said}")


def test_a_baseline_is_a_run_of_the_study_that_trains_no_model() -> None:
    config = WorkflowSettings.model_validate(CONDITION)
    assert list(config.runs) == ["cells.nvae-default", "without_b.nvae-default"]
    run = config.study_runs["cells.pca"]
    assert (run.baseline, run.seeds, run.own_dataset) == ("pca", [0, 5], "cells")
    assert config.study_runs["cells.nvae-default"].baseline is None
    assert run.n_latent == 7
    assert {run.title for run in config.study_runs.values()} == {"cells"}
    assert {run.row for run in config.study_runs.values()} == {"cells", "without_b"}


def test_a_base_may_be_whole_with_its_variants_alone() -> None:
    values = make_config(base={"model": {"n_shared": 0}}, variants={"wide": {"model": {"variant": "per_class"}}})
    values["study"]["rows"] = {"digits": {"variants": {"wide": 1}}}
    (run,) = WorkflowSettings.model_validate(values).study_runs.values()
    assert (run.baseline, run.n_latent) == (None, None)


def test_a_baseline_has_the_shared_dims_of_its_row() -> None:
    values = make_condition({}, {})
    values["study"]["rows"]["cells"]["base"] = {"model": {"n_shared": 4}}
    config = WorkflowSettings.model_validate(values)
    assert {name: run.n_latent for name, run in config.study_runs.items() if run.baseline} == {
        "cells.pca": 4,
        "without_b.pca": 7,
    }
    values["study"]["rows"]["cells"] = {"base": {"model": {"n_shard": 4}}, "variants": {"pca": 1}}
    with pytest.raises(UserError, match=r"study: rows\.cells\.base: model\.n_shard: unknown key; did you mean"):
        parse_settings(values, WorkflowSettings, "here")


@pytest.mark.parametrize(
    ("changes", "dataset", "said"),
    [
        ({"condition": None}, {}, "study: condition: needed; it goes with evaluate 'condition'"),
        ({"evaluate": "planted"}, {}, "study: condition: not read by evaluate 'planted'"),
        ({"condition": {"control": "x", "treated": "x"}}, {}, "study.condition: control and treated are both 'x'"),
        ({"variants": {"p": {"baseline": "pac"}}}, {}, "study: variants.p.baseline: 'pac' is not allowed: pca"),
        ({"variants": {"p": {"baseline": "pca", "model": {}}}}, {}, "study: variants.p.model: a baseline has no keys"),
        ({"base": {"model": {"variant": "per_class"}}}, {}, "study: rows.cells.variants.pca: base.model.n_shared, its"),
        ({}, {"condition_key": None}, "study.rows.without_b: evaluate 'condition' needs datasets.without_b.cond"),
        ({}, {"kind": "features"}, "study.rows.without_b: baselines and held-out responses are scored on counts alone"),
        (
            {
                "variants": {
                    "nvae-default": {"model": {"variant": "per_class", "n_shared": 0}},
                    "pca": {"baseline": "pca"},
                }
            },
            {},
            "study.rows.without_b.variants.nvae-default: without z_s there is no response",
        ),
    ],
)
def test_a_wrong_study_of_a_condition_ends_in_one_line(
    changes: dict[str, Any], dataset: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        parse_settings(make_condition(changes, dataset), WorkflowSettings, "here")
    assert str(error.value).startswith(f"here: {said}")


def test_no_other_study_has_baselines() -> None:
    with pytest.raises(UserError, match=r"variants\.p\.baseline: evaluate 'planted' has none; allowed: condition"):
        parse_settings(make_config(variants={"p": {"baseline": "pca"}}), WorkflowSettings, "here")


def test_the_variants_of_kang_have_as_many_dims_a_cell_and_the_rows_hold_each_type_out_once() -> None:
    config = load_config(ROOT / "config" / "studies" / "kang.yaml")
    default = FitSettings().model
    assert {run.model.n_latent for run in config.runs.values()} == {default.n_latent}
    assert {run.n_latent for run in config.study_runs.values() if run.baseline} == {default.n_shared}
    assert len({tuple(dataset.hold_out.items()) for dataset in config.datasets.values()}) == 6


def test_a_metric_of_several_parts_is_their_mean_where_there_is_no_plain_one() -> None:
    scores = make_scores([("d", "v", 0, "r[a]", 1.0), ("d", "v", 0, "r[b]", 3.0), ("d", "v", 0, "rest", 9.0)])
    assert of_metric(scores, "r")["value"].tolist() == [2.0]
    plain = pd.concat([scores, make_scores([("d", "v", 0, "r", 7.0)])])
    assert of_metric(plain, "r")["value"].tolist() == [7.0]


def test_the_summary_has_mean_and_spread_over_seeds() -> None:
    rows = [("d", "v", seed, "m", value) for seed, value in enumerate([0.1, 0.2, 0.6])]
    table = summary(make_scores([*rows, ("d", "w", 0, "other", 500.0)]), ["m", "other"])
    assert table.to_numpy().tolist() == [["d", "v", 3, "0.300 ± 0.265", "–"], ["d", "w", 1, "–", "500.0"]]


def test_below_the_table_stands_who_saw_the_labels_and_by_what_the_scores_are() -> None:
    ours = make_scores([("d", "ours", 0, "scib_bio", 0.4), ("d", "ours", 0, "lms_smi[a]", 0.2)])
    ours["package"] = ["scib-metrics 1.2", "drvi-py 3.4"]
    peer = make_scores([("d", "pca", 0, "scib_bio", 0.8), ("d", "pca", 0, "log_px", -1.0)]).assign(saw_labels=False)
    peer.loc[0, "package"] = "scib-metrics 1.3"
    scores = pd.concat([ours, peer], ignore_index=True)
    assert notes(scores, ["scib_bio", "lms_smi", "log_px"]) == (
        "Saw the labels (the classes): `ours`; did not: `pca`. "
        "By scib-metrics 1.2: `scib_bio`. By drvi-py 3.4: `lms_smi`. By scib-metrics 1.3: `scib_bio`."
    )
    assert notes(peer, ["log_px"]) == "Did not see the labels (the classes): `pca`."


def test_prose_outside_the_markers_survives() -> None:
    first = page_text(None, pd.DataFrame({"a": [1]}), "mine")
    assert marked("table").search(first)
    written = f"# Title\n{first}\nwhat it says\n"
    after = page_text(written, pd.DataFrame({"a": [2]}), "mine")
    assert after == written.replace("| 1 |", "| 2 |")
    with pytest.raises(UserError, match="are there 0 times"):
        page_text("nothing", pd.DataFrame(), "mine")


def test_scores_of_runs_become_table_page_and_figure(tmp_path: Path) -> None:
    paths = []
    for variant in ("nvae-default", "wide"):
        paths.append(tmp_path / f"{variant}.csv")
        make_scores([("d", variant, s, "m", s / 3) for s in range(3)]).to_csv(paths[-1], index=False)
    settings = StudySettings.model_validate(CONFIG["study"])
    table, page, figure = (tmp_path / f"s.{suffix}" for suffix in ("csv", "md", "png"))
    study(paths, table, page, figure, settings)
    gathered = pd.read_csv(table)
    assert list(gathered.columns) == ["study", *SCORE_COLUMNS]
    assert len(gathered) == 6
    assert gathered["value"].max() == pytest.approx(2 / 3, abs=1e-6)
    below = "Saw the labels (the classes): `nvae-default`, `wide`."
    assert f"| d | wide | 3 | 0.333 ± 0.333 |\n\n{below}\n" in page.read_text()
    assert figure.stat().st_size > 1000
    kept = tmp_path / "s.figures" / "d.png"
    study(paths, table, page, figure, settings, [(figure, kept)])
    assert kept.read_bytes() == figure.read_bytes()
    with pytest.raises(UserError, match=r"none\.png: cannot be kept as .*d\.png: No such file"):
        study(paths, table, page, figure, settings, [(tmp_path / "none.png", kept)])
    assert kept.read_bytes() == figure.read_bytes()
    before = page.read_text(), table.read_bytes()
    study(paths, table, page, figure, settings)
    assert (page.read_text(), table.read_bytes()) == before
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"wrong\.csv: columns a, b; expected dataset, variant, seed, metric, value"):
        study([tmp_path / "wrong.csv"], table, page, figure, settings)


def test_every_study_of_the_repository_has_seeds_enough() -> None:
    for path in (ROOT / "config" / "studies").glob("*.yaml"):
        rows = yaml.safe_load(path.read_text())["study"]["rows"]
        assert all(row["variants"]["nvae-default"] >= 3 for row in rows.values())


def test_a_panel_has_the_lines_that_have_its_metric_and_a_metric_of_one_line_has_none() -> None:
    rows = [(data, "ours", seed, "fdr", 0.1 * seed) for data in ("a", "b") for seed in range(3)]
    rows += [("a", other, 0, "auroc", 0.9) for other in ("ours", "peer")] + [("a", "ours", 0, "alone", 1.0)]
    scores = make_scores(rows)
    first, second = plot_scores(scores, {"fdr": 0.05, "alone": None, "auroc": None}).axes
    assert [ax.get_title() for ax in (first, second)] == ["fdr", "auroc"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["a · ours", "b · ours"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["a · ours", "a · peer"]
    bars = [line.get_xdata()[0] for line in first.lines]
    assert bars == pytest.approx([0.1, 0.1, 0.05])  # two means, and the bar to reach
    of_one = scores[(scores["dataset"] == "a") & (scores["variant"] == "ours")]
    assert [ax.get_title() for ax in plot_scores(of_one, {"fdr": None, "alone": None}).axes] == ["fdr", "alone"]
    assert not plot_scores(scores, {"nothing": None}).axes


def test_log_probabilities_of_several_data_sets_have_a_panel_each() -> None:
    rows = [(data, who, 0, "log_px", value) for data, value in (("a", -9.0), ("b", -2000.0)) for who in ("x", "y")]
    scores = make_scores([*rows, ("c", "x", 0, "log_px", -1.0)])
    panels = plot_scores(scores, {"log_px": -8.0}).axes
    assert [ax.get_title() for ax in panels] == ["log_px, a", "log_px, b"]  # that of c, alone, is in the table
    assert [label.get_text() for label in panels[1].get_yticklabels()] == ["b · x", "b · y"]
    of_one = plot_scores(scores[scores["dataset"] == "a"], {"log_px": None}).axes
    assert [ax.get_title() for ax in of_one] == ["log_px"]


def test_a_study_made_in_parts_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_study, "PAGES", tmp_path)
    config = ROOT / "config" / "studies" / "yale.yaml"

    def part(name: str, variant: str, value: float) -> Path:
        folder = tmp_path / name / "results" / variant
        folder.mkdir(parents=True)
        rows = [("yale", variant, seed, "r2_azimuth", value + seed) for seed in range(3)]
        make_scores(rows).to_csv(folder / "scores.csv", index=False)
        return tmp_path / name

    first = gather_study.gather(config, [part("a", "pca", 0.5), part("b", "nvae-default", 0.1)])
    assert "lacking: yale, vae" in first and "lacking: yale, pca" not in first
    second = gather_study.gather(config, [part("c", "vae", 0.2), part("d", "pca", 0.7)])
    assert set(first) - set(second) == {"lacking: yale, vae"}
    table = pd.read_csv(tmp_path / "yale.csv")
    assert table["variant"].unique().tolist() == ["nvae-default", "vae", "pca"]  # in the order of the study
    assert table.groupby("variant")["value"].min().to_dict() == {"nvae-default": 0.1, "pca": 0.7, "vae": 0.2}
    assert (tmp_path / "yale.md").exists() and (tmp_path / "yale.png").exists()
    assert any("yale.nvae-default.traversals_shared.png" in line for line in gather_study.keep_figures(config, []))
