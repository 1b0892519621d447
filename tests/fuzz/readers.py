"""The readers, each with files of small real data and the laws of what it may return."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.datasets import load_digits, load_wine

from nvae_bio import schema
from nvae_bio.card import ModelCard
from nvae_bio.config import Dataset, FitSettings, load_config
from nvae_bio.data import files
from nvae_bio.data.builtin import pbmc68k
from nvae_bio.data.manifest import MANIFEST, OBS, Manifest, n_bytes_of
from nvae_bio.data.samples import to_samples
from nvae_bio.data.store import open_store
from nvae_bio.embed import embed_data
from nvae_bio.factors import report as report_step
from nvae_bio.factors.enrichment import read_gene_sets
from nvae_bio.prepare import prepare, prepare_data
from nvae_bio.prepare.step import prepare_store
from nvae_bio.train import checkpoint, train_model
from nvae_bio.train.state import State
from nvae_bio.trained import load_model, save_model
from tests.data_files import settings, write_10x_h5, write_idx, write_labels, write_mtx
from tests.fuzz.mutations import change_json
from tests.toys import NO_UMAP, fit_settings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """A way to read files of one kind.

    Attributes:
        make: writes the files of a seed into an empty folder.
        read: reads a folder of such files; raises UserError, or returns what keeps the laws.
        n: seeds: `make` is told which.
        sign: makes checksums anew, as whoever wants to be believed would.
    """

    make: Callable[[Path, int], object]
    read: Callable[[Path], object]
    n: int = 1
    sign: Callable[[Path], None] | None = None


def blood() -> AnnData:
    """60 blood cells × 30 genes of a real experiment."""
    counts, _ = pbmc68k()
    counts = counts[:60, :30].copy()
    counts.obs["donor"] = [f"d{i % 4}" for i in range(60)]
    return counts


def wine() -> pd.DataFrame:
    """60 wines × 6 measurements, with their class."""
    bunch = load_wine(as_frame=True)
    table = bunch.frame.iloc[::3, :6].round(3)
    return table.assign(label=[f"c{i % 2}" for i in range(len(table))], name=[f"w{i}" for i in range(len(table))])


def digits(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of 8 × 8 pixels of 8 bits, and which of two classes each is in."""
    bunch = load_digits()
    return (bunch.images[:n] * 15).astype(np.uint8), (bunch.target[:n] % 2).astype(np.uint8)


def prepared_by(find: Callable[[Path], Dataset]) -> Callable[[Path], object]:
    """`nvae-bio prepare` on files of a folder; what it writes keeps the laws of a prepared file, and is read again."""

    def read(folder: Path) -> object:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # goes with the case where a child is killed
            output = Path(scratch) / "prepared.h5ad"
            prepare(find(folder), output)
            adata = files.read_prepared(output)
        values = adata.X if isinstance(adata.X, np.ndarray) else adata.X.data
        assert np.isfinite(values).all()
        assert adata.obs_names.is_unique
        assert adata.var_names.is_unique
        kind = adata.uns[schema.DATA]["kind"]
        assert kind != "counts" or ((values >= 0).all() and (values == np.round(values)).all())
        assert kind != "images" or (values.min(initial=0) >= 0 and values.max(initial=0) <= 1)
        return adata

    return read


def only(folder: Path) -> str:
    """The one file of a folder, or the first."""
    return str(min(folder.iterdir()))


def _counts(path: str) -> Dataset:
    return settings(paths=path, label_key="phase", rare_classes="drop")


def _labelled(make: Callable[[AnnData, Path, int], object]) -> Callable[[Path, int], object]:
    """Counts in a format that has no labels, with a table of them."""

    def written(folder: Path, seed: int) -> None:
        make(blood(), folder, seed)
        write_labels(blood(), folder / "labels.csv")

    return written


def _with_labels(folder: Path) -> Dataset:
    """Counts, and a table of labels beside them."""
    data, table = (str(next(folder.glob(f"{name}*"))) for name in ("data", "labels"))
    return settings(paths=data, label_table=table, label_table_key="barcode", label_key="phase", rare_classes="drop")


