"""What one does with a trained model: counterfactuals."""

from ppl_vae.tasks.other_covariates import Counterfactual, counterfactual

__all__ = ["Counterfactual", "counterfactual"]
