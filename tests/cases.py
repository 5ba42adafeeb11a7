"""The two tables that carry the tests: families (by their __all__) and problems with exact log
p(x)."""

import itertools

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from ppl_vae import Guide, Model, beds, likelihoods, objectives, posteriors, priors
from ppl_vae.families.densities.latents import log_simplex
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


class Given(torch.nn.Module):
    """A prior of covariates, at one value of them and of the latents that rows share."""

    def __init__(self, prior, **shared):
        super().__init__()
        self.prior = prior
        self.context = torch.nn.Buffer(torch.ones(prior.context_dim))
        for name, value in shared.items():
            self.register_buffer(name, value)
        self.shares = tuple(shared)

    def forward(self, context=None):
        return self.prior(self.context, **{name: getattr(self, name) for name in self.shares})


class GivenProcess(posteriors.GaussianProcess):
    """The posterior of a process at one value of the covariates, over the inducing values."""

    def __init__(self, latent_dim):
        super().__init__(priors.GaussianProcess(latent_dim, 1, num_inducing=3))

    def shared(self):
        return {}

    def distribution(self, raw):
        return super().distribution(raw, raw.new_ones(1))


PRIORS = {
    "StandardNormal": priors.StandardNormal,
    "LearnedNormal": priors.LearnedNormal,
    "ConditionalNormal": lambda d: Given(priors.ConditionalNormal(d, 2)),
    "Laplace": priors.Laplace,
    "StudentT": lambda d: priors.StudentT(d, df=None),
    "GaussianMixture": lambda d: priors.GaussianMixture(d, num_components=3),
    "VampPrior": vamp_prior,
    "FlowPrior": priors.FlowPrior,
    "Hierarchical": lambda d: priors.Hierarchical(d, hidden_dims=(8,)),
    "LogisticNormal": priors.LogisticNormal,
    "Dirichlet": lambda d: priors.Dirichlet(d, concentration=None),
    "UniformSphere": priors.UniformSphere,
    "Categorical": priors.Categorical,
    "RelaxedCategorical": priors.RelaxedCategorical,
    "GaussianProcess": lambda d: Given(
        priors.GaussianProcess(d, 2, num_inducing=3), inducing=torch.linspace(-1, 1, 3).repeat(d, 1)
    ),
}

POSTERIORS = {
    "MeanFieldNormal": posteriors.MeanFieldNormal,
    "LowRankNormal": posteriors.LowRankNormal,
    "FullRankNormal": posteriors.FullRankNormal,
    "StudentT": posteriors.StudentT,
    "Mixture": lambda d: posteriors.Mixture(d, num_components=3),
    "FlowPosterior": lambda d: posteriors.FlowPosterior(d, num_transforms=2, hidden_dims=(8,)),
    "InverseAutoregressive": lambda d: posteriors.InverseAutoregressive(d, hidden_dims=(8,)),
    "Hierarchical": lambda d: posteriors.Hierarchical(d, hidden_dims=(8,)),
    "ZukoFlow": lambda d: posteriors.ZukoFlow(d, "maf", hidden_dims=(8,)),
    "LogisticNormal": posteriors.LogisticNormal,
    "PowerSpherical": posteriors.PowerSpherical,
    "Categorical": posteriors.Categorical,
    "RelaxedCategorical": posteriors.RelaxedCategorical,
    "GaussianProcess": GivenProcess,
}


def on(support, table, room):
    """The families of a table with this support."""
    return [name for name in table if getattr(room, name).support is support]


def fitting(prior):
    """The posteriors with the support of this prior."""
    return on(getattr(priors, prior).support, POSTERIORS, posteriors)


def pairs(without=()):
    """A prior and a posterior that fit, each family at least once."""
    for support in dict.fromkeys(getattr(priors, name).support for name in PRIORS):
        p = [name for name in on(support, PRIORS, priors) if name not in without]
        q = on(support, POSTERIORS, posteriors)
        for i in range(max(len(p), len(q))):
            yield p[i % len(p)], q[i % len(q)]


REAL_PRIORS = on(constraints.real_vector, PRIORS, priors)
REAL_POSTERIORS = on(constraints.real_vector, POSTERIORS, posteriors)
DISCRETE = on(constraints.one_hot, POSTERIORS, posteriors)  # whose draws have no path derivative


