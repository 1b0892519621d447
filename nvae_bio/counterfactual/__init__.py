"""Step: samples as they would be as another class, with a factor moved, or in another batch, and how sure that is."""

from nvae_bio.counterfactual.change import change_samples
from nvae_bio.counterfactual.step import counterfactual, counterfactual_table

__all__ = ["change_samples", "counterfactual", "counterfactual_table"]
