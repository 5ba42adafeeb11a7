"""What a statistician swaps: priors, likelihoods, posteriors, and the networks between them."""

from ppl_vae.families import likelihoods, networks, posteriors, priors

__all__ = ["likelihoods", "networks", "posteriors", "priors"]
