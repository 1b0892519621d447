"""docs/comparison.md: its tables are those of the committed scores, and a study that is not there yet says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nvae_bio.data.files import SCORE_COLUMNS
from tools import comparison_tables
from tools.comparison_tables import NOT_YET, TARGET, main, render, study_table


def test_the_page_is_made_of_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_page_that_is_not_up_to_date_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.md"
    page.write_text(TARGET.read_text(encoding="utf-8").replace("| SCVI |", "| SCVI, better |"), encoding="utf-8")
    monkeypatch.setattr(comparison_tables, "TARGET", page)
    assert main(["--check"]) == 1
    assert "not up to date" in capsys.readouterr().err
    assert main([]) == 0
    assert page.read_text(encoding="utf-8") == TARGET.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="speed"):
        render(page.read_text(encoding="utf-8").replace("<!-- speed -->", ""))


def test_a_table_has_means_over_seeds_in_the_order_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_tables, "STUDIES", tmp_path)
    assert study_table("query", ["query_accuracy"]) == NOT_YET
    rows = [
        ("query", dataset, variant, seed, "query_accuracy", value)
        for dataset, variant, seed, value in (
            ("all", "scanvi", 0, 0.5), ("all", "scanvi", 1, 0.7), ("all", "nvae-default", 0, 0.9),
            ("without_b", "scanvi", 0, 0.2), ("without_nk", "scanvi", 0, 0.4), ("without_b", "other", 0, 0.1),
        )
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["study", *SCORE_COLUMNS[:5]])
    table["package"], table["saw_labels"] = "", table["variant"] != "other"
    table.to_csv(tmp_path / "query.csv", index=False)
    found = study_table("query", ["query_accuracy"], ["nvae-default", "scanvi"], mean_over="without_")
    assert found.splitlines()[2:] == [
        "| all | nvae-bio | 1 | 0.900 |",
        "| all | SCANVI | 2 | 0.600 ± 0.141 |",
        "| mean of without_… | SCANVI | 1 | 0.300 |",
    ]
    below = study_table("query", ["query_accuracy"], ["scanvi", "other"], with_notes=True).splitlines()[-1]
    assert below == "Saw the labels (the classes): `SCANVI`; did not: `other`."
