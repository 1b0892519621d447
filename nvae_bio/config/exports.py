"""Settings of the export of a run: files for other programs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from nvae_bio.config.base import Settings
from nvae_bio.config.reports import switched


class ExportSettings(Settings):
    """Tables, a file for the CELLxGENE explorer and model cards: these keys, or `on`, or `off`, the default."""

    samples: Literal["laid_out", "all"] = Field(
        "laid_out",
        description="of the file for the explorer. `laid_out`: samples with a place in X_umap (`umap_max_samples`); "
        "`all`: the others too, which that layout then does not show",
    )


OptionalExport = Annotated[ExportSettings | None, BeforeValidator(switched)]
