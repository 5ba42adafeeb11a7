"""Latents on the simplex, on the sphere and in classes: densities, draws, and exact log p(x)."""

import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from cases import nodes
from scipy import linalg, stats
from scipy.special import gammaln
from sklearn.mixture import GaussianMixture
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, objectives, posteriors, priors
from ppl_vae.families.densities.latents import LogConcrete, SpherePower, SphereUniform
from ppl_vae.refinement import GradientRefinement, refine

DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


@pytest.mark.parametrize(
    ("prior", "posterior", "fit"),
    [
        (priors.UniformSphere(3), posteriors.MeanFieldNormal(3), "PowerSpherical$"),
        (priors.Dirichlet(3), posteriors.Categorical(3), "LogisticNormal$"),
        (priors.Categorical(3), posteriors.LogisticNormal(3), "Categorical$"),
        (priors.StandardNormal(3), posteriors.PowerSpherical(3), "FlowPosterior, .*Normal"),
    ],
)
def test_a_pair_on_different_supports_is_told_what_fits(prior, posterior, fit):
    x = torch.randn(60, 2)
    model = pv.Model(prior, likelihoods.Gaussian(2), nn.Identity())
    guide = pv.Guide(posterior, 2, nn.Identity())
    for use in (pv.fit, pv.log_evidence):
        with pytest.raises(ValueError, match=f"another support than the prior .*posteriors.{fit}"):
            use(model, guide, x)


def test_a_mixture_of_a_guides_posteriors_lies_where_they_do():
    guide = pv.Guide(posteriors.PowerSpherical(3), 2)
    prior = priors.VampPrior(guide, torch.randn(5, 2))
    assert prior.support is posteriors.PowerSpherical.support
    model = pv.Model(prior, likelihoods.Gaussian(2), nn.Identity())
    assert pv.log_weights(model, guide, torch.randn(4, 2)).shape == (1, 4)


# --- the simplex ----------------------------------------------------------------------------------


@every_dtype
def test_the_logistic_normal_is_aitchison_and_shens(dtype):
    """By additive log-ratios and SciPy's normal; shares down to 1e-30."""
    y = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5], [30.0, 40.0, -20.0]], dtype=torch.float64)
    mean, scale = np.array([0.3, -1.0, 2.0]), np.array([0.5, 10.0, 40.0])
    prior = priors.LogisticNormal(4)
    prior.loc.data, prior.log_scale.data = torch.as_tensor(mean), torch.as_tensor(scale).log()
    single = prior.to(dtype)()
    z = single.transforms[0](y.to(dtype))
    contrasts = linalg.helmert(4)
    ratios = np.column_stack([np.eye(3), -np.ones(3)]) @ contrasts.T  # additive from isometric
    log_z = z.double().log().numpy()
    additive = log_z[:, :3] - log_z[:, 3:]
    normal = stats.multivariate_normal(ratios @ mean, ratios @ np.diag(scale**2) @ ratios.T)
    expected = normal.logpdf(additive) - log_z.sum(1)
    np.testing.assert_allclose(single.log_prob(z).detach(), expected, rtol=TOLERANCE[dtype])


def test_shares_that_underflow_have_finite_densities_and_gradients():
    q = posteriors.LogisticNormal(5)
    raw = torch.cat([torch.zeros(4), torch.full((4,), 1e3)]).expand(200, -1).requires_grad_()
    z = q.distribution(raw).rsample()
    assert (z.detach() < 1e-37).any()
    log_w = priors.Dirichlet(5, 0.1)().log_prob(z) - q.distribution(raw).log_prob(z)
    (gradient,) = torch.autograd.grad(log_w.sum(), raw)
    assert log_w.isfinite().all()
    assert gradient.isfinite().all()


class LogShares(nn.Module):
    """A decoder whose features are log z."""

    def forward(self, z):
        return z.clamp(min=1e-30).log()


