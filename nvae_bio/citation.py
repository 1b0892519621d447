"""How to cite the software and the model; CITATION.cff says the same for programs."""

import nvae_bio

CITATION = (
    "The nvae-bio authors. nvae-bio: shared and class-specific factors of biological data with the N-VAE. "
    f"Version {nvae_bio.__version__}.",
    "Antorán, J. & Miguel, A. Disentangling and Learning Robust Representations with Natural Clustering. IEEE "
    "International Conference on Machine Learning and Applications (ICMLA) 2019, 694–699. arXiv:1901.09415.",
)
