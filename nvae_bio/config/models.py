"""Settings of a model, and the defaults that a kind of data has of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from nvae_bio.config.base import Settings

EMPTY_NATS = 0.05  # a latent with less KL in all its dims together holds nothing
Width = Annotated[int, Field(ge=2)]  # one ReLU unit dies easily; one normalised channel of one pixel is constant
Variant = Literal["nvae", "cvae", "vae", "per_class"]
Independence = Literal["none", "moments", "aggregate_kl", "mmd", "hsic"]
LikelihoodName = Literal[
    "negative_binomial",
    "zero_inflated_negative_binomial",
    "poisson",
    "cross_entropy",
    "bernoulli",
    "discretized_logistic",
    "gaussian",
]
LIKELIHOODS: dict[str, tuple[LikelihoodName, ...]] = {
    "counts": ("negative_binomial", "zero_inflated_negative_binomial", "poisson"),
    "images": ("cross_entropy", "bernoulli", "discretized_logistic", "gaussian"),
    "features": ("gaussian",),
}
BY_KIND: dict[str, dict[str, Any]] = {  # defaults of `model` that a kind of data has of its own; docs/studies/mnist.md
    "images": {
        "n_shared": 6,
        "n_private": 4,
        "beta_private": 1.0,
        "independence": "mmd",
        "independence_weight": 300.0,
        "hidden": (256, 128),
    }
}
DISPERSED: tuple[LikelihoodName, ...] = ("negative_binomial", "zero_inflated_negative_binomial")


class ModelSettings(Settings):
    """N-VAE (Antorán & Miguel 2019, arXiv:1901.09415) and its baselines, from one code."""

    variant: Variant = Field(
        "nvae",
        description="`nvae`: shared and private latents; `cvae`: no private ones; `vae`: no label either; `per_class`: "
        "no shared ones",
    )
    n_shared: NonNegativeInt = Field(
        10, description="S, dims of the shared latent z_s; 0 for `per_class` and only there; default of images: 6"
    )
    n_private: NonNegativeInt = Field(
        1,
        description="K, dims of each class's private block of z_c; 0 for `cvae` and `vae` and only there; default of "
        "images: 4",
    )
    beta_private: float = Field(
        0.75,
        gt=0,
        description="β_c of eq. 7, weight of the private KL; above 0. At 1 a private factor may lie in a shared dim "
        "that S has to spare, at 0.5 or less a shared one in the blocks of all classes; default of images: 1",
    )
    private_kl: Literal["all", "own", "pulled"] = Field(
        "all",
        description="`all`: eq. 7 as written, the KL of every block; `own`: only of the sample's own block; `pulled`: "
        "that, and the squares of mean and standard deviation of the others, as multiGroupVI has it",
    )
    private_moments: Literal["prior", "free"] = Field(
        "prior",
        description="`prior`: when training ends, each private dim of a network decoder is shifted and scaled so that "
        "over the training samples of its class it has the prior's mean and variance, and the decoder takes it back: "
        "samples of the prior are better, and nothing else that is decoded changes; `free`: they stay as they come",
    )
    classifier_weight: float = Field(
        1.0,
        ge=0,
        description="weight of log q(y|x); its network is separate from the generative part, and matters to it through "
        "unlabeled samples alone: where those are many and labels few, 10 to 50 keeps the classes in their places",
    )
    independence: Independence = Field(
        "none",
        description="what training subtracts where z_s depends on the class: `none` (the paper); `moments`: squared "
        "means of the classes; `aggregate_kl`: KL of each class's aggregate posterior to the prior; `mmd`: the same as "
        "a kernel distance; `hsic`: dependence on the class alone; default of images in variant `nvae`: `mmd`, 300",
    )
    independence_weight: float = Field(
        1.0, ge=0, description="weight of that term, times the warm-up weight; for `aggregate_kl` it is γ − 1"
    )
    likelihood: LikelihoodName | None = Field(
        None,
        description="default by kind: negative_binomial for counts, gaussian for features; for images cross_entropy "
        "where half of the training pixels are within 0.1 of black or white, else gaussian; docs/likelihoods.md says "
        "which to choose",
    )
    dispersion: Literal["gene", "gene_batch"] = Field(
        "gene",
        description="θ of the negative binomial, zero-inflated or not: one a gene, or one a gene in each batch of the "
        "data set",
    )
    size: Literal["library", "size_factor"] = Field(
        "library",
        description="counts: what a cell's means are proportional to. `library`: all its counts, shared out among the "
        "genes; `size_factor`: the data set's `size_factor_key`, each gene by itself",
    )
    covariates: Literal["none", "decoder", "both"] = Field(
        "decoder",
        description="what is told the batch and the other covariates of the data set: nothing, the `decoder`, or "
        "`both` the decoder and the encoder (and the classifier)",
    )
    max_one_hot: PositiveInt = Field(
        20,
        description="a categorical covariate of at most so many levels has weights of its own for each; one of more "
        "levels is embedded",
    )
    covariate_dims: PositiveInt = Field(10, description="dims of the embedding of a covariate of many levels")
    decoder: Literal["linear", "network"] | None = Field(
        None,
        description="`linear`: a class's intercept plus loadings times z, and a part of the posterior's mean is linear "
        "in the counts, which are standardised gene by gene; `network`: the encoder's layers mirrored; default by "
        "kind: linear for counts, network for images and features",
    )
    loading_sd: float = Field(
        0.14,
        gt=0,
        description="standard deviation of the prior of a linear decoder's loadings, a Laplace distribution (log rate "
        "of counts a unit of z); above 0, large for none",
    )
    rotation: Literal["varimax", "none"] = Field(
        "varimax",
        description="`varimax`: when the warm-up ends, the axes of a linear decoder's latents are turned so that each "
        "loads few features strongly; `none`: they stay as they come, which may spread a factor over several dims",
    )
    intercept_sd: float = Field(
        2.0,
        gt=0,
        description="the same of the classes' intercepts (log rate): less draws classes together, and leaves more of "
        "what differs between them to z_s",
    )
    backbone: Literal["mlp", "conv"] = Field("mlp", description="networks; `conv` for images of 8×8 to 96×96 pixels")
    hidden: tuple[Width, ...] = Field(
        (128, 128),
        min_length=1,
        description="units of the dense layers of the encoder, at least 2 each; mirrored in the `network` decoder; "
        "default of images: 256 and 128",
    )
    channels: tuple[Width, ...] = Field(
        (32, 64), min_length=1, description="conv: channels of each stage, at least 2 each; a stage halves the image"
    )

    def for_kind(self, kind: str) -> ModelSettings:
        """The same with the defaults of a kind of data (`BY_KIND`) for what was not set.

        An independence term is a default of the variant `nvae` alone, and its weight one of the default term.

        >>> ModelSettings(n_shared=3).for_kind("images").n_private
        4
        """
        given = set(self.model_fields_set)
        if "independence" in given or self.variant != "nvae":
            given |= {"independence", "independence_weight"}
        values = {key: value for key, value in BY_KIND.get(kind, {}).items() if key not in given}
        return self.model_copy(update=values)

    def has_linear_decoder(self, likelihood: str) -> bool:
        """Whether the decoder is linear in z, with this likelihood."""
        return (self.decoder or ("linear" if likelihood in LIKELIHOODS["counts"] else "network")) == "linear"

    @property
    def n_latent(self) -> int:
        """S + K, what the decoder sees of a sample's latent."""
        return self.n_shared + self.n_private

    @property
    def has_penalty(self) -> bool:
        """Whether training subtracts an independence term."""
        return self.independence != "none" and self.independence_weight > 0

    @model_validator(mode="before")
    @classmethod
    def _dims_by_variant(cls, values: Any) -> Any:
        if isinstance(values, dict):
            lacking = {"cvae": "n_private", "vae": "n_private", "per_class": "n_shared"}
            empty = [dims for variant, dims in lacking.items() if values.get("variant") == variant]
            return dict.fromkeys(empty, 0) | values
        return values

    @model_validator(mode="after")
    def _check_dims(self) -> ModelSettings:
        private, shared = self.variant in ("nvae", "per_class"), self.variant != "per_class"
        for name, wanted, value in (("n_shared", shared, self.n_shared), ("n_private", private, self.n_private)):
            if wanted != (value > 0):
                raise ValueError(
                    f"{name} {value} does not fit variant {self.variant!r}: it must be {'above 0' if wanted else '0'}"
                )
        if self.independence != "none" and not shared:
            raise ValueError(
                f"independence {self.independence!r} does not fit variant {self.variant!r}: it lacks z_s; allowed: none"
            )
        return self


