"""Linear models against scikit-learn; networks of rows with missing entries, and of sequences."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.decomposition import PCA, FactorAnalysis

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.families.missing import observed_part
from ppl_vae.guide import input_shape
from ppl_vae.programs.traces import log_terms


@pytest.fixture(scope="module")
def rows():
    """Two factors, one of features 0 to 2, one of 3 to 5, in units from 0.1 to 10."""
    with pv.seeded(0):
        loadings = torch.tensor([[1.0, 0.8, 0.9, 0, 0, 0], [0, 0, 0, 0.7, -0.9, 0.6]])
        x = torch.randn(600, 2) @ loadings + torch.linspace(0.3, 0.8, 6) * torch.randn(600, 6)
    return x * torch.tensor([0.1, 1.0, 10.0, 1.0, 1.0, 3.0]) + 0.1


def fitted(x, scale):
    with pv.seeded(1):
        likelihood = likelihoods.Gaussian(6, scale=scale)
        model = pv.Model(priors.StandardNormal(2), likelihood, networks.Linear(2), start=x)
        guide = pv.Guide(posteriors.FullRankNormal(2), 6, networks.Linear(6), start=x)
    rate = pv.training.schedules.Cosine(0.05)
    training = pv.Training(num_epochs=250, batch_size=500, learning_rate=rate, progress=False)
    pv.fit(model, guide, x, training=training)
    return model, guide


@pytest.fixture(scope="module")
def factors(rows):
    return fitted(rows[:400], "feature")


def test_linear_networks_are_factor_analysis(rows, factors):
    """Held-out log p(x) is scikit-learn's, on average and by row, and so are the loadings."""
    theirs = FactorAnalysis(2, tol=1e-8, max_iter=5000).fit(rows[:400].double().numpy())
    expected = theirs.score_samples(rows[400:].double().numpy())
    found = pv.log_evidence(*factors, rows[400:], num_particles=50, progress=False).log_evidence
    difference = found - expected
    assert abs(difference.mean()) < 0.005
    assert difference.std() < 0.1
    covariance = pv.factor_loadings(factors[0]) @ pv.factor_loadings(factors[0]).T
    exact = theirs.components_.T @ theirs.components_
    scales = rows[:400].double().std(0).numpy()
    assert abs((covariance - exact) / np.outer(scales, scales)).max() < 0.02


def test_one_scale_for_all_features_is_probabilistic_pca(rows):
    x = rows / rows.std(0)
    model, guide = fitted(x[:400], "global")
    expected = PCA(2).fit(x[:400].double().numpy()).score_samples(x[400:].double().numpy())
    found = pv.log_evidence(model, guide, x[400:], num_particles=50, progress=False).log_evidence
    assert abs((found - expected).mean()) < 0.02


@pytest.mark.parametrize("num_factors", [1, 2, 3, 5])
@pytest.mark.parametrize("rotation", [None, "varimax", "lower"])
def test_loadings_have_a_row_for_each_feature_and_a_column_for_each_factor(num_factors, rotation):
    """Of more factors than features too; their rotation is the same model."""
    with pv.seeded(0):
        decoder = networks.Linear(num_factors)
        models = [
            pv.Model(priors.StandardNormal(num_factors), likelihoods.Gaussian(3), each)
            for each in (decoder, networks.Linear(num_factors), networks.Linear(num_factors))
        ]
    found = pv.factor_loadings(models[0], rotation)
    plain = pv.factor_loadings(models[0], None)
    assert found.shape == (3, num_factors)
    np.testing.assert_allclose(found @ found.T, plain @ plain.T, atol=1e-6)
    if rotation == "lower":
        assert abs(np.triu(found, 1)).max() < 1e-12
        assert (np.diag(found) > 0).all()
    if rotation is not None:
        intervals = pv.loading_intervals(models[0], [(each, None) for each in models[1:]], rotation)
        assert intervals.estimate.shape == intervals.se.shape == (3, num_factors)
        assert intervals.interval().shape == (2, 3, num_factors)
        assert intervals.draws.shape == (2, 3, num_factors)


