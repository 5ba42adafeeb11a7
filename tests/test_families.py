"""Laws that every prior, likelihood and posterior obeys, whatever it is."""

import copy
import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from cases import (
    EVENT,
    FEATURES,
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    data_for,
    entry_of,
    fitting,
    is_joint,
    nodes,
    objective_for,
    pairs,
    total_mass,
    vae,
    with_hole,
)
from pyro.distributions import constraints
from torch import nn

import ppl_vae as pv
from ppl_vae import Dataset, Guide, Model, likelihoods, networks, objectives, posteriors, priors
from ppl_vae.objectives.mean_field import analytic_kl
from ppl_vae.runtime.checks import shown

every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)


def test_the_tables_hold_every_family():
    assert set(PRIORS) == set(priors.__all__)
    assert {*LIKELIHOODS, "Columns"} == set(likelihoods.__all__)
    assert set(POSTERIORS) == set(posteriors.__all__)


def built(family, width=FEATURES):
    family.build((width,))
    return family.double()


def in_dims(table, room):
    """Each family with one and with two free latent dimensions, where it can have one."""
    fixed = {constraints.real_vector: 0, constraints.simplex: 1, constraints.sphere: 1}
    rows = [
        (name, dim + fixed.get(getattr(room, name).support, 1))
        for name, dim in itertools.product(table, (1, 2))
        if (name, dim) != ("Hierarchical", 1)
    ]
    return pytest.mark.parametrize(("name", "dim"), rows)


@in_dims(PRIORS, priors)
def test_prior_integrates_to_one(name, dim):
    distribution = PRIORS[name](dim).double()()
    z, weights = nodes(getattr(priors, name).support, dim)
    assert distribution.batch_shape == ()
    assert distribution.event_shape == (dim,)
    mass = (distribution.log_prob(z).exp() * weights).sum()
    assert mass.item() == pytest.approx(1.0, abs=4e-3)


@in_dims(POSTERIORS, posteriors)
def test_posterior_integrates_to_one(name, dim):
    distribution = built(POSTERIORS[name](dim))(torch.randn(3, FEATURES, dtype=torch.float64))
    z, weights = nodes(getattr(posteriors, name).support, dim)
    assert distribution.batch_shape == (3,)
    assert distribution.event_shape == (dim,)
    density = distribution.log_prob(z.unsqueeze(1).expand(-1, 3, -1)).exp()
    mass = (density.mT * weights).sum(-1)
    np.testing.assert_allclose(mass.detach(), 1.0, atol=4e-3)


@every_likelihood
def test_likelihood_integrates_or_sums_to_one(name):
    likelihood = built(LIKELIHOODS[name][0]((1 + is_joint(name),)))
    features = 0.3 * torch.randn(2, FEATURES, dtype=torch.float64)
    total = total_mass(likelihood(features))
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


@every_likelihood
def test_draws_lie_in_the_support_and_intruders_are_named(name):
    constructor, _, outside = LIKELIHOODS[name]
    likelihood = constructor((2, 3))
    likelihood.build((FEATURES,))
    x = likelihood(torch.randn(50, FEATURES)).sample().float()
    likelihood.check(x)
    x = with_hole(x, name, 4, 1)
    likelihood.check(x)  # missing
    x[7, 1, 2] = float("inf") if outside is None else outside
    found, place = shown(x[7, 1, 0]), r"\(1, 0\)"  # of a joint value the first entry is named
    if not is_joint(name):
        found, place = f"{x[7, 1, 2]:g}", r"\(1, 2\)"
    with pytest.raises(ValueError, match=rf"{name}: x is {found} at row 7, feature {place}; ."):
        likelihood.check(x)
    with pytest.raises(ValueError, match=r"one observation must have shape \(2, 3\)"):
        likelihood.check(x[:, :1])