@pytest.fixture(scope="module")
def shares():
    """Ten draws of categories with shares z ~ Dirichlet for each row, whose posterior is Dirichlet;
    a guide near it."""
    with pv.seeded(0):
        prior = priors.Dirichlet(3, concentration=2.0)
        model = pv.Model(prior, likelihoods.Categorical(10, num_categories=3), LogShares())
        guide = pv.Guide(posteriors.LogisticNormal(3), 10, pv.networks.MLP(10, (16,)))
        weights = torch.eye(3).repeat_interleave(10, 0)  # category by category
        model.likelihood.link.linear.weight.data = weights
        model.likelihood.link.linear.bias.data.zero_()
        x = model.sample(12)
    counts = torch.stack([(x == c).sum(1) for c in range(3)], dim=1).double()
    return model, guide, x, counts.numpy()


def test_refined_shares_give_the_dirichlet_multinomial(shares):
    """log p(x) is that of the counts, x being in a given order. A normal of log-ratios has lighter
    tails than a Dirichlet has, so that single rows have a large k-hat, and errors to match."""
    model, guide, x, counts = shares
    total = 2.0 + counts
    exact = gammaln(total).sum(1) - gammaln(total.sum(1)) + gammaln(6.0) - 3 * gammaln(2.0)
    refined = refine(model, guide, x, GradientRefinement(150), progress=False)
    found = pv.log_evidence(model, refined, x, num_particles=2000, progress=False)
    assert abs(found.log_evidence - exact).max() < 0.05
    assert abs(found.log_evidence - exact).mean() < 0.01
    assert (exact - found.elbo).max() < 0.05
    family = posteriors.LogisticNormal(2)
    with pytest.raises(ValueError, match=r"not a family of unconstrained vectors.*FullRankNormal"):
        refine(model, guide, x, GradientRefinement(posterior=family))


def test_chains_over_shares_have_the_dirichlets_moments(shares):
    model, guide, x, counts = shares
    sampler = pv.HMC(num_samples=100, num_warmup=50, num_leapfrog=5)
    z = pv.sample_posterior(model, guide, x, num_chains=20, sampler=sampler)["z"].double()
    exact = (2.0 + counts) / (6.0 + counts.sum(1, keepdims=True))
    assert abs(z.mean((0, 1)).numpy() - exact).max() < 0.02


# --- the sphere -----------------------------------------------------------------------------------

CONCENTRATIONS = [0.0, 1e-8, 0.3, 20.0, 1e4, 1e8]
ANGLES = [0.0, 1e-6, 1e-3, 0.5, 1.6, 3.0, np.pi]


def exact_log_density(dim, kappa, cosine):
    """The formula of De Cao and Aziz with 50 digits."""
    b = mp.mpf(dim - 1) / 2
    a = b + mp.mpf(kappa)
    log_norm = (a + b) * mp.log(2) + b * mp.log(mp.pi) + mp.loggamma(a) - mp.loggamma(a + b)
    return float(mp.mpf(kappa) * mp.log1p(cosine) - log_norm)


@every_dtype
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_the_power_spherical_density_is_de_caos(dim, dtype):
    angle, kappa = np.meshgrid(ANGLES[:-1], CONCENTRATIONS, indexing="ij")
    z = torch.zeros(*angle.shape, dim, dtype=torch.float64)
    z[..., 0], z[..., 1] = torch.as_tensor(np.cos(angle)), torch.as_tensor(np.sin(angle))
    m = torch.zeros(dim, dtype=torch.float64)
    m[0] = 1
    z = z.to(dtype)
    q = SpherePower(m.to(dtype).expand(z.shape), torch.as_tensor(kappa).to(dtype))
    with mp.workdps(50):
        cosines = [mp.cos(each) for each in angle.ravel()]
        if dtype == torch.float32:  # the angle that z has after rounding
            cosines = [mp.cos(mp.atan2(*map(float, p[:2].flip(0)))) for p in z.reshape(-1, dim)]
        pairs = zip(q.concentration.double().ravel().tolist(), cosines, strict=True)
        expected = [exact_log_density(dim, *pair) for pair in pairs]
    found = q.log_prob(z).ravel().double()
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    far = SpherePower(m, torch.tensor(1e8).double()).log_prob(-m)
    assert far.isfinite() & (far < -1e9)


