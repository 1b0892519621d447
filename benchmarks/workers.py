"""What runs in each process of a pair: a model that is trained an epoch at a time, then scored on held-out cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.data import SPLITS
from nvae_bio import schema

CHUNK = 250  # cells scored at a time
IMAGE_SHAPE = (1, 28, 28)
CHANNELS = (32, 64)


@dataclass(frozen=True)
class Task:
    """What both sides of a pair do.

    Attributes:
        path: prepared data set.
        n_epochs: passes over the training cells.
        batch_size: cells a step.
        threads: CPU threads.
        hidden: units of the one hidden layer.
        n_latent: dims of the latent that the decoder sees.
        precision: of our matrix products; the peers' are in float32.
        n_draws: of z for a held-out log-likelihood.
        seed: of both.
        is_image: images, with convolutions; counts otherwise.
        training: further training settings of ours.
    """

    path: Path
    n_epochs: int
    batch_size: int
    threads: int
    hidden: int = 128
    n_latent: int = 10
    precision: str = "high"
    n_draws: int = 64
    seed: int = 0
    is_image: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)


def log_mean_exp(weights: list[Tensor]) -> Tensor:
    """Of log weights, one tensor a draw."""
    return torch.logsumexp(torch.stack(weights), 0) - math.log(len(weights))


def normal_log_prob(z: Tensor, mean: Tensor | float = 0.0, log_std: Tensor | float = 0.0) -> Tensor:
    """Of the latents of each sample, summed over dims."""
    log_std = torch.as_tensor(log_std)
    return (-0.5 * ((z - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class Ours:
    """N-VAE through the product's own packing and loop. `given_label`: score log p(x|y) rather than log p(x)."""

    def __init__(self, task: Task, given_label: bool) -> None:
        from nvae_bio.config import FitSettings
        from nvae_bio.data.files import open_prepared
        from nvae_bio.data.samples import to_samples
        from nvae_bio.machine import reproducible
        from nvae_bio.model import build_nvae
        from nvae_bio.train.moments import feature_moments
        from nvae_bio.train.step import labelled_rows

        self.given_label, self.task = given_label, task
        n_private = 2
        values: dict[str, dict[str, Any]] = {
            "model": {
                "hidden": [task.hidden],
                "n_shared": task.n_latent - n_private,
                "n_private": n_private,
                "decoder": "network",  # as the peers' is
            },
            "training": {"max_epochs": task.n_epochs, "batch_size": task.batch_size, "patience": None}
            | dict(task.training),
        }
        if task.is_image:
            values["model"] |= {"backbone": "conv", "channels": CHANNELS}
        self.settings = FitSettings.model_validate(values)
        likelihood, image = ("cross_entropy", IMAGE_SHAPE) if task.is_image else ("negative_binomial", None)
        with reproducible(task.threads), open_prepared(task.path) as prepared:
            self.classes = [str(name) for name in prepared.uns[schema.DATA]["classes"]]
            self.samples = to_samples(prepared, self.classes)
            self.rows = {split: labelled_rows(prepared, self.samples, split) for split in SPLITS}
            n_genes, moments = prepared.n_vars, feature_moments(self.samples, self.rows["train"], len(self.classes))
        self.n_cells = len(self.rows["train"])
        torch.manual_seed(task.seed)
        self.model = build_nvae(self.settings.model, likelihood, n_genes, len(self.classes), image)
        self.model.fit_output_bias(moments)

    def epochs(self) -> Iterator[None]:
        """Train; the validation pass over 64 cells is part of an epoch."""
        from nvae_bio.machine import matmul_precision, reproducible
        from nvae_bio.train.loop import fit

        with reproducible(self.task.threads), matmul_precision(self.task.precision):
            for _ in fit(
                [self.model], self.samples, self.rows["train"], self.rows["validation"], self.settings, [self.task.seed]
            ):
                yield

    @torch.no_grad()
    def log_likelihood(self) -> float:
        """log p(x|y), or log p(x) = log Σ_y p(y) p(x|y) with p(y) from the training cells."""
        torch.manual_seed(0)
        frequency = torch.bincount(self.samples.label[self.rows["train"]], minlength=len(self.classes)).double()
        log_prior, found = (frequency / frequency.sum()).log(), []
        for batch in self.samples.chunks(CHUNK, self.rows["test"]):
            if self.given_label:
                found.append(self._given(batch, batch.label))
                continue
            of_class = [
                self._given(batch, torch.full_like(batch.label, y)) + log_prior[y] for y in range(len(self.classes))
            ]
            found.append(torch.logsumexp(torch.stack(of_class), 0))
        return float(torch.cat(found).mean())

    @torch.no_grad()
    def reconstruction(self) -> tuple[float, float]:
        """E_q log p(x|y,z) of held-out cells at one draw, and their KL; nats a cell."""
        torch.manual_seed(0)
        found, kl = [], []
        for batch in self.samples.chunks(CHUNK, self.rows["test"]):
            inputs = self.model.likelihood.encoder_input(batch.x, batch.library)
            made = self.model(inputs, batch.label, torch.randn(batch.n, self.model.n_shared + self.model.n_private))
            found.append(self.model.likelihood.log_prob(made.outputs, batch))
            kl.append(made.kl_shared.sum(-1) + made.kl_own.sum(-1))
        return float(torch.cat(found).mean()), float(torch.cat(kl).mean())

    def _given(self, batch: Any, label: Tensor) -> Tensor:
        model, likelihood = self.model, self.model.likelihood
        posterior = model.encoder(likelihood.encoder_input(batch.x, batch.library))
        block, weights = model.block(label), []
        own = posterior.own(block)
        for _ in range(self.task.n_draws):
            noise = torch.randn(batch.n, model.n_shared + model.n_private)
            shared, private = model.draw(posterior, own, noise)
            log_joint = likelihood.log_prob(model.decoder(shared, private, block), batch)
            log_joint = log_joint + normal_log_prob(shared) + normal_log_prob(private)
            weights.append(log_joint - normal_log_prob(shared, *posterior.shared) - normal_log_prob(private, *own))
        return log_mean_exp(weights).double()