def check_model_fits(model: ModelSettings, kind: str, where: str = "") -> LikelihoodName:
    """The likelihood that `model` has on data of `kind`.

    Raises:
        ValueError: the likelihood or backbone cannot model data of that kind, or the likelihood lacks what is set.
    """
    allowed = LIKELIHOODS[kind]
    likelihood = model.likelihood or allowed[0]
    if likelihood not in allowed:
        raise ValueError(
            f"{where}likelihood: {likelihood!r} does not fit data of kind {kind!r}; allowed: {', '.join(allowed)}"
        )
    if model.dispersion == "gene_batch" and likelihood not in DISPERSED:
        raise ValueError(
            f"{where}dispersion: 'gene_batch' needs likelihood {' or '.join(DISPERSED)}, not {likelihood!r}; "
            "allowed: gene"
        )
    if model.size == "size_factor" and kind != "counts":
        raise ValueError(f"{where}size: 'size_factor' needs data of kind 'counts', not {kind!r}; allowed: library")
    if model.backbone == "conv" and kind != "images":
        raise ValueError(f"{where}backbone: 'conv' needs data of kind 'images', not {kind!r}; allowed: mlp")
    if model.backbone == "conv" and model.has_linear_decoder(likelihood):
        raise ValueError(f"{where}decoder: 'linear' does not fit backbone 'conv'; allowed: network")
    return likelihood
