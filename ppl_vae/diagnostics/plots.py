"""Plots of a trained model: functions that draw on the given Axes, or new ones, and return them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.axes import (
    ABOVE,
    BLUE,
    K_HATS,
    VERMILION,
    as_pictures,
    k_hat_classes,
    k_hat_edges,
    leave_out_the_start,
    new_axes,
    num_columns,
    panels,
    scatter,
    show,
    whole_ticks,
)
from ppl_vae.diagnostics.latents.means import latent_means
from ppl_vae.evidence import Evidence
from ppl_vae.families.densities.columnwise import Columnwise
from ppl_vae.programs.discrete.given_x import trace_at_all_latents
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.masks import is_mask_of_x
from ppl_vae.programs.modules import arguments, evaluating, place
from ppl_vae.programs.plates import require_no_inner_plates
from ppl_vae.programs.sites import is_deterministic
from ppl_vae.programs.traces import Program, Site, log_terms, run_under_particles, sample_sites
from ppl_vae.runtime.seeding import seeded
from ppl_vae.training import FitResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_k_hat", "plot_latent", "plot_reconstructions", "plot_samples", "plot_training"]

MISSING = "#56B4E9"
EMPTY = "white"
HISTORIES = (("train", "training", "--", BLUE), ("valid", "validation", "-", VERMILION))


def plot_training(result: FitResult, ax: "Axes | None" = None) -> "Axes":
    """The bound per epoch, on training and validation data, and the best epoch.

    The vertical axis leaves out the first epochs if they would flatten the rest.

    Args:
        result: The result of `fit`.
        ax: Axes to draw on; None makes a figure.

    Raises:
        ValueError: No epoch was trained.

    Example:
        >>> history = {"epoch": [1, 2], "train": [-3.0, -2.5], "kl_weight": [1, 1]}
        >>> plot_training(FitResult(history, best_epoch=2)).get_ylabel()
        'bound (nats per row)'
    """
    if not result.num_epochs:
        raise ValueError("the result has no epochs: train with num_epochs >= 1 before plotting")
    ax = ax or new_axes(6.4, 4.0)
    history = result.history
    epochs = history["epoch"]
    drawn = [each for each in HISTORIES if each[0] in history]
    for name, label, style, colour in drawn:
        ax.plot(epochs, history[name], style, color=colour, label=label)
    weights = zip(epochs, history["kl_weight"], strict=True)
    annealed = [epoch for epoch, weight in weights if weight < 1]
    if annealed:
        ax.axvspan(annealed[0], annealed[-1], color="0.92", label="KL warm-up")
    if "valid" in history and result.best_epoch:
        best = history["valid"][epochs.index(result.best_epoch)]
        label = f"best epoch: {result.best_epoch}"
        ax.plot(result.best_epoch, best, "o", color=VERMILION, label=label)
    leave_out_the_start(ax, [history[name] for name, *_ in drawn])
    whole_ticks(ax.xaxis)
    ax.set(xlabel="epoch", ylabel="bound (nats per row)", title=result.objective)
    ax.legend(loc="best")  # the end of the curves may lie anywhere
    return ax


def plot_reconstructions(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    num: int = 8,
    *,
    num_particles: int = 100,
    seed: int = 0,
    axes: Any = None,
) -> Any:
    """The first observations and their reconstructions, E_q[E[x given z]].

    If `data.image_shape` is given, pictures are drawn in two rows on one Axes; otherwise there is a
    panel per row, with bars for the observation and dots for the reconstruction. Missing values are
    blue in pictures and have no bar. A category is drawn as its number, and its reconstruction as
    the number of the most probable category.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, or an array, tensor, DataFrame, DataArray.
        num: Number of rows.
        num_particles: Draws of z for each row.
        seed: Seed of the draws.
        axes: One Axes for pictures; an array of at least `num` otherwise.

    Returns:
        The Axes, or an array of them.

    Raises:
        ValueError: There are fewer than `num` Axes; no observed site holds x as a whole.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> len(plot_reconstructions(bed.model, bed.guide, bed.x, num=2))
        2
    """
    inference = Inference(model, guide, data)
    model, guide = inference.programs
    data = inference.data[:num]
    with evaluating(model, guide), seeded(seed):
        args = arguments(data)
        terms = log_terms(model, guide, *args, num_particles=num_particles)
        trace = trace_at_all_latents(terms, model, *args)
        site = trace.nodes[inference.site_of_x]
        mean = expected(site["fn"], averaged=True)
    x = data.x.cpu().numpy()
    fitted = mean.reshape(data.x.shape).cpu().numpy()
    if data.image_shape is None:
        features = data.coords[data.dims[1]] if x.ndim == 2 else np.arange(x[0].size)
        return panels(x, fitted, (data.coords[data.dims[0]], features), axes)
    ax = axes or new_axes(0.9 * len(x) + 1.2, 2.1)
    pictures = as_pictures(np.concatenate([x, fitted]), data.image_shape)
    show(ax, pictures, len(x), MISSING)
    height = pictures.shape[1]
    ax.set_yticks([height / 2 - 0.5, 1.5 * height - 0.5], ["data", "reconstruction"])
    ax.tick_params(length=0)
    return ax


def plot_samples(
    model: Program,
    num: int = 48,
    image_shape: tuple[int, ...] | None = None,
    *,
    context: Tensor | None = None,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """E[x given z] at draws of z from the prior: generated observations without noise.

    They are drawn as pictures if `image_shape` is given or observations have two or three dims;
    otherwise as a line per draw.

    Args:
        model: `Model`, or any Pyro model that generates one observation when called without x: at
            the site whose value it returns, or else at its last one.
        num: Number of draws; with `context`, one for each of its rows.
        image_shape: Shape of a picture, `data.image_shape`.
        context: Covariates, (num, C), for a model that takes them.
        seed: Seed of the draws.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> from ppl_vae import Model, likelihoods, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli((8, 8)))
        >>> plot_samples(model, num=10).images[0].get_array().shape
        (16, 40)
    """
    with evaluating(model), seeded(seed):
        if context is None:
            trace = run_under_particles(model, num)
            require_no_inner_plates(trace, "a picture")
        else:
            covariates = place(as_dataset(context), model).x
            trace = poutine.trace(model).get_trace(context=covariates)
        mean = expected(_generated(trace)["fn"])
    if context is None:
        mean = mean.flatten(0, 1)  # draws, and the one row of each
    values = mean[:num].cpu().numpy()
    if image_shape is None and values.ndim > 2:
        image_shape = values.shape[1:]
    if image_shape is None:
        ax = ax or new_axes(6.4, 4.0)
        ax.plot(values.T, color=BLUE, alpha=0.4, linewidth=1)
        ax.set(xlabel="feature", ylabel="E[x | z] at z ~ p(z)")
        whole_ticks(ax.xaxis)
        return ax
    pictures = as_pictures(values, image_shape)
    columns = num_columns(len(pictures))
    ax = ax or new_axes(0.7 * columns, 0.7 * -(-len(pictures) // columns) + 0.3)
    show(ax, pictures, columns, EMPTY)
    ax.set_title("samples: E[x | z] at z ~ p(z)", fontsize="medium")
    return ax


def _generated(trace: Any) -> Site:
    """The site of x in a trace of a model that was called without x."""
    nodes = sample_sites(trace)
    sites = [site for site in nodes if not (is_mask_of_x(site) or is_deterministic(site))]
    returned = trace.nodes["_RETURN"]["value"]
    return next((site for site in sites if site["value"] is returned), sites[-1])


def plot_latent(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    num_particles: int = 100,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Posterior means E_q[z given x], coloured by label; two principal components if D > 2.

    The principal components are those of the means and do not show how wide the posteriors are.
    With D = 1 the vertical axis is the share of observations with a smaller mean.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        data: A `Dataset`, whose labels give the colours, or an array, tensor, DataFrame, DataArray.
        num_particles: Draws for each row if the posterior has no closed-form mean.
        seed: Seed of those draws.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=30, latent_dim=3)
        >>> plot_latent(bed.model, bed.guide, bed.x).get_ylabel()
        'second principal component (40%)'
    """
    inference = Inference(model, guide, data)
    model, guide = inference.programs
    data = inference.data
    means = latent_means(guide, data, num_particles=num_particles, seed=seed, progress=False)
    points, names = two_dims(means.mean, means.names)
    ax = ax or new_axes(6.4, 4.8)
    scatter(ax, points, data.labels, data.label_name)
    ax.set(xlabel=names[0], ylabel=names[1])
    if len(means.names) > 1:
        ax.set_aspect("equal", adjustable="datalim")
    return ax


