"""Denoising: noise is added to rows, and removed by the posterior of the clean ones."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from ppl_vae.data import Dataset
from ppl_vae.families.likelihoods import Columns, Gaussian, StudentT
from ppl_vae.report.attempts import NotApplicable, reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, draw
from ppl_vae.runtime.seeding import seeded
from ppl_vae.tasks.denoising import (
    Denoised,
    GaussianNoise,
    Noise,
    SaltAndPepper,
    denoise,
    plot_denoised,
)

NUM_ROWS = 24
NUM_IMAGES = 10
PROBABILITY = 0.2  # of salt or pepper
RELATIVE_SD = 0.5  # of noise, in sds of a column
LEVEL = 0.9


@dataclass(frozen=True)
class Cleaned:
    """Clean rows, and what noisy ones are cleaned to."""

    rows: Dataset
    noise: Noise | dict[str, Noise]
    found: Denoised

    @property
    def said(self) -> str:
        """The noise in words."""
        if isinstance(self.noise, SaltAndPepper):
            return f"Salt and pepper replaced {PROBABILITY:.0%} of the entries"
        return f"Gaussian noise of {RELATIVE_SD:g} standard deviations was added to the numbers"

    @property
    def is_noisy(self) -> np.ndarray:
        """Entries that noise may have changed, (N, *event)."""
        x = self.rows.x.cpu().numpy()
        has_noise = np.ones(x.shape[1:], dtype=bool)
        if not isinstance(self.noise, Noise):
            has_noise = np.isin(self.rows.feature_names, list(self.noise))
        return has_noise & ~np.isnan(x)

    def rmse(self) -> tuple[float, float]:
        """Root mean squared errors of noisy entries before and after, in sds of a feature."""
        truth = self.found.matched(self.rows)
        sd = np.nanstd(truth, axis=0)
        scale = np.where(sd > 0, sd, 1.0)
        before, after = (
            ((values - truth) / scale)[self.is_noisy]
            for values in (self.found.posterior.data.x.cpu().numpy(), self.found.mean)
        )
        return float(np.sqrt(np.mean(before**2))), float(np.sqrt(np.mean(after**2)))

    def coverage(self) -> tuple[float, float]:
        """Share of the noisy entries inside their intervals, and its standard error over rows."""
        truth = self.found.matched(self.rows)
        low, high = self.found.interval(LEVEL)
        rounding = 1e-6 * np.abs(truth)
        inside = (low - rounding <= truth) & (truth <= high + rounding)
        counted = self.is_noisy.reshape(len(truth), -1).sum(1)
        covered = (inside & self.is_noisy).reshape(len(truth), -1).sum(1)
        share = covered.sum() / counted.sum()
        residual = covered - share * counted
        return float(share), float(np.sqrt((residual**2).sum()) / counted.sum())


def _denoising(found: Findings) -> Cleaned:
    rows = found.subject.rows[:NUM_ROWS]
    noise = _noise(found.part("likelihood"), rows)
    with seeded(found.subject.seed):
        noisy = rows.with_x(_corrupted(rows, noise))
    with warnings.catch_warnings(), reasons(ValueError):
        # The panel counts them.
        warnings.filterwarnings("ignore", ".* draws that are not reliable")
        denoised = denoise(*found.pair, noisy, noise, method="refined", **found.options)
    return Cleaned(rows, noise, denoised)


def _noise(likelihood: Any, rows: Dataset) -> Noise | dict[str, Noise]:
    """Salt and pepper for entries in [0, 1], Gaussian noise for numbers where it has a form."""
    x = rows.x[~rows.x.isnan()]
    is_binary = bool(((x == 0) | (x == 1)).all())
    is_unit = bool((x >= 0).all() and (x <= 1).all())
    if is_binary or (is_unit and not rows.feature_names):
        return SaltAndPepper(PROBABILITY)
    if not rows.feature_names:
        return GaussianNoise(RELATIVE_SD * float(x.std()))
    sd = np.nanstd(rows.x.cpu().numpy(), axis=0)
    names = [name for name in rows.feature_names if name not in rows.levels]
    if isinstance(likelihood, Columns):
        pairs = zip(likelihood.names, likelihood.by_column(), strict=True)
        taken = {name for name, family in pairs if isinstance(family, Gaussian | StudentT)}
        names = [name for name in names if name in taken]
    if not names:
        raise NotApplicable("no column has a family that Gaussian noise can be integrated out of")
    places = rows.places_of(names)
    return {
        name: GaussianNoise(RELATIVE_SD * float(sd[place]))
        for name, place in zip(names, places, strict=True)
        if sd[place] > 0
    }


def _corrupted(rows: Dataset, noise: Noise | dict[str, Noise]) -> torch.Tensor:
    """The rows with noise."""
    if isinstance(noise, Noise):
        return noise.corrupt(rows.x)
    x = rows.x.clone()
    for name, each in noise.items():
        [place] = rows.places_of([name])
        x[:, place] = each.corrupt(x[:, place])
    return x


def _panel(found: Findings) -> Panel:
    """Clean, noisy and cleaned rows."""
    cleaned = found["denoising"]
    before, after = cleaned.rmse()
    share, se = cleaned.coverage()
    says = [
        f"{cleaned.said} of {len(cleaned.rows)} rows; `denoise` removed it again.",
        f"Root mean squared error in sds of a feature: {before:.2f} noisy, {after:.2f} cleaned.",
        f"{share:.1%} (standard error {se:.1%}) of the clean values lie in their {LEVEL:.0%} "
        "intervals; more may if values are few.",
    ]
    if unreliable := cleaned.found.posterior.served.num_unreliable:
        says.append(f"The draws of {unreliable} of the rows are not reliable.")
    is_image = cleaned.rows.image_shape is not None
    alt = "Root mean squared error of each noisy feature, before and after."
    if is_image:
        alt = f"{NUM_IMAGES} images in four lines: clean, noisy, posterior mean and posterior sd."
    pictures = draw(
        lambda ax: plot_denoised(cleaned.found, cleaned.rows, NUM_IMAGES, ax),
        alt,
        size=(7.4, 3.4),
        inverts=not is_image,
    )
    return Panel(says, pictures=pictures)


def _tree(found: Findings) -> dict[str, xr.Dataset]:
    """Clean, noisy and cleaned entries, flattened."""
    cleaned = found["denoising"]
    low, high = cleaned.found.interval(LEVEL)
    values = {
        "clean": cleaned.rows.x.cpu().numpy(),
        "noisy": cleaned.found.posterior.data.x.cpu().numpy(),
        "mean": cleaned.found.mean,
        "sd": cleaned.found.sd,
        "lower": low,
        "upper": high,
    }
    flat = {name: (("row", "entry"), each.reshape(len(each), -1)) for name, each in values.items()}
    labels = list(map(str, cleaned.rows.row_labels))
    return {"denoising": xr.Dataset(flat, {"row": labels}, {"level": LEVEL})}


DENOISING = Diagnosis(
    "denoising",
    "Denoising",
    "What it can be used for",
    compute=_denoising,
    panel=_panel,
    page="howto/denoising.md",
    tree=_tree,
)
