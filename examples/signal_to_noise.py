# %% [markdown]
"""# Tighter bounds, worse gradients: the signal-to-noise ratio of importance-weighted estimators.

With more particles K the bound of IWAE tightens, and the gradient of the model (theta) gets a
better signal-to-noise ratio, as K^(1/2). That of the guide (phi) gets worse, as K^(-1/2): Rainforth
et al. (2018), arXiv:1802.04537. Averaging M bounds raises it by M^(1/2). Reparameterising twice
reverses the slope, to K^(+1/2): Tucker et al. (2019), arXiv:1810.04152.

The toy is z ~ N(mu, I), x ~ N(z, I) in 20 dimensions, with q(z|x) = N(A x + b, 2/3 I), all near the
optimum; theta is mu, phi is b. A full run takes minutes on one core; `--quick` takes seconds:

    python examples/signal_to_noise.py --output runs/signal_to_noise
"""

# %%
import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from tqdm.auto import tqdm

import ppl_vae as pv
from ppl_vae import objectives

THETA = "theta (mu)"
PHI = "phi (b)"
ESTIMATORS = {
    "IWAE": objectives.IWAE,
    "MIWAE, M=8": lambda num_particles: objectives.MIWAE(8, num_particles),
    "IWAE, DReG": lambda num_particles: objectives.IWAE(
        num_particles, gradient=objectives.DoublyReparameterized()
    ),
}
# Shares of the replicates: a strong signal needs few.
SHARES = {"IWAE": 1.0, "MIWAE, M=8": 0.1, "IWAE, DReG": 0.05}
CLAIMS = [  # estimator, parameter, range of K, slope of log SNR against log K
    ("IWAE", THETA, (1, 256), 0.5),
    ("IWAE", PHI, (1, 64), -0.5),
    ("IWAE, DReG", PHI, (16, 256), 0.5),
]


class Budget(NamedTuple):
    """R replicates of each observation, fewer where K R would exceed `num_weights`."""

    num_data: int = 4
    replicates: int = 200_000
    num_weights: int = 12_800_000
    batch_weights: int = 32_768  # at once: what fits in a processor's cache

    def batches(self, name, objective):
        """Replicates per batch, and number of batches."""
        replicates = min(self.replicates * SHARES[name], self.num_weights / objective.num_particles)
        fitting = self.batch_weights / (self.num_data * objective.num_particles)
        rows = int(max(2, min(replicates / 20, fitting)))
        return rows, round(replicates / rows)


QUICK = Budget(replicates=6_000, num_weights=384_000)


class Ratio(NamedTuple):
    """A debiased signal-to-noise ratio, its standard error, and the raw ratio of pure noise."""

    snr: float
    error: float
    floor: float


# %% [markdown]
# ## One backward pass, many gradients
#
# The observations are repeated as a batch and every row gets its own copy of the parameter, so each
# row of `.grad` is an independent draw of that observation's gradient. The square of a noisy mean
# is too large by var / R. Hence, summed over the components (20 dimensions of each observation),
#
#     SNR^2 = sum_i (mean_i^2 - var_i / R) / sum_i var_i
#
# with a jackknife over batches for its standard error.


# %%
def gradient_moments(objective, num_data, rows, num_batches, bar):
    """Two moments of each parameter's gradient over the rows: (2, batches, observations, 20)."""
    bed = pv.beds.rainforth()
    model = bed.model.float()
    guide = bed.amortised_guide.float()
    x = bed.x[:num_data].float()
    guide.weight.requires_grad_(False)
    parameters = {THETA: model.mu, PHI: guide.bias}
    for parameter in parameters.values():
        parameter.data = parameter.data.repeat(rows * len(x), 1)
    moments = {name: [] for name in parameters}
    for _ in range(num_batches):
        model.zero_grad()
        guide.zero_grad()
        objective.loss_and_grads(model, guide, x.repeat(rows, 1))
        for name, parameter in parameters.items():
            gradient = parameter.grad.double().unflatten(0, (rows, len(x)))
            moments[name].append(torch.stack([gradient.mean(0), gradient.square().mean(0)]))
        bar.update(rows * len(x) * objective.num_particles)
    return {name: torch.stack(batches, dim=1).numpy() for name, batches in moments.items()}