def test_loadings_have_the_rotation_that_was_asked_for(rows, factors):
    model, _ = factors
    plain, varimax, lower = (pv.factor_loadings(model, r) for r in (None, "varimax", "lower"))
    for rotated in (varimax, lower):
        np.testing.assert_allclose(rotated @ rotated.T, plain @ plain.T, atol=1e-5)
    assert abs(lower[0, 1]) < 1e-6
    assert (np.diag(lower) > 0).all()

    def criterion(loadings):
        share = np.square(loadings / np.linalg.norm(loadings, axis=1, keepdims=True))
        return share.var(0).sum()

    others = [criterion(plain @ ortho_group.rvs(2, random_state=i)) for i in range(200)]
    assert criterion(varimax) > max(others) - 1e-9
    simple = abs(varimax) / np.linalg.norm(varimax, axis=1, keepdims=True)
    assert (np.sort(simple, axis=1)[:, 0] < 0.25).all()  # each feature belongs to one factor
    assert (varimax.sum(0) > 0).all()
    assert np.square(varimax).sum(0).argmax() == 0


def test_loadings_are_refused_where_there_are_none():
    curved = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(3), networks.MLP(2, (8,)))
    with pytest.raises(ValueError, match=r"not linear in z.*networks\.Linear"):
        pv.factor_loadings(curved)
    peaked = pv.Model(priors.Laplace(2), likelihoods.Gaussian(3), networks.Linear(2))
    with pytest.raises(ValueError, match="under Laplace.*rotation=None"):
        pv.factor_loadings(peaked)
    assert pv.factor_loadings(peaked, None).shape == (3, 2)
    wide = pv.Model(priors.LearnedNormal(2), likelihoods.Gaussian(3), networks.Linear(2))
    narrow = pv.factor_loadings(wide, None)
    wide.prior.log_scale.data.fill_(np.log(2))
    np.testing.assert_allclose(pv.factor_loadings(wide, None), 2 * narrow, rtol=1e-6)


# --- rows with missing entries --------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_a_set_encoder_sees_what_is_observed_in_any_order(pooling):
    torch.manual_seed(0)
    net = networks.SetEncoder(5, (8, 6), context_dim=1, pooling=pooling).double()
    x, c = torch.randn(7, 5).double(), torch.randn(7, 1).double()
    observed = (torch.rand(7, 5) < 0.6).double()
    found = net(torch.cat([x * observed, observed, c], dim=-1))
    noisy = torch.where(observed > 0, x, 99.0)
    torch.testing.assert_close(net(torch.cat([noisy, observed, c], dim=-1)), found)
    order = torch.tensor([3, 1, 4, 0, 2])
    net.embedding.data = net.embedding[order]
    permuted = net(torch.cat([x[:, order], observed[:, order], c], dim=-1))
    torch.testing.assert_close(permuted, found)
    everything = torch.cat([x, torch.ones_like(x), c], dim=-1)
    torch.testing.assert_close(net(torch.cat([x, c], dim=-1)), net(everything))
    assert not torch.allclose(net(torch.cat([x, c], dim=-1)), found)
    nothing = net(torch.cat([x, 0 * x, 0 * c], dim=-1))
    torch.testing.assert_close(nothing, nothing[:1].expand_as(nothing))
    with pytest.raises(ValueError, match=r"SetEncoder\(5, context_dim=1\) got inputs of width 4"):
        net(torch.zeros(2, 4).double())


def test_a_guide_of_sets_ignores_the_units_of_what_is_missing():
    """The encoder's posterior of a row depends on its observed entries alone."""
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 4, networks.SetEncoder(4, (8,)), missing=True)
    x = torch.randn(5, 4)
    x[:, 1] = torch.nan
    before = guide.encode(x).mean
    guide.units.centre[1] = 7.0
    guide.units._read()
    torch.testing.assert_close(guide.encode(x).mean, before)


def test_a_set_encoder_reads_categories_in_any_place():
    """Observed levels alone matter, and the rows of the levels' embedding follow them."""
    rows = [["a", 1.0, "u"], ["b", -1.0, "v"], ["c", 0.5, None], [None, 2.0, "u"]]
    data = pv.Dataset(pd.DataFrame(rows, columns=["kind", "size", "form"]))
    levels = {0: 3, 2: 2}
    net = networks.SetEncoder(3, (8,), categories=levels)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, net, missing=True, start=data)
    inputs = guide.inputs(data.x)
    assert inputs.shape[1:] == input_shape(data)
    found = net(inputs)
    assert len({tuple(row) for row in found.tolist()}) == 4
    x = data.x.clone()
    x[2, 2] = 1.0
    other = guide.inputs(x)
    other[:, -3:] = inputs[:, -3:]  # said to be missing all the same
    torch.testing.assert_close(net(other), found)
    swapped = inputs[:, [0, 2, 1, 3, 4, 5, 6, 7, 8]]  # levels "a" and "b"
    net.levels.data[:2] = net.levels.data[:2].flip(0)
    torch.testing.assert_close(net(swapped), found)


