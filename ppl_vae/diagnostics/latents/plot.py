"""The collapse panel: information by latent dimension, active units, and the parts of the KL."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.axes import BLUE, ORANGE, VERMILION, whole_ticks
from ppl_vae.diagnostics.latents.rate import ActiveUnits
from ppl_vae.diagnostics.latents.surgery import ELBOSurgery

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_collapse"]

PARTS = {
    "mutual_information": ("I(x; z)", BLUE),
    "total_correlation": ("total\ncorrelation", ORANGE),
    "dimension_wise": ("KL by\ndimension", ORANGE),
    "marginal_kl": ("KL(q(z) || p(z))", ORANGE),
}


def plot_collapse(units: ActiveUnits, surgery: ELBOSurgery, axes: Any = None) -> Any:
    """Three panels: rates of the dimensions; active units by threshold; the parts of the rate.

    Left: KL(q(z_d given x) || p(z_d)), sorted, split into I(x; z_d) and KL(q(z_d) || p(z_d)) above
    it; if it is not defined, the variance of the posterior means. Right: whiskers are two standard
    errors over the rows; the line is log N, which I(x; z) cannot exceed.

    Args:
        units: Result of `active_units`.
        surgery: Result of `elbo_surgery` for the same model.
        axes: An array of three Axes.

    Returns:
        The three Axes.

    References:
        Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, section 5.2; Hoffman and Johnson
        (2016), ELBO surgery.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.diagnostics import active_units, elbo_surgery
        >>> bed = beds.linear_gaussian(num_data=50)
        >>> arguments = (bed.model, bed.guide, bed.x)
        >>> axes = plot_collapse(active_units(*arguments), elbo_surgery(*arguments))
        >>> [ax.get_ylabel() for ax in axes]
        ['nats per row', 'active units (of 2)', 'nats per row']
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")[1]
    axes = np.atleast_1d(axes).ravel()
    _dimensions(axes[0], units, surgery)
    _thresholds(axes[1], units)
    _parts(axes[2], surgery)
    return axes


def _dimensions(ax: "Axes", units: ActiveUnits, surgery: ELBOSurgery) -> None:
    rate = surgery.dimension_rate.mean(0)
    excess = surgery.dimension_kl.mean(0)
    if np.isnan(rate + excess).any():
        ax.bar(range(len(units.variance)), np.sort(units.variance)[::-1], color=BLUE)
        ax.set(ylabel="variance of E[z_d | x]")
    else:
        order = (-rate).argsort()
        information = (rate - excess)[order]
        places = range(len(order))
        upper: dict[str, Any] = {"bottom": information, "label": "KL(q(z_d) || p(z_d))"}
        ax.bar(places, information, color=BLUE, label="I(x; z_d)")
        ax.bar(places, excess[order], color=ORANGE, **upper)
        ax.set(ylabel="nats per row")
        ax.legend()
    ax.set(xlabel="latent dimension, sorted")
    whole_ticks(ax.xaxis)


def _thresholds(ax: "Axes", units: ActiveUnits) -> None:
    num = len(units.names)
    thresholds = np.geomspace(1e-4, max(1.0, float(units.variance.max())), 200)
    above = f"{units.count} above {units.threshold:g}"
    ax.step(thresholds, units.counts(thresholds), color=BLUE, where="post")
    ax.axvline(units.threshold, color="0.3", linestyle="--", linewidth=1)
    ax.plot(units.threshold, units.count, "o", color=VERMILION, label=above)
    ax.set(xscale="log", ylim=(0, num * 1.05), ylabel=f"active units (of {num})")
    ax.set(xlabel="threshold on the variance of E[z_d | x]")
    whole_ticks(ax.yaxis)
    ax.legend(loc="lower left")


def _parts(ax: "Axes", surgery: ELBOSurgery) -> None:
    summary = surgery.summary()
    names = ["mutual_information", "total_correlation", "dimension_wise"]
    if np.isnan(summary.mean["dimension_wise"]):
        names = ["mutual_information", "marginal_kl"]
    means = [summary.mean[name] for name in names]
    errors = [2 * summary.data_se[name] for name in names]
    labels, colours = zip(*(PARTS[name] for name in names), strict=True)
    ax.bar(labels, means, yerr=errors, color=colours, capsize=4)
    bound = math.log(len(surgery))
    ax.axhline(bound, color="0.3", linestyle="--", linewidth=1)
    ax.text(1.0, bound, "log N ", ha="right", va="bottom", transform=ax.get_yaxis_transform())
    ax.set_ylim(top=1.1 * max(bound, *means))
    title = f"rate {summary.mean['rate']:.2f} = the sum"
    ax.set(ylabel="nats per row", title=title)
