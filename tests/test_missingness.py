"""Missingness models: log p(x_obs, m) against sums and quadrature, whatever the columns are."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from cases import LIKELIHOODS, data_for
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import ppl_vae as pv
from ppl_vae import Dataset, Model, likelihoods, missingness, objectives, posteriors, priors
from ppl_vae.diagnostics.sbc.sources import GuideDraws, ImportanceDraws
from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.evidence.fingerprints import measure_of
from ppl_vae.families.entries import blocks_of
from ppl_vae.hmc import sample_posterior
from ppl_vae.programs.traces import log_terms

PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "not_at_random.md"
NAN = float("nan")
FAMILIES = {
    "normal": likelihoods.Gaussian,
    "bit": likelihoods.Bernoulli,
    "grade": lambda n: likelihoods.Ordinal(n, num_categories=4),
    "colour": lambda n: likelihoods.Categorical(n, num_categories=3),
    "positive": likelihoods.LogNormal,
    "visits": likelihoods.Poisson,  # unbounded: it can take no part
}
SIGNS = {"normal": 1, "bit": -1, "grade": 1, "colour": None, "positive": None}
ROWS = torch.tensor(
    [
        [0.3, 1.0, 2.0, 0.0, 1.5, 3.0],
        [NAN, 0.0, NAN, 2.0, 0.2, NAN],
        [-1.0, NAN, 3.0, NAN, NAN, 0.0],
        [NAN, NAN, NAN, NAN, NAN, NAN],
    ],
    dtype=torch.float64,
)


def table_model(sign=SIGNS, families=FAMILIES, seed=0):
    """One latent, a mechanism with arbitrary parameters, float64."""
    with pv.seeded(seed):
        model = pv.Model(
            priors.StandardNormal(1),
            likelihoods.Columns(families),
            nn.Identity(),
            missingness=missingness.SelfMasking(sign),
        )
        guide = pv.Guide(posteriors.MeanFieldNormal(1), len(families), nn.Linear(len(families), 4))
        with torch.no_grad():
            for parameter in model.missingness.parameters():
                parameter.add_(torch.randn_like(parameter))
    return model.double(), guide.double()


def nodes_of(block):
    """Values of an entry and weights by which sums over them are integrals."""
    if block.has_enumerate_support:
        values = block.enumerate_support(expand=False).flatten().double()
        return values, torch.ones_like(values)
    if block.support.is_discrete:
        return torch.arange(2.0).double(), torch.ones(2).double()  # its mask has no density
    u = torch.linspace(-12, 12, 2001, dtype=torch.float64)
    step = u[1] - u[0]
    if hasattr(block.support, "lower_bound"):
        return u.exp(), step * u.exp()
    return 4 * u, 4 * step.expand(len(u))


def log_p_given(model, x, z):
    """log p(x_obs, m given z) from the formula, column by column: (G, B) at z (G, 1, 1)."""
    mechanism = model.missingness
    total = torch.zeros(len(z), len(x), dtype=torch.float64)
    for block, columns in blocks_of(model.decode(z)):
        values, weights = nodes_of(block)
        for place, column in enumerate(columns):
            at = values.reshape(-1, 1, 1).expand(-1, 1, len(columns))
            log_p = block.log_prob(at.unsqueeze(1))[..., place]  # (V, G, 1)
            rows = values[:, None].expand(-1, len(mechanism.names))
            missing = mechanism.logits(rows)[:, column].sigmoid()
            mass = (weights * missing)[:, None, None] * log_p.exp()
            log_missing = mass.sum(0).log().expand(-1, len(x))
            own = torch.where(x.isnan(), values[0], x)
            observed = block.log_prob(own[:, columns])[..., place]
            if column in mechanism.by_place:
                observed = observed - torch.nn.functional.softplus(mechanism.logits(own)[:, column])
            else:
                log_missing = torch.zeros_like(log_missing)
            total = total + torch.where(x[:, column].isnan(), log_missing, observed)
    return total


def log_terms_at_nodes(model, x, points=401):
    """log p(x_obs, m, z) dz at the nodes z of a standard normal latent, (G, B), and the nodes."""
    z = torch.linspace(-10, 10, points, dtype=torch.float64).reshape(-1, 1, 1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).squeeze(-1)
    step = torch.tensor(20 / (points - 1), dtype=torch.float64)
    return log_p_given(model, x, z) + log_prior + step.log(), z


def exact(model, x):
    """log p(x_obs, m) by quadrature over z."""
    return log_terms_at_nodes(model, x)[0].logsumexp(0)


def exact_means(model, x):
    """E[x_j given x_obs, m] of entries that are missing, (B, J); of part-takers alone."""
    log_p, z = log_terms_at_nodes(model, x)
    found = torch.full(x.shape, NAN, dtype=torch.float64)
    for block, columns in blocks_of(model.decode(z)):
        values, weights = nodes_of(block)
        for place, column in enumerate(columns):
            at = values.reshape(-1, 1, 1, 1).expand(-1, 1, 1, len(columns))
            p = block.log_prob(at)[..., place].exp()  # (V, G, 1)
            rows = values[:, None].expand(-1, x.shape[1])
            missing = model.missingness.logits(rows)[:, column].sigmoid()
            mass = (weights * missing)[:, None, None] * p
            given_z = (values[:, None, None] * mass).sum(0) / mass.sum(0)
            found[:, column] = (log_p.softmax(0) * given_z).sum(0)
    return found


def test_the_mask_of_columns_with_few_values_is_summed_exactly():
    """Given z, to 1e-10: there is nothing to draw."""
    families = {name: FAMILIES[name] for name in ("bit", "grade", "colour")}
    model, guide = table_model({name: SIGNS[name] for name in families}, families)
    x = ROWS[:, 1:4]
    z = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64).reshape(-1, 1, 1)
    expected = log_p_given(model, x, z)
    for given, value in zip(expected, z, strict=True):
        fixed = pyro.poutine.condition(model, data={"z": value.expand(4, 1)})
        trace = pyro.poutine.trace(fixed).get_trace(x)
        trace.compute_log_prob()
        found = trace.nodes["x"]["log_prob"] + trace.nodes["m"]["log_prob"]
        torch.testing.assert_close(found, given, atol=1e-10, rtol=1e-10)


def test_log_p_of_every_kind_of_column_against_quadrature():
    """Within 4.5 standard errors: four rows, level 1e-4."""
    model, guide = table_model()
    expected = exact(model, ROWS).detach()
    found = pv.log_evidence(model, guide, ROWS, num_particles=50_000, seed=0, progress=False)
    assert (abs(found.log_evidence - expected.numpy()) < 4.5 * found.mc_se + 1e-9).all()
    assert found.mc_se.max() < 0.04


def test_imputations_are_draws_given_the_mask():
    """Within 5 standard errors of the quadrature; not so without the mechanism."""
    model, guide = table_model()
    sizes = {"num_imputations": 40, "num_particles": 500, "progress": False}
    expected = exact_means(model, ROWS).detach().numpy()
    found = pv.impute(model, guide, ROWS, method="importance", **sizes)
    rows, columns = ROWS[:, :5].isnan().numpy().nonzero()  # those that take part
    error = np.abs(found.mean - expected)[rows, columns]
    scale = found.sd[rows, columns]
    assert (error < 5 * scale / found.rows["ess"].to_numpy()[rows] ** 0.5).all()
    chosen = np.stack([found.complete(i) for i in range(40)])[:, rows, columns].mean(0)
    assert (np.abs(chosen - expected[rows, columns]) < 5 * scale / 40**0.5).all()
    model.missingness = None
    ignored = pv.impute(model, guide, ROWS, method="importance", **sizes)
    assert (np.abs(ignored.mean - expected)[rows, columns] > 0.2 * scale).any()


def test_gradients_against_those_of_the_quadrature():
    """IWAE with many particles, 60 repetitions: within 5 standard errors of each derivative."""
    families = {name: FAMILIES[name] for name in ("normal", "bit", "positive")}
    model, guide = table_model({name: SIGNS[name] for name in families}, families)
    x = ROWS[:, [0, 1, 4]]
    weights = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(exact(model, x).sum(), weights)
    objective = objectives.IWAE(3000)
    draws = []
    with pv.seeded(1):
        for _ in range(60):
            loss = objective.differentiable_loss(model, guide, x)
            draws.append(torch.autograd.grad(-loss, weights))
    for name, values in zip(expected, zip(*draws, strict=True), strict=True):
        found = torch.stack(values)
        error = (found.mean(0) - name).abs()
        assert (error <= 5 * found.std(0) / len(found) ** 0.5 + 2e-3).all()


def test_pyro_and_the_library_agree_for_equal_draws():
    model, guide = table_model()
    pairs = [
        (Trace_ELBO, objectives.TraceELBO),
        (TraceMeanField_ELBO, objectives.MeanFieldELBO),
    ]
    for theirs, ours in pairs:
        losses = []
        options = {"num_particles": 7, "max_plate_nesting": 1}
        for objective in (theirs(vectorize_particles=True, **options), ours(**options)):
            with pv.seeded(0):
                losses.append(objective.loss(model, guide, ROWS))
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    with pv.seeded(0):
        weights = log_terms(model, guide, ROWS, num_particles=7).log_weights
    with pv.seeded(0):
        bound = objectives.IWAE(7).bound(model, guide, ROWS)
    torch.testing.assert_close(bound, weights.logsumexp(0) - torch.tensor(7.0).double().log())


DRAWN = {"Gaussian", "StudentT", "Laplace", "LogNormal", "Gamma", "Beta"}
SUMMED = {
    "Bernoulli",
    "Categorical",
    "Ordinal",
    "Binomial",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_takes_part_or_is_refused(name):
    """Gradients of the curve and of the decoder behind missing entries; else one line says why."""
    settings = {"missingness": missingness.SelfMasking({0: None})}
    arguments = (priors.StandardNormal(1), LIKELIHOODS[name][0]((3,)), nn.Identity())
    if name not in DRAWN | SUMMED:
        with pytest.raises(ValueError, match="no path derivative|independent given z"):
            pv.Model(*arguments, **settings)
        return
    model = pv.Model(*arguments, **settings)
    x = data_for(name, num_data=6)
    x[:2, 0] = NAN
    x[1, 1] = NAN
    objective = objectives.IWAE(5)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
    loss = objective.differentiable_loss(model, guide, x)
    names, weights = zip(*model.named_parameters(), strict=True)
    grads = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    assert all(grad.isfinite().all() for grad in grads.values())
    assert [bool(each) for each in grads["missingness.offset"] != 0] == [True, False, False]
    assert (grads["missingness.weight"] != 0).any()
    with torch.no_grad():
        model.missingness.weight.fill_(1.0)
    loss = objective.differentiable_loss(model, guide, torch.full_like(x, NAN))
    moved = torch.autograd.grad(loss, list(model.likelihood.parameters()), allow_unused=True)
    assert any((grad != 0).any() for grad in moved if grad is not None)  # by the mask alone


def test_the_page_recovers_a_mean_where_the_model_at_random_is_biased():
    """docs/howto/not_at_random.md: the true mean is 0, 2,000 rows, half of the values missing."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "not_at_random"}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    assert abs(names["means"]["high go missing"]) < 0.1
    assert names["means"]["at random"] < -0.15


