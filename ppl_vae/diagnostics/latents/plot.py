"""The collapse panel: what each latent dimension carries, how many count, and what the KL is made
of.
"""

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
    """Three panels: the rate of each dimension, sorted; active units against the threshold; the
    parts of the rate.

    Left: KL(q(z_d given x) || p(z_d)) as I(x; z_d) and, upon it, KL(q(z_d) || p(z_d)); where it is
    not defined, the variance of the posterior means. Right: whiskers are two standard errors over
    the data, the line is log N, which I(x; z) cannot exceed.

    Args:
        units: What `active_units` returned.
        surgery: What `elbo_surgery` returned for the same model.
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
        >>> axes = plot_collapse(active_units(bed.model, bed.guide, bed.x), elbo_surgery(bed.model, bed.guide, bed.x))
        >>> [ax.get_ylabel() for ax in axes]
        ['nats per datum', 'active units (of 2)', 'nats per datum']
    """
    axes = _three_axes() if axes is None else np.atleast_1d(axes).ravel()
    _dimensions(axes[0], units, surgery)
    _thresholds(axes[1], units)
    _parts(axes[2], surgery)
    return axes


def _three_axes() -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")[1]


def _dimensions(ax: "Axes", units: ActiveUnits, surgery: ELBOSurgery) -> None:
    rate, excess = surgery.dimension_rate.mean(0), surgery.dimension_kl.mean(0)
    if np.isnan(rate + excess).any():
        ax.bar(range(len(units.variance)), np.sort(units.variance)[::-1], color=BLUE)
        ax.set(ylabel="variance of E[z_d | x]")
    else:
        order = (-rate).argsort()
        ax.bar(range(len(order)), (rate - excess)[order], color=BLUE, label="I(x; z_d)")
        ax.bar(
            range(len(order)),
            excess[order],
            bottom=(rate - excess)[order],
            color=ORANGE,
            label="KL(q(z_d) || p(z_d))",
        )
        ax.set(ylabel="nats per datum")
        ax.legend()
    ax.set(xlabel="latent dimension, sorted")
    whole_ticks(ax.xaxis)


def _thresholds(ax: "Axes", units: ActiveUnits) -> None:
    thresholds = np.geomspace(1e-4, max(1.0, float(units.variance.max())), 200)
    ax.step(thresholds, units.counts(thresholds), color=BLUE, where="post")
    ax.axvline(units.threshold, color="0.3", linestyle="--", linewidth=1)
    ax.plot(
        units.threshold,
        units.count,
        "o",
        color=VERMILION,
        label=f"{units.count} above {units.threshold:g}",
    )
    ax.set(
        xscale="log",
        xlabel="threshold on the variance of E[z_d | x]",
        ylabel=f"active units (of {len(units.names)})",
    )
    ax.set_ylim(0, len(units.names) * 1.05)
    whole_ticks(ax.yaxis)
    ax.legend(loc="lower left")


def _parts(ax: "Axes", surgery: ELBOSurgery) -> None:
    summary = surgery.summary()
    whole = "marginal_kl" if np.isnan(summary.mean["dimension_wise"]) else ""
    names = (
        ["mutual_information", whole]
        if whole
        else ["mutual_information", "total_correlation", "dimension_wise"]
    )
    means, errors = ([each[name] for name in names] for each in (summary.mean, summary.data_se))
    labels, colours = zip(*(PARTS[name] for name in names), strict=True)
    ax.bar(labels, means, yerr=[2 * error for error in errors], color=colours, capsize=4)
    bound = math.log(len(surgery))
    ax.axhline(bound, color="0.3", linestyle="--", linewidth=1)
    ax.text(1.0, bound, "log N ", ha="right", va="bottom", transform=ax.get_yaxis_transform())
    ax.set_ylim(top=1.1 * max(bound, *means))
    ax.set(ylabel="nats per datum", title=f"rate {summary.mean['rate']:.2f} = the sum")
