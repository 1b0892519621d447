"""The N-VAE: networks, likelihoods, objective. Nothing here knows AnnData or files."""

from nvae_bio.model.covariates import CovariateForm
from nvae_bio.model.likelihoods import (
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from nvae_bio.model.measured import measured_part
from nvae_bio.model.moments import ClassSums, FeatureMoments
from nvae_bio.model.nvae import NVAE, DiagonalGaussian, Pass, Posterior, build_nvae
from nvae_bio.model.objective import ElboTerms, elbo_terms, kl_weight, unlabelled_bound
from nvae_bio.model.stack import Stack, keep_models
from nvae_bio.model.standard import is_free_to_scale, move_private

__all__ = [
    "NVAE",
    "Bernoulli",
    "ClassSums",
    "CovariateForm",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "ElboTerms",
    "FeatureMoments",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Pass",
    "Poisson",
    "Posterior",
    "Stack",
    "ZeroInflatedNegativeBinomial",
    "build_nvae",
    "elbo_terms",
    "is_free_to_scale",
    "keep_models",
    "kl_weight",
    "measured_part",
    "move_private",
    "unlabelled_bound",
]
