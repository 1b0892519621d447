"""Figures: each draws what its table says, for every kind of data and variant, and is written whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nvae_bio import (
    embed_data,
    generate_samples,
    interpolate_samples,
    report_factors,
    report_seeds,
    swap_classes,
    traverse_factors,
)
from nvae_bio.config import EmbeddingSettings, GenerationSettings
from nvae_bio.data.files import write_anndata
from nvae_bio.errors import UserError
from nvae_bio.plot import (
    plot,
    plot_data,
    plot_history,
    plot_interpolations,
    plot_posterior,
    plot_private_kl,
    plot_private_traversals,
    plot_samples,
    plot_shared_embedding,
    plot_shared_kl,
    plot_shared_traversals,
    plot_specific_embedding,
    plot_swaps,
    plot_top_features,
)
from nvae_bio.plot.images import as_picture, tile
from nvae_bio.plot.style import FORMATS, OKABE_ITO, colors_of, house_style, save_figure
from tests.toys import PREPARED, QUICK_UMAP, embedded, prepared_counts, prepared_images, trained

VARIANTS = ["nvae", "cvae", "vae", "per_class"]


@pytest.fixture(autouse=True)
def styled() -> Iterator[None]:
    with house_style():
        yield


def texts(figure: Figure) -> str:
    """All that is written in a figure, once it is drawn."""
    FigureCanvasAgg(figure).draw()
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_the_data_figure_names_every_filter_and_class(kind: str) -> None:
    said = texts(plot_data(PREPARED[kind]()))
    assert "filters" in said
    for name in ("c0", "c1", "c2", "train", "validation", "test"):
        assert name in said
    assert ("counts a cell" in said) == (kind == "counts")
    assert ("mean training picture" in said) == (kind == "images")


def test_the_bars_of_the_data_figure_are_the_class_sizes() -> None:
    figure = plot_data(prepared_counts())
    widths = sum(patch.get_width() for patch in figure.axes[1].patches)
    assert widths == prepared_counts().n_obs
    removed = prepared_counts().uns["nvae_data"]["removed"]["n_removed"].sum()
    assert sum(patch.get_width() for patch in figure.axes[0].patches) == removed


def test_training_curves_show_every_seed_and_the_kept_epoch() -> None:
    histories = {f"seed {seed}": trained("counts", seed=seed).history for seed in (0, 1)}
    figure = plot_history(histories)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len(lines) == 4
    validation = histories["seed 0"].query("split == 'validation'")["elbo"]
    assert any(np.array_equal(line.get_ydata(), validation) for line in lines)
    assert "seed 1" in texts(figure)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["counts", "features", "images"])
def test_report_and_embedding_figures_draw_for_every_kind_and_variant(kind: str, variant: str) -> None:
    adata = embedded(kind, variant)
    report = report_seeds([adata])
    private, shared = texts(plot_private_kl(report)), texts(plot_shared_kl(report))
    assert ("no private factors" in private) == (variant in ("cvae", "vae"))
    assert ("no shared factors" in shared) == (variant == "per_class")
    assert texts(plot_top_features(report_factors([adata]).factors))
    assert ("no private factors" in texts(plot_specific_embedding(adata))) == (variant in ("cvae", "vae"))
    assert "No UMAP" in texts(plot_shared_embedding(adata))


def test_the_heat_map_shows_the_numbers_of_the_report() -> None:
    report = report_seeds([embedded("features")])
    mesh = plot_private_kl(report).axes[0].collections[0]
    rows = (report.obs["kind"] == "private").to_numpy()
    np.testing.assert_allclose(np.ravel(mesh.get_array()), report.obsm["kl_by_class"][rows].T.ravel())


@QUICK_UMAP
def test_the_figure_says_where_only_a_part_was_laid_out() -> None:
    adata = embed_data(prepared_counts(), trained("counts"), EmbeddingSettings(umap_max_samples=120))
    figure = plot_shared_embedding(adata)
    assert "120 of 300 samples" in texts(figure)
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 120


@QUICK_UMAP
def test_umaps_are_coloured_by_class_batch_donor_and_condition() -> None:
    adata = embed_data(prepared_counts(), trained("counts"), EmbeddingSettings())
    said = texts(plot_shared_embedding(adata))
    assert all(f"by {key}" in said for key in ("label", "donor", "condition"))
    assert "by batch" not in said


@pytest.mark.parametrize("variant", VARIANTS)
def test_pictures(variant: str) -> None:
    model, report = trained("images", variant), report_seeds([embedded("images", variant)])
    samples = generate_samples(model, prepared_images(), GenerationSettings(n_per_class=3))
    moved = traverse_factors(model, prepared_images(), GenerationSettings(n_steps=3))
    said = texts(plot_samples(samples))
    assert "σ = 1.4" in said
    assert ("no shared factors" in texts(plot_shared_traversals(moved, report))) == (variant == "per_class")
    assert ("no private factors" in texts(plot_private_traversals(moved, report))) == (variant in ("cvae", "vae"))


@pytest.mark.parametrize("variant", ["nvae", "per_class"])
def test_pictures_between_samples_and_as_other_classes_are_the_decoded_ones(variant: str) -> None:
    model = trained("images", variant)
    steps = interpolate_samples(model, prepared_images(), GenerationSettings(n_pairs=2, n_steps=4))
    swaps = swap_classes(model, prepared_images(), GenerationSettings(n_swapped=2))
    for figure, adata, n_rows, n_columns in (
        (plot_interpolations(steps), steps, 6, 4),
        (plot_swaps(swaps), swaps, 6, 3),
    ):
        (ax,) = figure.axes
        shown = np.asarray(ax.images[0].get_array())
        assert shown.shape == (n_rows * 9, n_columns * 9)  # 8 × 8 pixels and a gap
        picture = shown.reshape(n_rows, 9, n_columns, 9)[1, :8, 2, :8]
        np.testing.assert_allclose(picture.ravel(), adata.X[n_columns + 2], atol=1e-6)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["c0", "c0", "c1", "c1", "c2", "c2"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c0", "c1", "c2"]


def test_samples_of_few_classes_are_drawn_beside_gaps() -> None:
    settings = GenerationSettings(sigmas=(1.0,), n_per_class={"c0": 3, "c2": 1})
    (ax,) = plot_samples(generate_samples(trained("images"), prepared_images(), settings)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["c0", "c2"]
    assert (np.asarray(ax.images[0].get_array())[9:, 9:] == 1).all()


def test_a_row_of_pixels_becomes_the_picture_it_was() -> None:
    grey, colour = np.random.default_rng(0).random((1, 5, 4)), np.random.default_rng(1).random((3, 5, 4))
    assert np.array_equal(as_picture(grey.ravel(), (1, 5, 4)), grey[0])
    assert np.array_equal(as_picture(colour.ravel(), (3, 5, 4)), colour.transpose(1, 2, 0))
    tiled = tile([[grey[0], grey[0]], [grey[0], grey[0]]])
    assert tiled.shape == (12, 10)
    assert np.array_equal(tiled[6:11, 5:9], grey[0])


@pytest.mark.parametrize("n", [1, 8, 9, 20, 21, 60])
def test_colours_are_distinct(n: int) -> None:
    colors = colors_of([str(i) for i in range(n)])
    assert len({tuple(np.round(c, 6)) if not isinstance(c, str) else c for c in colors.values()}) == n
    assert n > len(OKABE_ITO) or set(colors.values()) <= set(OKABE_ITO)


def test_files_are_real_pictures_and_the_same_twice(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save_figure(plot_private_kl(report_seeds([embedded("counts")])), tmp_path / folder, "kl")
    assert sorted(path.suffix[1:] for path in (tmp_path / "a").iterdir()) == sorted(FORMATS)
    with Image.open(tmp_path / "a" / "kl.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    assert (tmp_path / "a" / "kl.svg").read_bytes() == (tmp_path / "b" / "kl.svg").read_bytes()


def test_the_step_draws_what_it_is_given(tmp_path: Path) -> None:
    model = trained("images")
    write_anndata(prepared_images(), tmp_path / "data.h5ad")
    found = report_factors([embedded("images")])
    for name in ("factors", "embedded", "seeds"):
        write_anndata(getattr(found, name), tmp_path / f"{name}.h5ad")
    write_anndata(traverse_factors(model, prepared_images()), tmp_path / "traversals.h5ad")
    write_anndata(generate_samples(model, prepared_images()), tmp_path / "samples.h5ad")
    (tmp_path / "0").mkdir()
    model.history.to_parquet(tmp_path / "0" / "history.parquet")
    names = plot(
        tmp_path / "out",
        data=tmp_path / "data.h5ad",
        histories=[tmp_path / "0" / "history.parquet"],
        report=tmp_path / "factors.h5ad",
        seeds=tmp_path / "seeds.h5ad",
    )
    assert names == ["data", "training", "factor_map", "top_features", "kl_private", "kl_shared"]
    pages = plot(tmp_path / "pages", report=tmp_path / "factors.h5ad", scores=tmp_path / "embedded.h5ad")
    assert {path.stem for path in (tmp_path / "pages").iterdir()} == set(pages) >= {"class-c0", "class-c1", "class-c2"}
    names += plot(
        tmp_path / "out",
        samples=tmp_path / "samples.h5ad",
        traversals=tmp_path / "traversals.h5ad",
        seeds=tmp_path / "seeds.h5ad",
    )
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(names)
    assert len(names) == 9


def test_pictures_of_counts_are_refused(tmp_path: Path) -> None:
    write_anndata(generate_samples(trained("counts"), prepared_counts()), tmp_path / "samples.h5ad")
    with pytest.raises(UserError, match="of kind 'counts'; pictures need kind 'images'"):
        plot(tmp_path / "out", samples=tmp_path / "samples.h5ad")
    assert not (tmp_path / "out").exists()


def test_limits_of_qc_are_drawn() -> None:
    prepared = prepared_counts().copy()
    settings = json.loads(prepared.uns["nvae_data"]["settings"])
    settings["qc"]["min_counts"] = int(prepared.uns["nvae_data"]["qc"]["n_counts"].median())
    prepared.uns["nvae_data"]["settings"] = json.dumps(settings)
    assert "limit" in texts(plot_data(prepared))


@pytest.mark.parametrize(("variant", "name"), [("nvae", "z_s"), ("vae", "z_s"), ("per_class", "own block")])
def test_the_posterior_is_drawn_beside_the_prior(variant: str, name: str) -> None:
    adata = embedded("features", variant)
    figure = plot_posterior(adata)
    (ax,) = figure.axes
    assert f"aggregate posterior of {name}" in ax.get_title()
    assert [patch.radius for patch in ax.patches] == [1, 2, 3]
    drawn = sum(len(points.get_offsets()) for points in ax.collections)
    assert drawn == (adata.obs["split"] == "test").sum()
    spread = np.concatenate([points.get_offsets() for points in ax.collections if len(points.get_offsets())])
    assert 0.3 < spread.std() < 3


def test_a_posterior_of_long_class_names_leaves_all_labels_within_the_figure() -> None:
    adata = embedded("features", "vae").copy()
    adata.obs["label"] = adata.obs["label"].astype(str) + "m" * 8
    with house_style():
        figure = plot_posterior(adata)
        figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.x1 <= figure.get_figwidth()


def test_one_dim_has_no_axes_to_draw() -> None:
    adata = embedded("features", "vae").copy()
    for key in ("X_nvae_shared", "nvae_shared_std"):
        adata.obsm[key] = np.asarray(adata.obsm[key])[:, :1]
    assert "two dims or more" in plot_posterior(adata).texts[0].get_text()
