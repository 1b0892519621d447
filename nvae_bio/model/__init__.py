"""The N-VAE: networks, likelihoods, objective. Nothing here knows AnnData or files."""

from nvae_bio.model.likelihoods import Bernoulli, FeatureMoments, Gaussian, Likelihood, NegativeBinomial
from nvae_bio.model.nvae import NVAE, DiagonalGaussian, Pass, Posterior, build_nvae
from nvae_bio.model.objective import ElboTerms, elbo_terms, kl_weight, unlabelled_bound
from nvae_bio.model.stack import Stack, keep_models

__all__ = [
    "NVAE",
    "Bernoulli",
    "DiagonalGaussian",
    "ElboTerms",
    "FeatureMoments",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Pass",
    "Posterior",
    "Stack",
    "build_nvae",
    "elbo_terms",
    "keep_models",
    "kl_weight",
    "unlabelled_bound",
]
