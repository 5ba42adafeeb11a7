"""Inference gaps against closed forms on the linear-Gaussian bed."""

import numpy as np
import pytest
import torch

from ppl_vae import beds, posteriors
from ppl_vae.evidence import ImportanceSampling, inference_gaps, log_evidence
from ppl_vae.hmc import HMC
from ppl_vae.refinement import GradientRefinement, SampledRefinement, refine
from tests.cases import vae

MEAN_FIELD = GradientRefinement(
    num_steps=200, learning_rate=0.1, posterior=posteriors.MeanFieldNormal(2)
)
FULL_RANK = GradientRefinement(num_steps=150, learning_rate=0.1)
BRIEF = GradientRefinement(num_steps=5, learning_rate=1e-3)
SIZES = {"num_data": 12, "data_dim": 12, "seed": 1}


@pytest.fixture(scope="module")
def bed():
    """Posterior correlation -0.28: independent normals are 0.04 nat short, and their weights have k
    = 0.28."""
    return beds.linear_gaussian(**SIZES)


@pytest.fixture(scope="module")
def exact(bed):
    return inference_gaps(bed.model, bed.guide, bed.x, FULL_RANK)


@pytest.fixture(scope="module")
def mean_field(bed):
    return inference_gaps(bed.model, bed.mean_field_guide, bed.x, MEAN_FIELD, num_particles=4000)


def test_an_exact_guide_has_no_gap(bed, exact):
    """Its own log-weights are constant, so the guide's part is noiseless; refinement's start is the
    draws' moments."""
    assert np.abs(exact.elbo - bed.log_evidence.numpy()).max() < 1e-10
    assert exact.errors["elbo"].max() < 1e-10
    for name in ("approximation", "amortization", "inference"):
        # 4 standard errors for 12 rows, and what 200 steps leave
        assert (np.abs(getattr(exact, name)) < 4 * exact.errors[name] + 1e-4).all()


def test_an_exact_encoder_has_no_gap_to_rounding():
    """A guide of its family's own parameters starts at them, and keeps them where nothing is
    better."""
    bed = beds.linear_gaussian(num_data=4)
    best = refine(bed.model, bed.guide, bed.x, BRIEF)
    root = torch.linalg.cholesky(bed.posterior_covariance)
    best.raw.copy_(posteriors.FullRankNormal(2).raw_of(bed.posterior_mean, root))
    gaps = inference_gaps(bed.model, best, bed.x, BRIEF)
    for name in ("approximation", "amortization", "inference"):
        assert np.abs(getattr(gaps, name)).max() < 1e-6


def test_the_approximation_gap_of_mean_field_is_the_closed_form(bed, mean_field):
    gap = (bed.log_evidence - bed.best_mean_field_elbo).numpy()
    assert gap.min() > 0.04
    # 4 standard errors for 12 rows, and what 200 noisy steps leave
    assert (
        np.abs(mean_field.approximation - gap) < 4 * mean_field.errors["approximation"] + 0.005
    ).all()
    assert (np.abs(mean_field.amortization) < 4 * mean_field.errors["amortization"] + 0.005).all()
    assert mean_field.summary().share_bad_k == 0


def test_the_gap_of_a_shifted_guide_is_amortisation(bed):
    """KL(N(m + s sd, S) || N(m, S)) = s^2 sd' S^-1 sd / 2."""
    shifted = beds.linear_gaussian(**SIZES, guide_shift=0.7)
    gaps = inference_gaps(shifted.model, shifted.guide, shifted.x, FULL_RANK)
    sd = bed.posterior_covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    kl = (
        0.5
        * 0.49
        * torch.einsum("ni,nij,nj->n", sd, torch.linalg.inv(bed.posterior_covariance), sd).numpy()
    )
    assert (np.abs(gaps.amortization - kl) < 4 * gaps.errors["amortization"] + 1e-4).all()
    assert (np.abs(gaps.inference - kl) < 4 * gaps.errors["inference"] + 1e-4).all()
    assert (gaps.approximation < 1e-3).all()


def test_gaps_add_up(mean_field):
    assert np.allclose(
        mean_field.approximation + mean_field.amortization, mean_field.inference, atol=1e-12
    )
    assert (mean_field.approximation >= 0).all(), (
        "log mean w is at least mean log w, of the same weights"
    )


