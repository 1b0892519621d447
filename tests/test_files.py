"""Files at rest: what was changed since it was written is never taken for what was written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from nvae_bio.cli import main
from nvae_bio.data.atomic import HOST, atomic_path
from nvae_bio.data.files import (
    BLOCK,
    open_prepared,
    read_prepared,
    read_table,
    write_anndata,
    write_csv,
    write_table,
)
from nvae_bio.errors import UserError
from nvae_bio.trained import load_model, save_model
from tests.faults.disk import NoDisk, mounted, set_options
from tests.toys import prepared_counts, trained

TABLE = pd.DataFrame(
    {
        "number": [1.5, np.nan, np.inf],
        "count": [1, 2, 3],
        "text": ["a", None, "ü"],
        "level": pd.Categorical(["x", None, "y"]),
        "sure": [True, False, True],
    }
)
LONG = TABLE.take(50_000 * [*range(len(TABLE))])


def each_flip(path: Path, n: int, look: Callable[[], None]) -> None:
    """Call `look` with one bit of the file turned, at n places."""
    content, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.integers(len(content), size=n).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(changed))
        look()
    path.write_bytes(content)


def test_a_flipped_bit_of_an_h5ad_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "counts.h5ad"
    write_anndata(prepared_counts().copy(), path)
    refused: list[str] = []

    def look() -> None:
        try:
            found = read_prepared(path)
        except UserError as error:
            assert str(path) in str(error)
            refused.append(str(error))
        else:  # in the unused part of the first block
            pd.testing.assert_frame_equal(found.obs, prepared_counts().obs)

    each_flip(path, 60, look)
    assert len(refused) > 50
    assert any("checksum differs: changed since it was written" in line for line in refused)
    assert read_prepared(path).shape == prepared_counts().shape


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_h5ad_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "counts.h5ad"
    write_anndata(prepared_counts().copy(), path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match=r"counts\.h5ad: cannot be read"), open_prepared(path):
        pass


def test_the_file_is_a_plain_h5ad_to_others_and_theirs_are_read(tmp_path: Path) -> None:
    path, other = tmp_path / "ours.h5ad", tmp_path / "other.h5ad"
    write_anndata(prepared_counts().copy(), path)
    found = anndata.read_h5ad(path)
    with h5py.File(path) as file:
        assert file.userblock_size == BLOCK
        assert file.attrs["encoding-type"] == "anndata"
    assert (found.X != prepared_counts().X).nnz == 0
    found.obs["more"] = 1.0
    found.write_h5ad(other)  # by another program, without a checksum
    assert "more" in read_prepared(other).obs


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_anndata(prepared_counts().copy(), tmp_path / f"{name}.h5ad")
        write_table(TABLE, tmp_path / f"{name}.parquet")
    for ending in ("h5ad", "parquet"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize("table", [TABLE, TABLE[:0], LONG], ids=["short", "empty", "long"])
def test_a_flipped_bit_of_a_table_changes_no_value(table: pd.DataFrame, tmp_path: Path) -> None:
    path, refused = tmp_path / "table.parquet", 0
    write_table(table, path)
    expected = pd.read_parquet(path)  # as others read it
    assert expected["text"].tolist() == table["text"].tolist()
    pd.testing.assert_frame_equal(read_table(path), expected)

    def look() -> None:
        nonlocal refused
        try:
            found = read_table(path)
        except UserError as error:
            assert "table.parquet: cannot be read as a parquet table" in str(error)
            refused += 1
        else:
            pd.testing.assert_frame_equal(found, expected)

    each_flip(path, 40, look)
    assert refused > 10
    assert pq.read_table(path).num_rows == len(table)


def test_a_table_of_others_is_read(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.parquet"), TABLE)


def test_a_changed_card_or_weights_are_refused(tmp_path: Path) -> None:
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_model(trained("counts"), weights, card)
    text = card.read_text()
    card.write_text(text.replace('"beta_private": 0.75', '"beta_private": 0.74'))
    assert card.read_text() != text
    with pytest.raises(UserError, match=r"model\.json: changed since it was written \(checksum differs\)"):
        load_model(weights, card)
    card.write_text(text)

    def look() -> None:
        with pytest.raises(UserError):
            load_model(weights, card)

    each_flip(weights, 20, look)
    load_model(weights, card)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path, dead = tmp_path / "table.a.csv", subprocess.Popen(["true"])
    dead.wait()
    own = f"{HOST}.{dead.pid}.part"
    left = [tmp_path / f".table.a.{own}.csv", tmp_path / f"..table.a.{own}.{own}.csv"]  # the second: of a part
    (tmp_path / f".table.a.{HOST}.{dead.pid}.scratch.csv").mkdir()
    (tmp_path / f".table.a.{HOST}.{dead.pid}.scratch.csv" / "0").touch()
    kept = [
        tmp_path / f".table.a.{HOST}.{os.getppid()}.part.csv",  # being written
        tmp_path / f".table.a.elsewhere.{dead.pid}.part.csv",  # of another machine
        tmp_path / f".table.{HOST}.{dead.pid}.part.csv",  # of other files
        tmp_path / f".table.a.{HOST}.{dead.pid}.part.png",
        tmp_path / f".table.a.{HOST}.x.part.csv",
    ]
    for each in (*left, *kept):
        each.write_text("half")
    write_csv(TABLE, path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])


def test_a_temporary_file_names_machine_and_process(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "table.csv") as part:
        assert part.name == f".table.{HOST}.{os.getpid()}.part.csv"
        part.touch()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB."""
    folder = tmp_path / "disk"
    try:
        with mounted(folder):
            set_options(folder, "size=16k")
            yield folder
    except NoDisk as error:
        pytest.skip(str(error))


WRITERS: dict[str, Callable[[Path], None]] = {
    "h5ad": lambda path: write_anndata(prepared_counts().copy(), path),
    "parquet": lambda path: write_table(pd.DataFrame({"noise": np.random.default_rng(0).random(10_000)}), path),
    "csv": lambda path: write_csv(LONG, path),
    "safetensors": lambda path: save_model(trained("counts"), path, path.with_suffix(".json")),
}


@pytest.mark.parametrize("ending", list(WRITERS))
def test_on_a_full_disk_one_line_tells_and_the_old_file_stays(ending: str, disk: Path) -> None:
    path = disk / f"file.{ending}"
    path.write_bytes(b"as it was")
    with pytest.raises(UserError, match=r"file\.\w+: cannot be written \(.*[Nn]o space left.*\); what was there"):
        WRITERS[ending](path)
    assert path.read_bytes() == b"as it was"
    assert [each.name for each in disk.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", list(WRITERS))
def test_on_a_read_only_disk_one_line_tells(ending: str, disk: Path) -> None:
    set_options(disk, "ro")
    with pytest.raises(UserError, match=r"file\.\w+: cannot be written \(.*[Rr]ead-only file system.*\)"):
        WRITERS[ending](disk / f"file.{ending}")
    assert not list(disk.iterdir())


def test_the_command_ends_with_that_line_and_exit_code_2(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["prepare", "--settings", '{"kind": "images", "builtin": "digits"}', "--output", str(disk / "a.h5ad")])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nvae-bio: {disk / 'a.h5ad'}: cannot be written (")
