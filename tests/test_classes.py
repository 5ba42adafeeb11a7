"""Classes that are partly known: M2 against quadrature and Pyro, class probabilities and their
calibration, mixtures against scikit-learn."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.tasks.classes.calibration import calibration_of

CLASSES = 3
SIZE = 4
NAN = math.nan


def m2(likelihood=None):
    """M2 in float64 with one latent dimension."""
    with pv.seeded(3):
        model = pv.SemiSupervisedModel(
            CLASSES,
            priors.StandardNormal(1),
            likelihood or likelihoods.Bernoulli(SIZE),
            networks.MLP(1 + CLASSES, (6,), activation=nn.Tanh),
            shares=[0.2, 0.3, 0.5],
        )
        guide = pv.SemiSupervisedGuide(
            CLASSES,
            posteriors.MeanFieldNormal(1),
            SIZE,
            networks.MLP(SIZE + CLASSES, (6,)),
            networks.MLP(SIZE, (6,)),
        )
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model.double(), guide.double()


def rows_of_bits():
    x = torch.tensor(np.random.default_rng(0).integers(0, 2, (6, SIZE)), dtype=torch.float64)
    labels = torch.tensor([0.0, NAN, 2.0, NAN, NAN, 1.0], dtype=torch.float64)
    return torch.cat([x, labels[:, None]], dim=1)


def exact_log_joint(model, x):
    """log p(x, y) by quadrature over z, (C, B)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.tensor(nodes)[:, None, None]
    log_w = torch.tensor(weights / math.sqrt(2 * math.pi)).log()[:, None]
    found = []
    for c in range(CLASSES):
        y = torch.eye(CLASSES).double()[c].expand(len(x), -1)
        log_p = model.likelihood_at(z.expand(-1, len(x), 1), y).log_prob(x[:, :SIZE])
        found.append(model.log_shares[c] + (log_w + log_p).logsumexp(0))
    return torch.stack(found).detach()


def test_log_p_is_that_of_quadrature_with_and_without_labels():
    model, guide = m2()
    x = rows_of_bits()
    joint = exact_log_joint(model, x)
    labels = x[:, -1]
    known = joint[labels.nan_to_num().long(), torch.arange(len(x))]
    exact = torch.where(labels.isnan(), joint.logsumexp(0), known).numpy()
    evidence = pv.log_evidence(model, guide, x, num_particles=4000, progress=False)
    assert (np.abs(evidence.log_evidence - exact) < 4.5 * evidence.mc_se).all()


def test_class_probabilities_are_those_of_quadrature():
    model, guide = m2()
    x = rows_of_bits()
    x[:, -1] = NAN
    exact = exact_log_joint(model, x).softmax(0).mT.numpy()
    found = pv.class_probabilities(model, guide, x, num_particles=3000, progress=False)
    assert (np.abs(found.probabilities - exact) < 4.5 * found.se + 1e-12).all()
    assert np.allclose(found.by_guide, guide.classify(x).probs.detach())
    assert (found.predict() == exact.argmax(1)).all()
    with pytest.raises(ValueError, match="the class of row 0 is known"):
        pv.class_probabilities(model, guide, rows_of_bits())


@pytest.mark.statistical
def test_class_probabilities_of_rows_of_the_model_are_calibrated():
    """For y drawn from p(y given x), E p(y given x) = E sum_c p(c given x)^2."""
    model, guide = m2()
    num_rows = 300
    with pv.seeded(5):
        y = dist.Categorical(logits=model.log_shares).sample((num_rows,))
        z = torch.randn(num_rows, 1).double()
        bits = model.likelihood_at(z, torch.eye(CLASSES).double()[y]).sample()
    x = torch.cat([bits, torch.full((num_rows, 1), NAN).double()], dim=1)
    found = pv.class_probabilities(model, guide, x, num_particles=1000, progress=False)
    p = found.probabilities
    difference = p[np.arange(num_rows), y.numpy()] - (p**2).sum(1)
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(num_rows)  # level 6e-5
    assert found.calibration(y.numpy()).p_value > 0.001
    assert p.max(1).std() > 0.05  # the probabilities differ between rows
    with pytest.raises(ValueError, match=r"labels is 3 at row 7; a class is a whole number"):
        found.error(np.where(np.arange(num_rows) == 7, 3, y.numpy()))
    with pytest.raises(ValueError, match=r"labels has shape \(4,\), and there are 300 rows"):
        found.error(np.zeros(4))


