"""Hamiltonian Monte Carlo on p(z given x), for all chains and rows at once."""

from ppl_vae.hmc.chains import Chains, ChainsSummary
from ppl_vae.hmc.posterior import sample_posterior
from ppl_vae.hmc.sampler import HMC
from ppl_vae.hmc.target import LogJoint

__all__ = ["HMC", "Chains", "ChainsSummary", "LogJoint", "sample_posterior"]
