"""The reference of outputs: every file has the keys that it is said to have, of their shapes, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from nvae_bio import describe, schema
from nvae_bio.data.files import SCORE_COLUMNS
from nvae_bio.errors import UserError
from nvae_bio.outputs import keys_of, kind_of
from nvae_bio.schema.reference import FILES, KINDS, TABLES
from nvae_bio.schema.slot import Kind, Slot
from tests.output_files import RUNS, SIMULATED, Made, full_counts, in_notebook
from tools import output_reference

MAKERS = RUNS | SIMULATED | {"notebook": in_notebook}


def is_due(slot: Slot, of: Made, sizes: dict[str, int]) -> bool | None:
    """Whether the key must be there, or must not; None where that hangs on settings."""
    if 0 in slot.lengths(sizes | dict.fromkeys("nGFP", 1)):  # nothing of a latent that the model has not
        return False
    known = {"": True, "counts": of.kind == "counts", "images": of.kind == "images", "K > 0": sizes["K"] > 0,
             "S > 0": sizes["S"] > 0}  # fmt: skip
    return known.get(slot.when)


def found_in(kind: Kind, keys: list[tuple[str, str]], of: Made) -> dict[tuple[str, str], Slot]:
    """Each key with its description.

    Raises:
        AssertionError: a key has none, or stands for a column of the source that the source did not have.
    """
    found = {}
    for where, key in keys:
        slot = kind.find(where, key)
        assert slot is not None, f"{kind.name}: {where} {key!r} is not described"
        if slot.key.startswith("{"):
            name = "{covariate}" if key in of.covariates else "{column}"
            slot = next((one for one in kind.all_slots if (one.where, one.key) == (where, name)), None)
            is_theirs = key in of.source or key.removeprefix("source_") in of.source
            assert slot is not None and is_theirs, f"{kind.name}: {where} {key!r} is not described"
        found[where, key] = slot
    return found


def check_lacking(kind: Kind, found: dict[tuple[str, str], Slot], of: Made, sizes: dict[str, int]) -> None:
    for slot in kind.all_slots:
        due = is_due(slot, of, sizes)
        if due is not None:
            assert (slot in found.values()) == due, f"{kind.name}: {slot.name} is {'not ' if due else ''}there"


def check_value(slot: Slot, name: str, value: Any, sizes: dict[str, int]) -> None:
    if slot.columns:
        assert isinstance(value, pd.DataFrame) and sorted(value.columns) == sorted(slot.column_names), name
    if isinstance(value, pd.DataFrame) and not slot.shape:
        return
    lengths, shape = slot.lengths(sizes), np.shape(value)
    assert len(shape) == len(lengths), f"{name}: {shape}, said to be ({slot.shape})"
    for length, said in zip(shape, lengths, strict=True):
        assert said in (None, length), f"{name}: {shape}, said to be {lengths}"


def check_file(kind: Kind, adata: AnnData, of: Made) -> set[Slot]:
    """Hold a file against its description; the slots that it has."""
    n_factors = len(of.factors) if kind.rows == "samples" else adata.n_obs
    sizes = of.sizes | {"n": adata.n_obs, "G": adata.n_vars, "F": n_factors}
    values = {(where, key): value for where, key, value in keys_of(adata)}
    if kind.name.startswith("notebook"):  # what the user had before
        values = {(where, key): value for (where, key), value in values.items() if key and key not in of.source}
    found = found_in(kind, list(values), of)
    check_lacking(kind, found, of, sizes)
    for place, slot in found.items():
        check_value(slot, f"{kind.name}: {place}", values[place], sizes)
    return set(found.values())


def check_table(kind: Kind, table: pd.DataFrame, of: Made) -> set[Slot]:
    found = found_in(kind, [("column", str(name)) for name in table], of)
    check_lacking(kind, found, of, of.sizes)
    return set(found.values())


@pytest.mark.parametrize("name", MAKERS)
def test_files_hold_the_documented_keys_of_their_kind(name: str) -> None:
    of = MAKERS[name]()
    for kind, adata in of.files.items():
        check_file(FILES[kind], adata, of)
    for kind, table in of.tables.items():
        check_table(TABLES[kind], table, of)


def test_every_key_that_is_documented_was_seen_in_some_file() -> None:
    """Else a key that no file has any more would stand in the reference as one that settings can bring."""
    seen: dict[str, set[Slot]] = {name: set() for name in FILES | TABLES}
    for make in MAKERS.values():
        of = make()
        for kind, adata in of.files.items():
            seen[kind] |= check_file(FILES[kind], adata, of)
        for kind, table in of.tables.items():
            seen[kind] |= check_table(TABLES[kind], table, of)
    never = {f"{kind}: {slot.name}" for kind in seen for slot in KINDS[kind].slots if slot not in seen[kind]}
    assert never == {f"scores.csv: {name}" for name in SCORE_COLUMNS}  # which no run here makes


def test_all_constants_of_the_schema_are_described() -> None:
    """A constant that no description uses is a key that nobody is told of."""
    parts = {part for kind in KINDS.values() for slot in kind.slots for part in slot.key.split("/")}
    constants = {value for name, value in vars(schema).items() if name.isupper() and isinstance(value, str)}
    assert constants <= parts


def names(slots: tuple[Slot, ...]) -> Iterator[str]:
    return (slot.name for slot in slots)


@pytest.mark.parametrize("name", KINDS)
def test_descriptions_are_whole_and_name_each_key_once(name: str) -> None:
    kind = KINDS[name]
    assert len(set(names(kind.all_slots))) == len(kind.all_slots)
    for slot in kind.all_slots:
        assert slot.meaning.strip() == slot.meaning != ""
        slot.lengths(dict.fromkeys("nGSKCFP", 1))  # symbols that are known


def test_a_key_more_a_key_less_and_another_shape_are_found() -> None:
    of = full_counts()
    more, less, other, column = (of.files["embedded"].copy() for _ in range(4))
    more.obsm["nvae_new"] = np.zeros((more.n_obs, 2))
    del less.obsm[schema.KL_PRIVATE]
    other.obsm[schema.KL_PRIVATE] = other.obsm[schema.KL_PRIVATE][:, 1:]
    column.obs["nvae_more"] = 0.0
    for changed, said in ((more, "nvae_new"), (less, "is not there"), (other, "said to be"), (column, "nvae_more")):
        with pytest.raises(AssertionError, match=said):
            check_file(FILES["embedded"], changed, of)
    with pytest.raises(AssertionError, match="not described"):
        check_table(TABLES["audit.parquet"], of.tables["audit.parquet"].assign(more=0), of)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_reference_is_up_to_date() -> None:
    assert output_reference.main(["--check"]) == 0


def test_a_page_that_is_not_is_found_and_its_prose_is_kept(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = tuple(tmp_path / page.name for page in output_reference.PAGES)
    for page, copy in zip(output_reference.PAGES, pages, strict=True):
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(output_reference, "PAGES", pages)
    whole = pages[0].read_text(encoding="utf-8")
    pages[0].write_text(whole.replace("class; missing where unlabeled", "something else"), encoding="utf-8")
    assert output_reference.main(["--check"]) == 1
    assert "outputs.md is not up to date: run" in capsys.readouterr().err
    assert output_reference.main([]) == 0
    assert pages[0].read_text(encoding="utf-8") == whole
    pages[0].write_text(whole.replace("<!-- keys of swaps -->", ""), encoding="utf-8")
    assert output_reference.main(["--check"]) == 1
    assert "no page has the keys of swaps" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"outputs.md: keys of 'nothing'; allowed: prepared, embedded"):
        output_reference.render("<!-- keys of nothing -->\n<!-- end of keys -->\n", "outputs.md")


# --- describe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_the_kind_of_a_file_is_told_by_its_keys(name: str) -> None:
    of = MAKERS[name]()
    assert {kind: kind_of(adata).name for kind, adata in of.files.items()} == {kind: kind for kind in of.files}


def test_an_embedded_file_is_described_key_by_key() -> None:
    of = full_counts()
    table = describe(of.files["embedded"])
    row = table.loc['obsm["nvae_kl_private"]']
    assert row.to_dict() == {
        "shape": "n, C·K", "size": (of.files["embedded"].n_obs, of.sizes["C"] * of.sizes["K"]), "unit": "nats",
        "meaning": "KL of each dim of each block for each sample, blocks in class order", "only with": "",
    }  # fmt: skip
    assert {'varm["nvae_effect_class_2_upper"]', 'uns["nvae"]["classes"]', 'obs["label"]', "X"} <= set(table.index)
    assert not {f'obs["{name}"]' for name in ("true_shared", "size", "lane")} & set(table.index)  # columns of the user
    assert table.index.is_unique


def test_keys_in_a_notebook_are_described_and_those_of_the_user_are_not() -> None:
    adata = in_notebook().files["notebook"]
    table = describe(adata)
    ours = {f'{part}["{key}"]' for part in ("obsm", "obs") for key in getattr(adata, part) if "nvae" in key}
    assert {name for name in table.index if name.startswith("obs")} == ours
    assert "X" not in table.index and 'uns["nvae_factors"]' in table.index
    one = AnnData(np.zeros((3, 2)), obsm={schema.KL_PRIVATE: np.zeros((3, 4)), "value": np.zeros((3, 1))})
    one.obs["value"], one.obs["batch"] = 0.0, "b"
    assert list(describe(one).index) == ['obsm["nvae_kl_private"]']
    assert describe(AnnData(np.zeros((3, 2)))).empty


def test_a_kind_is_described_by_its_name() -> None:
    assert describe("audit.parquet").loc["log_odds", "unit"] == "nats"
    members = describe("factors").loc['uns["nvae"]["members"]']
    assert members["shape"] == "table: factor, seed, kind, class, dim, sign, agreement, outcome"
    with pytest.raises(UserError, match=r"describe: no kind of file 'factor'; allowed: prepared, embedded"):
        describe("factor")