def test_grey_pixels_are_refused_with_both_remedies():
    model, guide = vae()
    x = torch.rand(8, EVENT)
    for use in (
        lambda: model(x),
        lambda: pv.log_evidence(model, guide, x),
        lambda: pv.fit(model, guide, x),
    ):
        with pytest.raises(
            ValueError, match=r"row 0, feature 0; binarise .* or use ContinuousBernoulli"
        ):
            use()


NORMAL_POSTERIORS = ("MeanFieldNormal", "LowRankNormal", "FullRankNormal", "GaussianProcess")
NORMAL_PRIORS = ("StandardNormal", "LearnedNormal", "ConditionalNormal", "GaussianProcess")
KNOWN_KL = {
    ("MeanFieldNormal", "Laplace"),
    ("GaussianProcess", "Laplace"),
    ("LogisticNormal", "LogisticNormal"),
    ("PowerSpherical", "UniformSphere"),
    ("Categorical", "Categorical"),
}


@pytest.mark.parametrize(("q", "p"), [(q, p) for p in PRIORS for q in fitting(p)])
def test_analytic_kl_equals_monte_carlo_kl(q, p):
    """Within 4.5 standard errors: 16 pairs, level 1e-4."""
    posterior = built(POSTERIORS[q](2))(torch.randn(1, FEATURES, dtype=torch.float64))
    prior = PRIORS[p](2).double()().expand((1,))
    kl = analytic_kl(posterior, prior)
    is_known = q in NORMAL_POSTERIORS and p in NORMAL_PRIORS
    assert (kl is not None) == (is_known or (q, p) in KNOWN_KL)
    if kl is not None:
        z = posterior.sample((40_000,))
        draws = posterior.log_prob(z) - prior.log_prob(z)
        assert abs(draws.mean() - kl) < 4.5 * draws.std() / len(draws) ** 0.5


def every_pair():
    """Rows, found greedily, in which every family stands beside two of each other kind."""
    rows = [
        tuple(enumerate([prior, likelihood, posterior]))
        for prior, likelihood in itertools.product(PRIORS, LIKELIHOODS)
        for posterior in fitting(prior)
    ]
    beside = defaultdict(set)

    def wanted(row):
        pairs = itertools.permutations(row, 2)
        known = ((one, other, beside[one, other[0]]) for one, other in pairs)
        return [(one, other) for one, other, met in known if len(met) < 2 and other not in met]

    while pairs := wanted(row := max(rows, key=lambda row: len(wanted(row)))):
        for one, other in pairs:
            beside[one, other[0]].add(other)
        yield tuple(name for _, name in row)


