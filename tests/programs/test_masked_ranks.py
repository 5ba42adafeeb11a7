"""Calibration where latents are masked: ranks of those that count, by exact and wrong guides."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import ppl_vae as pv
from ppl_vae.diagnostics import (
    GuideDraws,
    HMCDraws,
    ImportanceDraws,
    calibration,
    guide_errors,
    plot_calibration,
)
from ppl_vae.diagnostics.sbc.summary import summarise
from ppl_vae.hmc import HMC

STEPS = 3
NOISE = 0.5
SHARE = 0.4
LENGTHS = torch.tensor([1, 2, 2, 3])
PRECISION = 1 + NOISE**-2
MANY = {"num_data": 1000, "seed": 2}
DRAWS = GuideDraws(60, chunk_size=10**6)


def ragged_data():
    x = torch.zeros(4, STEPS, dtype=torch.float64)
    return pv.Dataset(x, dtype=torch.float64, args={"lengths": LENGTHS})


def latents(way, loc, scale, counts):
    """z of each step, masked where it does not count, one of three ways; rows at dim -1."""
    if way == "event":
        return pyro.sample("z", dist.Normal(loc, scale).mask(counts).to_event(1))
    values = []
    for t in range(STEPS):
        normal = dist.Normal(loc[..., t], scale)
        if way == "fn.mask":
            values.append(pyro.sample(f"z_{t}", normal.mask(counts[..., t])))
            continue
        with poutine.mask(mask=counts[..., t]):
            values.append(pyro.sample(f"z_{t}", normal))
    return torch.stack(values, -1)


def ragged(way, factor=1.0):
    """Steps of a sequence, each with a latent, and the exact guide with its sd times a factor."""

    def model(x, lengths):
        counts = torch.arange(STEPS) < lengths.unsqueeze(-1)
        with pyro.plate("sequences", len(x)):
            z = latents(way, torch.zeros_like(x), 1.0, counts)
            pyro.sample("x", dist.Normal(z, NOISE).mask(counts).to_event(1), obs=x)

    def guide(x, lengths):
        counts = torch.arange(STEPS) < lengths.unsqueeze(-1)
        with pyro.plate("sequences", len(x)):
            latents(way, x / NOISE**2 / PRECISION, factor * PRECISION**-0.5, counts)

    return model, guide, ragged_data()


def on_copies(way):
    """The same in a form that takes no axis of particles."""
    model, guide, data = ragged(way)

    def checked(program):
        def run(x, lengths):
            assert x.dim() == 2
            torch.mm(x, x.mT)
            return program(x.reshape(len(x), STEPS), lengths)

        return run

    return checked(model), checked(guide), data


def columns(found, way):
    return np.stack([found[f"z[{t}]" if way == "event" else f"z_{t}"] for t in range(STEPS)], -1)


@pytest.mark.parametrize("way", ["event", "fn.mask", "poutine.mask"])
@pytest.mark.parametrize(
    ("programs", "draws"),
    [(ragged, DRAWS), (on_copies, DRAWS), (ragged, ImportanceDraws(60, chunk_size=10**6))],
    ids=["particles", "copies", "weighted"],
)
def test_an_exact_guide_of_ragged_rows_has_uniform_ranks(way, programs, draws):
    """Level 0.001 of a true hypothesis; as many ranks as there are steps."""
    model, guide, data = programs(way)
    found = calibration(model, guide, data, draws, **MANY)
    simulated, _ = pv.simulate(model, _chosen(data), seed=0)
    counts = torch.arange(STEPS) < simulated.args["lengths"].unsqueeze(-1)
    ranked = ~np.isnan(columns(found, way))
    assert sorted(ranked.sum(1)) == sorted(counts.sum(1).tolist())
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()
    summary = found.summary(0.001)
    assert summary.num_ranked.tolist() == [*ranked.sum(0), 1000, 1000, 1000]
    assert summary.flagged == ()
    missing = 1000 - ranked.sum(0)
    name = "z[2]" if way == "event" else "z_2"
    assert f"masked latents are not ranked: {name} for {missing[2]}" in str(summary)


def _chosen(data):
    """The rows that `calibration` draws with this seed."""
    from ppl_vae.diagnostics.sbc.simulate import ROWS, derived_seed

    random = np.random.default_rng(derived_seed(MANY["seed"], ROWS))
    return data[random.choice(len(data), MANY["num_data"], replace=True)]


@pytest.mark.parametrize("way", ["event", "fn.mask", "poutine.mask"])
def test_a_narrow_guide_is_seen_at_the_steps_that_count(way):
    summary = calibration(*ragged(way, factor=0.7), DRAWS, **MANY).summary()
    for t in range(STEPS):
        name = f"z[{t}]" if way == "event" else f"z_{t}"
        assert name in summary.flagged
        spread = summary.spread[summary.names.index(name)]
        # the sd of a normal score is 1 / 0.7; its standard error is 1 / sqrt(2 N), N about 250
        assert abs(spread * 0.7 - 1) < 0.15


def present(factor=1.0, shift=0.0):
    """A latent that counts where another one says so: absent objects."""

    def model(x):
        with pyro.plate("rows", len(x)):
            there = pyro.sample("there", dist.Bernoulli(x.new_tensor(SHARE)))
            with poutine.mask(mask=there.bool()):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 2.0))
            pyro.sample("x", dist.Normal(z * there, NOISE), obs=x)

    def guide(x):
        x = x.reshape(-1)
        sds = (4 + NOISE**2) ** 0.5, NOISE
        one, none = (dist.Normal(0.0, sd).log_prob(x) for sd in sds)
        logits = one - none + np.log(SHARE / (1 - SHARE)) + shift
        with pyro.plate("rows", len(x)):
            there = pyro.sample("there", dist.Bernoulli(logits=logits))
            precision = 1 / 4 + NOISE**-2
            with poutine.mask(mask=there.bool()):
                pyro.sample("z", dist.Normal(x / NOISE**2 / precision, factor * precision**-0.5))

    return model, guide, pv.Dataset(torch.zeros(5, dtype=torch.float64), dtype=torch.float64)


def test_a_mask_that_depends_on_a_latent():
    """Truths that count are ranked among the draws that count."""
    found = calibration(*present(), DRAWS, **MANY)
    share = (~np.isnan(found["z"])).mean()
    assert abs(share - SHARE) < 4 * (SHARE * (1 - SHARE) / 1000) ** 0.5
    assert not np.isnan(found["there"]).any()
    assert found.summary(0.001).flagged == ()
    assert "z" in calibration(*present(factor=0.7), DRAWS, **MANY).summary().flagged
    assert "there" in calibration(*present(shift=1.0), DRAWS, **MANY).summary().flagged


def test_quantities_see_zeros_where_a_latent_is_masked():
    seen = []

    def size(z, x):
        seen.append(z)
        return z.abs().sum(-1)

    model, guide, data = ragged("event")
    found = calibration(model, guide, data, DRAWS, quantities={"size": size}, **MANY)
    assert found.summary(0.001).flagged == ()
    assert not np.isnan(found["size"]).any()
    zeros = torch.cat([(each == 0).sum(-1).flatten() for each in seen])
    assert set(zeros.tolist()) == {0, 1, 2}


def test_chains_rank_what_counts():
    draws = HMCDraws(HMC(60, 60, num_leapfrog=3), num_chains=2)
    found = calibration(*ragged("event"), draws, num_data=200, seed=1)
    assert found.summary(0.001).flagged == ()
    assert np.isnan(found["z[2]"]).any()


@pytest.mark.parametrize("way", ["event", "poutine.mask"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_errors_against_chains_are_of_what_counts(way, factor):
    """Masked latents have none; the others have those of the guide."""
    model, guide, data = ragged(way, factor=factor)
    sampler = HMC(300, 60, num_leapfrog=3)
    found = guide_errors(model, guide, data, sampler=sampler, num_chains=2)
    counts = (torch.arange(STEPS) < LENGTHS.unsqueeze(-1)).numpy()
    for errors in (found.shift, found.sd_ratio, found.wasserstein, found.by_chance):
        assert np.array_equal(~np.isnan(errors), counts)
    # The standard error of an sd from n draws is sd / sqrt(2 n); chains are worth at least 100.
    assert abs(found.sd_ratio[counts] / factor - 1).max() < 5 * (1 / 200 + 1 / 1200) ** 0.5
    assert abs(found.shift[counts]).max() < 5 * (1 / 100 + 1 / 600) ** 0.5
    assert "masked latents are left out: 4 of 12" in str(found)


def test_a_latent_that_never_counts_is_not_tested():
    """Summary, coverage, picture and tree leave NaN out; other columns are as they are without."""
    random = np.random.default_rng(0)
    pit = random.uniform(size=(200, 4))
    pit[:, 1] = np.nan
    pit[:150, 2] = np.nan
    names = ("a", "b", "c", "log_joint")
    summary = summarise(pit, names, 3, num_effective=np.ones(200))
    for i, kept in ((0, slice(None)), (2, slice(150, None))):
        alone = summarise(pit[kept, i : i + 1], names[i : i + 1], 1)
        for field in ("p_value", "bias", "spread", "coverage"):
            one, two = getattr(summary, field)[..., i], getattr(alone, field)[..., 0]
            np.testing.assert_array_equal(one, two)
    assert summary.num_ranked.tolist() == [200, 0, 50, 200]
    assert np.isnan(summary.p_value[1])
    assert summary.verdict.endswith("after correction for 3 quantities)")
    text = str(summary)
    assert "masked latents are not ranked: b for 200, c for 150 of 200 observations" in text
    assert "nan" not in text


def test_the_picture_and_the_tree_of_masked_latents():
    import matplotlib.pyplot as plt
    from arviz_plots import plot_ecdf_pit

    found = calibration(*ragged("event"), DRAWS, **MANY)
    axes = plot_calibration(found)
    line = axes[0, 0].lines[2]
    ranked = found["z[2]"][~np.isnan(found["z[2]"])]
    np.testing.assert_allclose(line.get_xdata()[1:-1], np.sort(ranked))
    assert line.get_ydata()[-1] == 0.0
    tree = found.to_datatree()
    assert int(tree.sbc["z"].isnull().sum()) == int(np.isnan(found.pit).sum())
    whole = ["log_joint", "hpd", "norm"]  # ArviZ takes no NaN
    options = {"sample_dims": "simulation", "backend": "matplotlib"}
    plot_ecdf_pit(tree, group="sbc", var_names=whole, **options)
    plt.close("all")


@pytest.mark.parametrize("task", ["calibration", "simulate"])
def test_a_factor_in_the_model_is_refused(task):
    """Censored times by a factor: the frailty of a censored row is not a draw of its prior."""

    def model(x, event):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 2.0))
            pyro.sample("x", dist.Exponential(rate).mask(event), obs=x)
            pyro.factor("censored", -rate * x * ~event)

    def guide(x, event):
        with pyro.plate("rows", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + event.to(x), 2.0 + x))

    event = torch.tensor([True, False, True])
    data = pv.Dataset(torch.tensor([0.5, 1.0, 2.0]), args={"event": event})
    programs = (model, guide) if task == "calibration" else (model,)
    with pytest.raises(ValueError, match="site 'censored' is a factor .* observe x by a"):
        getattr(pv, task)(*programs, data)
    none = pv.Dataset(data.x, args={"event": torch.ones(3, dtype=torch.bool)})
    getattr(pv, task)(*programs, none)  # a factor of zero weighs nothing