@every_dtype
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_its_entropy_and_kl_are_exact_and_its_draws_follow_a_beta(dim, dtype):
    kappa = torch.tensor(CONCENTRATIONS, dtype=dtype)
    m = torch.nn.functional.normalize(torch.arange(1.0, dim + 1).cos(), dim=0).to(dtype)
    q = SpherePower(m.expand(len(kappa), -1), kappa)
    kl = torch.distributions.kl_divergence(q, SphereUniform(torch.zeros(dim, dtype=dtype)))
    b = (dim - 1) / 2
    expected = []
    with mp.workdps(50):
        log_uniform = mp.loggamma(mp.mpf(dim) / 2) - mp.log(2) - mp.mpf(dim) / 2 * mp.log(mp.pi)
        for each in kappa.double().tolist():
            a = mp.mpf(each) + b
            mean_log = mp.log(2) + mp.digamma(a) - mp.digamma(a + b)
            at_zero = exact_log_density(dim, each, mp.mpf(0))
            expected.append(float(each * mean_log + at_zero - log_uniform))
    np.testing.assert_allclose(kl, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

    z = q.sample((2000,)).double()
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-6
    u = (z - m.double()).square().sum(-1) / 4
    for column, each in zip(u.T.numpy(), CONCENTRATIONS[:5], strict=False):
        assert stats.kstest(column, stats.beta(b, b + each).cdf).pvalue > 1e-4


def test_latents_on_a_sphere_are_refused_by_what_needs_unconstrained_ones():
    model = pv.Model(priors.UniformSphere(3), likelihoods.Gaussian(2), nn.Identity())
    guide = pv.Guide(posteriors.PowerSpherical(3), 2, nn.Identity())
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="'z' has the support Sphere.*no bijection from R\\^n"):
        refine(model, guide, x)
    with pytest.raises(ValueError, match=r"'z' is \w+ with support Sphere.*Hamiltonian"):
        pv.sample_posterior(model, guide, x)


def test_a_circle_of_means_is_found_and_its_evidence_is_that_of_quadrature():
    """x = 3 (cos t, sin t) + noise, t uniform, whose log p(x) has a Bessel function."""
    with pv.seeded(0):
        t = 2 * torch.pi * torch.rand(300, 1)
        x = torch.cat([3 * t.cos(), 3 * t.sin()], dim=1) + 0.5 * torch.randn(300, 2)
        likelihood = likelihoods.Gaussian(2, scale=0.5)
        model = pv.Model(priors.UniformSphere(2), likelihood, nn.Identity())
        guide = pv.Guide(posteriors.PowerSpherical(2), 2, nn.Identity())
        training = pv.Training(num_epochs=120, batch_size=300, learning_rate=0.1, progress=False)
        pv.fit(model, guide, x, training=training)
    found = pv.log_evidence(model, guide, x, num_particles=300, progress=False)
    circle = nodes(model.prior.support, 2)[0].float()
    joint = model.decode(circle.unsqueeze(1)).log_prob(x).double()
    exact = (joint.logsumexp(0) - np.log(len(circle))).detach().numpy()
    assert (abs(found.log_evidence - exact) < 4.5 * found.mc_se + 1e-4).all()
    length = x.double().norm(dim=1).numpy()
    truth = np.log(np.i0(length * 3 / 0.25)) - (length**2 + 9) / 0.5 - np.log(2 * np.pi * 0.25)
    assert abs(exact.mean() - truth.mean()) < 0.1


# --- classes --------------------------------------------------------------------------------------


def exact_log_evidence(model, x):
    """The sum over classes."""
    with torch.no_grad():
        z = torch.eye(model.latent_dim)
        joint = model.prior().log_prob(z) + model.decode(z).log_prob(x.unsqueeze(1))
    return joint.logsumexp(1)