class ScviTools:
    """SCVI or SCANVI of scvi-tools, with its own training plan and loader."""

    def __init__(self, task: Task, name: str) -> None:
        import logging
        import warnings

        import anndata

        warnings.filterwarnings("ignore")
        import scvi

        for logger in ("scvi", "lightning.pytorch", "lightning.fabric"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        scvi.settings.seed = task.seed
        torch.set_num_threads(task.threads)
        self.task, self.name = task, name
        self.adata = anndata.read_h5ad(task.path)
        split = self.adata.obs[schema.SPLIT].to_numpy()
        self.rows = {name: np.flatnonzero(split == name) for name in SPLITS}
        self.n_cells = len(self.rows["train"])
        form = {"n_hidden": task.hidden, "n_latent": task.n_latent, "n_layers": 1, "gene_likelihood": "nb"}
        if name == "scvi":
            scvi.model.SCVI.setup_anndata(self.adata)
            self.model = scvi.model.SCVI(self.adata, **form)
        else:
            scvi.model.SCANVI.setup_anndata(self.adata, labels_key=schema.LABEL, unlabeled_category="none")
            self.model = scvi.model.SCANVI(self.adata, **form)

    def train(self, callback: Any) -> None:
        """All epochs, the KL weight rising over the first quarter as ours does; the callback is asked after each."""
        warmup = max(self.task.n_epochs // 4, 1)
        self._train(callbacks=[callback], plan_kwargs={"n_epochs_kl_warmup": warmup})

    def train_by_itself(self) -> None:
        """All epochs, with the library's own warm-up."""
        self._train()

    def _train(self, **options: Any) -> None:
        rows = [self.rows[name] for name in SPLITS]
        self.model.train(
            max_epochs=self.task.n_epochs, batch_size=self.task.batch_size, accelerator="cpu",
            check_val_every_n_epoch=None, datasplitter_kwargs={"external_indexing": rows}, enable_progress_bar=False,
            enable_model_summary=False, logger=False, enable_checkpointing=False, **options,
        )  # fmt: skip

    @torch.no_grad()
    def log_likelihood(self) -> float:
        """log p(x) of SCVI, log p(x|y) of SCANVI (over both of its latents)."""
        torch.manual_seed(0)
        module = self.model.module.eval()
        loader = self.model._make_data_loader(adata=self.adata, indices=self.rows["test"], batch_size=CHUNK)
        found = []
        for tensors in loader:
            weights = []
            for _ in range(self.task.n_draws):
                inferred, generated = module.forward(tensors, compute_loss=False)
                z, posterior = inferred["z"], inferred["qz"]
                log_weight = generated["px"].log_prob(tensors["X"]).sum(-1) - posterior.log_prob(z).sum(-1)
                weights.append(log_weight + self._log_prior(module, z, tensors["labels"]))
            found.append(log_mean_exp(weights))
        return float(torch.cat(found).mean())

    @torch.no_grad()
    def reconstruction(self) -> tuple[float, float]:
        """E_q log p(x|z) of held-out cells at one draw, and their KL; nats a cell."""
        torch.manual_seed(0)
        module = self.model.module.eval()
        loader = self.model._make_data_loader(adata=self.adata, indices=self.rows["test"], batch_size=CHUNK)
        found, kl = [], []
        for tensors in loader:
            inferred, generated = module.forward(tensors, compute_loss=False)
            found.append(generated["px"].log_prob(tensors["X"]).sum(-1))
            kl.append(torch.distributions.kl_divergence(inferred["qz"], generated["pz"]).sum(-1))
        module.train()
        return float(torch.cat(found).mean()), float(torch.cat(kl).mean())

    def _log_prior(self, module: Any, z: Tensor, label: Tensor) -> Tensor:
        if self.name == "scvi":
            return normal_log_prob(z)
        one_hot = torch.nn.functional.one_hot(label.long().squeeze(-1), module.n_labels).float()
        inner, z2 = module.encoder_z2_z1(z, one_hot)
        mean, variance = module.decoder_z1_z2(z2, one_hot)
        inner_log_prob: Tensor = inner.log_prob(z2).sum(-1)
        return normal_log_prob(z, mean, 0.5 * variance.log()) + normal_log_prob(z2) - inner_log_prob


class ConvVae(nn.Module):
    """A plain convolutional VAE of the same widths, as tutorials write it: a DataLoader, autograd, Adam, no labels."""

    def __init__(self, task: Task) -> None:
        import anndata

        super().__init__()
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.seed)
        self.task = task
        adata = anndata.read_h5ad(task.path)
        split = adata.obs[schema.SPLIT].to_numpy()
        pixels = torch.from_numpy(np.asarray(adata.X, np.float32)).view(-1, *IMAGE_SHAPE)
        self.x = {name: pixels[torch.from_numpy(split == name)] for name in SPLITS}
        self.n_cells, (first, second) = len(self.x["train"]), CHANNELS
        self.encoder = nn.Sequential(
            nn.Conv2d(1, first, 3, 2, 1), nn.ReLU(), nn.Conv2d(first, second, 3, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(49 * second, task.hidden), nn.ReLU(), nn.Linear(task.hidden, 2 * task.n_latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(task.n_latent, task.hidden), nn.ReLU(), nn.Linear(task.hidden, 49 * second), nn.ReLU(),
            nn.Unflatten(1, (second, 7, 7)), nn.ConvTranspose2d(second, first, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(first, 1, 4, 2, 1),
        )  # fmt: skip

    def log_weight(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log q(z|x) − log p(z) at one draw of z."""
        mean, log_std = self.encoder(x).chunk(2, dim=-1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
        return -cross_entropy.flatten(1).sum(-1), normal_log_prob(z, mean, log_std) - normal_log_prob(z)

    def epochs(self) -> Iterator[None]:
        """Train; the KL weight rises over the first quarter of the epochs."""
        loader = DataLoader(TensorDataset(self.x["train"]), self.task.batch_size, shuffle=True)
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        for epoch in range(self.task.n_epochs):
            weight = min(1.0, (epoch + 1) / max(self.task.n_epochs // 4, 1))
            for (x,) in loader:
                log_likelihood, kl = self.log_weight(x)
                optimizer.zero_grad()
                (weight * kl - log_likelihood).mean().backward()
                optimizer.step()
            yield

    @torch.no_grad()
    def log_likelihood(self) -> float:
        """log p(x) of held-out images."""
        torch.manual_seed(0)
        found = []
        for x in self.x["test"].split(CHUNK):
            draws = [self.log_weight(x) for _ in range(self.task.n_draws)]
            found.append(log_mean_exp([likelihood - kl for likelihood, kl in draws]))
        return float(torch.cat(found).mean())


def make_worker(task: Task, side: str, peer: str) -> Any:
    """`ours`, scored as the peer is, or the peer."""
    if side == "ours":
        return Ours(task, given_label=peer == "scanvi")
    return ConvVae(task) if peer == "conv_vae" else ScviTools(task, peer)
