"""The package as it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nvae_bio


def test_every_public_name_is_there_and_documented() -> None:
    for name in nvae_bio.__all__:
        assert getattr(nvae_bio, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nvae'"):
        _ = nvae_bio.nvae


@pytest.mark.parametrize("module", ["nvae_bio", "nvae_bio.config", "nvae_bio.cli"])
def test_the_doors_and_the_settings_load_neither_torch_nor_scanpy(module: str) -> None:
    """So Snakemake checks a config, and `--help` answers, in a moment."""
    program = (
        f"import sys, {module}; print([m for m in ('torch', 'scanpy', 'anndata', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_module_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "nvae_bio", "train"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "nvae-bio: Missing option '--data'.\n"


def test_steps_in_memory_from_anndata_to_anndata() -> None:
    from nvae_bio.config import CountsSettings
    from tests.toys import NO_UMAP, fit_settings, raw_counts

    raw = raw_counts()
    prepared = nvae_bio.prepare_data(CountsSettings(kind="counts", n_top_genes=None), raw)
    trained = nvae_bio.train_model(prepared, fit_settings())
    embedded = nvae_bio.embed_data(prepared, trained, NO_UMAP)
    base = nvae_bio.train_model(prepared, fit_settings().base)
    null = nvae_bio.refit_null(prepared, base, fit_settings())
    audit = nvae_bio.audit_labels(prepared, trained)
    report = nvae_bio.report_factors([embedded], null=null, audits=[audit])
    assert nvae_bio.suggest_settings(report.factors).reasons
    samples = nvae_bio.generate_samples(trained, prepared)
    assert embedded.n_obs == raw.n_obs
    assert list(report.factors.var_names) == list(samples.var_names) == list(prepared.var_names)
