"""Both embeddings in two dimensions."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nvae_bio import schema
from nvae_bio.plot.style import OKABE_ITO, make_panels, say, scatter

MAX_CLASSES = 16
SPAN = 3.3  # of the axes of a private dim, in standard deviations of the prior


def plot_shared_embedding(embedded: AnnData) -> Figure:
    """UMAP of the shared embedding, coloured by class and, where the data have them, batch, donor and condition."""
    if schema.UMAP not in embedded.obsm or np.isnan(embedded.obsm[schema.UMAP]).all():
        return say("No UMAP of the shared embedding: no shared latent, embedding.umap is false, or too few samples.")
    points = embedded.obsm[schema.UMAP]
    seen = ~np.isnan(points).any(1)
    part = "" if seen.all() else f", {seen.sum():,} of {len(seen):,} samples"
    columns = [schema.LABEL, *(key for key in (schema.BATCH, schema.DONOR, schema.CONDITION) if key in embedded.obs)]
    figure, axes = make_panels(len(columns), 5.2, 3.8, 2)
    for ax, column in zip(axes, columns, strict=True):
        scatter(ax, points[seen], embedded.obs[column][seen])
        ax.set(title=f"shared embedding by {column}{part}", xlabel="UMAP 1", ylabel="UMAP 2")
    return figure


def plot_posterior(embedded: AnnData) -> Figure:
    """The aggregate posterior beside the prior: a draw of z_s of each held-out sample, along its two principal axes.

    Circles hold 39 %, 86 % and 99 % of the prior, N(0, I). A model without z_s shows the own block.
    """
    keys = next(
        (pair for pair in ((schema.SHARED, schema.SHARED_STD), (schema.SPECIFIC, schema.SPECIFIC_STD))
         if pair[0] in embedded.obsm),
        None,
    )  # fmt: skip
    held_out = embedded[(embedded.obs[schema.SPLIT] == "test").to_numpy()]
    held_out = held_out if held_out.n_obs > 2 else embedded
    if keys is None or embedded.obsm[keys[0]].shape[1] < 2:
        return say("The aggregate posterior is drawn of latents of two dims or more.")
    mean, sd = (np.asarray(held_out.obsm[key], dtype=np.float64) for key in keys)
    known = ~np.isnan(mean).any(1)
    mean, sd, obs = mean[known], sd[known], held_out.obs[known]
    draws = mean + sd * np.random.default_rng(0).normal(size=mean.shape)
    axes_of = np.linalg.svd(draws - draws.mean(0), full_matrices=False)[2][:2]
    figure, (ax,) = make_panels(1, 5.2, 3.8, 1)
    scatter(ax, draws @ axes_of.T, obs[schema.LABEL])
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, color="black", linewidth=0.8, linestyle="--"))
    name = "z_s" if keys[0] == schema.SHARED else "own block"
    ax.set(title=f"aggregate posterior of {name}; circles: prior", aspect="equal", adjustable="datalim")
    ax.set(xlabel="principal axis 1", ylabel="principal axis 2")
    return figure


def plot_specific_embedding(embedded: AnnData) -> Figure:
    """The specific embedding, one panel a class, coloured by condition where there is one.

    Axes of different classes are unrelated. With one private dim a class: its histogram; with two: the dims
    themselves; with more: a UMAP of the class's own.
    """
    if schema.SPECIFIC not in embedded.obsm:
        return say(f"This run has no private factors (variant {embedded.uns[schema.MODEL]['variant']}).")
    specific = embedded.obsm[schema.SPECIFIC]
    n_private = specific.shape[1]
    if n_private > 2 and schema.SPECIFIC_UMAP not in embedded.obsm:
        return say("No UMAP of the specific embedding: embedding.umap is false.")
    points = embedded.obsm[schema.SPECIFIC_UMAP] if n_private > 2 else specific
    classes = [str(name) for name in embedded.uns[schema.MODEL]["classes"]]
    figure, axes = make_panels(min(len(classes), MAX_CLASSES), 3.2, 2.8, 4)
    for index, (ax, name) in enumerate(zip(axes, classes, strict=False)):
        rows = (embedded.obs[schema.LABEL] == name).to_numpy()
        kl = embedded.obsm[schema.KL_PRIVATE][rows][:, index * n_private : (index + 1) * n_private].mean(0)
        _plot_class(ax, embedded[rows], points[rows], last=index == len(axes) - 1)
        ax.set_title(f"{name}\nown KL {kl.sum():.2f} nats, n = {rows.sum()}", fontsize=8)
    more = f", the first {MAX_CLASSES} of {len(classes)} classes" if len(classes) > MAX_CLASSES else ""
    axes_text = "UMAP of each class's own block" if n_private > 2 else "posterior mean of each class's own block"
    figure.suptitle(f"{axes_text}{more}; axes of different classes are unrelated", fontsize=8)
    return figure


def _plot_class(ax: Axes, samples: AnnData, points: np.ndarray, last: bool) -> None:
    if points.shape[1] == 1:
        ax.hist(points[:, 0], bins=np.linspace(-SPAN, SPAN, 41).tolist(), color=OKABE_ITO[0])
        ax.set(xlabel="dim 0 (prior SD)", ylabel="samples")
        return
    key = schema.CONDITION if schema.CONDITION in samples.obs else schema.LABEL
    seen = ~np.isnan(points).any(1)
    scatter(ax, points[seen], samples.obs[key][seen], legend=last and key == schema.CONDITION)
    if schema.SPECIFIC_UMAP in samples.obsm:
        ax.set(xlabel="UMAP 1", ylabel="UMAP 2")
    else:  # on the scale of the prior, so that an unused block looks like the point that it is
        ticks = [-2, 0, 2]
        ax.set(xlabel="dim 0 (prior SD)", ylabel="dim 1 (prior SD)", xlim=(-SPAN, SPAN), ylim=(-SPAN, SPAN))
        ax.set(xticks=ticks, yticks=ticks)
