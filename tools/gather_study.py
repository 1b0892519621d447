"""Table, figure and page of a study from what there is of it so far; for studies that are made in parts.

    python tools/gather_study.py config/studies/mnist.yaml FOLDER...

FOLDERs are working folders of the study (with `results/`). Of variants that none of them has, the lines that are in the
table stay. What is still lacking is printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nvae_bio.config import load_config
from nvae_bio.data.files import SCORE_COLUMNS
from nvae_bio.evaluate import study

PAGES = Path("docs/studies")


def gather(config: Path, folders: Sequence[Path]) -> list[str]:
    """Write them, and return a line for each variant that is not there."""
    settings = load_config(config)
    assert settings.study is not None, f"{config}: no section `study`"
    name, places = settings.study.name, {(run.title, run.variant): run.name for run in settings.study_runs.values()}
    made = [path for folder in folders for path in sorted(folder.glob("results/*/scores.csv"))]
    new = pd.concat([pd.read_csv(path) for path in made] or [pd.DataFrame(columns=SCORE_COLUMNS)])
    table = PAGES / f"{name}.csv"
    old = pd.read_csv(table)[SCORE_COLUMNS] if table.exists() else new.iloc[:0]
    keys = ["dataset", "variant"]
    is_new = pd.MultiIndex.from_frame(old[keys]).isin(pd.MultiIndex.from_frame(new[keys]))
    scores = pd.concat([part for part in (old[~is_new], new) if len(part)])
    order = pd.Series(range(len(places)), index=pd.MultiIndex.from_tuples(list(places), names=keys), name="order")
    scores = scores.join(order, on=keys, how="inner").sort_values("order", kind="stable")
    found = set(zip(scores["dataset"], scores["variant"], strict=True))
    scores = scores[SCORE_COLUMNS]
    with tempfile.TemporaryDirectory() as folder:
        scores.to_csv(Path(folder) / "scores.csv", index=False)
        study(
            [Path(folder) / "scores.csv"],
            table,
            table.with_suffix(".md"),
            table.with_suffix(".png"),
            settings.study,
            [],
        )
    return [f"lacking: {place[0]}, {place[1]}" for place in places if place not in found]


def keep_figures(config: Path, folders: Sequence[Path]) -> list[str]:
    """Copy the figures that the study keeps, and return a line for each that is not there."""
    settings, lacking = load_config(config), []
    assert settings.study is not None
    for run in settings.study_runs.values():
        for figure in settings.study.figures.get(run.variant, []):
            target = PAGES / f"{settings.study.name}.figures" / f"{run.row}.{run.variant}.{figure}.png"
            sources = [folder / f"results/{run.name}/{run.seeds[0]}/figures/{figure}.png" for folder in folders]
            there = [source for source in sources if source.exists()]
            if there:
                target.parent.mkdir(exist_ok=True)
                shutil.copy(there[0], target)
            elif not target.exists():
                lacking.append(f"lacking: {target}")
    return lacking


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    chosen = parser.parse_args(arguments)
    print("\n".join([*gather(chosen.config, chosen.folders), *keep_figures(chosen.config, chosen.folders)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
