"""Validated settings, and look-ups in them for the rules."""

import os
import re
import shlex
import site
import sys
from typing import get_args

sys.path.insert(0, workflow.basedir)

from nvae_bio.config import NullKind, WorkflowSettings, check_yaml, parse_settings
from nvae_bio.errors import UserError

try:
    for file in workflow.configfiles:
        check_yaml(os.path.relpath(file))
    settings = parse_settings(
        config, WorkflowSettings, ", ".join(map(os.path.relpath, workflow.configfiles))
    )
except UserError as error:
    print(f"nvae-bio: {error}", file=sys.stderr)
    sys.exit(2)

# jobs find the package in the workflow's own folder, whatever environment they run in, and neither in the working folder
# nor among packages of the user, unless the workflow is one of these and jobs have no environment of their own; and how
# often they save a training is no parameter of theirs: another number is no reason to train again
SECONDS = settings.checkpoint_seconds
METHODS = {method.name for method in workflow.deployment_settings.deployment_method}
IS_USERS = workflow.basedir.startswith(f"{site.getusersitepackages()}{os.sep}")
shell.prefix(
    f"export PYTHONPATH={shlex.quote(workflow.basedir)} PYTHONSAFEPATH=1 "
    f"{'' if IS_USERS and not METHODS else 'PYTHONNOUSERSITE=1 '}"
    f"NVAE_BIO_CHECKPOINT_SECONDS={'inf' if SECONDS is None else SECONDS}; "
)

IMAGE_RUNS = [
    name
    for name, run in settings.runs.items()
    if settings.datasets[run.dataset].kind == "images"
]

PEERS = ("scvi", "scanvi", "drvi", "cnmf")  # methods that need the extra `benchmark`
BASELINES = {
    name: run.baseline
    for name, run in settings.study_runs.items()
    if run.baseline is not None
}
HELD_OUT_RUNS = [
    name
    for name in settings.study_runs
    if name not in BASELINES
    and settings.study.evaluate == "condition"
    and settings.datasets[settings.runs[name].dataset].hold_out
]

# told the class
LABELLED_RUNS = [
    name for name, run in settings.runs.items() if run.model.variant != "vae"
]

# scored as a model is: those of the study that are no other method, and any with a section `evaluation`
EVALUATED_RUNS = [
    name
    for name, run in settings.runs.items()
    if run.evaluation is not None and name not in settings.study_runs
]
SCORED_RUNS = [
    *(name for name in settings.study_runs if name not in BASELINES),
    *EVALUATED_RUNS,
]


def evaluation_of(run):
    """What of a run is scored as of a model; None for nothing."""
    if run in BASELINES:
        return settings.study_runs[run].evaluation
    return settings.runs[run].evaluation if run in settings.runs else None


def needs_extra(run):
    """Whether other packages are fitted, or their metrics taken: they are in the extra `benchmark`."""
    evaluation = evaluation_of(run)
    metrics = (
        set() if evaluation is None else {"finer", "scib"} & set(evaluation.scores)
    )
    return BASELINES.get(run) in PEERS or bool(metrics)


WITH_EXTRA = [run for run in [*SCORED_RUNS, *BASELINES] if needs_extra(run)]

# trained by several processes
RANKED_RUNS = [
    name for name, run in settings.runs.items() if (run.training.n_ranks or 1) > 1
]
STACKED_RUNS = [
    name
    for name, run in settings.runs.items()
    if run.training.stack_seeds and len(run.seeds) > 1 and name not in RANKED_RUNS
]

SINGLE_RUNS = [
    name for name in settings.runs if name not in {*STACKED_RUNS, *RANKED_RUNS}
]
NOTHING = "(?!)"  # a pattern that nothing matches

