"""The two tables that carry the tests: families (by their __all__) and problems with exact log
p(x)."""

import torch

from ppl_vae import Guide, Model, beds, likelihoods, objectives, posteriors, priors
from ppl_vae.hmc import HMC

FEATURES = 4  # width of a network's features where a family is tested alone
EVENT = 3  # features of x
SMALL_NETWORKS = """
[posterior]
latent_dim = 2

[encoder]
hidden_dims = [8]

[decoder]
hidden_dims = [8]
"""  # of a run's TOML file


def vamp_prior(latent_dim):
    guide = Guide(
        posteriors.MeanFieldNormal(latent_dim), (EVENT,), torch.nn.Linear(EVENT, FEATURES)
    )
    return priors.VampPrior(guide, pseudo_inputs=torch.randn(5, EVENT))


PRIORS = {
    "StandardNormal": priors.StandardNormal,
    "LearnedNormal": priors.LearnedNormal,
    "GaussianMixture": lambda d: priors.GaussianMixture(d, num_components=3),
    "VampPrior": vamp_prior,
    "FlowPrior": priors.FlowPrior,
}

POSTERIORS = {
    "MeanFieldNormal": posteriors.MeanFieldNormal,
    "LowRankNormal": posteriors.LowRankNormal,
    "FullRankNormal": posteriors.FullRankNormal,
    "FlowPosterior": lambda d: posteriors.FlowPosterior(d, num_transforms=2, hidden_dims=(8,)),
}

# constructor, values inside the support, a value outside it (None: every real is inside)
LIKELIHOODS = {
    "Bernoulli": (likelihoods.Bernoulli, torch.bernoulli, 0.5),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, torch.clone, 1.5),
    "Gaussian": (lambda e: likelihoods.Gaussian(e, scale="feature"), torch.clone, None),
    "Poisson": (likelihoods.Poisson, lambda u: (4 * u).floor(), 1.5),
    "NegativeBinomial": (likelihoods.NegativeBinomial, lambda u: (4 * u).floor(), -1.0),
    "Categorical": (
        lambda e: likelihoods.Categorical(e, num_categories=4),
        lambda u: (4 * u).floor(),
        4.0,
    ),
    "StudentT": (lambda e: likelihoods.StudentT(e, scale="decoder"), torch.clone, None),
}


def data_for(likelihood, num_data=64, event=EVENT, seed=0):
    """Values in the likelihood's support."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return LIKELIHOODS[likelihood][1](torch.rand(num_data, event, generator=generator))


def vae(prior="StandardNormal", likelihood="Bernoulli", posterior="MeanFieldNormal", latent_dim=2):
    """A small VAE of named families on vectors of `EVENT` features."""
    guide = Guide(POSTERIORS[posterior](latent_dim), EVENT, torch.nn.Linear(EVENT, 8))
    if prior == "VampPrior":
        p = priors.VampPrior(guide, pseudo_inputs=data_for(likelihood, num_data=5))
    else:
        p = PRIORS[prior](latent_dim)
    decoder = torch.nn.Sequential(torch.nn.Linear(latent_dim, 8), torch.nn.Tanh())
    return Model(p, LIKELIHOODS[likelihood][0]((EVENT,)), decoder), guide


PROBLEMS = {
    "linear_gaussian": beds.linear_gaussian,
    "gaussian_mixture": beds.gaussian_mixture,
    "gamma_poisson": beds.gamma_poisson,
    "beta_bernoulli": beds.beta_bernoulli,
    "rainforth": lambda num_data, **guide: beds.rainforth(num_data, latent_dim=4, **guide),
}


# every objective with few particles; True where it is a function of the log-weights alone
OBJECTIVES = {
    "TraceELBO": objectives.TraceELBO,
    "MeanFieldELBO": objectives.MeanFieldELBO,
    "BetaELBO": lambda: objectives.BetaELBO(1.5),
    "IWAE": lambda: objectives.IWAE(4),
    "CIWAE": lambda: objectives.CIWAE(0.5, 4),
    "MIWAE": lambda: objectives.MIWAE(2, 3),
    "PIWAE": lambda: objectives.PIWAE(2, 3),
    "Renyi": lambda: objectives.Renyi(0.5, 4),
    "CUBO": lambda: objectives.CUBO(2, 4),
    "ThermodynamicELBO": lambda: objectives.ThermodynamicELBO(8, (0.1, 0.3)),
    "InfoVAE": lambda: objectives.InfoVAE(0.0, 1.0),
    "ReweightedWakeSleep": lambda: objectives.ReweightedWakeSleep(8, insomnia=0.5),
    "WakeSleep": objectives.WakeSleep,
    "MCEM": lambda: objectives.MCEM(sampler=HMC(num_samples=1, num_warmup=2, num_leapfrog=2)),
}
GRADIENTS = {
    "Reparameterized": objectives.Reparameterized,
    "StickingTheLanding": objectives.StickingTheLanding,
    "DoublyReparameterized": objectives.DoublyReparameterized,
    "ScoreFunction": objectives.ScoreFunction,
    "VIMCO": objectives.VIMCO,
}