def test_draws_have_a_mask_with_the_rates_of_the_mechanism():
    """Rates of 20,000 rows within 4.5 standard errors of p(m); others are complete."""
    model, _ = table_model()
    x = model.sample(20_000)
    z = torch.linspace(-10, 10, 401, dtype=torch.float64).reshape(-1, 1, 1)
    weights = torch.distributions.Normal(0.0, 1.0).log_prob(z).softmax(0).squeeze(-1)
    gone = torch.full((1, 6), NAN, dtype=torch.float64)
    for name in SIGNS:
        column = list(FAMILIES).index(name)
        alone = table_model({name: SIGNS[name]})[0]
        alone.load_state_dict(model.state_dict() | {"missingness.takes_part": torch.ones(6) > 0})
        alone.missingness.by_place = {column: SIGNS[name]}
        rate = float((log_p_given(alone, gone, z).exp() * weights).sum().detach())
        found = float(x[:, column].isnan().double().mean())
        assert abs(found - rate) < 4.5 * (rate * (1 - rate) / 20_000) ** 0.5
    assert not x[:, 5].isnan().any()
    data, latents = pv.simulate(model, pv.Dataset(ROWS, dtype=torch.float64), seed=1)
    assert list(latents) == ["z"]
    assert data.x[:, 5].isnan().tolist() == ROWS[:, 5].isnan().tolist()
    assert pv.simulate(model, num_data=50, seed=1)[0].x[:, 0].isnan().any()