def _make_table(ending: str) -> Callable[[Path, int], object]:
    def make(folder: Path, seed: int) -> object:
        table = wine() if ending.startswith("features") else blood().to_df().astype(int).assign(**blood().obs)
        name = ["data.csv", "data.tsv.gz", "data.tsv"][seed]
        if ending.endswith("parquet"):
            return table.to_parquet(folder / "data.parquet")
        return table.to_csv(folder / name, sep="\t" if "tsv" in name else ",", index=not ending.startswith("features"))

    return make


def _features(path: str) -> Dataset:
    return settings("features", paths=path, index_column="name", label_key="label")


def _make_anndata(make: Callable[[], AnnData], write: str) -> Callable[[Path, int], object]:
    def written(folder: Path, seed: int) -> object:
        adata = make()
        adata.layers["counts"] = adata.X.copy()
        adata.obs["score"] = pd.array([1, None] * (adata.n_obs // 2), dtype="Int64")
        adata.uns["note"] = {"by": "someone", "n": 3}
        with anndata.settings.override(allow_write_nullable_strings=True):
            return getattr(adata, write)(folder / f"data.{write.removeprefix('write_')}")

    return written


def _packed_digits() -> AnnData:
    pixels, label = digits()
    obs = pd.DataFrame({"label": label}, index=[f"i{i}" for i in range(len(label))])
    return AnnData(pixels.reshape(len(pixels), -1) / np.float32(255), obs=obs)


def _wine_anndata() -> AnnData:
    table = wine().set_index("name")
    return AnnData(table.iloc[:, :6].to_numpy(), obs=table[["label"]], var=pd.DataFrame(index=table.columns[:6]))


def _images(path: Path | str, **more: Any) -> Dataset:
    return settings("images", paths=str(path), **more)


def _make_idx(folder: Path, seed: int) -> None:
    pixels, label = digits()
    ending = ".gz" if seed else ""
    write_idx(pixels, folder / f"train-images-idx3-ubyte{ending}")
    write_idx(label, folder / f"train-labels-idx1-ubyte{ending}")


def _make_npz(folder: Path, seed: int) -> None:
    pixels, label = digits()
    arrays = {f"{part}_images": pixels[n::2] for n, part in enumerate(("train", "test"))}
    arrays |= {f"{part}_labels": label[n::2, None] for n, part in enumerate(("train", "test"))}
    (np.savez if seed else np.savez_compressed)(folder / "data.npz", **arrays)


def _make_pictures(folder: Path, seed: int) -> None:
    for index, (pixels, label) in enumerate(zip(*digits(12), strict=True)):
        place = folder / "pictures" / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.{['png', 'jpg', 'tif'][seed]}")


def _make_labels(folder: Path, seed: int) -> None:
    _make_table("counts.parquet")(folder, 0)
    if seed:
        blood().obs.reset_index(names="barcode").to_parquet(folder / "labels.parquet")
    else:
        write_labels(blood(), folder / "labels.csv")


def _prepared_images() -> AnnData:
    return prepare_data(settings("images", image_shape=(1, 8, 8)), _packed_digits())


def _prepared() -> AnnData:
    return prepare_data(settings(label_key="phase", rare_classes="drop", donor_key="donor"), blood())


@cache
def _trained() -> Any:
    return train_model(_prepared(), fit_settings(max_epochs=2))


def _embedded() -> AnnData:
    return embed_data(_prepared(), _trained(), NO_UMAP)


def _factors() -> AnnData:
    return report_step.report_factors([_embedded()]).factors


def _make_checkpoint(folder: Path, _: int) -> None:
    state, path = _fresh(), folder / "seed_0.safetensors"
    saved = checkpoint.Saved({"form": 1}, 1, state.position(), state.tensors())
    checkpoint.write_checkpoint(path, path.with_suffix(".before"), saved)


def _sign_model(folder: Path) -> None:
    """Checksums of the weights and of the card, as they are."""
    card = folder / "model.json"
    with suppress(ValueError, TypeError):  # no card any more
        values = json.loads(card.read_text(encoding="utf-8"))
        values["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        read = ModelCard.model_validate(values)
        card.write_text(read.model_copy(update={"card_sha256": read.checksum}).model_dump_json(), encoding="utf-8")


def _sign_checkpoint(folder: Path) -> None:
    path = folder / "seed_0.safetensors"
    with suppress(ValueError, SafetensorError), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        changed = about = str((file.metadata() or {}).get("about"))
        if len(about) % 2:
            changed = change_json(about.encode(), np.random.default_rng(len(about))).decode()
        path.write_bytes(save(tensors, {"about": changed, "sha256": checkpoint._digest(changed, tensors)}))


def _take_up(folder: Path) -> object:
    """A fresh training goes on from the checkpoint, or a line says why it does not."""
    path = folder / "seed_0.safetensors"
    saved = files.read_file(path, checkpoint.read_checkpoint, "a checkpoint")
    kept = checkpoint.Checkpoints(checkpoint.Keeping(folder / "none"), FitSettings(), [0], "", "cpu")
    kept.saved, kept.path = saved, path
    list(checkpoint.differences(saved.identity, kept.identity))
    kept.resume(_fresh())
    return saved


def _fresh() -> State:
    read = _trained().card
    return State.start([read.build()], [0], read.settings.training)


def _make_scores(folder: Path, _: int) -> None:
    metrics = ("elbo", "accuracy")
    rows = [["pbmc", "nvae", seed, metric, 0.25 * seed, "", True] for seed in range(3) for metric in metrics]
    files.write_csv(pd.DataFrame(rows, columns=files.SCORE_COLUMNS), folder / "scores.csv")


def _make_config(folder: Path, seed: int) -> None:
    name = ["config.yaml", "simulated.yaml", "examples/kang.yaml", "studies/factors.yaml"][seed]
    (folder / "config.yaml").write_bytes((ROOT / "config" / name).read_bytes())


def _read_prepared(folder: Path) -> object:
    adata = files.read_prepared(folder / "data.h5ad")
    with files.open_prepared(folder / "data.h5ad") as opened:
        return to_samples(opened, adata.uns[schema.DATA]["classes"])


def _write(*makes: Callable[[], AnnData]) -> Callable[[Path, int], object]:
    """Each as we write it, with a checksum; the last once more as another program does, without."""

    def written(folder: Path, seed: int) -> None:
        adata = makes[min(seed, len(makes) - 1)]()
        if seed < len(makes):
            files.write_anndata(adata, folder / "data.h5ad")
        else:
            adata.write_h5ad(folder / "data.h5ad")

    return written


def _read_in_parts(folder: Path) -> object:
    with tempfile.TemporaryDirectory() as scratch:
        data, store = Path(scratch) / "data.h5ad", Path(scratch) / "data.store"
        prepare_store(_counts(only(folder)), data, store, 64)
        return open_store(store).matrix.rows(torch.arange(10))


def _make_store(folder: Path, _: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        blood().write_h5ad(Path(scratch) / "a.h5ad")
        prepare_store(_counts(str(Path(scratch) / "a.h5ad")), Path(scratch) / "data.h5ad", folder / "data.store", 64)


def _read_store(folder: Path) -> object:
    store = open_store(folder / "data.store")
    samples = to_samples(store, store.uns[schema.DATA]["classes"])
    return [batch.counts for batch in samples.chunks(100)]


def _sign_store(folder: Path) -> None:
    """Sizes and checksums of all files and blocks, as they are."""
    home = folder / "data.store"
    with suppress(ValueError, TypeError, OSError):  # no manifest any more
        read = Manifest.model_validate_json((home / MANIFEST).read_bytes())
        shards = []
        for shard in read.shards:
            content, blocks = (home / shard.name).read_bytes(), []
            for block in shard.blocks:
                own = content[block.offset : block.offset + n_bytes_of(block, len(read.genes))]
                blocks.append(block.model_copy(update={"sha256": hashlib.sha256(own).hexdigest()}))
            shards.append(shard.model_copy(update={"n_bytes": len(content), "blocks": blocks}))
        obs_sha256 = hashlib.sha256((home / OBS).read_bytes()).hexdigest()
        read = read.model_copy(update={"shards": shards, "obs_sha256": obs_sha256})
        (home / MANIFEST).write_text(read.model_copy(update={"sha256": read.checksum}).model_dump_json())


READERS: dict[str, Reader] = {
    "counts .h5ad": Reader(_make_anndata(blood, "write_h5ad"), prepared_by(lambda f: _counts(only(f)))),
    "counts .zarr": Reader(_make_anndata(blood, "write_zarr"), prepared_by(lambda f: _counts(only(f)))),
    "counts 10x .h5": Reader(
        _labelled(lambda counts, f, seed: write_10x_h5(counts, f / "data.h5", seed + 2)), prepared_by(_with_labels), 2
    ),
    "counts 10x mtx": Reader(
        _labelled(lambda counts, f, seed: write_mtx(counts, f / "data", 2 + seed % 2, seed > 1)),
        prepared_by(_with_labels), 4,
    ),
    "counts .csv .tsv .gz": Reader(_make_table("counts"), prepared_by(lambda f: _counts(only(f))), 3),
    "counts .parquet": Reader(_make_table("counts.parquet"), prepared_by(lambda f: _counts(only(f)))),
    "features .csv .tsv .gz": Reader(_make_table("features"), prepared_by(lambda f: _features(only(f))), 3),
    "features .parquet": Reader(_make_table("features.parquet"), prepared_by(lambda f: _features(only(f)))),
    "features .h5ad": Reader(
        _make_anndata(_wine_anndata, "write_h5ad"), prepared_by(lambda f: settings("features", paths=only(f)))
    ),
    "images IDX": Reader(_make_idx, prepared_by(lambda f: _images(only(f))), 2),
    "images .npz": Reader(_make_npz, prepared_by(lambda f: _images(only(f))), 2),
    "images folder": Reader(_make_pictures, prepared_by(lambda f: _images(f / "pictures")), 3),
    "images .h5ad": Reader(
        _make_anndata(_packed_digits, "write_h5ad"), prepared_by(lambda f: _images(only(f), image_shape=(1, 8, 8)))
    ),
    "label table": Reader(_make_labels, prepared_by(_with_labels), 2),
    "prepared .h5ad": Reader(_write(_prepared_images, _prepared), _read_prepared, 3),
    "counts .h5ad in parts": Reader(_make_anndata(blood, "write_h5ad"), _read_in_parts),
    "store": Reader(_make_store, _read_store, sign=_sign_store),
    "embedded .h5ad": Reader(_write(_embedded), lambda f: files.read_embedded(f / "data.h5ad"), 2),
    "factors .h5ad": Reader(_write(_factors), lambda f: files.read_factors(f / "data.h5ad"), 2),
    "model": Reader(
        lambda f, _: save_model(_trained(), f / "model.safetensors", f / "model.json"),
        lambda f: load_model(f / "model.safetensors", f / "model.json"), sign=_sign_model,
    ),
    "checkpoint": Reader(_make_checkpoint, _take_up, sign=_sign_checkpoint),
    "table .parquet": Reader(
        lambda f, _: files.write_table(wine(), f / "table.parquet"), lambda f: files.read_table(f / "table.parquet")
    ),
    "scores .csv": Reader(_make_scores, lambda f: files.read_scores([f / "scores.csv"])),
    "gene sets .gmt": Reader(
        lambda f, _: (f / "sets.gmt").write_text("".join(f"SET{i}\tabout\tA{i}\tB\tC\n" for i in range(9))),
        lambda f: read_gene_sets(f / "sets.gmt"),
    ),
    "config .yaml": Reader(_make_config, lambda f: load_config(f / "config.yaml"), 4),
}  # fmt: skip