RUN_FILES = [
    "factors.h5ad",
    "factors.parquet",
    "embedded.h5ad",
    "summary.md",
    "suspects.csv",
    "suggested.yaml",
]
RUN_FIGURES = [
    "data",
    "training",
    "factor_map",
    "kl_private",
    "kl_shared",
    "top_features",
]
SCORE_FIGURES = ["scores"]
SEED_FIGURES = ["embedding_shared", "embedding_specific", "posterior"]
IMAGE_FIGURES = [
    "samples",
    "traversals_shared",
    "traversals_private",
    "interpolations",
]
SWAP_FIGURES = ["swaps"]


STORED = [
    name
    for name, one in settings.datasets.items()
    if getattr(one, "storage", None) == "disk"
]


def any_of(names):
    """A pattern that these names match, and nothing else."""
    return "|".join(map(re.escape, names)) or NOTHING


wildcard_constraints:
    simulation=any_of(settings.simulations),
    dataset=any_of(settings.datasets),
    run=any_of(settings.runs),
    seed=r"\d+",
    part=r"\d+",
    change=any_of(
        {change for run in settings.runs.values() for change in run.counterfactuals}
    ),
    query=any_of({query for run in settings.runs.values() for query in run.queries}),
    kind="|".join(get_args(NullKind)),


def run_of(wildcards):
    """Settings of the run."""
    return settings.runs[wildcards.run]


def query_of(wildcards):
    """Settings of new samples that the run maps."""
    return run_of(wildcards).queries[wildcards.query]


def change_of(wildcards):
    """Settings of a change that the run makes to samples."""
    return run_of(wildcards).counterfactuals[wildcards.change]


def prepared_of(wildcards):
    """The prepared file that the run uses."""
    return f"resources/prepared/{run_of(wildcards).dataset}.h5ad"


def stored_of(dataset):
    """The packed store of a data set; nothing where it has none."""
    return [f"resources/prepared/{dataset}.store"] if dataset in STORED else []


def trained_on(dataset):
    """What a model is trained on."""
    return stored_of(dataset) or f"resources/prepared/{dataset}.h5ad"


def files_of_seeds(run, name):
    """One file a seed of the run."""
    return [f"results/{run}/{seed}/{name}" for seed in settings.runs[run].seeds]


def of_seeds(name):
    """A look-up of one file a seed of the run, of the models that it uses."""
    return lambda wildcards: files_of_seeds(settings.trained_as[wildcards.run], name)


def null_files(wildcards):
    """What the refits of the run found, one file a job."""
    run = settings.trained_as[wildcards.run]
    return [
        f"results/{run}/null/{kind}/{part}.parquet"
        for kind, parts in run_of(wildcards).refits.items()
        for part in range(len(parts))
    ]


def audit_files(wildcards):
    """What the audit of each model of the run says; none where it is off."""
    return of_seeds("audit.parquet")(wildcards) if run_of(wildcards).is_audited else []


def power_files(wildcards):
    """What the plantings of the run found, one file a job; none where power is off."""
    run = settings.trained_as[wildcards.run]
    return [
        f"results/{run}/power/{part}.parquet"
        for part in range(len(run_of(wildcards).plantings))
    ]


def evaluation_file(wildcards):
    """The scores that the page of a run shows, where it is evaluated by itself."""
    run = wildcards.run
    return [f"results/{run}/scores.csv"] if run in EVALUATED_RUNS else []


def drawn_kinds(run):
    """What the page of a run shows of what the first seed draws: of images alone."""
    if run not in IMAGE_RUNS:
        return []
    kinds = ["samples", "traversals", "interpolations"]
    return kinds + (["swaps"] if run in LABELLED_RUNS else [])


def picture_files(wildcards):
    """The files of `drawn_kinds`."""
    run, trained = wildcards.run, settings.trained_as[wildcards.run]
    seed = settings.runs[run].seeds[0]
    return [f"results/{trained}/{seed}/{kind}.h5ad" for kind in drawn_kinds(run)]


def page_options(wildcards, input):
    """Options that name the files of a page of which there may be none, or several."""
    options = [
        f"--{name}={path}"
        for name in ("card", "history", "evaluation")
        for path in input.get(name)
    ]
    return options + [
        f"--{kind}={path}"
        for kind, path in zip(drawn_kinds(wildcards.run), input.get("generated"))
    ]


