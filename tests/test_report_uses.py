"""The part of the report on what a model can be used for: its figures are those of the tasks."""

import bz2
import gzip
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.report.diagnoses.uses.classes import CLASSES
from ppl_vae.report.diagnoses.uses.compression import COMPRESSION
from ppl_vae.report.diagnoses.uses.contrasts import CONTRASTS
from ppl_vae.report.diagnoses.uses.denoising import DENOISING, NUM_ROWS
from ppl_vae.report.diagnosis import Findings
from ppl_vae.tasks.compression import bits_per_row
from ppl_vae.tasks.denoising import GaussianNoise, SaltAndPepper

USES = [CLASSES, CONTRASTS, DENOISING, COMPRESSION]


def findings(model, guide, rows):
    run = SimpleNamespace(model=model, guide=guide)
    return Findings(SimpleNamespace(rows=rows, seed=0, run=run, digest=""), USES)


def bits(num=60):
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli((4, 4)))
        guide = pv.Guide(posteriors.MeanFieldNormal(2), (4, 4))
        x = model.sample(num)
    return model, guide, x


def test_bits_get_salt_and_pepper_and_are_compressed():
    model, guide, x = bits()
    rows = pv.Dataset(x, image_shape=(4, 4))
    found = findings(model, guide, rows)
    cleaned = found["denoising"]
    assert isinstance(cleaned.noise, SaltAndPepper)
    assert len(cleaned.rows) == NUM_ROWS
    before, after = cleaned.rmse()
    assert after < before
    panel = DENOISING.titled_panel(found)
    assert (len(panel.pictures), panel.pictures[0].inverts) == (1, False)
    assert found["compression"] == bits_per_row(model, guide, rows, progress=False)
    assert "bits-back" in COMPRESSION.titled_panel(found).pictures[0].alt
    assert CLASSES.titled_panel(found) is None
    assert CONTRASTS.titled_panel(found) is None
    assert list(found.tree()) == ["denoising", "compression"]


def test_bits_per_row_are_those_of_the_coders():
    model, guide, x = bits(200)
    found = bits_per_row(model, guide, x, progress=False)
    packed = np.packbits(x.numpy().astype(bool)).tobytes()
    assert found["packed"] == 16
    assert found["gzip"] == 8 * len(gzip.compress(packed)) / 200
    assert found["bz2"] == 8 * len(bz2.compress(packed)) / 200
    file = pv.compress(model, guide, x, progress=False)
    assert found["bits-back, whole file"] == 8 * len(file) / 200
    assert found["bits-back"] == pv.CompressedRows.from_bytes(file).net_bits_per_row
    log_w = pv.log_weights(model, guide, x, num_particles=4000, seed=7)
    error = log_w.std(0).pow(2).sum().sqrt() / 200 / 10  # of 100 draws a row
    exact = -float(log_w.mean()) / np.log(2)
    assert abs(found["-ELBO / log 2"] - exact) < 5 * float(error) / np.log(2) + 1e-6


@pytest.mark.parametrize(("levels", "bits_of_a_value"), [(2, 1), (3, 8), (300, 16)])
def test_values_are_packed_in_as_few_bytes_as_they_need(levels, bits_of_a_value):
    with pv.seeded(0):
        model = pv.Model(priors.StandardNormal(1), likelihoods.Poisson(8))
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 8)
    x = torch.arange(levels).repeat(8)[: 8 * levels].reshape(-1, 8).float()
    found = bits_per_row(model, guide, x, progress=False)
    assert found["packed"] == 8 * bits_of_a_value


def test_numbers_of_a_table_get_noise_of_half_their_sd():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1))
    x = np.column_stack([100 + 20 * (z[:, 0] + 0.3 * rng.normal(size=200)), z[:, 0] > 0])
    labels = np.where(z[:, 0] > 0.5, "high", "low")
    frame = pd.DataFrame({"weight": x[:, 0], "ill": x[:, 1].astype(bool)})
    recipe = pv.recipe(pv.Dataset(frame, labels=labels), num_steps=200, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe.fit()
    rows = pv.Dataset(frame, labels=labels)
    found = findings(recipe.model, recipe.guide, rows)
    noise = found["denoising"].noise
    sd = float(np.std(frame["weight"][:NUM_ROWS]))
    assert list(noise) == ["weight"]
    assert isinstance(noise["weight"], GaussianNoise)
    assert noise["weight"].sd == pytest.approx(0.5 * sd, rel=1e-5)
    assert found["denoising"].is_noisy.sum(0).tolist() == [NUM_ROWS, 0]
    share, se = found["denoising"].coverage()
    assert abs(share - 0.9) < 4 * se + 0.05
    assert not DENOISING.titled_panel(found).problem
    compared = found["contrasts"]
    assert compared.found.design.names == ("low", "high")
    assert compared.sizes == ((labels == "low").sum(), (labels == "high").sum())
    panel = CONTRASTS.titled_panel(found)
    assert (len(panel.pictures), len(panel.tables)) == (2, 2)
    titles = {panel.title: panel.problem for panel in found.panels()["What it can be used for"]}
    assert "has a density" in titles["Compression"]


def test_clusters_have_the_labels_of_their_rows():
    """Two clusters ten sds apart, and their labels; the guide is the prior."""
    with pv.seeded(0):
        prior = priors.GaussianMixture(1, 2)
        model = pv.Model(prior, likelihoods.Gaussian(1), networks.Linear(1))
        noise = torch.randn(50, 1)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-5.0], [5.0]]))
        model.likelihood.link.linear.weight.fill_(1.0)
        sign = torch.tensor([-5.0] * 30 + [5.0] * 20).unsqueeze(1)
        x = model.decode(sign).mean + noise
    rows = pv.Dataset(x, labels=["left"] * 30 + ["right"] * 20)
    found = findings(model, prior_guide(model), rows)
    [table] = CLASSES.titled_panel(found).tables
    assert [line[2:] for line in table.rows] == [
        ["30 rows", "left (100%)"],
        ["20 rows", "right (100%)"],
    ]


def test_classes_of_labelled_rows_are_hidden_and_judged():
    with pv.seeded(0):
        model = pv.SemiSupervisedModel(2, priors.StandardNormal(1), likelihoods.Gaussian(3))
        guide = pv.SemiSupervisedGuide(2, posteriors.MeanFieldNormal(1), 3)
        x = torch.cat([torch.randn(40, 3), (torch.arange(40) % 2).float().unsqueeze(1)], 1)
    x[:10, -1] = torch.nan
    found = findings(model, guide, pv.Dataset(x))
    classes = found["classes"]
    assert classes.truth.tolist() == [0, 1] * 15
    hidden = x[10:].clone()
    hidden[:, -1] = torch.nan
    again = pv.class_probabilities(model, guide, hidden, num_particles=1000, progress=False)
    assert np.array_equal(classes.found.probabilities, again.probabilities)
    panel = CLASSES.titled_panel(found)
    assert len(panel.pictures) == 2
    error, _ = again.error(classes.truth)
    assert f"{error:.1%}" in panel.says[1]
    assert "no `Model`" in found.panels()["What it can be used for"][-1].problem


def test_a_plain_model_of_x_refuses_rows_with_more_entries():
    data = pv.Dataset(np.random.default_rng(0).normal(size=(60, 4))).split(test=20, seed=0)
    with pytest.raises(ValueError, match="rows have 4 entries and the likelihood 3"):
        pv.diagnostics.baselines(data, likelihoods.Gaussian(3))
