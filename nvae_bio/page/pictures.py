"""Pictures of a page as data URIs: figures of `plot`, and rows of pictures that a model of images draws."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from matplotlib.figure import Figure
from PIL import Image

from nvae_bio import schema
from nvae_bio.page.results import RunResults
from nvae_bio.plot.data import plot_data
from nvae_bio.plot.images import as_picture, plot_interpolations, plot_samples, plot_swaps, tile
from nvae_bio.plot.null import plot_null
from nvae_bio.plot.panels import outcomes, plot_examples, plot_features, scores_of, table_of
from nvae_bio.plot.power import plot_power
from nvae_bio.plot.training import plot_history

DPI = 150
MAX_STRIPS = 4  # classes in which a shared factor is traversed


class Picture(NamedTuple):
    """A picture in a page.

    Attributes:
        uri: data URI.
        alt: what it shows, in words.
        width, height: in CSS pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


def picture_of(figure: Figure, alt: str) -> Picture:
    """A matplotlib figure, sharp on dense screens and on paper."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        scale = 96 / DPI
        return Picture(_webp(image.convert("RGB")), alt, round(image.width * scale), round(image.height * scale))


def strip_of(pictures: Sequence[np.ndarray], alt: str) -> Picture:
    """Pictures of one row, (height, width) or (height, width, 3), in [0, 1]."""
    row = (tile([list(pictures)]).clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(row)
    scale = max(1, round(48 / pictures[0].shape[0]))
    return Picture(_webp(image.convert("RGB")), alt, image.width * scale, image.height * scale)


def _webp(image: Image.Image) -> str:
    packed = BytesIO()
    image.save(packed, format="webp", lossless=True, method=4)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def data_picture(results: RunResults) -> Picture:
    """Filters, class sizes, and QC or mean pictures."""
    shown = {"counts": "and histograms of counts, detected genes and mitochondrial share a cell",
             "images": "and the mean training picture of each class"}.get(results.kind, "")  # fmt: skip
    alt = f"Bars of what each filter removed, bars of the samples of each class by split {shown}".strip()
    return picture_of(plot_data(results.prepared), f"{alt}. The tables beside it have the numbers.")


def history_picture(results: RunResults) -> Picture:
    """Terms of the objective along the epochs."""
    named = {f"seed {card.seed}": history for card, history in zip(results.cards, results.histories, strict=True)}
    return picture_of(
        plot_history(named),
        "Curves along the epochs of each seed, training drawn through and validation dotted: the bound, the "
        "log-likelihood, the KL of the shared, own and other blocks, and the accuracy of the classifier. A dot marks "
        "the epoch that was kept, a grey line the end of the warm-up.",
    )


def factor_picture(results: RunResults, place: int) -> Picture:
    """A factor's features, its statistic against its null, and samples at both ends of its score."""
    report, scores = results.factors, scores_of(results.factors, results.scores)
    obs, name = report.obs.iloc[place], report.obs_names[place]
    rows = np.isfinite(scores[:, place])
    if obs["kind"] == "private":
        rows &= (results.scores.obs[schema.LABEL].astype(object) == str(obs["class"])).to_numpy()
    images = results.kind == "images"
    figure = Figure(figsize=(10.6, 3.1), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[2.6, 2.6, 4.4] if images else [3, 2.6, 4])
    plot_features(axes[0], report, place)
    plot_null(axes[1], report, results.scores, place)
    plot_examples(axes[2], report, results.scores, scores[:, place], place, rows)
    effect = "the effect as a picture" if images else "bars of the features that it changes most, with intervals"
    ends = "pictures" if images else "a heat map of samples"
    alt = f"{name}: {effect}; what was tested against its null values; {ends} at both ends of the score."
    return picture_of(figure, alt)


def power_picture(results: RunResults, name: str) -> Picture:
    """The power curve of a class."""
    figure = Figure(figsize=(3.6, 2.2), layout="constrained")
    plot_power(figure.subplots(), results.factors, name)
    return picture_of(figure, f"Share of the runs that find a programme planted into {name}, by its fold change.")


def traversal_pictures(results: RunResults, place: int) -> list[tuple[str, Picture]]:
    """A class, and what the decoder draws as the factor moves up and all others stay at 0, in the traversed seed.

    A shared factor is shown in up to four classes that use it. None where nothing was traversed, or the seed lacks the
    factor.
    """
    traversals, report = results.generated.get("traversals"), results.factors
    if traversals is None or results.kind != "images":
        return []
    members = table_of(report, schema.MEMBERS)
    seed = int(traversals.uns[schema.MODEL]["seed"])
    own = members[
        ((members["factor"].astype(str) == report.obs_names[place]) & (members["seed"].astype(int) == seed)).to_numpy()
    ]
    if own.empty:
        return []
    member, obs, shape = (
        own.iloc[0],
        traversals.obs,
        [int(size) for size in traversals.uns[schema.MODEL]["image_shape"]],
    )
    found = []
    for name in _shown_classes(report, place):
        rows = (
            (obs["kind"].astype(str) == str(member["kind"]))
            & (obs["dim"].astype(int) == int(member["dim"]))
            & (obs[schema.LABEL].astype(str) == name)
        )
        if rows.any():
            order = np.argsort(float(member["sign"]) * obs["value"].to_numpy(float)[rows.to_numpy()], kind="stable")
            drawn = [as_picture(row, shape) for row in np.asarray(traversals.X[rows.to_numpy()])[order]]
            span = float(np.abs(obs["value"].to_numpy(float)).max())
            ends = f"−{span:g} to +{span:g} prior SD"
            alt = f"{report.obs_names[place]} in class {name}: {len(drawn)} pictures from {ends}."
            found.append((name, strip_of(drawn, alt)))
    return found


def _shown_classes(report: AnnData, place: int) -> list[str]:
    """The class of a private factor; those that use a shared one, or the one in which it is strongest."""
    obs = report.obs.iloc[place]
    if obs["kind"] == "private":
        return [str(obs["class"])]
    names = [str(name) for name in report.uns[schema.MODEL]["classes"]]
    used = [name for name, found in zip(names, outcomes(report)[place], strict=True) if found == "active"]
    return used[:MAX_STRIPS] or [str(obs["kl_class"])]


def generated_pictures(results: RunResults) -> list[tuple[str, Picture]]:
    """What the model draws: a title and a picture each."""
    draws: dict[str, tuple[str, Callable[[AnnData], Figure], str]] = {
        "samples": (
            "Samples of each class",
            plot_samples,
            "Rows of pictures, a row a class: decoded draws of the prior, at each scale of its noise.",
        ),
        "swaps": (
            "The same sample as every class",
            plot_swaps,
            "A row a held-out sample and a column a class: decoded with its shared latent, as that class.",
        ),
        "interpolations": (
            "From one sample to another of its class",
            plot_interpolations,
            "A row a pair of held-out samples of a class: pictures on the straight line between their latents.",
        ),
    }
    if results.kind != "images":
        return []
    return [
        (title, picture_of(draw(results.generated[name]), alt))
        for name, (title, draw, alt) in draws.items()
        if name in results.generated
    ]