@pytest.mark.parametrize(("prior", "likelihood", "posterior"), list(every_pair()))
def test_every_pair_trains_and_moves_every_parameter(prior, likelihood, posterior):
    model, guide = vae(prior, likelihood, posterior)
    named = dict(model.named_parameters(prefix="model")) | dict(
        guide.named_parameters(prefix="guide")
    )
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    result = pv.fit(
        model,
        guide,
        data_for(likelihood),
        objective=objective_for(posterior),
        training=pv.Training(num_epochs=1, batch_size=16, progress=False),
    )
    assert result.num_epochs == 1
    assert [name for name, parameter in named.items() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize(("prior", "posterior"), list(pairs()))
def test_weights_go_to_a_file_and_come_back(tmp_path, prior, posterior):
    model, guide = vae(prior, posterior=posterior)
    x = data_for("Bernoulli")
    pv.save_weights(tmp_path / "weights.pt", model, guide)
    torch.manual_seed(1)
    other_model, other_guide = vae(prior, posterior=posterior)
    assert not torch.equal(bound(other_model, other_guide, x), bound(model, guide, x))
    pv.load_weights(tmp_path / "weights.pt", other_model, other_guide)
    assert torch.equal(bound(other_model, other_guide, x), bound(model, guide, x))


def bound(model, guide, x):
    with pv.seeded(3):
        return objectives.TraceELBO(5).bound(model, guide, x)


def test_reprs_say_what_was_chosen():
    assert (
        repr(priors.GaussianMixture(2, num_components=4)) == "GaussianMixture(2, num_components=4)"
    )
    assert "scale='feature', floor=0.001" in repr(likelihoods.Gaussian(3, scale="feature"))
    assert "num_categories=5" in repr(likelihoods.Categorical(3, num_categories=5))
    assert "transform='spline_coupling'" in repr(priors.FlowPrior(3))


@pytest.mark.parametrize(
    "transform", ["planar", "radial", "sylvester", "block_autoregressive", "neural_autoregressive"]
)
def test_flows_that_cannot_score_external_points_are_refused_as_priors(transform):
    with pytest.raises(
        ValueError, match=f"'{transform}' cannot score points that it did not draw.*spline_coupling"
    ):
        priors.FlowPrior(3, transform)


@pytest.mark.parametrize(
    "transform", ["affine_coupling", "spline", "affine_autoregressive", "spline_autoregressive"]
)
def test_the_other_flows_score_external_points(transform):
    z, weights = nodes(constraints.real_vector, 2)
    density = (
        priors.FlowPrior(2, transform)().log_prob(z.float()).exp()
    )  # Pyro inverts autoregressive flows in float32
    assert (density * weights).sum().item() == pytest.approx(1.0, abs=5e-3)


def test_families_refuse_impossible_sizes():
    for make, message in (
        (lambda: priors.StandardNormal(0), "latent_dim is 0"),
        (lambda: posteriors.MeanFieldNormal(-1), "latent_dim is -1"),
        (lambda: priors.GaussianMixture(2, num_components=0), "num_components is 0"),
        (lambda: likelihoods.Categorical(2, num_categories=0), "num_categories is 0"),
        (
            lambda: likelihoods.Gaussian(2, scale=0.0),
            "scale is 0.0; it must be a finite number, above 0",
        ),
        (
            lambda: likelihoods.Gaussian(2, scale="pixel"),
            "scale, if not a number, is 'pixel'; it must be 'global', 'feature' or 'decoder'",
        ),
        (
            lambda: likelihoods.StudentT(2, df=-1.0),
            "df is -1.0; it must be a finite number, above 0",
        ),
        (lambda: networks.ConvEncoder((5,)), r"takes images of shape .* not \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_vamp_prior_wants_pseudo_inputs_of_the_guides_shape_without_holes():
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3)
    with pytest.raises(ValueError, match=r"shape \(4, 5\); the guide's data need \(C, 3\)"):
        priors.VampPrior(guide, torch.zeros(4, 5))
    with pytest.raises(ValueError, match="NaN in row 1"):
        priors.VampPrior(guide, torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]]))


def test_vamp_prior_is_the_mixture_of_the_guides_posteriors():
    guide = pv.Guide(posteriors.MeanFieldNormal(2), EVENT).double()
    u, z = torch.randn(5, EVENT, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    by_hand = torch.stack([guide.encode(u[c : c + 1]).log_prob(z) for c in range(5)]).logsumexp(
        0
    ) - np.log(5)
    torch.testing.assert_close(priors.VampPrior(guide, u)().log_prob(z), by_hand)


def test_scales_are_what_their_names_say():
    features = torch.randn(6, FEATURES)
    shapes = {0.5: (), "global": (EVENT,), "feature": (EVENT,), "decoder": (6, EVENT)}
    for scale, shape in shapes.items():
        likelihood = likelihoods.Gaussian(EVENT, scale=scale)
        likelihood.build((FEATURES,))
        assert likelihood.scale_of(*likelihood.parameters_of(features)).shape == shape
    scale = likelihoods.Gaussian(EVENT).scale_of(features)
    assert scale.tolist() == pytest.approx(EVENT * [1.0], abs=2e-3)


def test_a_collapsed_scale_is_reported_once_at_the_end_of_fit(caplog):
    """Constant data: the likelihood is unbounded as sigma falls to 0, so it ends on its floor."""
    model = pv.Model(
        priors.StandardNormal(1), likelihoods.Gaussian(EVENT, floor=0.2), torch.nn.Linear(1, 4)
    )
    guide = pv.Guide(posteriors.MeanFieldNormal(1), EVENT, torch.nn.Linear(EVENT, 4))
    training = pv.Training(num_epochs=60, batch_size=32, learning_rate=0.1, progress=False)
    pv.fit(model, guide, torch.zeros(64, EVENT), training=training)
    warnings = [r.message for r in caplog.records if "has reached its floor 0.2" in r.message]
    assert len(warnings) == 1


@pytest.mark.parametrize("shape", [(6, 7), (2, 6, 7)])
def test_convolutions_read_and_write_images(shape):
    x = torch.bernoulli(torch.full((5, *shape), 0.3))
    guide = pv.Guide(
        posteriors.MeanFieldNormal(2), shape, networks.ConvEncoder(shape, channels=(4, 6))
    )
    decoder = networks.ConvDecoder(2, shape, channels=(6, 4))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(shape), decoder)
    assert model.decode(torch.zeros(7, 5, 2)).event_shape == shape
    assert pv.log_weights(model, guide, x, num_particles=3).shape == (3, 5)
    # per-pixel readout: as many weights as feature channels, not as pixels
    assert model.likelihood.link.linear.weight.shape == (shape[0] if len(shape) == 3 else 1, 4)