def test_units_and_columns_come_from_the_training_rows():
    """The bound is the same in other units, and only columns that are ever missing take part."""
    with pv.seeded(0):
        x = torch.randn(200, 2)
    x[x[:, 0] > 0.5, 0] = NAN
    values = []
    for factor in (1.0, 1000.0):
        model = pv.Model(
            priors.StandardNormal(1),
            likelihoods.Gaussian(2),
            nn.Identity(),
            start=factor * x,
            missingness=missingness.SelfMasking(1),
        )
        assert model.missingness.columns == ["0"]
        with torch.no_grad():
            model.likelihood.link.linear.weight.zero_()
        trace = pyro.poutine.trace(pyro.poutine.seed(model, 0)).get_trace(factor * x)
        values.append(trace.nodes["m"]["fn"].log_prob(trace.nodes["m"]["value"]).detach())
    torch.testing.assert_close(*values, atol=1e-4, rtol=1e-4)


def test_log_p_with_a_mask_is_compared_only_with_its_like():
    model, guide = table_model()
    plain, _ = table_model()
    plain.missingness = None
    rate, _ = table_model(dict.fromkeys(SIGNS, 0))
    found = {
        name: pv.log_evidence(each, guide, ROWS, num_particles=50, progress=False)
        for name, each in {"mechanism": model, "at random": plain, "rate": rate}.items()
    }
    assert "log p(x_obs, m) " in str(found["mechanism"].summary())
    with pytest.raises(ValueError, match=r"and of what is missing \(normal, bit, grade"):
        pv.compare_models({name: found[name] for name in ("mechanism", "at random")})
    pv.compare_models({name: found[name] for name in ("mechanism", "rate")})