def ratio(moments, rows):
    """The signal-to-noise ratio of these moments."""

    def debiased(mean, square, count):
        variance = (square - mean**2) * count / (count - 1)
        signal = (mean**2 - variance / count).sum((-2, -1))
        return np.sqrt(np.maximum(signal / variance.sum((-2, -1)), 1e-12))

    num_batches = moments.shape[1]
    count = rows * num_batches
    without_one = (moments.sum(1, keepdims=True) - moments) / (num_batches - 1)
    error = np.sqrt((num_batches - 1) * np.var(debiased(*without_one, count - rows)))
    return Ratio(debiased(*moments.mean(1), count), error, count**-0.5)


def measure(counts, budget, seed=0):
    """Ratios by estimator, parameter and K."""
    jobs = {
        (name, k): make(k)
        for name, make in ESTIMATORS.items()
        for k in counts
        if make(k).num_particles <= 512
    }
    sizes = {(name, k): budget.batches(name, objective) for (name, k), objective in jobs.items()}
    draws = [rows * num * jobs[job].num_particles for job, (rows, num) in sizes.items()]
    bar = tqdm(total=sum(draws) * budget.num_data, unit=" weights", unit_scale=True)
    ratios = {}
    with bar, pyro.validation_enabled(False), pv.seeded(seed):
        for (name, k), objective in jobs.items():
            bar.set_description(f"{name}, K={k}")
            rows, num_batches = sizes[name, k]
            found = gradient_moments(objective, budget.num_data, rows, num_batches, bar)
            for parameter, moments in found.items():
                ratios[name, parameter, k] = ratio(moments, rows)
    return ratios


# %% [markdown]
# ## Slopes
#
# By least squares on logarithms; the errors at different K are independent.


# %%
def of(ratios, name, parameter):
    """The ratios of one estimator and parameter, by K."""
    return {k: r for (n, p, k), r in ratios.items() if (n, p) == (name, parameter)}


def slope(ratios, name, parameter, low, high):
    """Slope of log SNR against log K for low <= K <= high, and its standard error."""
    used = {k: r for k, r in of(ratios, name, parameter).items() if low <= k <= high}
    log_k = np.log(list(used))
    weights = (log_k - log_k.mean()) / np.square(log_k - log_k.mean()).sum()
    snr, error, _ = np.array(list(used.values())).T
    return weights @ np.log(snr), np.sqrt(np.square(weights * error / snr).sum())


def draw(ratios):
    """Ratios above three times pure noise, with two standard errors, and the theory's slopes."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for axis, parameter in zip(axes, (THETA, PHI), strict=True):
        for name, style in zip(ESTIMATORS, ("o-", "^-", "s:"), strict=True):
            points = {k: r for k, r in of(ratios, name, parameter).items() if r.snr > 3 * r.floor}
            snr, error, _ = np.array(list(points.values())).T
            axis.errorbar(list(points), snr, 2 * error, fmt=style, capsize=3, label=name)
        for (name, p, (low, high), claim), color in zip(CLAIMS, ("0.2", "0.2", "0.6"), strict=True):
            if p == parameter:
                fitted, error = slope(ratios, name, p, low, high)
                line = 0.75 * ratios[name, p, low].snr * np.array([1, (high / low) ** claim])
                label = f"{name}: slope {claim:+g}, fitted {fitted:+.3f} ± {error:.4f}"
                axis.plot([low, high], line, "--", color=color, linewidth=1, label=label)
        axis.loglog()
        axis.set(xlabel="particles K", ylabel="signal-to-noise ratio", title=parameter)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
        axis.set_ylim(top=axis.get_ylim()[1] * 5)
    return figure


# %%
def main(arguments=None):
    parser = argparse.ArgumentParser(description="Signal-to-noise ratio of gradients against K.")
    parser.add_argument("--quick", action="store_true", help="seconds, with wider errors")
    parser.add_argument("--output", type=Path, default="runs/signal_to_noise", help="folder")
    options = parser.parse_args(arguments)
    ratios = measure((1, 4, 16, 64, 256), QUICK if options.quick else Budget())
    for (name, parameter, k), (snr, error, floor) in ratios.items():
        found = f"SNR {snr:8.4f} ± {error:.4f}   noise alone {floor:.4f}"
        print(f"{name:12} {parameter:11} K={k:<4} {found}")
    slopes = [slope(ratios, name, parameter, *span) for name, parameter, span, _ in CLAIMS]
    for (name, parameter, (low, high), claim), (fitted, error) in zip(CLAIMS, slopes, strict=True):
        found = f"slope {fitted:+.3f} ± {error:.4f}, in theory {claim:+g}"
        print(f"{name:12} {parameter:11} K={low}..{high}: {found}")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(ratios).savefig(options.output / "signal_to_noise.png", dpi=150)
    return ratios, slopes


if __name__ == "__main__":
    main()
