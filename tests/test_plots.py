"""Plots: what is drawn is the data, the model's means and the counts, and every axis says what it
is."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.diagnostics import (
    plot_k_hat,
    plot_latent,
    plot_reconstructions,
    plot_samples,
    plot_training,
)
from ppl_vae.diagnostics.axes import as_pictures, k_hat_edges, num_columns, tile
from ppl_vae.diagnostics.plots import expected
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.families.densities.columnwise import Columnwise


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def vae():
    """A small VAE on pictures of 4 x 3 bits."""
    x = (torch.rand(20, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    data = pv.Dataset(x, labels=np.arange(20) % 3)
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(3), (4, 3))
    return pv.Model(pv.priors.StandardNormal(3), pv.likelihoods.Bernoulli((4, 3))), guide, data


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- training -------------------------------------------------------------------------------------


def history(train, valid=None, warm_up=0):
    epochs = range(1, len(train) + 1)
    found = {
        "epoch": list(epochs),
        "train": train,
        "kl_weight": [min(1.0, e / warm_up) if warm_up else 1.0 for e in epochs],
    }
    return found if valid is None else found | {"valid": valid}


def test_training_draws_the_history_and_the_best_epoch():
    train, valid = [-5.0, -4.0, -3.5, -3.0], [-5.5, -4.2, -3.9, -4.1]
    result = pv.FitResult(history(train, valid, warm_up=3), best_epoch=3, objective="IWAE")
    ax = plot_training(result)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["training"] == [[e + 1, v] for e, v in enumerate(train)]
    assert drawn["validation"] == [[e + 1, v] for e, v in enumerate(valid)]
    assert drawn["best epoch: 3"] == [[3, -3.9]]
    assert legend(ax) == ["training", "validation", "KL warm-up", "best epoch: 3"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == (
        "epoch",
        "bound (nats per row)",
        "IWAE",
    )


def test_training_without_validation_has_no_best_epoch():
    ax = plot_training(pv.FitResult(history([-5.0, -4.0]), best_epoch=2))
    assert legend(ax) == ["training"]


def test_the_first_epochs_do_not_flatten_the_rest():
    train = [-1000.0, -100.0, *np.linspace(-30, -20, 18)]
    low, high = plot_training(pv.FitResult(history(train), best_epoch=20)).get_ylim()
    assert -35 < low < -30
    assert high > -20


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="the result has no epochs"):
        plot_training(pv.FitResult())


def test_given_axes_are_used(vae):
    model, guide, data = vae
    _, (first, second) = plt.subplots(1, 2)
    assert plot_training(pv.FitResult(history([-5.0, -4.0]), best_epoch=2), first) is first
    assert plot_samples(model, 4, ax=second) is second
    assert len(plt.get_fignums()) == 1
    assert plot_latent(model, guide, data, ax=first) is first


# --- reconstructions and samples ------------------------------------------------------------------


def test_pictures_stand_above_their_reconstructions(vae):
    model, guide, data = vae
    ax = plot_reconstructions(model, guide, data, num=5, num_particles=7)
    image = ax.images[0].get_array()
    assert image.shape == (8, 15)
    for i in range(5):
        assert np.array_equal(image[:4, 3 * i : 3 * i + 3], data.x[i])
    with torch.no_grad(), pv.seeded(0):
        z = guide.encode(data.x[:5]).sample((7,))
        mean = model.decode(z).mean.mean(0)
    assert np.allclose(image[4:], np.concatenate(list(mean), axis=1), atol=1e-6)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["data", "reconstruction"]
    assert ax.images[0].get_clim() == (0, 1)


def test_missing_pixels_are_marked_and_filled_in(vae):
    model, guide, data = vae
    x = data.x.clone()
    x[0, 1, 2] = torch.nan
    image = plot_reconstructions(model, guide, x, num=2).images[0]
    assert np.ma.getmaskarray(image.get_array()).nonzero()[0].tolist() == [1]
    assert not image.get_array().mask[4:].any()
    red, green, blue = image.get_cmap().get_bad()[:3]
    assert max(red, green, blue) - min(red, green, blue) > 0.3, "grey would be a value"


def test_flat_data_are_drawn_in_their_picture_shape(vae):
    _, _, data = vae
    flat = data.flatten()
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 12)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(12))
    image = plot_reconstructions(model, guide, flat, num=2).images[0].get_array()
    assert np.array_equal(image[:4, :3], data.x[0])
    assert plot_samples(model, 6, flat.image_shape).images[0].get_array().shape == (8, 9)


def test_other_data_are_bars_with_dots():
    bed = beds.linear_gaussian(num_data=6)
    data = pv.Dataset(
        bed.x,
        feature_names=list("abcde"),
        datum_names=[f"row {i}" for i in range(6)],
        dtype=torch.float64,
    )
    axes = plot_reconstructions(bed.model, bed.guide, data, num=3)
    assert [ax.get_title() for ax in axes] == [
        "observation row 0",
        "observation row 1",
        "observation row 2",
    ]
    assert [bar.get_height() for bar in axes[1].patches] == bed.x[1].tolist()
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == list("abcde")
    fitted = axes[1].lines[0].get_ydata()
    scale = (
        bed.loading @ bed.posterior_covariance[1] @ bed.loading.T
    ).diagonal().sqrt() / 10  # of a mean of 100 draws
    assert (
        np.abs(fitted - (bed.loading @ bed.posterior_mean[1] + bed.mean).numpy())
        < 4 * scale.numpy()
    ).all()


def test_too_few_axes_are_an_error():
    bed = beds.linear_gaussian(num_data=6)
    with pytest.raises(ValueError, match="axes holds 2 Axes for 3 rows"):
        plot_reconstructions(bed.model, bed.guide, bed.x, num=3, axes=plt.subplots(1, 2)[1])


def test_categories_are_drawn_by_the_likeliest(vae):
    x = torch.arange(12.0).reshape(3, 4) % 3
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 4)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Categorical(4, num_categories=3))
    fitted = plot_reconstructions(model, guide, x, num=2)[0].lines[0].get_ydata()
    assert set(fitted) <= {0, 1, 2}


def test_samples_are_means_at_draws_of_the_prior(vae):
    model, _, _ = vae
    image = plot_samples(model, 6, seed=2).images[0].get_array()
    with torch.no_grad(), pv.seeded(2):
        mean = model.decode(model.prior().sample((6, 1))).mean[:, 0]
    assert image.shape == (8, 9)
    assert np.allclose(image, tile(mean.numpy(), 3), atol=1e-6)


def test_samples_take_covariates_and_any_pyro_model():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(5), context_dim=1)
    assert len(plot_samples(model, context=torch.zeros(7, 1)).lines) == 7

    def own(x=None, context=None):
        with pyro.plate("data", 1 if x is None else len(x), dim=-1):
            z = pyro.sample("height", dist.Normal(0.0, 1.0))
            return pyro.sample(
                "y", dist.Normal(z[..., None], 1.0).expand([*z.shape, 4]).to_event(1), obs=x
            )

    ax = plot_samples(own, 5)
    assert [len(set(line.get_ydata())) for line in ax.lines] == [1] * 5
    assert ax.get_xlabel() == "feature"


def test_levels_of_mixed_columns_are_drawn_as_the_most_probable_ones():
    p = torch.tensor([[[0.2, 0.3, 0.5]], [[0.6, 0.4, 0.0]]])  # (K, columns, levels)
    parts = [dist.Normal(torch.tensor([[1.0], [4.0]]), 1.0), dist.Categorical(p)]
    columns = Columnwise(parts, [[1], [0]]).to_event(1)
    assert expected(columns).tolist() == [[2.0, 1.0], [0.0, 4.0]]
    assert expected(columns, averaged=True).tolist() == [0.0, 2.5]  # 0.4, 0.35, 0.25
    frame = pd.DataFrame({"x": np.arange(30.0), "site": list("abc") * 10, "grade": [1, 2, 3] * 10})
    frame["grade"] = pd.Categorical(frame["grade"], ordered=True)
    data = pv.Dataset(frame)
    with pv.seeded(0):
        model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Columns.of(data), start=data)
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), data.event_shape, start=data)
    drawn = [line.get_ydata() for line in plot_samples(model, 5).lines]
    axes = plot_reconstructions(model, guide, data, num=3)
    drawn += [line.get_ydata() for ax in axes for line in ax.lines]
    assert len(drawn) >= 8
    for values in drawn:
        assert np.isfinite(values).all()
        assert np.isin(values[1:], (0, 1, 2)).all()


def test_an_observation_in_parts_has_no_reconstruction():
    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("left", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(
        ValueError, match=r"the 2 values of a row are observed in parts, at 'left' \(1\)"
    ):
        plot_reconstructions(model, guide, torch.zeros(3, 2))


def test_tiles_and_colours():
    assert tile(np.arange(6.0).reshape(3, 2, 1), 2)[:2].tolist() == [[0, 2], [1, 3]]
    assert np.isnan(tile(np.zeros((3, 2, 1)), 2)[2:, 1]).all()
    assert as_pictures(np.zeros((2, 3 * 4 * 5)), (3, 4, 5)).shape == (2, 4, 5, 3)
    assert as_pictures(np.zeros((2, 4, 5, 3)), (4, 5, 3)).shape == (2, 4, 5, 3)
    assert as_pictures(np.zeros((2, 20)), (1, 4, 5)).shape == (2, 4, 5)
    assert [num_columns(n) for n in (1, 2, 6, 10, 48, 64)] == [1, 2, 3, 5, 8, 8]


# --- latent space ---------------------------------------------------------------------------------


def test_latent_draws_posterior_means_by_label():
    bed = beds.linear_gaussian(num_data=30)
    labels = np.array(["x", "y", "y"] * 10)
    ax = plot_latent(bed.model, bed.guide, pv.Dataset(bed.x, labels=labels, dtype=torch.float64))
    drawn = {points.get_label(): points.get_offsets() for points in ax.collections}
    for name in "xy":
        assert np.allclose(drawn[name], bed.posterior_mean[torch.from_numpy(labels == name)])
    assert legend(ax) == ["x", "y"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("E[z[0] | x]", "E[z[1] | x]")
    assert ax.get_aspect() == 1


def test_more_dims_are_shown_by_principal_components():
    bed = beds.linear_gaussian(num_data=40, latent_dim=4, data_dim=6)
    ax = plot_latent(bed.model, bed.guide, bed.x)
    centred = bed.posterior_mean - bed.posterior_mean.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    points, expected = (
        np.asarray(ax.collections[0].get_offsets()),
        (centred @ directions[:2].T).numpy(),
    )
    assert np.allclose(np.abs(points), np.abs(expected))
    share = values.square() / values.square().sum()
    assert (
        ax.get_xlabel() == f"first principal component of E[z | x] ({share[0]:.0%} of its variance)"
    )
    assert ax.get_ylabel() == f"second principal component ({share[1]:.0%})"


def test_one_dim_is_drawn_against_the_share_below():
    bed = beds.gamma_poisson(num_data=10)
    points = np.asarray(plot_latent(bed.model, bed.guide, bed.x).collections[0].get_offsets())
    assert sorted(points[:, 1].tolist()) == [i / 10 for i in range(10)]
    assert (np.diff(points[points[:, 1].argsort(), 0]) >= 0).all()


def test_ten_classes_have_ten_colours_and_numbers_a_bar():
    bed = beds.linear_gaussian(num_data=60)
    ax = plot_latent(
        bed.model, bed.guide, pv.Dataset(bed.x, labels=np.arange(60) % 10, dtype=torch.float64)
    )
    assert len({tuple(points.get_facecolor()[0]) for points in ax.collections}) == 10
    labels = np.linspace(0, 1, 60)
    ax = plot_latent(bed.model, bed.guide, pv.Dataset(bed.x, labels=labels, dtype=torch.float64))
    assert np.array_equal(ax.collections[0].get_array(), labels)
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2


# --- k-hat ----------------------------------------------------------------------------------------


def test_k_hat_counts_every_datum_once():
    k_hat = np.array([0.1, 0.3, 0.45, 0.49, 0.6, 0.9, 1.4, -np.inf, -np.inf, np.nan])
    ax = plot_k_hat(k_hat)
    assert legend(ax) == ["good, k ≤ 0.5: 40%", "usable, k ≤ 0.7: 10%", "a bound, k > 0.7: 20%"]
    assert [sum(bar.get_height() for bar in bars) for bars in ax.containers] == [4, 1, 2]
    assert [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata())] == [0.5, 0.7]
    edges = {round(bar.get_x(), 9) for bar in ax.containers[0]}
    assert {0.5, 0.7} <= edges, "no bar straddles a limit"
    assert (k_hat_edges(np.array([0.3, 0.8]))[:3] == [0.3, 0.4, 0.5]).all()  # 3 * 0.1 is above 0.3
    assert ax.get_xlabel() == "Pareto k-hat (not drawn: 2 exact, k = -inf, 1 unknown)"
    assert ax.get_ylabel() == "observations (of 10)"


def test_a_rare_bad_datum_is_not_rounded_away():
    ax = plot_k_hat(np.append(np.full(999, 0.2), 3.0))
    assert legend(ax)[-1] == "a bound, k > 0.7: <1%"
    assert ax.get_xlabel() == "Pareto k-hat"


def test_k_hat_of_an_exact_guide_draws_no_bar():
    ax = plot_k_hat(reduce_log_weights(np.zeros((50, 4))))
    assert sum(bar.get_height() for bars in ax.containers for bar in bars) == 0
    assert ax.get_xlabel() == "Pareto k-hat (not drawn: 4 exact, k = -inf)"