@pytest.mark.statistical
@pytest.mark.parametrize("method", [ImportanceDraws(400), GuideDraws(400)])
def test_weighted_draws_of_the_prior_are_calibrated_where_the_density_is_noisy(method):
    """Weights prefer some draws of the missing entries, which log_joint must not share.

    The prior itself is not the posterior, and fails by log_joint."""
    with pv.seeded(0):
        model = pv.Model(
            priors.StandardNormal(1),
            likelihoods.Gaussian(3, scale=1.0),
            nn.Identity(),
            missingness=missingness.SelfMasking(1),
        )
        with torch.no_grad():
            model.missingness.weight.fill_(3.0)
    settings = {"num_data": 400, "seed": 1}
    found = pv.calibration(model, prior_guide(model), None, method, **settings).summary(1e-4)
    assert bool(found.flagged) == isinstance(method, GuideDraws)


def test_what_needs_a_density_without_noise_or_a_mask_is_refused():
    model, guide = table_model()
    with pytest.raises(ValueError, match="known up to noise: use ImportanceSampling"):
        sample_posterior(model, guide, ROWS)
    with pytest.raises(ValueError, match="whose replicates draw their own masks"):
        pv.marginal_pit(model, ROWS, num_samples=10, progress=False)


@pytest.mark.parametrize(
    ("sign", "family", "message"),
    [
        (2, likelihoods.Gaussian(3), r"SelfMasking\(sign\) is 2; it must be 1 where high"),
        ({"x": 1}, likelihoods.Gaussian(3), "no column 'x'; the columns are 0, 1, 2"),
        ({0: 1}, likelihoods.Categorical(3, 3), "'0' is a category without an order"),
        ({0: 1}, likelihoods.LowRankNormal(3, rank=1), "independent given z"),
        ({0: 1}, likelihoods.Gaussian((3, 3)), "is for tables"),
    ],
)
def test_mechanisms_that_make_no_sense_are_refused(sign, family, message):
    with pytest.raises(ValueError, match=message):
        pv.Model(priors.StandardNormal(1), family, missingness=missingness.SelfMasking(sign))


def test_a_frame_names_the_columns_and_repr_says_what_is_assumed():
    with pv.seeded(0):
        frame = pd.DataFrame(torch.randn(30, 3).numpy(), columns=["age", "income", "height"])
    frame.loc[::3, ["income", "height"]] = None
    data = pv.Dataset(frame)
    model = pv.Model(
        priors.StandardNormal(1),
        likelihoods.Columns.of(data),
        start=data,
        missingness=missingness.SelfMasking({"income": -1, "height": None}),
    )
    shown = repr(model.missingness).splitlines()
    assert shown[1].split() == "income low values go missing".split()
    assert shown[2].split() == "height free: not identified by what is observed".split()
    assert measure_of(model).endswith("with the mask of income, height")
    again = pv.Model(
        priors.StandardNormal(1),
        likelihoods.Columns.of(data),
        missingness=missingness.SelfMasking({1: -1, 2: None}),
    )
    again.load_state_dict(model.state_dict())
    rows = torch.randn(5, 3)
    torch.testing.assert_close(again.missingness.logits(rows), model.missingness.logits(rows))


def test_whole_numbers_name_columns_that_have_such_names():
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[::3, 0] = np.nan
    frame = pd.DataFrame(x, columns=[1, 2, 3])

    def model(sign):
        likelihood = likelihoods.Gaussian(3)
        mask = missingness.SelfMasking(sign)
        return Model(priors.StandardNormal(1), likelihood, start=Dataset(frame), missingness=mask)

    assert model({1: 1}).missingness.takes_part.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="column '2' has no missing value"):
        model({2: 1})