def plot_k_hat(evidence: Evidence | np.ndarray, ax: "Axes | None" = None) -> "Axes":
    """Histogram of Pareto k-hat, with the limits 0.5 and 0.7 and the shares between them.

    Rows with k-hat = -inf (exact guide) or NaN (too few particles) cannot be drawn; their numbers
    are in the label of the axis. Shares are of all rows.

    Args:
        evidence: The result of `log_evidence`, or the k-hats themselves, (N,).
        ax: Axes to draw on; None makes a figure.

    References:
        Vehtari et al. (2024), Pareto smoothed importance sampling, JMLR 25(72), arXiv:1507.02646.

    Example:
        >>> ax = plot_k_hat(np.array([0.1, 0.2, 0.9, -np.inf]))
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['good, k ≤ 0.5: 50%', 'usable, k ≤ 0.7: 0%', 'a bound, k > 0.7: 25%']
    """
    k_hat = np.asarray(getattr(evidence, "pareto_k", evidence), dtype=float)
    drawn = k_hat[np.isfinite(k_hat)]
    ax = ax or new_axes(6.4, 4.0)
    edges = k_hat_edges(drawn).tolist()
    bars: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.5}
    for name, colour, inside in k_hat_classes(drawn):
        share = inside.sum() / len(k_hat)
        label = f"{name}: {'<1%' if 0 < share < 0.005 else f'{share:.0%}'}"
        ax.hist(drawn[inside], edges, color=colour, label=label, **bars)
    for threshold in K_HATS:
        ax.axvline(threshold, color="0.3", linestyle="--", linewidth=1)
    counts = ((np.isneginf(k_hat).sum(), "exact, k = -inf"), (np.isnan(k_hat).sum(), "unknown"))
    left_out = ", ".join(f"{count} {what}" for count, what in counts if count)
    ax.set_xlabel("Pareto k-hat" + f" (not drawn: {left_out})" * bool(left_out))
    ax.set_ylabel(f"observations (of {len(k_hat)})")
    whole_ticks(ax.yaxis)
    ax.legend(ncols=3, **ABOVE)
    return ax


def expected(distribution: Any, *, averaged: bool = False) -> Tensor:
    """E[x given z], averaged over draws on request; for categories the most probable one."""
    base = distribution
    while isinstance(base, dist.Independent | dist.MaskedDistribution):
        base = base.base_dist
    if isinstance(base, Columnwise):
        return base.joined([expected(part, averaged=averaged) for part in base.parts])
    is_category = isinstance(base, torch.distributions.Categorical)
    values = base.probs if is_category else distribution.mean
    if averaged:
        values = values.mean(0)
    return values.argmax(-1) if is_category else values


def two_dims(means: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Points (N, 2) and what their coordinates are."""
    labels = [f"E[{name} | x]" for name in names]
    if len(names) == 1:
        below = means[:, 0].argsort().argsort() / len(means)
        return np.column_stack([means[:, 0], below]), [*labels, "share of the observations below"]
    if len(names) == 2:
        return means, labels
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(means)
    first, second = pca.explained_variance_ratio_
    return pca.transform(means), [
        f"first principal component of E[z | x] ({first:.0%} of its variance)",
        f"second principal component ({second:.0%})",
    ]
