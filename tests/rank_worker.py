"""What each process of tests/test_ranks.py runs: python -m torch.distributed.run … -m tests.rank_worker FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from nvae_bio.config import FitSettings
from nvae_bio.train import train_models
from nvae_bio.train.ranks import joined_ranks
from tests.test_unlabelled import hidden_labels
from tests.toys import fit_settings, prepared_counts, prepared_features, prepared_images, stored_counts


def few_epochs(**model: Any) -> FitSettings:
    """Two, in fact: the first is compared closely. Batches of 60 leave a last one of few samples."""
    return fit_settings(2, **model).with_training(warmup_share=0.0, batch_size=60)


CASES: dict[str, tuple[Any, FitSettings, list[int]]] = {
    "counts": (prepared_counts, few_epochs(), [0]),
    "linear decoder": (prepared_counts, few_epochs(decoder="linear"), [1]),
    "penalty": (prepared_features, few_epochs(independence="mmd", independence_weight=10.0), [2]),
    "aggregate KL": (prepared_features, few_epochs(independence="aggregate_kl", independence_weight=1.0), [2]),
    "images, as a stack": (prepared_images, few_epochs(), [3, 4]),
    "from a store": (stored_counts, few_epochs(), [6]),
    "unlabelled": (lambda: hidden_labels(prepared_counts(), 0.6), few_epochs(), [5]),
}


def main(folder: Path) -> None:
    with joined_ranks() as ranks:
        if os.environ.get("DIES") == str(ranks.rank):
            raise RuntimeError(f"rank {ranks.rank} dies")
        for name, (data, settings, seeds) in CASES.items():
            for model in train_models(data(), settings, seeds, ranks=ranks):
                if ranks.is_first:
                    model.history.to_csv(folder / f"{name}.{model.card.seed}.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