def objective_for(posterior):
    """None, which is the default of `fit`, or an objective for draws without a path derivative."""
    if posterior in DISCRETE:
        return objectives.IWAE(3, gradient=objectives.VIMCO())
    return None


def nodes(support, size, points=401):
    """Points of a support of vectors, and weights by which sums over them are integrals."""
    if support is constraints.one_hot:
        return torch.eye(size, dtype=torch.float64), torch.ones(size)
    if support is constraints.sphere:
        return sphere_nodes(size)
    if support is log_simplex:
        shares, weights = nodes(constraints.simplex, size, points)
        return shares.log(), weights / shares.prod(-1)
    is_simplex = support is constraints.simplex
    size = size - is_simplex
    width = 24 if is_simplex else 12
    axis = torch.linspace(-width, width, {1: 1601}.get(size, points), dtype=torch.float64)
    u = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    weights = torch.full((len(u),), (axis[1] - axis[0]).item() ** size, dtype=torch.float64)
    if not is_simplex:
        return u, weights
    transform = torch.distributions.biject_to(support)
    return transform(u), weights * transform.log_abs_det_jacobian(u, transform(u)).exp()


def sphere_nodes(size, points=400):
    """Unit vectors of equal weight in two or three dimensions."""
    share = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    circle = torch.stack([(2 * torch.pi * share).cos(), (2 * torch.pi * share).sin()], dim=-1)
    if size == 2:
        return circle, torch.full((points,), 2 * torch.pi / points).double()
    height = (2 * share - 1).reshape(-1, 1, 1).expand(-1, points, 1)  # equal areas
    values = torch.cat([height, (1 - height**2).sqrt() * circle], dim=-1).reshape(-1, 3)
    return values, torch.full((len(values),), 4 * torch.pi / len(values)).double()


def many_zeros(u):
    """Counts from 0 to 5 of which a half are zero."""
    return (12 * u - 6).clamp(min=0).ceil()


def twenty_parts(u):
    """Counts along the last dim with the sum 20."""
    ends = (20 * u.cumsum(-1) / u.sum(-1, keepdim=True)).round()
    return ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))


# constructor from the event shape, values inside the support from uniform ones (N, *event), a value
# outside it (None: every real is inside)
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
    "ZeroInflatedPoisson": (likelihoods.ZeroInflatedPoisson, many_zeros, 1.5),
    "ZeroInflatedNegativeBinomial": (
        lambda e: likelihoods.ZeroInflatedNegativeBinomial(e, gate="decoder"),
        many_zeros,
        -1.0,
    ),
    "HurdlePoisson": (lambda e: likelihoods.HurdlePoisson(e, gate="feature"), many_zeros, 0.5),
    "HurdleNegativeBinomial": (likelihoods.HurdleNegativeBinomial, many_zeros, -1.0),
    "Binomial": (lambda e: likelihoods.Binomial(e, total=5), lambda u: (6 * u).floor(), 6.0),
    "BetaBinomial": (
        lambda e: likelihoods.BetaBinomial(e, total=5),
        lambda u: (6 * u).floor(),
        -1.0,
    ),
    "Multinomial": (lambda e: likelihoods.Multinomial(e, total=20), twenty_parts, -1.0),
    "DirichletMultinomial": (
        lambda e: likelihoods.DirichletMultinomial(e, total=20),
        twenty_parts,
        1.5,
    ),
    "Ordinal": (
        lambda e: likelihoods.Ordinal(e, num_categories=4),
        lambda u: (4 * u).floor(),
        4.0,
    ),
    "Laplace": (lambda e: likelihoods.Laplace(e, scale="feature"), torch.clone, None),
    "LowRankNormal": (lambda e: likelihoods.LowRankNormal(e, rank=2), torch.clone, None),
    "LogNormal": (likelihoods.LogNormal, torch.exp, 0.0),
    "Gamma": (lambda e: likelihoods.Gamma(e, scale="decoder"), torch.exp, 0.0),
    "Beta": (likelihoods.Beta, lambda u: 0.1 + 0.8 * u, 1.0),
    "VonMises": (likelihoods.VonMises, lambda u: 2 * u - 1, 4.0),
    "DiscretizedLogistic": (
        lambda e: likelihoods.DiscretizedLogistic(e, num_levels=9),
        lambda u: (8 * u).round() / 8,
        0.1,
    ),
    "DiscretizedLogisticMixture": (
        lambda e: likelihoods.DiscretizedLogisticMixture(e, num_levels=9, num_components=2),
        lambda u: (8 * u).round() / 8,
        0.1,
    ),
    "Censored": (
        lambda e: likelihoods.Censored(likelihoods.Gaussian(e), lower=0.1, upper=0.8),
        torch.clone,
        None,
    ),
}


