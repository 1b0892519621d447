"""Settings: the only schema of a config file.

A config lists `datasets` (where samples come from and how they are prepared), `runs` (a data set, a model, how it is
trained, which seeds) and perhaps `simulations` (data sets with a known truth). Everything is frozen and refuses unknown
keys. This module imports neither torch nor scanpy, so that Snakemake can validate a config before any job.
"""

from nvae_bio.config.base import Name, Settings, Share
from nvae_bio.config.counterfactuals import CounterfactualSettings
from nvae_bio.config.datasets import (
    BUILTINS,
    CountsSettings,
    Dataset,
    DatasetSettings,
    FeaturesSettings,
    ImagesSettings,
    QcSettings,
    SplitSettings,
)
from nvae_bio.config.evaluation import Classifier, EvaluationSettings
from nvae_bio.config.exports import ExportSettings
from nvae_bio.config.models import (
    BY_KIND,
    EMPTY_NATS,
    LIKELIHOODS,
    LikelihoodName,
    ModelSettings,
    Variant,
    check_model_fits,
)
from nvae_bio.config.queries import QuerySettings
from nvae_bio.config.reading import (
    check_yaml,
    config_problems,
    iter_fields,
    load_config,
    load_dataset,
    load_settings,
    load_simulation,
    parse_settings,
    read_dataset,
)
from nvae_bio.config.reports import (
    AuditSettings,
    FactorSettings,
    NullKind,
    PageSettings,
    PowerSettings,
    ReportSettings,
)
from nvae_bio.config.runs import (
    EmbeddingSettings,
    FitSettings,
    GenerationSettings,
    PlantingSettings,
    RunSettings,
    TrainingSettings,
    usual_epochs,
)
from nvae_bio.config.simulations import (
    Change,
    CountsSimulation,
    ImagesSimulation,
    Levels,
    Modulation,
    Planted,
    Programme,
    Simulation,
    SimulationSettings,
    SoundsSimulation,
    Transformation,
)
from nvae_bio.config.studies import (
    BASELINES,
    SEE_LABELS,
    Baseline,
    Calls,
    ConditionSettings,
    Evaluated,
    StudyRow,
    StudyRun,
    StudySettings,
)
from nvae_bio.config.workflow import WorkflowSettings

__all__ = [
    "BASELINES",
    "BUILTINS",
    "BY_KIND",
    "EMPTY_NATS",
    "LIKELIHOODS",
    "SEE_LABELS",
    "AuditSettings",
    "Baseline",
    "Calls",
    "Change",
    "Classifier",
    "ConditionSettings",
    "CounterfactualSettings",
    "CountsSettings",
    "CountsSimulation",
    "Dataset",
    "DatasetSettings",
    "EmbeddingSettings",
    "Evaluated",
    "EvaluationSettings",
    "ExportSettings",
    "FactorSettings",
    "FeaturesSettings",
    "FitSettings",
    "GenerationSettings",
    "ImagesSettings",
    "ImagesSimulation",
    "Levels",
    "LikelihoodName",
    "ModelSettings",
    "Modulation",
    "Name",
    "NullKind",
    "PageSettings",
    "Planted",
    "PlantingSettings",
    "PowerSettings",
    "Programme",
    "QcSettings",
    "QuerySettings",
    "ReportSettings",
    "RunSettings",
    "Settings",
    "Share",
    "Simulation",
    "SimulationSettings",
    "SoundsSimulation",
    "SplitSettings",
    "StudyRow",
    "StudyRun",
    "StudySettings",
    "TrainingSettings",
    "Transformation",
    "Variant",
    "WorkflowSettings",
    "check_model_fits",
    "check_yaml",
    "config_problems",
    "iter_fields",
    "load_config",
    "load_dataset",
    "load_settings",
    "load_simulation",
    "parse_settings",
    "read_dataset",
    "usual_epochs",
]
