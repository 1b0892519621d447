"""What every reader returns: samples in one form, whatever file they came from."""

from __future__ import annotations

from pathlib import Path

from anndata import AnnData

from nvae_bio.config import CountsSettings, Dataset, ImagesSettings
from nvae_bio.data import builtin
from nvae_bio.data.counts import counts_from_anndata, read_counts, with_library
from nvae_bio.data.features import features_from_anndata, read_features
from nvae_bio.data.images import images_from_anndata, read_images
from nvae_bio.data.join import join_label_table
from nvae_bio.data.pixels import fit_images, image_shape, pack_images
from nvae_bio.data.removed import RemovalLog
from nvae_bio.data.stream import CountSource, open_counts
from nvae_bio.errors import UserError

IN_MEMORY = "AnnData in memory"


def source_names(settings: Dataset, in_memory: bool) -> list[str]:
    """Where the samples come from: paths as in the settings, `built-in NAME`, or `AnnData in memory`."""
    if in_memory:
        return [IN_MEMORY]
    return [f"built-in {settings.builtin}"] if settings.builtin is not None else settings.path_list


def read_source(settings: Dataset, log: RemovalLog, adata: AnnData | None = None) -> AnnData:
    """Samples as a reader finds them, checked but not yet filtered.

    Args:
        settings: what to read.
        log: takes a row for whatever a reader leaves out.
        adata: samples to use instead of `settings.builtin` or `settings.paths`; never changed.

    Returns:
        counts: X CSR float32 whole numbers, obs holds `LIBRARY_COLUMN` (all counts of the cell);
        images: X float32 in [0, 1], var has channel, row, column; features: X float64.
        obs has the source's columns and those of the label table.

    Raises:
        UserError: nothing named to read, or a source that does not hold what it should.
    """
    if adata is not None:
        source = _from_anndata(settings, adata)
    elif settings.builtin is not None:
        source = _from_builtin(settings)
    elif settings.paths:
        source = _from_paths(settings, log)
    else:
        raise UserError("data set: give either `builtin` or `paths`, or AnnData in memory")
    if settings.label_table is not None:
        join_label_table(source, settings, log)
    return source


def open_source(settings: CountsSettings, log: RemovalLog, scratch: Path) -> CountSource:
    """Counts whose matrix stays on the disk (`open_counts`); a built-in data set is held in memory.

    Raises:
        UserError: as `read_source`.
    """
    if settings.paths:
        return open_counts(settings, log, scratch)
    return CountSource.of(read_source(settings, log))


def _from_anndata(settings: Dataset, adata: AnnData) -> AnnData:
    if isinstance(settings, CountsSettings):
        return counts_from_anndata(adata, settings, IN_MEMORY)
    if isinstance(settings, ImagesSettings):
        return images_from_anndata(adata, settings, IN_MEMORY)
    return features_from_anndata(adata, settings, IN_MEMORY)


def _from_paths(settings: Dataset, log: RemovalLog) -> AnnData:
    if isinstance(settings, CountsSettings):
        return read_counts(settings, log)
    if isinstance(settings, ImagesSettings):
        return read_images(settings, log)
    return read_features(settings, log)


def _from_builtin(settings: Dataset) -> AnnData:
    if isinstance(settings, ImagesSettings):
        source = builtin.digits()
        pixels = source.X.reshape(-1, *image_shape(source.var))
        return pack_images(fit_images(pixels, settings, "built-in digits"), source.obs)
    counts, library = builtin.pbmc68k()
    return with_library(counts, library)
