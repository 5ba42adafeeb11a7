"""What a statistician exchanges: priors, likelihoods, posteriors, networks, missingness models."""

from ppl_vae.families import likelihoods, missingness, networks, posteriors, priors

__all__ = ["likelihoods", "missingness", "networks", "posteriors", "priors"]