def test_the_objective_is_pyros_in_expectation():
    """Mean losses of rows without labels, by Pyro's enumeration of the same programs."""
    model, guide = m2()
    x = rows_of_bits()[[1, 3, 4]].repeat(40, 1)

    def bare(x):
        values, _, _ = model.parts(x)
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y_unobserved", dist.OneHotCategorical(logits=model.log_shares))
            z = pyro.sample("z", model.prior())
            pyro.sample("x", model.likelihood_at(z, y), obs=values)

    def bare_guide(x):
        values, _, _ = guide.parts(x)
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y_unobserved", guide.classes_of(values))
            flat = values.expand(*torch.broadcast_shapes(y.shape[:-1], values.shape[:-1]), -1)
            y = y.expand(*flat.shape[:-1], -1)
            features = guide.encoder(torch.cat([flat, y], -1))
            pyro.sample("z", guide.posterior(features))

    theirs = TraceEnum_ELBO(max_plate_nesting=1)
    losses = []
    for objective, programs in (
        (objectives.EnumeratedELBO(), (model, guide)),
        (theirs, (bare, config_enumerate(bare_guide))),
    ):
        found = []
        for seed in range(30):
            with pv.seeded(seed):
                found.append(objective.loss(*programs, x))
        losses.append(np.array(found))
    se = np.hypot(*[each.std(ddof=1) / 30**0.5 for each in losses])
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * se


def test_missing_entries_are_left_out():
    model, guide = m2()
    x = rows_of_bits()
    x[:, 1] = NAN
    filled = [x.clone(), x.clone()]
    filled[0][:, 1], filled[1][:, 1] = 0, 1
    parts = torch.stack([exact_log_joint(model, each) for each in filled]).logsumexp(0)
    labels = x[:, -1]
    known = parts[labels.nan_to_num().long(), torch.arange(len(x))]
    exact = torch.where(labels.isnan(), parts.logsumexp(0), known).numpy()
    evidence = pv.log_evidence(model, guide, x, num_particles=4000, progress=False)
    assert (np.abs(evidence.log_evidence - exact) < 4.5 * evidence.mc_se).all()


def test_wrong_classes_are_named():
    model, guide = m2()
    x = rows_of_bits()
    x[2, -1] = 3.0
    with pytest.raises(ValueError, match="the class of row 2 is 3.*whole number from 0 to 2"):
        pv.log_evidence(model, guide, x)
    with pytest.raises(ValueError, match=r"x of shape \(6, 4\): give \(rows, 5\)"):
        pv.log_evidence(model, guide, x[:, :4])
    with pytest.raises(ValueError, match="3 positive numbers"):
        pv.SemiSupervisedModel(
            3, priors.StandardNormal(1), likelihoods.Bernoulli(2), shares=[0.5, 0.5]
        )


def test_classes_of_no_row_are_told(caplog):
    model, guide = m2()
    x = rows_of_bits()
    x[:, -1] = torch.nan
    settings = {"objective": pv.objectives.EnumeratedELBO(), "training": pv.Training(num_epochs=1)}
    pv.fit(model, guide, pv.Dataset(x, feature_names=[*"abcd", "kind"]), **settings)
    assert "no training row has a class (column 'kind'): classes are then clusters" in caplog.text
    assert "leave it out" not in caplog.text


# --- mixtures -------------------------------------------------------------------------------------


class MixtureProgram(nn.Module):
    """y ~ Cat, z ~ N(m_y, S_y), x ~ N(z, noise^2), y marked; and its guide."""

    def __init__(self, means, variances, weights, noise):
        super().__init__()
        self.means, self.variances = torch.tensor(means), torch.tensor(variances)
        self.weights, self.noise = torch.tensor(weights), noise

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            mark = {"enumerate": "parallel"}
            y = pyro.sample("y", dist.Categorical(self.weights), infer=mark)
            scale = self.variances[y].sqrt()
            z = pyro.sample("z", dist.Normal(self.means[y], scale).to_event(1))
            pyro.sample("x", dist.Normal(z, self.noise).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.2 * self.noise).to_event(1))