def gene_set_file(wildcards):
    """The gene sets that the report tests, where it has any."""
    path = run_of(wildcards).report.gene_sets
    return [] if path is None else [path]


def refit_options(wildcards):
    """Options that name the refits of a job: the most that a run needs of those that share it."""
    part = int(wildcards.part)
    sharing = [
        settings.runs[run].refits.get(wildcards.kind, [])
        for run, trained in settings.trained_as.items()
        if trained == wildcards.run
    ]
    refits = max((jobs[part] for jobs in sharing if part < len(jobs)), key=len)
    return [f"--refit={refit}" for refit in refits]


def more_each_try(amount):
    """A resource of a job that gets as much again where it is tried again (`retries` of a profile)."""
    return lambda wildcards, attempt: attempt * amount


def threads_of(run):
    """Threads that the training of a run may use."""
    n_threads = settings.runs[run].training.n_threads
    return workflow.cores if n_threads == "auto" else n_threads


def model_options(wildcards, output):
    """Options that name the files of each model and its seed, from the paths of the weights."""
    files = zip(output.weights, output.card, output.history)
    return [
        f"--{name}={value}"
        for weights, card, history in files
        for name, value in (
            ("weights", weights),
            ("card", card),
            ("history", history),
            ("seed", weights.split("/")[-2]),
        )
    ]


def all_results():
    """Every file that the config asks for; of a study, its table, figure and page."""
    if settings.study is not None:
        pages = [study_file(suffix) for suffix in (".csv", ".png", ".md")]
        return pages + list(KEPT_FIGURES)
    files = []
    for name, run in settings.runs.items():
        files += [f"results/{name}/{file}" for file in RUN_FILES]
        files += [f"results/{name}/figures/{figure}.png" for figure in RUN_FIGURES]
        files.append(f"results/{name}/figures/pages")
        if run.page is not None:
            files.append(f"results/{name}/report.html")
        if name in EVALUATED_RUNS:
            files.append(f"results/{name}/scores.csv")
            files += [
                f"results/{name}/figures/{figure}.png" for figure in SCORE_FIGURES
            ]
        if run.export is not None:
            files += [f"results/{name}/export/{file}" for file in EXPORTED]
            files += files_of_seeds(name, "model_card.md")
        for seed in run.seeds:
            made = ["embedded", "samples", "traversals", "interpolations"]
            figures = SEED_FIGURES + (IMAGE_FIGURES if name in IMAGE_RUNS else [])
            if name in LABELLED_RUNS:
                made.append("swaps")
                figures = figures + (SWAP_FIGURES if name in IMAGE_RUNS else [])
            made += [f"queries/{query}" for query in run.queries]
            made += [f"counterfactuals/{change}" for change in run.counterfactuals]
            files += [
                f"results/{name}/{seed}/counterfactuals/{change}.png"
                for change in run.counterfactuals
            ]
            files += [f"results/{name}/{seed}/{file}.h5ad" for file in made]
            files += [
                f"results/{name}/{seed}/figures/{figure}.png" for figure in figures
            ]
    return files


def score_files():
    """The scores of every run of the study."""
    return [f"results/{run}/scores.csv" for run in settings.study_runs]


def study_file(suffix):
    """A file of the study, beside its page."""
    return f"{settings.study.folder}/{settings.study.name}{suffix}"


def kept_file(figure):
    """A figure that the study keeps beside its page."""
    return study_file(f".figures/{figure}.png")


def kept_figures():
    """Figure that the study keeps beside its page -> the run's own."""
    if settings.study is None:
        return {}
    kept = {}
    for run in settings.study_runs.values():
        for figure in settings.study.figures.get(run.variant, []):
            drawn = f"results/{run.name}/{run.seeds[0]}/figures/{figure}.png"
            kept.setdefault(kept_file(f"{run.row}.{run.variant}.{figure}"), drawn)
    return kept


