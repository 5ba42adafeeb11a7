# %% [markdown]
"""# Forward and reverse KL: cover the posterior, or hide in it.

Only the size of z is observed: z ~ N(0, 1), x ~ N(|z|, 0.4). So p(z|x) has two modes, and a normal
guide cannot be right. The divergence that fits the guide decides which shape it takes:

- reverse, KL(q || p), the ELBO: q avoids places where p is small (zero-forcing), so it hides in one
  mode;
- forward, KL(p || q), reweighted wake-sleep: q covers all places where p is large (zero-avoiding),
  so it has p's mean and sd;
- Renyi's with alpha = 1/2 lies between the two, and the chi-square (CUBO) beyond the forward one,
  wider than p itself.

Each divergence is one line below. The posterior is exact, by quadrature. A full run takes a minute;
`--quick` takes seconds:

    python examples/forward_and_reverse_kl.py --output runs/forward_and_reverse_kl
"""

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from tqdm.auto import tqdm

import ppl_vae as pv
from ppl_vae import objectives

X = 1.5
NOISE = 0.4
OBJECTIVES = {
    "reverse KL: TraceELBO": objectives.TraceELBO(num_particles=10),
    "Renyi, alpha = 1/2": objectives.Renyi(alpha=0.5, num_particles=100),
    "forward KL: ReweightedWakeSleep": objectives.ReweightedWakeSleep(num_particles=100),
    "chi-square: CUBO": objectives.CUBO(
        order=2, num_particles=100, gradient=objectives.DoublyReparameterized()
    ),
}


# %% [markdown]
# ## A custom model and guide
#
# Plain Pyro: one plate "data" in each, and the same latent site. The guide starts at N(1, 1), from
# where the ELBO finds the right mode.


# %%
def model(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.abs(), NOISE).to_event(1), obs=x)


class NormalGuide(PyroModule):
    """q(z) = N(loc, scale^2), the same for every observation."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.ones(1))
        self.log_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x, context=None):  # noqa: D102
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


def fitted(objective, num_epochs, seed=0):
    """Mean and sd of the guide by this objective; one observation, repeated to reduce noise."""
    guide = NormalGuide()
    decay = pv.training.schedules.Exponential(0.05, 0.001)
    training = pv.Training(num_epochs=num_epochs, learning_rate=decay, seed=seed, progress=False)
    pv.fit(model, guide, torch.full((100, 1), X), objective=objective, training=training)
    return guide.loc.item(), guide.log_scale.exp().item()


# %% [markdown]
# ## The exact answer


# %%
def posterior(z):
    """p(z|x) on an even grid z."""
    log_joint = -0.5 * z**2 - 0.5 * ((X - np.abs(z)) / NOISE) ** 2
    density = np.exp(log_joint - log_joint.max())
    return density / (density.sum() * (z[1] - z[0]))


def moments(z, density):
    """Mean and sd of a density on an even grid, normalised here."""
    weights = density / density.sum()
    mean = weights @ z
    return mean, np.sqrt(weights @ (z - mean) ** 2)


# %%
def draw(z, density, guides):
    """The guides over the posterior, and again on a log scale, which shows the tails."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis in axes:
        axis.fill_between(z, density, color="0.85", label="exact posterior")
        for (name, (mean, sd)), style in zip(guides.items(), ("-", "-.", "-", "--"), strict=True):
            normal = np.exp(-0.5 * ((z - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
            axis.plot(z, normal, style, label=f"{name}, sd {sd:.2f}")
        axis.set(xlabel="z", xlim=(-5, 5))
    axes[0].set(ylabel="density", ylim=(0, None))
    axes[1].set(yscale="log", ylim=(1e-4, 3))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Four divergences, one bimodal posterior.")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--output", type=Path, default="runs/forward_and_reverse_kl", help="folder")
    options = parser.parse_args(arguments)
    num_epochs = 200 if options.quick else 2000
    bar = tqdm(OBJECTIVES.items(), unit=" guides")
    guides = {name: fitted(objective, num_epochs) for name, objective in bar}
    z = np.linspace(-6, 6, 4001)
    density = posterior(z)
    exact = {
        "exact posterior": moments(z, density),
        "its right mode": moments(z, density * (z > 0)),
    }
    for name, (mean, sd) in (exact | guides).items():
        print(f"{name:32} mean {mean:+.3f}, sd {sd:.3f}")
    options.output.mkdir(parents=True, exist_ok=True)
    draw(z, density, guides).savefig(options.output / "forward_and_reverse_kl.png", dpi=150)
    return exact | guides


if __name__ == "__main__":
    main()