@pytest.mark.parametrize(
    "objective",
    [
        objectives.IWAE(10, gradient=objectives.VIMCO()),
        objectives.TraceELBO(10, gradient=objectives.ScoreFunction()),
    ],
    ids=["VIMCO", "ScoreFunction"],
)
def test_latent_classes_are_a_gaussian_mixture(objective):
    """Three clusters: the likelihood of scikit-learn's mixture within 0.05 nats, and its labels.
    The KL is warmed up, so that no class is lost at the start."""
    training = pv.Training(
        num_epochs=100, batch_size=100, learning_rate=0.03, kl_warmup_epochs=40, progress=False
    )
    with pv.seeded(1):
        label = torch.arange(300) % 3
        centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
        x = centres[label] + torch.tensor([0.5, 1.0]) * torch.randn(300, 2)
        likelihood = likelihoods.Gaussian(2, scale="decoder")
        model = pv.Model(priors.Categorical(3), likelihood, nn.Identity(), start=x)
        guide = pv.Guide(posteriors.Categorical(3), 2, pv.networks.MLP(2, (16,)), start=x)
        pv.fit(model, guide, x, objective=objective, training=training)
    theirs = GaussianMixture(3, covariance_type="diag", random_state=0).fit(x.numpy())
    exact = exact_log_evidence(model, x)
    assert abs(exact.mean().item() - theirs.score(x.numpy())) < 0.05
    classes = guide.encode(x).probs.argmax(1)
    met = torch.zeros(3, 3).index_put((classes, label), torch.ones(300), accumulate=True)
    assert met.amax(0).sum() == met.amax(1).sum() == 300
    found = pv.log_evidence(model, guide, x, num_particles=200, progress=False)
    assert abs(found.log_evidence.mean() - exact.mean().item()) < 0.01


def test_classes_say_which_objective_trains_them():
    model = pv.Model(priors.Categorical(3), likelihoods.Gaussian(2), nn.Identity())
    guide = pv.Guide(posteriors.Categorical(3), 2, nn.Identity())
    with pytest.raises(ValueError, match=r"'z' .*not reparameterised.*VIMCO\(\)"):
        pv.fit(model, guide, torch.randn(60, 2), training=pv.Training(1, progress=False))


# --- relaxed classes ------------------------------------------------------------------------------


def exact_log_concrete(logits, temperature, y):
    """Maddison, Mnih and Teh's formula with 50 digits."""
    scores = [mp.mpf(a) - mp.mpf(temperature) * mp.mpf(b) for a, b in zip(logits, y, strict=True)]
    total = mp.log(mp.fsum(mp.exp(score) for score in scores))
    size = len(y)
    constant = mp.loggamma(size) + (size - 1) * mp.log(mp.mpf(temperature))
    return float(constant + mp.fsum(score - total for score in scores))


