"""Denoising: digits behind Gaussian noise, with intervals of every pixel.

    python examples/denoising.py --output runs/denoising

A VAE is trained on clean digits of 8 x 8 grey pixels with 17 levels. Held-out digits are corrupted
by Gaussian noise of sd 0.3, and cleaned: the posterior mean of each pixel, its standard deviation
and 90 % intervals. The same is done for digits drawn from the model itself, for which the intervals
should cover 90 % of the pixels. Drawn are clean, noisy and cleaned digits, and the standard
deviations.

--quick trains for fewer epochs, and cleans fewer digits in fewer steps of refinement.
"""

# %% A VAE of clean digits

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.refinement import GradientRefinement
from ppl_vae.tasks.denoising import GaussianNoise, plot_denoised

NOISE = GaussianNoise(0.3)
LEVEL = 0.9
NUM_EPOCHS, QUICK_EPOCHS = 300, 30
NUM_DIGITS, QUICK_DIGITS = 60, 12
NUM_STEPS, QUICK_STEPS = 300, 60
LATENT_DIM = 10


def train(num_epochs):
    """A model and a guide of the clean digits, and the digits."""
    data = pv.load("digits").split(test=300, seed=0)
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(LATENT_DIM), data.event_shape)
        likelihood = likelihoods.DiscretizedLogistic(data.event_shape, 17, scale="decoder")
        model = pv.Model(priors.StandardNormal(LATENT_DIM), likelihood, start=data.train)
    training = pv.Training(num_epochs=num_epochs, kl_warmup_epochs=10, seed=0, progress=False)
    pv.fit(model, guide, data, training=training)
    return model, guide, data.test


# %% Clean digits from noisy ones


def clean(model, guide, x, num_steps, seed):
    """What noisy digits are cleaned to, and the share of pixels in their intervals."""
    with pv.seeded(seed):
        noisy = NOISE.corrupt(x)
    family = posteriors.FullRankNormal(LATENT_DIM)
    refinement = GradientRefinement(posterior=family, num_steps=num_steps)
    options = {"method": "refined", "refinement": refinement, "progress": False}
    found = pv.denoise(model, guide, noisy, NOISE, seed=seed, **options)
    low, high = found.interval(LEVEL)
    truth = x.numpy()
    covered = ((low - 1e-6 <= truth) & (truth <= high + 1e-6)).reshape(len(x), -1).mean(1)
    before = -10 * np.log10(((noisy - x) ** 2).flatten(1).mean(1).numpy())
    return found, covered, before


def draw(truth, found, path, num_shown=8):
    """Digits in columns: clean, noisy, cleaned, and the standard deviation of each pixel."""
    axes = plot_denoised(found, truth, num_shown)
    axes.figure.savefig(path, dpi=150)
    plt.close(axes.figure)


# %% Everything, with a picture


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/denoising"))
    parser.add_argument("--quick", action="store_true", help="fewer epochs and digits")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model, guide, test = train(QUICK_EPOCHS if options.quick else NUM_EPOCHS)
    count = QUICK_DIGITS if options.quick else NUM_DIGITS
    num_steps = QUICK_STEPS if options.quick else NUM_STEPS
    with pv.seeded(1):
        simulated = model.sample(count)
    results = {}
    for name, x in (("held-out digits", test.x[:count]), ("digits from the model", simulated)):
        found, covered, before = clean(model, guide, x, num_steps, seed=2)
        after = found.psnr(x)
        results[name] = (before, after, covered)
        print(
            f"{name}: PSNR {before.mean():.1f} dB noisy, {after.mean():.1f} dB cleaned; "
            f"{covered.mean():.3f} ± {covered.std() / len(covered) ** 0.5:.3f} of the pixels in "
            f"their {100 * LEVEL:.0f} % intervals"
        )
        if name == "held-out digits":
            draw(x, found, options.output / "denoising.png")
    return results


if __name__ == "__main__":
    main()