def data_for(likelihood, num_data=64, event=EVENT, seed=0, missing=False):
    """Values in the likelihood's support; with `missing`, every fifth row has a hole."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        x = LIKELIHOODS[likelihood][1](torch.rand(num_data, event, generator=generator))
    return with_hole(x, likelihood, slice(None, None, 5)) if missing else x


def is_joint(likelihood):
    """Whether the entries of a row lie in the support together, or not at all."""
    return LIKELIHOODS[likelihood][0]((EVENT,)).support.event_dim > 0


def with_hole(x, likelihood, rows, place=0):
    """x without one entry of these rows, or without the joint value that it belongs to."""
    x = x.clone()
    x[rows, ... if is_joint(likelihood) else place] = float("nan")
    return x


def entry_of(distribution):
    """The distribution of one entry, or of entries with one joint density."""
    while isinstance(distribution, dist.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def total_mass(distribution):
    """The sum, integral, or both, of one event's density over the support that it states."""
    entry = entry_of(distribution)
    if entry.has_enumerate_support:
        return distribution.log_prob(entry.enumerate_support()).exp().sum(0)
    support = entry.support
    if support.is_discrete:
        values = whole_numbers(support, distribution.event_shape.numel())
        if hasattr(entry, "marginals"):  # conditional on a total
            values = values[values.sum(-1) == entry.total_count[0]]
        return distribution.log_prob(values[:, None]).exp().sum(0)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if hasattr(entry, "clamped"):  # only what lies between the limits is drawn
        support = dist.constraints.interval(entry.lower, entry.upper)
    total = integral(distribution, support)
    if hasattr(entry, "point_mass"):  # probabilities at the ends of the support
        ends = [getattr(support, end, None) for end in ("lower_bound", "upper_bound")]
        masses = [
            entry.point_mass(torch.as_tensor(end).double()) for end in ends if end is not None
        ]
        total = total + sum(masses).sum(-1)
    return total


def whole_numbers(support, size, most=400):
    """Every event of `size` whole numbers in a support, up to `most` where there is no bound."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    most = int(torch.as_tensor(getattr(support, "upper_bound", most)).max())
    least = int(getattr(support, "lower_bound", 0))
    every = list(itertools.product(range(least, most + 1), repeat=size))
    values = torch.tensor(every, dtype=torch.float64)
    return values[support.check(values)] if support.event_dim else values


def integral(distribution, support):
    """Integral of a density by the trapezoidal rule in t, unconstrained values being sinh(t)."""
    transform = torch.distributions.biject_to(support)
    shape = transform.inverse_shape(distribution.event_shape)
    points = 4001 if shape.numel() == 1 else 401
    axis = torch.linspace(-6.5, 6.5, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * shape.numel()).reshape(-1, 1, *shape)
    u = grid.sinh()
    values = transform(u)
    log_volume = grid.cosh().log().flatten(1).sum(-1, keepdim=True)
    slopes = transform.log_abs_det_jacobian(u, values)
    log_volume = log_volume + slopes.reshape(len(u), -1).sum(-1, keepdim=True)
    cell = (axis[1] - axis[0]) ** shape.numel()
    return (distribution.log_prob(values) + log_volume).exp().sum(0) * cell


def vae(prior=None, likelihood="Bernoulli", posterior=None, latent_dim=2):
    """A small VAE of named families on vectors of `EVENT` features, of others that fit them."""
    pairs = ((p, q) for p in PRIORS for q in fitting(p))
    prior, posterior = next((p, q) for p, q in pairs if p == (prior or p) and q == (posterior or q))
    guide = Guide(POSTERIORS[posterior](latent_dim), EVENT, torch.nn.Linear(EVENT, 8))
    if prior == "VampPrior":
        p = priors.VampPrior(guide, pseudo_inputs=data_for(likelihood, num_data=5))
    else:
        p = PRIORS[prior](latent_dim)
    decoded_dim = getattr(p, "decoded_dim", latent_dim)
    decoder = torch.nn.Sequential(torch.nn.Linear(decoded_dim, 8), torch.nn.Tanh())
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
    "PathAndScore": objectives.PathAndScore,
}
