"""The N-VAE: networks, likelihoods, objective. Nothing here knows AnnData or files."""

from nvae_bio.model.likelihoods import Bernoulli, Gaussian, Likelihood, NegativeBinomial
from nvae_bio.model.nvae import NVAE, DiagonalGaussian, Posterior, build_nvae
from nvae_bio.model.objective import ElboTerms, elbo_terms, kl_weight

__all__ = [
    "NVAE",
    "Bernoulli",
    "DiagonalGaussian",
    "ElboTerms",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Posterior",
    "build_nvae",
    "elbo_terms",
    "kl_weight",
]
