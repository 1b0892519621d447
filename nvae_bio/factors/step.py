"""The step: read what the seeds of a run have to say, and write its report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from anndata import AnnData

from nvae_bio import schema
from nvae_bio.config import FactorSettings
from nvae_bio.data.atomic import atomic_path
from nvae_bio.data.files import read_embedded, read_table, write_anndata, write_csv, write_table
from nvae_bio.errors import UserError, about, listed
from nvae_bio.factors.report import FactorReport, report_factors
from nvae_bio.factors.together import check_audit, check_planted, check_seeds

logger = logging.getLogger(__name__)

BY_CLASS = {
    "kl": schema.KL_BY_CLASS, "kl_lower": schema.KL_BY_CLASS_LOWER, "kl_upper": schema.KL_BY_CLASS_UPPER,
    "q": schema.Q_BY_CLASS, "loss": schema.LOSS_BY_CLASS, "loss_lower": schema.LOSS_BY_CLASS_LOWER,
    "loss_upper": schema.LOSS_BY_CLASS_UPPER, "outcome": schema.OUTCOME_BY_CLASS,
}  # fmt: skip
SUSPECT_COLUMNS = ["sample", "label", "suspicion", "other_class", "nats", "n_seeds"]


@dataclass(frozen=True)
class Evidence:
    """Files that a report is made of.

    Attributes:
        embedded: one a seed.
        null: of refits.
        audit: one a seed, in the order of `embedded`, or none.
        planted: of plantings.
    """

    embedded: Sequence[Path]
    null: Sequence[Path] = ()
    audit: Sequence[Path] = ()
    planted: Sequence[Path] = ()


@dataclass(frozen=True)
class Written:
    """Files that are written: all but the report itself may be left out.

    Attributes:
        report: .h5ad.
        table: the same as one flat table, .parquet.
        seeds: what each seed has, .h5ad.
        scores: the samples with their consensus scores, .h5ad.
        suspects: samples to look at, .csv.
        summary: the report in words, .md.
    """

    report: Path
    table: Path | None = None
    seeds: Path | None = None
    scores: Path | None = None
    suspects: Path | None = None
    summary: Path | None = None


def factor_table(report: AnnData) -> pd.DataFrame:
    """The report as one flat table: a row a factor, `obs` beside kl, loss (nats), q and outcome of each class."""
    table: pd.DataFrame = report.obs.reset_index()
    columns = {}
    for index, name in enumerate(report.uns[schema.MODEL]["classes"]):
        for column, key in BY_CLASS.items():
            if key in report.obsm:
                columns[f"{column}[{name}]"] = pd.DataFrame(report.obsm[key]).iloc[:, index].to_numpy()
    return pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)


def _read_audit(path: Path) -> pd.DataFrame:
    """An audit, by the names of samples.

    Raises:
        UserError: unreadable, or not written by `nvae-bio audit`.
    """
    table = read_table(path)
    if "sample" not in table or "suspicion" not in table:
        raise UserError(f"{path}: no columns 'sample' and 'suspicion'; was it written by `nvae-bio audit`?")
    return table.set_index("sample")


def _check_paths(evidence: Evidence, written: Written) -> None:
    """Refuse an output that is an input, or another output.

    Raises:
        UserError: it is such.
    """
    outputs = [path for path in astuple(written) if path is not None]
    taken = {path.resolve(): "read" for paths in astuple(evidence) for path in paths}
    for path in outputs:
        if path.resolve() in taken:
            raise UserError(f"factors: {path} is {taken[path.resolve()]} too; give each file that is written once")
        taken[path.resolve()] = "written"


def _write(found: FactorReport, written: Written) -> None:
    """All files, or none."""
    report, lines = found.factors, "\n".join(found.lines) + "\n"
    suspects = report.uns[schema.MODEL].get(schema.SUSPECTS, pd.DataFrame(columns=SUSPECT_COLUMNS))
    writers: dict[str, Callable[[Path], object]] = {
        "report": partial(write_anndata, report),
        "table": partial(write_table, factor_table(report)),
        "seeds": partial(write_anndata, found.seeds),
        "scores": partial(write_anndata, found.embedded),
        "suspects": partial(write_csv, suspects),
        "summary": lambda path: path.write_text(lines, encoding="utf-8"),
    }
    with ExitStack() as stack:
        for name, write in writers.items():
            path = getattr(written, name)
            if path is not None:
                write(stack.enter_context(atomic_path(path)))


def factors(evidence: Evidence, written: Written, settings: FactorSettings) -> None:
    """Read what the seeds of a run, its null, its audits and its plantings say; write its factor report.

    Raises:
        UserError: files that cannot be read or do not belong together, or one that is named twice.
    """
    _check_paths(evidence, written)
    null, planted = (
        pd.concat([read_table(path) for path in paths], ignore_index=True) if paths else None
        for paths in (evidence.null, evidence.planted)
    )
    embedded, audits = list(map(read_embedded, evidence.embedded)), list(map(_read_audit, evidence.audit))
    check_seeds(embedded, [str(path) for path in evidence.embedded])
    for path, audit in zip(evidence.audit, audits, strict=True):
        with about(str(path)):
            check_audit(audit, embedded[0])
    if planted is not None and settings.power is not None:
        with about(listed(evidence.planted, 3)):
            check_planted(planted, settings.power, [str(name) for name in embedded[0].uns[schema.MODEL]["classes"]])
    found = report_factors(embedded, settings, null, audits, planted)
    _write(found, written)
    report = found.factors
    counts = report.obs["kind"][report.obs["published"].astype(bool)].value_counts()
    logger.info(
        "%d factors: %s", report.n_obs, ", ".join(f"{n} {name}" for name, n in counts.items()) or "none published"
    )
    for note in report.uns[schema.MODEL]["notes"]:
        logger.warning("%s", note)