@every_dtype
@pytest.mark.parametrize("temperature", [1e-4, 0.1, 2 / 3, 10.0])
def test_a_relaxed_class_keeps_its_density_where_shares_underflow(temperature, dtype):
    """Shares down to exp(-1e5); log p - log q too has gradients."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [3.0, -40.0, 1.0], [-2.0, 2.0, 300.0]], dtype=dtype)
    temperature = torch.tensor(temperature, dtype=dtype)
    q = LogConcrete(temperature, logits=logits)
    with pv.seeded(0):
        drawn = q.rsample((3,))
    ends = torch.tensor([[0.0, -1e5, -1e3], [-1e5, 0.0, -1e5]], dtype=dtype).unsqueeze(1)
    y = torch.cat([drawn, ends.expand(-1, 3, -1)])
    exact = q.logits.double()  # normalised, in the precision of the class
    logs = y.double().reshape(-1, 3).tolist()
    with mp.workdps(50):
        rows = zip(exact.expand(y.shape).reshape(-1, 3).tolist(), logs, strict=True)
        expected = [exact_log_concrete(a, temperature.item(), each) for a, each in rows]
    found = q.log_prob(y).double().ravel()
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert (drawn.logsumexp(-1).abs() < 1e-4).all()
    raw = logits.clone().requires_grad_()
    z = LogConcrete(temperature, logits=raw).rsample()
    log_w = LogConcrete(0.5 * temperature, logits=torch.zeros(3, dtype=dtype)).log_prob(z)
    log_w = log_w - LogConcrete(temperature, logits=raw).log_prob(z)
    assert torch.autograd.grad(log_w.sum(), raw)[0].isfinite().all()


def test_relaxed_draws_have_the_classes_probabilities_and_tend_to_corners():
    """The largest share is that of class c with probability softmax(logits)_c, at any t."""
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    for temperature, largest in ((2.0, 0.6), (0.01, 0.98)):
        y = LogConcrete(torch.tensor(temperature), logits=logits).sample((4_000,))
        counts = torch.bincount(y.argmax(-1), minlength=4).numpy()
        assert stats.chisquare(counts, 4_000 * logits.double().softmax(0).numpy()).pvalue > 1e-3
        assert (y.amax(-1).exp().mean() > largest) == (temperature < 1)


def test_relaxed_classes_train_by_their_paths_and_are_another_model():
    """Three clusters are told apart; the evidence is that of quadrature over shares."""
    with pv.seeded(1):
        label = torch.arange(240) % 3
        centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
        x = centres[label] + 0.5 * torch.randn(240, 2)
        prior = priors.RelaxedCategorical(3, temperature=0.4)
        model = pv.Model(prior, likelihoods.Gaussian(2, scale=0.5), nn.Identity(), start=x)
        posterior = posteriors.RelaxedCategorical(3, temperature=0.5)
        guide = pv.Guide(posterior, 2, pv.networks.MLP(2, (16,)), start=x)
        training = pv.Training(num_epochs=150, learning_rate=0.03, compile=False, progress=False)
        pv.fit(model, guide, x, training=training)
        posterior.temperature.fill_(0.9)  # heavier tails for the evidence
    met = torch.zeros(3, 3)
    classes = guide.encode(x).logits.argmax(-1)
    met = met.index_put((classes, label), torch.ones(240), accumulate=True)
    assert met.amax(0).sum() == met.amax(1).sum() > 230
    z, weights = nodes(prior.support, 3)
    with torch.no_grad():
        joint = prior().log_prob(z.float()) + model.decode(z.float()).log_prob(x[:9].unsqueeze(1))
    exact = (joint.double() + weights.log()).logsumexp(1).numpy()
    found = pv.log_evidence(model, guide, x[:9], num_particles=2_000, progress=False)
    assert (abs(found.log_evidence - exact) < 4.5 * found.mc_se + 1e-2).all()
    with pytest.raises(ValueError, match="another support .*posteriors.RelaxedCategorical$"):
        pv.log_evidence(model, pv.Guide(posteriors.LogisticNormal(3), 2), x)
    with pytest.raises(ValueError, match="'z' has the support LogSimplex"):
        refine(model, guide, x)


def test_the_page_lists_what_can_be_combined():
    page = (Path(__file__).parents[1] / "docs" / "howto" / "latents.md").read_text()
    rows = re.search(r"\| latents .*\n\|---.*\n((?:\|.*\n)+)", page)[1].splitlines()
    rooms = (priors, posteriors)
    cells = [row.split("|")[2:4] for row in rows]
    listed = [[re.findall("`([A-Z][A-Za-z]+)`", cell) for cell in pair] for pair in cells]
    for names in listed:
        support = getattr(priors, names[0][0]).support
        for found, room in zip(names, rooms, strict=True):
            fitting = [name for name in room.__all__ if getattr(room, name).support is support]
            assert sorted(found) == sorted(fitting)
    for place, room in enumerate(rooms):
        assert sorted(name for row in listed for name in row[place]) == sorted(room.__all__)