def test_hidden_entries_are_hidden_from_the_encoder_in_training_alone():
    """A fifth of 20,000 entries within 4.5 standard errors; log p(x) is of all observed entries."""
    seen = []

    class Seen(torch.nn.Module):
        def forward(self, inputs):
            seen.append(inputs)
            return inputs

    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, Seen(), missing=True, hide=0.2)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), torch.nn.Identity())
    x = 1 + torch.rand(10_000, 2)
    x[:, 1] = torch.nan
    with pv.seeded(0):
        guide(x)
        objectives.TraceELBO().loss(model, guide, x)
    for inputs in seen[-2:]:
        assert abs((inputs[:, 2] == 0).double().mean() - 0.2) < 4.5 * (0.16 / 10_000) ** 0.5
        assert ((inputs[:, 0] == 0) == (inputs[:, 2] == 0)).all()
        assert (inputs[:, [1, 3]] == 0).all()
    terms = log_terms(model, guide, x, num_particles=1)
    p = model.decode(terms.guide_trace.nodes["z"]["value"][0]).base_dist
    torch.testing.assert_close(terms.log_likelihood[0], p.log_prob(x.nan_to_num())[:, 0])
    guide.encode(x)
    pv.log_weights(model, guide, x)
    assert all((inputs[:, 2] == 1).all() for inputs in seen[-1:])
    with pytest.raises(ValueError, match="give missing=True"):
        pv.Guide(posteriors.MeanFieldNormal(1), 2, hide=0.2)


# --- sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_a_recurrent_network_ends_where_a_row_ends(shape):
    """The features of a row that is filled with NaN are those of its beginning."""
    torch.manual_seed(0)
    net = networks.GRU(shape, width=5)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), shape, net, missing=True)
    x = torch.randn(4, *shape)
    x[:, 4:] = torch.nan
    x[0, 1] = torch.nan  # a gap
    short = networks.GRU((4, *shape[1:]), width=5)
    short.load_state_dict(net.state_dict())
    found = guide.features(x)
    expected = pv.Guide(posteriors.MeanFieldNormal(2), (4, *shape[1:]), short, missing=True)
    torch.testing.assert_close(found, expected.features(x[:, :4]))
    assert not torch.allclose(found, guide.features(x.nan_to_num()))
    assert pv.Guide(posteriors.MeanFieldNormal(2), shape, networks.GRU(shape))(x[:, :]).shape == (
        4,
        2,
    )


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_a_recurrent_decoder_gives_a_row_that_ends_early_the_density_of_its_beginning(shape):
    """Its first steps are those of a shorter decoder, with one map to the parameters for all steps;
    the likelihood leaves out what lies beyond the end."""
    torch.manual_seed(0)
    x = torch.randn(5, *shape)
    x[:, 4:] = torch.nan
    long, short = (
        pv.Model(
            priors.StandardNormal(2),
            likelihoods.Gaussian((steps, *shape[1:]), scale=0.5),
            networks.GRUDecoder(2, (steps, *shape[1:]), width=5),
        )
        for steps in (6, 4)
    )
    for name in ("decoder", "likelihood"):
        weights = getattr(long, name).state_dict()
        kept = {key: value[:4] if "units" in key else value for key, value in weights.items()}
        getattr(short, name).load_state_dict(kept)
    assert long.likelihood.link.linear.weight.shape == (1, 5)
    z = torch.randn(3, 5, 2)
    observed, values = observed_part(long.decode(z), x)
    expected = short.decode(z).log_prob(x[:, :4])
    torch.testing.assert_close(observed.log_prob(values), expected)
    means = long.decode(z).mean
    assert (means[:, :, 1:] != means[:, :, :-1]).all()  # steps differ, and so do rows
    guide = pv.Guide(posteriors.MeanFieldNormal(2), shape, networks.GRU(shape), missing=True)
    pv.fit(long, guide, x, training=pv.Training(num_epochs=1, progress=False))