@pytest.mark.parametrize("network", [networks.MLP, networks.ResNet])
def test_dense_networks_do_not_mix_particles_or_data(network):
    net = network((2, 3)).double()
    x = torch.randn(4, 5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(net(x)[2, 3], net(x[2, 3]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: pv.Guide(posteriors.MeanFieldNormal(2), 3, torch.nn.Linear(4, 5)),
            ValueError,
            r"encoder cannot read inputs of shape \(\*, 3\)",
        ),
        (
            lambda: pv.Model(
                priors.StandardNormal(2), likelihoods.Poisson(3), torch.nn.Linear(3, 5)
            ),
            ValueError,
            "decoder cannot read inputs",
        ),
        (
            lambda: pv.Model(priors.StandardNormal, likelihoods.Poisson(3)),
            TypeError,
            r"prior is .*pass an instance, StandardNormal\(...\)",
        ),
        (
            lambda: pv.Model(priors.StandardNormal(2), "Poisson"),
            TypeError,
            "likelihood is 'Poisson', which is not a module",
        ),
        (
            lambda: pv.Guide(posteriors.MeanFieldNormal, 3),
            TypeError,
            r"pass an instance, MeanFieldNormal\(...\)",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_likelihood_belongs_to_one_model_and_a_posterior_to_one_guide():
    """A second model would have replaced the first one's link."""
    model, guide = vae()
    with pytest.raises(ValueError, match="this Bernoulli is already in a Model"):
        pv.Model(priors.StandardNormal(2), model.likelihood)
    with pytest.raises(ValueError, match="this MeanFieldNormal is already in a Guide"):
        pv.Guide(guide.posterior, EVENT)


def test_model_and_guide_that_do_not_belong_together_are_told_before_they_run():
    model, x = vae()[0], data_for("Bernoulli")
    for guide, message in (
        (
            pv.Guide(posteriors.MeanFieldNormal(5), EVENT),
            "the model has 2 latent dimensions and the guide 5",
        ),
        (
            pv.Guide(posteriors.MeanFieldNormal(2), 4),
            r"Guide was made for data of shape \(4,\) and was given \(3,\)$",
        ),
    ):
        for use in (lambda g: pv.fit(model, g, x), lambda g: pv.log_evidence(model, g, x)):
            with pytest.raises(ValueError, match=message):
                use(guide)


def test_a_device_that_is_not_there_is_named():
    model, guide = vae()
    with pytest.raises(ValueError, match="device='gpu' cannot be used here"):
        pv.fit(
            model, guide, data_for("Bernoulli"), training=pv.Training(device="gpu", progress=False)
        )


@every_likelihood
def test_a_model_that_starts_at_the_data_has_their_means_where_features_are_zero(name):
    """Within a quarter of the standard deviation, since not every start is one by means."""
    x = with_hole(data_for(name, num_data=200), name, slice(None, None, 7))
    decoder = torch.nn.Linear(2, 8)
    torch.nn.init.zeros_(decoder.weight)
    torch.nn.init.zeros_(decoder.bias)
    model = pv.Model(priors.StandardNormal(2), LIKELIHOODS[name][0]((EVENT,)), decoder, start=x)
    with torch.no_grad():
        found = entry_of(model.decode(torch.zeros(2)))
    mean, expected, spread = found.mean, x.nanmean(0), x[~x.isnan().any(1)].std(0)
    if mean.isnan().any():  # of categories, which have shares instead
        values = found.enumerate_support()
        mean = found.log_prob(values).exp()
        expected = torch.stack([(x == value).sum(0) / (~x.isnan()).sum(0) for value in values])
    assert ((mean - expected).abs() <= spread / 4).all()


def test_feature_maps_start_at_the_mean_over_pixels():
    x = torch.rand(50, 8, 8).round()
    decoder = networks.ConvDecoder(2, (8, 8))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli((8, 8)), decoder, start=x)
    with torch.no_grad():
        bias = model.likelihood.link(torch.zeros(model.likelihood.link.feature_shape))
    assert torch.allclose(bias, bias.mean().expand_as(bias))
    assert abs(bias.sigmoid().mean() - x.mean()) < 0.05


@pytest.mark.parametrize(
    ("context", "error"),
    [
        (np.arange(5.0), None),
        (np.arange(5)[:, None], None),
        (torch.arange(5.0, dtype=torch.float64)[:, None], None),
        (np.array([0.0, np.nan]), "context is missing or infinite in row 1"),
        (np.zeros((5, 2)), "takes 1 covariates and was given 2"),
    ],
)
def test_samples_take_covariates_of_any_type(context, error):
    data = Dataset(torch.zeros(4, 2), context=[0.0, 1.0, 2.0, 3.0])
    model = Model(priors.StandardNormal(1), likelihoods.Gaussian(2), start=data)
    if error is None:
        assert model.sample(context=context).shape == (5, 2)
    else:
        with pytest.raises(ValueError, match=error):
            model.sample(context=context)


@pytest.mark.parametrize("prior", [priors.ConditionalNormal, priors.GaussianProcess])
def test_a_prior_of_other_covariates_is_refused(prior):
    data = Dataset(torch.zeros(4, 2), context=[0.0, 1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="give it context_dim=1"):
        Model(prior(1, context_dim=2), likelihoods.Gaussian(2), start=data)


def test_weights_of_another_guide_leave_the_model_as_it_is(tmp_path):
    def pair(latent_dim):
        model = Model(priors.StandardNormal(1), likelihoods.Gaussian(2))
        return model, Guide(posteriors.MeanFieldNormal(1), 2, nn.Linear(2, latent_dim))

    pv.save_weights(tmp_path / "weights.pt", *pair(3))
    model, guide = pair(4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="does not fit this guide"):
        pv.load_weights(tmp_path / "weights.pt", model, guide)
    for foreign in (model.state_dict(), {"model": model.state_dict()}):
        torch.save(foreign, tmp_path / "foreign.pt")
        with pytest.raises(ValueError, match="foreign.pt holds no weights written by save_weights"):
            pv.load_weights(tmp_path / "foreign.pt", model, guide)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class ScalarNormals(nn.Module):
    """D independent normals without an event."""

    def forward(self, context=None):
        return torch.distributions.Normal(torch.zeros(3), 1.0)


def test_a_prior_of_scalars_is_refused_in_a_line():
    for make in (pv.Model, lambda *parts: pv.SemiSupervisedModel(2, *parts)):
        with pytest.raises(ValueError, match=r"events of shape \(\): give one of vectors \(D,\)"):
            make(ScalarNormals(), pv.likelihoods.Gaussian(4))
