"""The parts that a statistician exchanges: priors, likelihoods, posteriors, networks."""

from ppl_vae.families import likelihoods, networks, posteriors, priors

__all__ = ["likelihoods", "networks", "posteriors", "priors"]
