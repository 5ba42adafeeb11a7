"""PSNR of denoised digits and Frey faces, beside total variation and wavelets: docs/results.md.

    pip install scikit-image PyWavelets
    PPL_VAE_DATA=FOLDER python tests/benchmarks/denoising.py [digits] [freyfaces]

Grey digits of 8 x 8 pixels (DiscretizedLogistic of 17 levels, 1,297 for training) and Frey faces of
28 x 20 pixels (Gaussian with a scale for each pixel, 1,600 for training; frames of a film, so that
test faces have near copies among those for training), in [0, 1], each under Gaussian noise of sd
0.1 and 0.3. Total variation (Chambolle) takes the weight, and wavelets the method (BayesShrink or
VisuShrink), with the best mean PSNR on 100 noisy training images; all are given the noise's sd.
Faces are drawn to runs/denoising_faces.png."""

import os
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.runtime.text import table
from ppl_vae.tasks.denoising import GaussianNoise

SDS = (0.1, 0.3)
NUM_TEST = 100
WEIGHTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2)
LEVEL = 0.9
PICTURE = Path("runs/denoising_faces.png")


def trained(name: str) -> tuple[Any, Any, Any]:
    """Model, guide and images."""
    if name == "digits":
        data = pv.load("digits").flatten().split(test=500, seed=0)
        likelihood: Any = likelihoods.DiscretizedLogistic(64, 17, scale="decoder")
    else:
        data = pv.load("freyfaces", data_dir=os.environ["PPL_VAE_DATA"]).flatten()
        data = data.split(test=365, seed=0)
        likelihood = likelihoods.Gaussian(560, scale="feature")
    num_pixels = data.event_shape.numel()
    with pv.seeded(0):
        encoder = networks.MLP(num_pixels, (200,))
        guide = pv.Guide(posteriors.MeanFieldNormal(10), num_pixels, encoder, start=data)
        decoder = networks.MLP(10, (200,))
        model = pv.Model(priors.StandardNormal(10), likelihood, decoder, start=data)
    training = pv.Training(num_epochs=300, kl_warmup_epochs=10, seed=0, progress=False)
    pv.fit(model, guide, data, training=training)
    return model, guide, data


def psnr(found: np.ndarray, clean: np.ndarray) -> np.ndarray:
    squares = np.square(found - clean).reshape(len(clean), -1)
    return -10 * np.log10(squares.mean(1))


def others(noisy: np.ndarray, sd: float) -> dict[str, np.ndarray]:
    """Every setting of the other methods."""
    found = {
        f"TV {weight}": np.stack([denoise_tv_chambolle(each, weight=weight) for each in noisy])
        for weight in WEIGHTS
    }
    for method in ("BayesShrink", "VisuShrink"):
        options = {"sigma": sd, "method": method, "rescale_sigma": True}
        cleaned = [denoise_wavelet(each, **options) for each in noisy]
        found[f"wavelet {method}"] = np.stack(cleaned)
    return found


def noisy_copy(x: torch.Tensor, sd: float, seed: int) -> torch.Tensor:
    with pv.seeded(seed):
        return GaussianNoise(sd).corrupt(x)


def draw(images: dict[str, np.ndarray], shape: tuple[int, int], num_shown: int = 9) -> None:
    """Images in columns, a line for each way of cleaning them."""
    size = (num_shown * 0.75, len(images) * 1.05)
    figure, axes = plt.subplots(len(images), num_shown, figsize=size, layout="constrained")
    for line, (name, rows) in zip(axes, images.items(), strict=True):
        for axis, image in zip(line, rows, strict=False):
            axis.imshow(image.reshape(shape), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.split()[0])
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=150)


def line(name: str, sd: float, model: Any, guide: Any, data: Any) -> list[str]:
    shape = (8, 8) if name == "digits" else (28, 20)
    known = data.train.x[:NUM_TEST]
    x = data.test.x[:NUM_TEST]
    clean = x.numpy()
    noisy = noisy_copy(x, sd, seed=1)
    tried = others(noisy_copy(known, sd, seed=2).numpy().reshape(-1, *shape), sd)
    scores = {
        key: psnr(each.reshape(NUM_TEST, -1), known.numpy()).mean() for key, each in tried.items()
    }
    best = {
        kind: max((k for k in scores if k.startswith(kind)), key=scores.get)
        for kind in ("TV", "wavelet")
    }
    tested = others(noisy.numpy().reshape(-1, *shape), sd)
    found = pv.denoise(model, guide, noisy, GaussianNoise(sd), method="refined", progress=False)
    low, high = found.interval(LEVEL)
    covered = ((low - 1e-6 <= clean) & (clean <= high + 1e-6)).mean(1)
    cleaned = {key: tested[key].reshape(NUM_TEST, -1) for key in best.values()}
    if name == "freyfaces" and sd == max(SDS):
        draw({"clean": clean, "noisy": noisy.numpy(), "VAE": found.mean} | cleaned, shape)
    values = {"noisy": psnr(noisy.numpy(), clean), "VAE": found.psnr(x)}
    values |= {kind: psnr(cleaned[key], clean) for kind, key in best.items()}
    cells = [f"{values[key].mean():.1f}" for key in ("noisy", "VAE", "TV", "wavelet")]
    gain = values["VAE"] - np.maximum(values["TV"], values["wavelet"])
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    unreliable = (~found.rows["reliable"]).mean()
    return [
        f"{name}, sd {sd}",
        *cells,
        f"{gain.mean():+.1f} ± {error:.1f}",
        f"{covered.mean():.3f} ± {covered.std() / 10:.3f}",
        f"{unreliable:.0%}",
    ]


def main() -> None:
    names = sys.argv[1:] or ["digits", "freyfaces"]
    head = ["images", "noisy", "VAE", "TV", "wavelets", "VAE over the better (paired)"]
    rows = [[*head, "in 90 % intervals", "unreliable rows"]]
    for name in names:
        model, guide, data = trained(name)
        rows += [line(name, sd, model, guide, data) for sd in SDS]
    print(table(rows, markdown=True))


if __name__ == "__main__":
    main()
