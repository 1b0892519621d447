"""A config is read strictly, a wrong one ends in one line, and its reference is up to date."""

import copy
import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nvae_bio import config
from nvae_bio.config import (
    BY_KIND,
    AuditSettings,
    CounterfactualSettings,
    CountsSettings,
    CountsSimulation,
    DatasetSettings,
    EmbeddingSettings,
    EvaluationSettings,
    FeaturesSettings,
    FitSettings,
    GenerationSettings,
    ImagesSettings,
    ImagesSimulation,
    ModelSettings,
    Modulation,
    Programme,
    QcSettings,
    QuerySettings,
    ReportSettings,
    RunSettings,
    Settings,
    SplitSettings,
    TrainingSettings,
    Transformation,
    WorkflowSettings,
    check_model_fits,
    iter_fields,
    load_config,
    load_dataset,
    load_settings,
    load_simulation,
)
from nvae_bio.errors import UserError
from tools import config_reference

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "config").rglob("*.yaml"))
KINDS: list[type[DatasetSettings]] = [CountsSettings, ImagesSettings, FeaturesSettings]
LEFT_OUT = object()
BASE: dict[str, Any] = {
    "datasets": {
        "cells": {"kind": "counts", "builtin": "pbmc68k"},
        "digits": {"kind": "images", "builtin": "digits"},
        "table": {"kind": "features", "paths": ["a.csv", "b.csv"]},
    },
    "runs": {"cells": {"dataset": "cells"}, "digits": {"dataset": "digits"}, "counts": {"dataset": "cells"}},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The base config with one key set, or left out; dots between the keys."""
    values = inner = copy.deepcopy(BASE)
    *path, last = key.split(".")
    for step in path:
        inner = inner.setdefault(step, {})
    inner[last] = value
    if value is LEFT_OUT:
        del inner[last]
    return values


def complaint(text: str, folder: Path) -> str:
    """What is said of a config with this text; always one line that opens with the file."""
    file = folder / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_config(file)
    said = str(error.value)
    assert said.startswith(f"{file}: ")
    assert "\n" not in said
    return said.removeprefix(f"{file}: ")


def all_models(model: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    """Every settings class."""
    children = [child for child in model.__subclasses__() if child.__module__.startswith(config.__name__)]
    return children + [grandchild for child in children for grandchild in all_models(child)]


# --- wrong configs ---------------------------------------------------------------------------------------------------

RUN_KEYS = (
    "audit, counterfactuals, dataset, embedding, evaluation, export, generation, model, page, power, queries, report, "
    "seeds, training"
)
KIND_NAMES = "'counts', 'images', 'features'"
NAME_PATTERN = "should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$'"
WHOLE = "should be a valid integer"

WRONG = {
    # unknown and missing keys
    "runs.digits.sead": (1, f"unknown key; did you mean 'seeds'? allowed: {RUN_KEYS}"),
    "runs.counts.xyz": (1, f"unknown key; allowed: {RUN_KEYS}"),
    "run": ({}, "unknown key; did you mean 'runs'? allowed: checkpoint_seconds, datasets, runs, simulations, study"),
    "runs.digits.model.n_shard": (
        1,
        re.compile("unknown key; did you mean 'n_shared'\\? allowed: backbone, beta_private"),
    ),
    "datasets.cells.qc.min_gene": (
        1,
        "unknown key; did you mean 'min_genes'? allowed: max_mito_share, min_cells, min_counts, min_genes, mito_prefix",
    ),
    "datasets.digits.n_top_genes": (
        100,
        re.compile("unknown key; allowed: batch_key, .*, crop, .*, unlabeled_values$"),
    ),
    "runs.digits.dataset": (LEFT_OUT, "this key is required"),
    "datasets.digits.kind": (LEFT_OUT, f"this key is required; allowed: {KIND_NAMES}"),
    "runs": (LEFT_OUT, "this key is required"),
    # types
    "runs.digits.model.n_shared": ("many", f"'many' is not allowed: {WHOLE}, unable to parse string as an integer"),
    "runs.digits.model.n_private": (None, f"null is not allowed: {WHOLE}"),
    "runs.digits.training.max_epochs": (2.5, f"2.5 is not allowed: {WHOLE}, got a number with a fractional part"),
    "runs.digits.training": (None, "null is not allowed: should be a mapping of keys to values"),
    "runs.digits.seeds": (3, "3 is not allowed: should be a valid list"),
    "datasets.digits": ("digits", "'digits' is not allowed: should be a mapping of keys to values"),
    "datasets.table.paths": (3, "3 is not allowed: should be a valid list or should be a mapping of keys to values"),
    "datasets": ([], "[] is not allowed: should be a mapping of keys to values"),
    # ranges
    "runs.digits.model.beta_private": (0, "0 is not allowed: should be greater than 0"),
    "runs.digits.training.learning_rate": (2, "2 is not allowed: should be less than or equal to 1"),
    "runs.digits.training.batch_size": (0, "0 is not allowed: should be greater than 0"),
    "runs.digits.report.n_bootstrap": (9, "9 is not allowed: should be greater than or equal to 100"),
    "runs.digits.report.n_refits": (-1, "-1 is not allowed: should be greater than or equal to 0"),
    "runs.digits.report.refits_per_job": (0, "0 is not allowed: should be greater than 0"),
    "runs.digits.report.fdr": (0, "0 is not allowed: should be greater than 0"),
    "runs.digits.report.null_kind": (
        "no_factor",
        "'no_factor' is not allowed: should be 'no_private', 'permuted_labels' or 'permuted_features'",
    ),
    "runs.digits.report.confidence": (95, "95 is not allowed: should be less than 1"),
    "runs.digits.model.hidden": ([], "[] is not allowed: should have at least 1 item, not 0"),
    "datasets.table.min_samples_per_class": (4, "4 is not allowed: should be greater than or equal to 5"),
    "datasets.cells.matrix": ("layer", "'layer' is not allowed: should match pattern '^(X|raw|layers/.+)$'"),
    # choices
    "datasets.table.kind": ("feature", f"'feature' is not allowed; allowed: {KIND_NAMES}"),
    "datasets.cells.builtin": ("mnist", "'mnist' is not allowed: should be 'pbmc68k' or 'digits'"),
    "runs.digits.model.variant": ("vea", "'vea' is not allowed: should be 'nvae', 'cvae', 'vae' or 'per_class'"),
    # rules
    "runs.counts.dataset": ("mice", "'mice' is no data set; allowed: cells, digits, table"),
    "runs.digits.model.likelihood": (
        "negative_binomial",
        "'negative_binomial' does not fit data of kind 'images'; allowed: cross_entropy, bernoulli, "
        "discretized_logistic, gaussian",
    ),
    "runs.cells.model.backbone": ("conv", "'conv' needs data of kind 'images', not 'counts'; allowed: mlp"),
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_value_ends_in_one_line(key: str, tmp_path: Path) -> None:
    value, message = WRONG[key]
    said = complaint(yaml.safe_dump(changed(key, value)), tmp_path)
    if isinstance(message, re.Pattern):
        assert said.startswith(f"{key}: ")
        assert message.match(said.removeprefix(f"{key}: "))
    else:
        assert said == f"{key}: {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("runs.digits.seeds", [0, -1], "runs.digits.seeds.1: -1 is not allowed: should be greater than or equal to 0"),
        (
            "runs.digits.seeds",
            [0, 1, 0],
            "runs.digits.seeds: [0, 1, 0] is not allowed: seeds must differ from each other",
        ),
        ("runs", {}, "runs: {} is not allowed: should have at least 1 item, not 0"),
        ("runs.a b", {"dataset": "cells"}, f"runs.a b: 'a b' is not allowed: {NAME_PATTERN}"),
        ("runs.digits.dataset", "", "runs.digits.dataset: '' is no data set; allowed: cells, digits, table"),
        (
            "runs.digits.generation.sigmas",
            [1, 0],
            "runs.digits.generation.sigmas.1: 0 is not allowed: should be greater than 0",
        ),
        ("datasets.digits.resize", [8], "datasets.digits.resize.1: this key is required"),
        (
            "datasets.digits.crop",
            [8, "a"],
            f"datasets.digits.crop.1: 'a' is not allowed: {WHOLE}, unable to parse string as an integer",
        ),
        ("datasets.table.paths", {"a": []}, "datasets.table.paths.a: [] is not allowed: should be a valid string"),
        ("datasets.table.paths", [{}], "datasets.table.paths.0: {} is not allowed: should be a valid string"),
        ("datasets.table.paths", [], "datasets.table: give either `builtin` or `paths`"),
        ("datasets.cells.paths", "a.h5ad", "datasets.cells: give either `builtin` or `paths`, and not both"),
        ("datasets.cells.builtin", "digits", "datasets.cells: built-in 'digits' is of kind 'images', not 'counts'"),
        (
            "datasets.cells.join_classes",
            {"T": ["CD4", "CD8"], "B": ["CD8"]},
            "datasets.cells: join_classes: 'CD8' is in more than one class",
        ),
        ("datasets.cells.split", {"by": "donor"}, "datasets.cells: split.by: donor needs donor_key"),
        (
            "datasets.cells.categorical_covariates",
            ["plate", "label"],
            "datasets.cells: categorical_covariates: 'label' is the class (label_key); allowed: another column",
        ),
        (
            "datasets.cells.continuous_covariates",
            ["age", "age"],
            "datasets.cells: continuous_covariates: 'age' is named twice; allowed: another column",
        ),
        (
            "datasets.table.categorical_covariates",
            ["batch"],
            "datasets.table: categorical_covariates: 'batch' is the batch, one already; allowed: another column",
        ),
        (
            "datasets.cells.split",
            {"validation": 0.5, "test": 0.4},
            "datasets.cells.split: validation 0.5 + test 0.4 leave too little to train on; at most 0.8 together",
        ),
        (
            "datasets.cells.split",
            {"test": 0},
            "datasets.cells: split.test must be above 0, or hold_out name samples: the report is made on some not seen "
            "before",
        ),
        (
            "datasets.cells.split",
            {"validation": 0},
            "datasets.cells.split: validation must be above 0: it says when to stop",
        ),
        ("datasets.cells.split", {"test_fold": 5}, "datasets.cells.split: test_fold 5 must be below n_folds 5"),
        (
            "runs.digits.model",
            {"variant": "cvae", "n_private": 3},
            "runs.digits.model: n_private 3 does not fit variant 'cvae': it must be 0",
        ),
        (
            "runs.cells",
            {"dataset": "cells", "power": {}, "report": {"n_refits": 0}},
            "runs.cells.power: without a null nothing planted is found; allowed: off, or report.n_refits of 1 or more",
        ),
        (
            "runs.digits",
            {"dataset": "digits", "power": {}},
            "runs.digits.power: programmes are planted into counts; datasets.digits is of kind 'images'; allowed: off",
        ),
        (
            "runs.digits.model",
            {"variant": "per_class", "n_shared": 3},
            "runs.digits.model: n_shared 3 does not fit variant 'per_class': it must be 0",
        ),
        (
            "runs.digits.model",
            {"n_private": 0},
            "runs.digits.model: n_private 0 does not fit variant 'nvae': it must be above 0",
        ),
        (
            "runs.digits.training",
            {"batch_size": 0, "patience": 0},
            "runs.digits.training.batch_size: 0 is not allowed: should be greater than 0 (and 1 more)",
        ),
    ],
)
def test_what_does_not_go_together_ends_in_one_line(key: str, value: Any, message: str, tmp_path: Path) -> None:
    assert complaint(yaml.safe_dump(changed(key, value)), tmp_path) == message


def test_infinity_is_refused(tmp_path: Path) -> None:
    values = changed("runs.digits.model.beta_private", float("inf"))
    assert complaint(yaml.safe_dump(values), tmp_path) == (
        "runs.digits.model.beta_private: inf is not allowed: should be a finite number"
    )


def test_variant_of_a_wrong_type_is_refused(tmp_path: Path) -> None:
    values = changed("runs.digits.model.variant", ["nvae", "vae"])
    assert complaint(yaml.safe_dump(values), tmp_path).startswith(
        "runs.digits.model.variant: ['nvae', 'vae'] is not allowed"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "datasets: this key is required (and 1 more)"),
        ("just text", "'just text' is not allowed: should be a mapping of keys to values"),
        ("[1]", "[1] is not allowed: should be a mapping of keys to values"),
        ("a: [", "not valid YAML: while parsing"),
        ("a: b: c", "not valid YAML: mapping values are not allowed here in"),
        ("? [1]\n: 2", "not valid YAML: while constructing a mapping"),
        ("runs: {}\ndatasets: {}\nruns: {}", "not valid YAML: key 'runs' stands twice in"),
        ("runs:\n  a: {dataset: x, seeds: [0], dataset: y}", "not valid YAML: key 'dataset' stands twice in"),
        ("a: !!python/object:os.system {}", "not valid YAML: could not determine a constructor"),
    ],
)
def test_not_a_config_ends_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    assert complaint(text, tmp_path).startswith(message)


def test_doubled_key_tells_its_line(tmp_path: Path) -> None:
    assert "line 2," in complaint("runs:\n  a: 1\n  a: 2\n", tmp_path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"\xe9\xff")
    for name, reason in (("none.yaml", "No such file or directory"), ("", "Is a directory"), ("latin.yaml", "'utf-8'")):
        with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: cannot be read: {reason}")):
            load_config(tmp_path / name)


def test_wrong_json_text() -> None:
    for text, message in (
        ('{"model": {"n_shard": 1}}', "--settings: model.n_shard: unknown key; did you mean 'n_shared'?"),
        ('{"model": {}, "model": {}}', "--settings: not valid JSON: key 'model' stands twice"),
        ("{model: {}}", "--settings: not valid JSON: Expecting property name"),
        ('{"kind": "counts"}', "--settings: kind: unknown key; allowed: model, training"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            load_settings(text, FitSettings)
    with pytest.raises(UserError, match=re.escape("--settings: transpos: unknown key; did you mean 'transpose'?")):
        load_dataset('{"kind": "counts", "transpos": true}')


SIMULATION: dict[str, Any] = {
    "kind": "counts",
    "source": {"builtin": "pbmc68k"},
    "classes": {"a": 30, "b": 30},
    "programmes": [{"name": "own", "kind": "private", "classes": ["b"], "share": 0.2, "n_genes": 3, "fold_change": 2}],
}
FOLLOWS = {"follows": "depth", "share": 1}
IMAGES: dict[str, Any] = {
    "kind": "images",
    "source": {"builtin": "digits"},
    "classes": {0: 30, 1: 30},
    "transformations": [{"name": "t", "kind": "shared", "what": "scale", "activity": "normal", "amount": 1.2}],
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (SIMULATION | {"source": {"builtin": "digits"}}, "s.source: built-in 'digits' is of kind 'images'"),
        (SIMULATION | {"source": {}}, "simulations.s.source: give either `builtin` or `paths`"),
        (SIMULATION | {"classes": {"a": 9}}, "simulations.s.classes: should have at least 2 items"),
        (SIMULATION | {"classes": {"a": 9, "b": 0}}, "simulations.s.classes.b: 0 is not allowed"),
        (SIMULATION | {"donors": {"effect_sd": 0.1}}, "simulations.s.donors: n 1 has no effect_sd"),
        (SIMULATION | {"min_mean": 0}, "simulations.s.min_mean: 0 is not allowed: should be greater than 0"),
        (SIMULATION | {"programme": []}, "simulations.s.programme: unknown key; did you mean 'programmes'?"),
        (
            SIMULATION | {"conditions": {"names": ["a"]}},
            "s.conditions.names: ['a'] is not allowed: should have at least 2",
        ),
        (
            SIMULATION | {"conditions": {"names": ["a", "a"]}},
            "s.conditions.names: ['a', 'a'] is not allowed: each arm stands",
        ),
        (
            SIMULATION | {"conditions": {"design": "unpaired"}},
            "simulations.s: conditions: design 'unpaired' needs a donor for each of 2 arms; donors.n is 1",
        ),
        (SIMULATION | {"label_swaps": 0.5}, "simulations.s.label_swaps: 0.5 is not allowed: should be less than 0.5"),
        (SIMULATION | {"doublets": 1}, "simulations.s.doublets: 1 is not allowed: should be less than 1"),
        (
            IMAGES | {"programmes": []},
            "simulations.s.programmes: unknown key; allowed: classes, kind, n_originals, seed, source",
        ),
        (IMAGES | {"kind": "features"}, "simulations.s.kind: 'features' is not allowed; allowed: 'counts', 'images'"),
    ],
)
def test_a_wrong_simulation_ends_in_one_line(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in complaint(yaml.safe_dump(BASE | {"simulations": {"s": values}}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a", "z"]}, "programmes.0.classes: 'z' is no class; allowed: a, b"),
        ({"classes": []}, "programmes.0: kind 'private' needs `classes`"),
        ({"kind": "shared"}, "programmes.0: kind 'shared' needs no `classes`"),
        ({"class_shift": 1}, "programmes.0: class_shift is for kind 'shared'"),
        ({"share": 1}, "programmes.0: a binary activity needs a share below 1"),
        ({"share": 1.1}, "programmes.0.share: 1.1 is not allowed: should be less than or equal to 1"),
        ({"share": 0}, "programmes.0.share: 0 is not allowed: should be greater than 0"),
        ({"fold_change": 0}, "programmes.0.fold_change: 0 is not allowed: should be greater than 0"),
        ({"n_genes": 0}, "programmes.0.n_genes: 0 is not allowed: should be greater than 0"),
        ({"n_gene": 3}, "programmes.0.n_gene: unknown key; did you mean 'n_genes'?"),
        ({"genes": ["A", "B"]}, "programmes.0: n_genes 3 is not the number of `genes` (2); leave it out"),
        ({"genes": ["A", "B", "A"]}, "programmes.0: genes: 'A' stands twice"),
        ({"genes": ["A", "B", "C"], "min_mean": 1}, "programmes.0: min_mean is for genes that are drawn"),
        (
            {"follows": "sex"},
            "programmes.0.follows: 'sex' is not allowed: should be 'none', 'condition', 'batch', 'donor' or 'depth'",
        ),
        (FOLLOWS | {"activity": "uniform"}, "programmes.0: follows 'depth' takes activity 'normal', share 1 and no"),
        (FOLLOWS | {"share": 0.5}, "programmes.0: follows 'depth' takes activity 'normal', share 1 and no class_shift"),
        (FOLLOWS | {"follows_noise": -1}, "programmes.0.follows_noise: -1 is not allowed: should be greater than or"),
        (FOLLOWS | {"follows": "condition"}, "programmes.0.follows: 'condition' needs `conditions`"),
        (FOLLOWS | {"follows": "batch"}, "programmes.0.follows: 'batch' needs at least 2 levels of it; n is 1"),
        (FOLLOWS | {"follows": "donor"}, "programmes.0.follows: 'donor' needs at least 2 levels of it; n is 1"),
    ],
)
def test_a_wrong_programme_ends_in_one_line(change: dict[str, Any], message: str) -> None:
    (programme,) = SIMULATION["programmes"]
    with pytest.raises(UserError, match=f"^--settings: {re.escape(message)}"):
        load_simulation(json.dumps(SIMULATION | {"programmes": [programme | change]}))


def test_names_of_programmes_differ_and_a_factor_is_above_0() -> None:
    with pytest.raises(UserError, match=r"^--settings: programmes: 'own' stands twice$"):
        load_simulation(json.dumps(SIMULATION | {"programmes": SIMULATION["programmes"] * 2}))
    (change,) = IMAGES["transformations"]
    with pytest.raises(UserError, match=r"transformations\.0: amount -1 is no factor of scale; it must be above 0"):
        load_simulation(json.dumps(IMAGES | {"transformations": [change | {"amount": -1}]}))


def test_no_gene_is_named_by_two_programmes() -> None:
    named = [SIMULATION["programmes"][0] | {"name": name, "genes": ["A", "B", "C"]} for name in ("one", "other")]
    with pytest.raises(UserError, match=r"^--settings: programmes\.1\.genes: 'A' is a gene of 'one' already$"):
        load_simulation(json.dumps(SIMULATION | {"programmes": named}))


def test_genes_that_are_named_are_counted_and_all_of_a_simulation_comes_back() -> None:
    (programme,) = SIMULATION["programmes"]
    cycle = {key: value for key, value in programme.items() if key != "n_genes"} | {"name": "s", "genes": ["A", "B"]}
    donor = programme | FOLLOWS | {"name": "d", "follows": "donor", "follows_noise": 0}
    arms = {"conditions": {"names": ["x", 2], "design": "unpaired"}, "donors": {"n": 2}}
    simulation = load_simulation(
        json.dumps(SIMULATION | arms | {"programmes": [cycle, donor], "label_swaps": 0.1, "doublets": 0.2})
    )
    assert isinstance(simulation, CountsSimulation) and simulation.conditions is not None
    assert [(item.n_genes, item.activity) for item in simulation.programmes] == [(2, "binary"), (3, "normal")]
    assert simulation.conditions.names == ["x", "2"]
    assert load_simulation(simulation.model_dump_json()) == simulation
    with pytest.raises(UserError, match=r"^--settings: programmes\.0\.n_genes: "):
        load_simulation(json.dumps(SIMULATION | {"programmes": [cycle | {"genes": []}]}))


# --- right ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_in_the_repository_is_valid(path: str) -> None:
    assert load_config(ROOT / path).runs


def test_yaml_anchors_and_merges_are_allowed(tmp_path: Path) -> None:
    file = tmp_path / "merged.yaml"
    file.write_text(
        yaml.safe_dump({"datasets": BASE["datasets"]})
        + "runs:\n  a: &a {dataset: digits, seeds: [7]}\n  b: {<<: *a, seeds: [8]}\n"
    )
    runs = load_config(file).runs
    assert runs["b"].dataset == "digits"
    assert [runs["a"].seeds, runs["b"].seeds] == [[7], [8]]


def test_numbers_in_yaml_scientific_notation(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("learning_rate: 3e-4\n")
    assert load_settings(str(file), TrainingSettings).learning_rate == 3e-4


def test_dims_left_out_follow_the_variant() -> None:
    dims = {variant: ModelSettings(variant=variant) for variant in ("nvae", "cvae", "vae", "per_class")}
    assert {name: (m.n_shared > 0, m.n_private > 0) for name, m in dims.items()} == {
        "nvae": (True, True),
        "cvae": (True, False),
        "vae": (True, False),
        "per_class": (False, True),
    }


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("counts", "negative_binomial"), ("images", "cross_entropy"), ("features", "gaussian")]
)
def test_likelihood_by_kind(kind: str, likelihood: str) -> None:
    assert check_model_fits(ModelSettings(), kind) == likelihood


def test_a_kind_of_data_has_defaults_of_its_own_for_what_is_not_set() -> None:
    pictures = ModelSettings().for_kind("images")
    assert {name: getattr(pictures, name) for name in BY_KIND["images"]} == BY_KIND["images"]
    assert pictures.for_kind("images") == pictures
    assert ModelSettings().for_kind("counts") == ModelSettings().for_kind("features") == ModelSettings()
    given = ModelSettings(n_shared=3, independence="moments").for_kind("images")
    assert (given.n_shared, given.n_private, given.independence, given.independence_weight) == (3, 4, "moments", 1.0)
    plain = ModelSettings.model_validate({"variant": "cvae"}).for_kind("images")
    assert (plain.n_shared, plain.n_private, plain.independence) == (6, 0, "none")
    assert ModelSettings(independence_weight=7).for_kind("images").independence_weight == 7


def test_a_config_has_the_defaults_of_the_kind_of_each_run() -> None:
    config = WorkflowSettings.model_validate(changed("runs.digits.model", {"n_shared": 5}))
    assert (config.runs["digits"].model.n_shared, config.runs["digits"].model.n_private) == (5, 4)
    assert config.runs["counts"].model.n_private == 1
    assert WorkflowSettings.model_validate_json(config.model_dump_json()) == config


def test_one_entry_of_a_config_serves_every_step(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    values = changed("runs.digits.model.n_shared", 5)
    values["runs"]["digits"]["embedding"] = {"n_draws": 3}
    file.write_text(yaml.safe_dump(values))
    whole = load_config(file)
    run = whole.runs["digits"]
    assert load_dataset(f"{file}:datasets.table") == whole.datasets["table"]
    assert load_settings(f"{file}:runs.digits", RunSettings) == run
    fit = load_settings(f"{file}:runs.digits", FitSettings)
    assert type(fit) is FitSettings
    assert fit == run.fit
    assert load_settings(f"{file}:runs.digits", ModelSettings).n_shared == 5
    assert load_settings(f"{file}:runs.digits", EmbeddingSettings).n_draws == 3
    assert load_settings(f"{file}:runs.digits", ReportSettings) == ReportSettings()


def test_wrong_entry_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(BASE))
    there = "there are: datasets.cells, datasets.digits, datasets.table, runs.cells, runs.counts, runs.digits"
    for entry, message in (
        ("runs.digit", f"{file}: no entry 'runs.digit'; did you mean 'runs.digits'? {there}"),
        ("xyz", f"{file}: no entry 'xyz'; {there}"),
        ("", f"{file}: no entry ''; {there}"),
        ("datasets.cells", f"{file}:datasets.cells: an entry of `runs` is needed here"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            load_settings(f"{file}:{entry}", FitSettings)
    with pytest.raises(UserError, match="an entry of `datasets` is needed here"):
        load_dataset(f"{file}:runs.cells")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/none.yaml: cannot be read")):
        load_settings(f"{tmp_path}/none.yaml:runs.cells", FitSettings)


def test_a_simulation_is_an_entry_and_serves_no_other_step(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(BASE | {"simulations": {"cells": SIMULATION, "digits": IMAGES}}))
    for name, kind in (("cells", CountsSimulation), ("digits", ImagesSimulation)):
        simulation = load_simulation(f"{file}:simulations.{name}")
        assert isinstance(simulation, kind)
        assert simulation == load_config(file).simulations[name] == load_simulation(simulation.model_dump_json())
    assert list(load_config(file).simulations["digits"].classes) == ["0", "1"]
    with pytest.raises(UserError, match="an entry of `datasets` is needed here"):
        load_dataset(f"{file}:simulations.cells")
    with pytest.raises(UserError, match="an entry of `runs` is needed here"):
        load_settings(f"{file}:simulations.cells", TrainingSettings)
    with pytest.raises(UserError, match="an entry of `simulations` is needed here"):
        load_simulation(f"{file}:datasets.cells")


def test_file_with_a_colon_in_its_name(tmp_path: Path) -> None:
    file = tmp_path / "a:b"
    file.write_text("n_draws: 4")
    assert load_settings(str(file), EmbeddingSettings).n_draws == 4


@pytest.mark.parametrize("model", all_models())
def test_settings_are_frozen_and_strict(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == "forbid"


def test_frozen_means_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainingSettings().batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize("model", all_models())
def test_every_key_is_described(model: type[BaseModel]) -> None:
    assert model.__doc__
    for key, field in iter_fields(model):
        assert key == "kind" or field.description, key


def test_reference_is_up_to_date() -> None:
    assert config_reference.main(["--check"]) == 0


def test_reference_has_every_key() -> None:
    text = config_reference.render()
    for model in (*KINDS, RunSettings, *config_reference.SIMULATIONS, Programme, Transformation, Modulation):
        for key, _ in iter_fields(model):
            name = key.rpartition(".")[2]
            section = rf"\n## `(runs|simulations)\.NAME\.{name}(\.NAME)?`"
            assert f"\n| `{name}` | " in text or re.search(section, text), name
    assert "| `warmup_share` | share of all steps" in text
    assert "| number ≥ 0 and ≤ 0.5 | `0.25` |" in text


# --- round trip ------------------------------------------------------------------------------------------------------


def values_of(annotation: Any, metadata: tuple[Any, ...] | list[Any] = ()) -> st.SearchStrategy[Any]:
    """Allowed values of a type, within the limits that its metadata say."""
    limits = {
        type(limit): getattr(limit, type(limit).__name__.lower())
        for limit in metadata
        if isinstance(limit, (Ge, Gt, Le, Lt))
    }
    if annotation is float:
        low, high = limits.get(Ge, limits.get(Gt)), limits.get(Le, limits.get(Lt))
        ends = {"exclude_min": Gt in limits, "exclude_max": Lt in limits}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **ends)
    if annotation is int:
        return st.integers(limits.get(Ge, limits.get(Gt, -1) + 1), 10**6)
    if get_origin(annotation) in (list, tuple) and (annotation is not tuple):
        (first, *others) = get_args(annotation)
        size = len(others) + 1 if others and Ellipsis not in others else None
        inner = values_of(*unwrapped(first))
        return st.lists(inner, min_size=size or 1, max_size=size or 4, unique=size is None)
    return st.from_type(annotation)


def unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """A type, and the limits that stand beside it in `Annotated`."""
    metadata = getattr(annotation, "__metadata__", ())
    nested = [inner for limit in metadata if isinstance(limit, FieldInfo) for inner in limit.metadata]
    return (get_args(annotation)[0] if metadata else annotation), [*metadata, *nested]


def settings_of(model: type[BaseModel], /, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Settings with any part of their keys given."""
    optional = {}
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if name not in fixed and not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            members = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
            options = [st.none() if m is type(None) else values_of(*with_limits(m, field.metadata)) for m in members]
            optional[name] = st.one_of(options)
    return st.fixed_dictionaries({**fixed}, optional=optional).map(model.model_validate)


def with_limits(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    bare, limits = unwrapped(annotation)
    return bare, [*limits, *metadata]


DIMS = st.sampled_from(
    [
        {"variant": variant, "n_shared": shared, "n_private": private}
        | ({"independence": "none"} if variant == "per_class" else {})
        for variant, shared, private in (("nvae", 3, 2), ("cvae", 1, 0), ("vae", 9, 0), ("per_class", 0, 4))
    ]
)
SHARE = st.floats(0.01, 0.4)
SPLIT = settings_of(SplitSettings, validation=SHARE, test=SHARE, by=st.just("sample"), test_fold=st.integers(0, 2))
MODEL = st.tuples(
    settings_of(ModelSettings, variant=st.just("nvae"), n_shared=st.just(1), n_private=st.just(1)), DIMS
).map(lambda parts: ModelSettings.model_validate(parts[0].model_dump() | parts[1]))
SOURCE = {
    "builtin": st.none(),
    "paths": st.lists(st.text(), min_size=1) | st.dictionaries(st.text(), st.text(), min_size=1),
    "categorical_covariates": st.just(["protocol", "ä/ö"]),
    "continuous_covariates": st.just(["age in years"]),
    "join_classes": st.just({"a": ["b", "c"], "ä/ö": ["'\"\n\x7f"]}),
    "split": SPLIT,
}
MATRIX = {"matrix": st.sampled_from(["X", "raw", "layers/spliced counts"])}
DATASETS = st.one_of(
    settings_of(CountsSettings, kind=st.just("counts"), qc=settings_of(QcSettings), **SOURCE, **MATRIX),
    settings_of(ImagesSettings, kind=st.just("images"), **SOURCE),
    settings_of(FeaturesSettings, kind=st.just("features"), **SOURCE, **MATRIX),
)
PARTS = {
    "model": MODEL,
    "training": settings_of(TrainingSettings),
    "embedding": settings_of(EmbeddingSettings),
    "report": settings_of(ReportSettings, gene_sets=st.none()),
    "audit": st.none() | settings_of(AuditSettings),
    "power": st.none(),  # for counts alone
    "generation": settings_of(GenerationSettings),
    "counterfactuals": st.dictionaries(
        st.sampled_from(["up", "as-B"]),
        settings_of(
            CounterfactualSettings,
            samples=st.just([]),
            where=st.just({"a b": ["1", "ä"]}),
            as_class=st.just("B"),
            factors=st.just({"shared 3": -2.5}),
            n_draws=st.integers(20, 99),
            interval=SHARE,
            support_level=SHARE,
        ),
        max_size=2,
    ),
    "queries": st.dictionaries(
        st.sampled_from(["new", "donor.9"]),
        settings_of(
            QuerySettings,
            paths=SOURCE["paths"],
            dataset=st.just({"matrix": "raw", "ä/ö": [1, None]}),
            error=SHARE,
            novelty_level=SHARE,
            max_novel=SHARE,
            min_coverage=SHARE,
        ),
        max_size=2,
    ),
    "evaluation": st.none() | settings_of(EvaluationSettings, finer_key=st.text(), decision_key=st.text()),
}
RUNS = settings_of(RunSettings, dataset=st.text(), **PARTS).map(
    lambda run: (
        run.model_copy(update={"queries": {}}) if run.model.variant == "vae" else run
    )  # which is told no classes
)


@given(MODEL, st.integers(0, 50), st.integers(1, 60))
def test_every_refit_is_made_once_whatever_the_jobs(model: ModelSettings, n_refits: int, per_job: int) -> None:
    run = RunSettings(dataset="d", model=model, report=ReportSettings(n_refits=n_refits, refits_per_job=per_job))
    for kind, parts in run.refits.items():
        numbers = [refit for part in parts for refit in part]
        assert numbers == list(range(len(numbers)))
        assert all(0 < len(part) <= run.report.refits_per_job for part in parts)
        assert len(numbers) == run.report.n_refits or kind == "no_factor"
    assert bool(run.refits) == (run.report.n_refits > 0)
    assert run.base.model.n_private == 0
    assert run.base.model.n_shared == run.model.n_latent


@given(RUNS)
def test_run_comes_back_from_its_json(run: RunSettings) -> None:
    assert load_settings(run.model_dump_json(), RunSettings) == run
    assert load_settings(run.fit.model_dump_json(), FitSettings) == run.fit
    assert TypeAdapter(RunSettings).validate_json(run.model_dump_json()) == run


@given(DATASETS)
def test_dataset_comes_back_from_its_json(dataset: DatasetSettings) -> None:
    back = load_dataset(dataset.model_dump_json())
    assert type(back) is type(dataset)
    assert back == dataset


@given(DATASETS, RUNS)
def test_workflow_comes_back_from_its_yaml(
    tmp_path_factory: pytest.TempPathFactory, dataset: DatasetSettings, run: RunSettings
) -> None:
    plain = ModelSettings(variant=run.model.variant)
    run = run.model_copy(update={"dataset": "d", "model": plain})
    whole = WorkflowSettings.model_validate({"datasets": {"d": dataset}, "runs": {"r": run}})
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(yaml.safe_dump(json.loads(whole.model_dump_json())))
    assert load_config(file) == whole


@pytest.mark.parametrize(
    ("said", "audit"), [("off", None), (False, None), ("on", AuditSettings()), (True, AuditSettings())]
)
def test_a_part_of_the_report_is_switched_by_a_word_or_by_what_yaml_makes_of_it(said: object, audit: object) -> None:
    assert RunSettings.model_validate({"dataset": "cells", "audit": said}).audit == audit