KEPT_FIGURES = kept_figures()


def scored_kind(run):
    """What of a run is scored: what its study says, and of any other run the model."""
    return settings.study.evaluate if run in settings.study_runs else "model"


def names_of(wildcards):
    """What the table of scores calls the data and the model."""
    if wildcards.run in settings.study_runs:
        run = settings.study_runs[wildcards.run]
        return run.title, run.variant
    return run_of(wildcards).dataset, wildcards.run


def scored_of(wildcards):
    """The run whose files are scored, and whether it is what its seeds agree on that is."""
    if wildcards.run not in settings.study_runs:
        return wildcards.run, False
    run = settings.study_runs[wildcards.run]
    is_consensus = settings.study.evaluate == "factors" and run.calls == "consensus"
    return run.scored, is_consensus


def source_paths(simulation):
    """Files of the real samples that a simulation is made from."""
    source = settings.simulations[simulation].source_settings
    return [] if source is None else source.path_list


def truth_of(wildcards):
    """What is planted in the data of a run of the study, where it is known."""
    if wildcards.run not in settings.study_runs:
        return []
    dataset = settings.study_runs[wildcards.run].own_dataset
    simulation = settings.simulated.get(dataset)
    return [f"resources/simulated/{simulation}.truth.h5ad"] if simulation else []


def scored_samples(wildcards):
    """The embedded samples that are scored: of all seeds together, or one file a seed."""
    run, is_consensus = scored_of(wildcards)
    if is_consensus:
        return [f"results/{run}/embedded.h5ad"]
    return files_of_seeds(settings.trained_as[run], "embedded.h5ad")


def scored_report(wildcards):
    """The report that is scored; none where the response of held-out samples is."""
    run, is_consensus = scored_of(wildcards)
    name = "factors.h5ad" if is_consensus else "seed_factors.h5ad"
    return [] if run in HELD_OUT_RUNS else [f"results/{run}/{name}"]


def models_of(name):
    """A look-up of one file of a model a seed of the run, where more than embedded samples and report are scored."""
    return lambda wildcards: (
        of_seeds(name)(wildcards) if uses_model(wildcards.run) else []
    )


def uses_model(run):
    """Whether the scores of a run ask its models: of held-out responses, and of what `evaluation` names."""
    return run in HELD_OUT_RUNS or (
        scored_kind(run) == "model" and settings.runs[run].evaluation is not None
    )


def factor_options(wildcards):
    """Options that say whose calls are scored, where published factors are, and the data set's number."""
    if scored_kind(wildcards.run) != "factors":
        return []
    run = settings.study_runs[wildcards.run]
    return [f"--calls={run.calls}", f"--seed={run.number or 0}"]


def baseline_options(wildcards, input):
    """Options that a baseline has besides its data: the dims of its latent, or the truth."""
    n_latent = settings.study_runs[wildcards.run].n_latent
    dims = [] if n_latent is None else [f"--n-latent={n_latent}"]
    return dims + [f"--truth={path}" for path in input.get("truth")]


def scoring_options(wildcards):
    """The option that says what of a run is scored besides what its kind says."""
    if scored_kind(wildcards.run) != "model":
        return condition_options()
    evaluation = evaluation_of(wildcards.run)
    return [] if evaluation is None else [f"--settings={evaluation.model_dump_json()}"]


def condition_options():
    """The option that says what the condition is, where it is scored."""
    condition = settings.study.condition
    return [] if condition is None else [f"--settings={condition.model_dump_json()}"]


def figure_files(folder, names, seed):
    """The PNG of each figure, with its caption for the report, and the SVG beside it."""
    return [captioned(folder, name, seed) for name in names] + [
        f"{folder}/{name}.svg" for name in names
    ]


def captioned(folder, name, seed):
    """One figure for `snakemake --report`."""
    labels = {"figure": name.replace("_", " "), "seed": seed}
    return report(
        f"{folder}/{name}.png",
        caption=f"../report/{name}.rst",
        category="{run}",
        labels=labels,
    )