def test_standard_errors_hold_what_they_say(bed):
    """Variance over seeds against the reported one, at one refined guide: a ratio of 1 within 5
    standard errors."""
    wide = SampledRefinement(
        HMC(num_samples=20, num_warmup=20, num_leapfrog=5), inflation=1.4
    )  # bounded weights
    best = refine(bed.model, bed.guide, bed.x, wide)
    runs = [
        inference_gaps(bed.model, bed.mean_field_guide, bed.x, best, num_particles=300, seed=s)
        for s in range(40)
    ]
    for name in ("approximation", "inference", "refined_elbo"):
        values = np.stack([getattr(run, name) for run in runs])
        reported = np.stack([run.errors[name] for run in runs]).mean(0)
        ratio = values.var(axis=0, ddof=1) / reported**2
        assert abs(ratio.mean() - 1) < 5 * np.sqrt(2 / 39 / len(bed.x)), name


def test_paired_draws_make_the_amortisation_gap_sharper(mean_field):
    unpaired = np.hypot(mean_field.errors["elbo"], mean_field.errors["refined_elbo"])
    assert (mean_field.errors["amortization"] < 0.5 * unpaired).all()


def test_another_log_evidence_takes_its_place(bed, mean_field):
    better = log_evidence(bed.model, bed.guide, bed.x, ImportanceSampling(50))
    gaps, closed = (
        mean_field.with_evidence(better),
        (bed.log_evidence - bed.best_mean_field_elbo).numpy(),
    )
    assert np.allclose(gaps.log_evidence, bed.log_evidence, atol=1e-10)
    assert np.allclose(gaps.errors["approximation"], mean_field.errors["refined_elbo"], atol=1e-10)
    assert (np.abs(gaps.approximation - closed) < 4 * gaps.errors["approximation"] + 0.005).all()
    with pytest.raises(ValueError, match="the evidence has 3 rows and the gaps have 12"):
        mean_field.with_evidence(better[:3])
    for x, message in (
        (bed.x.roll(1, 0), "the same rows in another order, from row 0 on"),
        (bed.x + 1, "all rows differ"),
    ):
        with pytest.raises(ValueError, match=message):
            mean_field.with_evidence(log_evidence(bed.model, bed.guide, x, ImportanceSampling(50)))


def test_chunks_and_seeds_decide_the_draws_alone(bed):
    best = refine(bed.model, bed.mean_field_guide, bed.x, MEAN_FIELD)
    first, second = (
        inference_gaps(bed.model, bed.mean_field_guide, bed.x, best, num_particles=k)
        for k in (2000, 5000)
    )
    se = np.hypot(first.errors["inference"], second.errors["inference"])
    assert (np.abs(first.inference - second.inference) < 4 * se).all(), (
        "2,000 particles: five data at once; 5,000: two"
    )


def test_a_vae_in_single_precision_reports_all_three():
    model, guide = vae()
    gaps = inference_gaps(
        model, guide, model.sample(8), GradientRefinement(num_steps=100, learning_rate=0.1)
    )
    summary = gaps.summary()
    assert summary.mean["amortization"] > 4 * summary.mc_se["amortization"]
    assert summary.mean["approximation"] >= 0
    for name in ("approximation", "amortization", "inference"):
        assert summary.data_se[name] == pytest.approx(getattr(gaps, name).std(ddof=1) / np.sqrt(8))


def test_the_text_is_a_table(mean_field):
    lines = str(mean_field).splitlines()
    assert [line[:20].strip() for line in lines[1:-1]] == [
        *("log p(x)", "ELBO, refined", "ELBO, amortised"),
        *("approximation gap", "amortisation gap", "inference gap"),
    ]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1] == "k-hat > 0.7 for 0 % of 12 rows"


def test_bad_weights_are_called_bounds(bed, mean_field):
    narrow = beds.linear_gaussian(**SIZES, guide_scale=0.2)
    gaps = mean_field.with_evidence(
        log_evidence(narrow.model, narrow.guide, narrow.x, num_particles=1000)
    )
    assert str(gaps).endswith("log p(x), approximation and inference gap are lower bounds")


def test_one_particle_is_refused(bed):
    with pytest.raises(ValueError, match="num_particles is 1"):
        inference_gaps(bed.model, bed.guide, bed.x, num_particles=1)