@pytest.fixture(scope="module")
def fitted():
    """Three clusters, and scikit-learn's mixture of them."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    x = np.concatenate([rng.normal(centre, 0.9, (60, 2)) for centre in centres])
    found = GaussianMixture(3, covariance_type="diag", random_state=0).fit(x)
    return x, found


def test_a_mixture_with_a_linear_decoder_is_scikit_learns(fitted):
    """x = z + noise, variances of z + noise those of scikit-learn: its log p(x), responsibilities
    and labels."""
    x, found = fitted
    noise = 0.3
    variances = found.covariances_ - noise**2
    program = MixtureProgram(found.means_, variances, found.weights_, noise)
    evidence = pv.log_evidence(program, program.guide, x, num_particles=3000, progress=False)
    exact = found.score_samples(x)
    assert (np.abs(evidence.log_evidence - exact) < 4.5 * evidence.mc_se).all()
    classes = pv.class_probabilities(program, program.guide, x, num_particles=3000, progress=False)
    responsibilities = found.predict_proba(x)
    assert (np.abs(classes.probabilities - responsibilities) < 5 * classes.se + 1e-6).all()
    clear = responsibilities.max(1) > 0.6
    assert (classes.predict() == found.predict(x))[clear].all()


def test_unreliable_probabilities_are_told(fitted):
    """Of a guide that is shifted by three sds no row is reliable; of an exact one all are."""
    x, found = fitted
    noise = 0.3
    variances = found.covariances_ - noise**2
    program = MixtureProgram(found.means_, variances, found.weights_, noise)

    def shifted(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x + 3 * noise, 0.5 * noise).to_event(1))

    classes = pv.class_probabilities(program, shifted, x, num_particles=2000, progress=False)
    assert not classes.is_estimate.any()
    assert repr(classes) == "ClassProbabilities(180 rows, 3 classes; reliable rows: 0 %)"
    bed = pv.beds.discrete_mixture(20)
    exact = pv.class_probabilities(bed.model, bed.guide, bed.x, progress=False)
    assert exact.is_estimate.all()


def test_responsibilities_of_a_mixture_prior(fitted):
    """`Model` with `priors.GaussianMixture` and a linear decoder x = A z + b + noise: a mixture of
    normals in closed form."""
    x, found = fitted
    rows = x[::20]
    with pv.seeded(0):
        prior = priors.GaussianMixture(2, 3)
        likelihood = likelihoods.Gaussian(2, scale="global")
        model = pv.Model(prior, likelihood, nn.Identity()).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor(found.weights_).log())
        prior.loc.copy_(torch.tensor(found.means_))
        prior.raw_scale.copy_((torch.tensor(found.covariances_).sqrt() - 1e-3).expm1().log())
        points = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
        means = model.decode(points).mean
        noise = model.decode(points).variance[0].diag().numpy()
    offset = means[0].numpy()
    slopes = (means[1:] - means[0]).mT.numpy()

    def wide(x):
        with pyro.plate("data", len(x), dim=-1):
            scale = torch.full((2,), 2.5).double()
            return pyro.sample("z", dist.Normal(1.0, scale).to_event(1))

    log_p = []
    for weight, mean, variance in zip(
        found.weights_, found.means_, found.covariances_, strict=True
    ):
        covariance = slopes @ np.diag(variance) @ slopes.T + noise
        normal = multivariate_normal(slopes @ mean + offset, covariance)
        log_p.append(math.log(weight) + normal.logpdf(rows))
    exact = softmax(np.stack(log_p, axis=1), axis=1)
    classes = pv.class_probabilities(model, wide, rows, num_particles=20_000, progress=False)
    assert (np.abs(classes.probabilities - exact) < 5 * classes.se).all()
    assert classes.se.max() < 0.05
    assert classes.by_guide is None


def test_a_model_without_classes_is_refused():
    from ppl_vae import beds

    bed = beds.linear_gaussian(num_data=3)
    for site in (None, "y", 3, math.nan):
        asked = "" if site is None else f"site is {site!r}, and "
        said = f"^{asked}neither model nor guide .* no class to give probabilities of"
        with pytest.raises(ValueError, match=said):
            pv.class_probabilities(bed.model, bed.guide, bed.x, site=site)


def test_components_of_a_mixture_prior_are_no_site():
    model = pv.Model(priors.GaussianMixture(2, 3), likelihoods.Gaussian(2))
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 2)
    with pytest.raises(ValueError, match="site is 'y'; the classes are the components .* leave it"):
        pv.class_probabilities(model, guide, torch.zeros(3, 2), site="y", progress=False)


# --- calibration ----------------------------------------------------------------------------------


def drawn_labels(probabilities, generator):
    cumulated = probabilities.cumsum(1)
    return (generator.random((len(probabilities), 1)) > cumulated).sum(1)


def test_p_values_of_calibrated_probabilities_are_uniform_and_those_of_others_small():
    """Kolmogorov-Smirnov at 1 %, of 60 data sets; sharpened probabilities are found out."""
    from scipy import stats

    generator = np.random.default_rng(1)
    p_values = []
    for seed in range(60):
        p = generator.dirichlet(np.ones(4), 200)
        found = calibration_of(p, drawn_labels(p, generator), seed=seed)
        p_values.append(found.p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    p = generator.dirichlet(np.ones(4), 500)
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    found = calibration_of(sharp, drawn_labels(p, generator))
    assert found.p_value < 0.01
    assert found.error > found.expected + 3 * found.se


def test_the_error_is_that_of_its_definition():
    p = np.array([[0.95, 0.05], [0.92, 0.08], [0.4, 0.6]])
    found = calibration_of(p, np.array([0, 1, 1]))
    by_hand = abs(1 - 0.95 + 0 - 0.92) / 3 + abs(1 - 0.6) / 3
    assert found.error == pytest.approx(by_hand)
    assert found.reliability.error == pytest.approx(by_hand)
    assert found.reliability.count.tolist() == [1, 2]
    assert "expected calibration error" in str(found)
