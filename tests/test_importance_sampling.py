"""Importance sampling, complete: smoothing, verdicts, defensive proposals, adaptive K, resuming."""

import numpy as np
import pyro
import pytest
import torch
from arviz_stats.base import array_stats
from cases import PROBLEMS, data_for, vae
from scipy.special import logsumexp
from test_evidence import gaussian_log_weights
from tqdm.auto import tqdm

import ppl_vae as pv
from ppl_vae import beds, likelihoods, posteriors, priors
from ppl_vae.evidence import Defensive, ImportanceSampling, Sandwich, reduce_log_weights
from ppl_vae.evidence.errors import bootstrap_se
from ppl_vae.evidence.pareto import smooth
from ppl_vae.evidence.result import ARRAYS

GUIDES = {
    "exact": {},
    "narrow": {"guide_scale": 0.6},
    "wide": {"guide_scale": 1.7},
    "shifted": {"guide_shift": 0.5},
}
NUM_SEEDS = {"exact": 40, "narrow": 60, "wide": 400, "shifted": 400}
BEDS = ("linear_gaussian", "gaussian_mixture", "gamma_poisson", "beta_bernoulli", "rainforth")


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("problem", BEDS)
def test_intervals_cover_wherever_the_verdict_is_estimate(problem, guide):
    """400 seeds at K = 2000: nominal 95 % intervals hold 90 to 99 %, counting those said to be
    estimates.

    Fewer seeds where all or none are estimates: nothing is covered by chance there.
    """
    bed = PROBLEMS[problem](1, **GUIDES[guide])
    x = bed.x.repeat(NUM_SEEDS[guide], *[1] * (bed.x.dim() - 1))
    evidence = pv.log_evidence(bed.model, bed.guide, x, num_particles=2000, seed=2)
    error = np.abs(evidence.log_evidence - bed.exact_log_evidence(x).numpy())
    believed = evidence.is_estimate
    if guide == "exact":
        assert believed.all()
        assert (error < 1e-9).all()
    elif guide == "narrow":
        assert believed.mean() < 0.05
    else:
        assert believed.mean() > 0.3
        covered = (error < 1.96 * evidence.mc_se)[believed].mean()
        assert 0.90 < covered < 0.99
    if guide == "wide":
        assert believed.mean() > 0.9


def test_smoothing_is_arvizs():
    log_w = gaussian_log_weights(2.0, 1000, 5) - 40.0
    smoothed = smooth(log_w)[1]
    for column, value in zip(log_w.T, smoothed, strict=True):
        normalised, _ = array_stats.psislw(-column)
        body = np.argsort(column)[:500]
        shift = (column - normalised)[body]  # the body is only normalised
        np.testing.assert_allclose(shift, shift[0], atol=1e-10)
        np.testing.assert_allclose(
            value, logsumexp(normalised + shift[0]) - np.log(1000), atol=1e-10
        )


def test_smoothing_calms_heavy_tails():
    """k = 0.56: over 300 repeats the smoothed estimate varies less and stays within 4 standard
    errors of the truth."""
    log_w = gaussian_log_weights(1.5, 200, 300)
    smoothed = smooth(log_w)[1]
    evidence = reduce_log_weights(log_w)
    assert smoothed.std() < evidence.log_evidence.std()
    assert abs(smoothed.mean()) < 4 * smoothed.std() / 300**0.5 + 0.02
    np.testing.assert_array_equal(np.isnan(evidence.smoothed), evidence.pareto_k > 0.7)


def test_particles_needed_follow_k_hat():
    evidence = reduce_log_weights(gaussian_log_weights(1.5, 4000, 3))
    np.testing.assert_allclose(
        evidence.num_needed, 10 ** (1 / (1 - np.maximum(evidence.pareto_k, 0)))
    )
    assert reduce_log_weights(gaussian_log_weights(20.0, 4000, 1)).num_needed[0] > 1e6
    assert reduce_log_weights(np.zeros((100, 1))).num_needed[0] == 10.0


def test_bootstrap_agrees_with_the_delta_method_where_both_hold():
    """A wide guide: within 15 %, the bootstrap's own noise at 400 resamples being 3.5 %."""
    bed = beds.linear_gaussian(8, guide_scale=1.3)
    delta, bootstrap = (
        pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=2000, bootstrap=b)
        for b in (0, 400)
    )
    np.testing.assert_array_equal(delta.log_evidence, bootstrap.log_evidence)
    np.testing.assert_allclose(bootstrap.mc_se, delta.mc_se, rtol=0.15)


@pytest.mark.parametrize("proposal", [Defensive(), Defensive("inflated", 0.3, 2.0)], ids=repr)
@pytest.mark.parametrize("problem", ["linear_gaussian", "rainforth"])
def test_defensive_proposals_repair_a_narrow_guide(problem, proposal):
    """The weights are bounded: k-hat falls below 0.5, and intervals over 300 repeats cover 90 to 99
    %."""
    bed = PROBLEMS[problem](1, guide_scale=0.5)
    x = bed.x.repeat(300, 1)
    plain = pv.log_evidence(bed.model, bed.guide, x, num_particles=1000)
    defended = pv.log_evidence(bed.model, bed.guide, x, ImportanceSampling(1000, proposal))
    assert np.median(plain.pareto_k) > 0.55
    assert np.median(defended.pareto_k) < 0.5
    error = np.abs(defended.log_evidence - bed.log_evidence.item())
    assert 0.90 < (error < 1.96 * defended.mc_se).mean() < 0.99


def test_a_mixtures_error_is_without_the_difference_between_its_parts():
    """Two parts of constant, unlike weights have no error at all; unlike parts have that of a sum,
    by hand."""
    halves = np.log(np.repeat([[1.0], [3.0]], [60, 40], axis=0))
    assert reduce_log_weights(halves, [60, 40]).mc_se[0] == 0
    assert reduce_log_weights(halves).mc_se[0] > 0.05
    log_w = np.random.default_rng(0).normal(size=(100, 4))
    first, second = np.exp(log_w[:60]), np.exp(log_w[60:])
    variance = (60 * first.var(0, ddof=1) + 40 * second.var(0, ddof=1)) / 100**2
    evidence = reduce_log_weights(log_w, [60, 40])
    np.testing.assert_allclose(evidence.mc_se, np.sqrt(variance) / np.exp(log_w).mean(0))
    together = reduce_log_weights(log_w).log_evidence
    np.testing.assert_allclose(evidence.log_evidence, together, rtol=1e-14)
    # the bootstrap resamples each part: within its own noise, 2.5 % at 800 resamples, and that of
    # 60 and 40 draws
    np.testing.assert_allclose(bootstrap_se(log_w, 800, 0, [60, 40]), evidence.mc_se, rtol=0.15)


@pytest.mark.parametrize(
    "posterior", ["MeanFieldNormal", "LowRankNormal", "FullRankNormal", "FlowPosterior"]
)
def test_every_family_can_be_inflated_and_mixed(posterior):
    """Same value as plain sampling within 4.5 standard errors."""
    model, guide = (program.double() for program in vae(posterior=posterior))
    x = data_for("Bernoulli", num_data=6).double()
    plain = pv.log_evidence(model, guide, x, num_particles=3000)
    for proposal in (Defensive(), Defensive("inflated")):
        mixed = pv.log_evidence(model, guide, x, ImportanceSampling(3000, proposal), seed=1)
        assert (
            np.abs(mixed.log_evidence - plain.log_evidence)
            < 4.5 * np.hypot(mixed.mc_se, plain.mc_se)
        ).all()


def test_what_cannot_be_inflated_says_so():
    bed = beds.gamma_poisson(4)
    with pytest.raises(
        ValueError, match=r"site 'z' is Gamma, which cannot be inflated: use Defensive\(\"prior\"\)"
    ):
        pv.log_evidence(bed.model, bed.guide, bed.x, ImportanceSampling(50, Defensive("inflated")))


def test_adaptive_particles_stop_at_the_target_or_at_the_end():
    bed = beds.linear_gaussian(30, guide_scale=1.3)
    method = ImportanceSampling(20_000, target_se=0.02)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, method)
    assert np.sqrt(np.square(evidence.mc_se).mean()) < 0.02
    assert (evidence.mc_se < 1.2 * 0.02).all()  # of draws of its own
    assert (evidence.num_used < 20_000).all()
    assert len(np.unique(evidence.num_used)) >= 1
    error = np.abs(evidence.log_evidence - bed.log_evidence.numpy())
    assert (error < 4.5 * evidence.mc_se).all()
    narrow = beds.linear_gaussian(5, guide_scale=0.5)
    spent = pv.log_evidence(
        narrow.model, narrow.guide, narrow.x, ImportanceSampling(1600, target_se=1e-4)
    )
    assert (spent.num_used == 1600).all()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch, stop_after):
    bed, file = beds.linear_gaussian(20, guide_scale=1.3), tmp_path / "evidence.npz"
    method = ImportanceSampling(50, chunk_size=50 * 3)
    whole = pv.log_evidence(bed.model, bed.guide, bed.x, method)
    calls = []
    estimate = ImportanceSampling.estimate

    def stumbling(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return estimate(self, *args, **kwargs)

    monkeypatch.setattr("ppl_vae.evidence.estimate.SECONDS_BETWEEN_WRITES", -1.0)
    monkeypatch.setattr(ImportanceSampling, "estimate", stumbling)
    with pytest.raises(KeyboardInterrupt):
        pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    with pytest.raises(
        ValueError,
        match=rf"a checkpoint with {3 * stop_after} of 20 rows done: call log_evidence again",
    ):
        pv.Evidence.load(file)
    monkeypatch.setattr(ImportanceSampling, "estimate", estimate)
    resumed = pv.log_evidence(bed.model, bed.guide, bed.x, method, checkpoint=file)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(pv.Evidence.load(file), name), getattr(whole, name))
    with pytest.raises(ValueError, match=r"written with different settings .*: delete it"):
        pv.log_evidence(bed.model, bed.guide, bed.x, method, seed=1, checkpoint=file)


def test_a_checkpoint_knows_the_weights(tmp_path):
    model, guide = vae()
    x, file = data_for("Bernoulli", num_data=6), tmp_path / "evidence.npz"
    pv.log_evidence(model, guide, x, num_particles=30, checkpoint=file)
    torch.nn.init.zeros_(guide.encoder.weight)
    with pytest.raises(ValueError, match="written with different settings"):
        pv.log_evidence(model, guide, x, num_particles=30, checkpoint=file)


def test_nothing_is_left_in_pyros_parameter_store():
    model, guide = vae()
    for proposal in ("guide", "prior", Defensive()):
        pv.log_evidence(
            model, guide, data_for("Bernoulli", 8), ImportanceSampling(30, proposal), progress=False
        )
    assert not list(pyro.get_param_store().keys())


def test_a_checkpoint_knows_another_model_of_equal_weights(tmp_path):
    models = {name: vae(likelihood=name)[0] for name in ("Bernoulli", "ContinuousBernoulli")}
    guide, x = vae()[1], data_for("Bernoulli", 8)
    models["ContinuousBernoulli"].load_state_dict(models["Bernoulli"].state_dict())
    settings = {"num_particles": 30, "checkpoint": tmp_path / "one.npz", "progress": False}
    pv.log_evidence(models["Bernoulli"], guide, x, **settings)
    with pytest.raises(ValueError, match="written with another model or guide"):
        pv.log_evidence(models["ContinuousBernoulli"], guide, x, **settings)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_named_with_a_remedy(content, tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    with pytest.raises(
        ValueError,
        match="not a checkpoint of log_evidence, or is damaged: delete it or choose another",
    ):
        pv.log_evidence(model, guide, x, num_particles=30, checkpoint=path, progress=False)


@pytest.mark.parametrize("method", ["AIS", pv.AIS, pv.HMC(1, 1)])
def test_what_is_no_method_is_refused(method):
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    with pytest.raises(ValueError, match="pass an instance of a method"):
        pv.log_evidence(model, guide, x, method)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (lambda: ImportanceSampling(True), "num_particles is True; it must be a whole number"),
        (lambda: ImportanceSampling("10"), "num_particles is '10'; it must be a whole number"),
        (
            lambda: ImportanceSampling(bootstrap=-1),
            "bootstrap is -1; it must be a whole number, at least 0",
        ),
        (
            lambda: ImportanceSampling(bootstrap=1),
            "bootstrap is 1; a standard error needs at least 2 resamples",
        ),
        (
            lambda: ImportanceSampling(1, Defensive()),
            "num_particles is 1; a mixture of two components needs at least 2",
        ),
        (
            lambda: ImportanceSampling(chunk_size=0),
            "chunk_size is 0; it must be a whole number, at least 1",
        ),
        (
            lambda: ImportanceSampling(target_se="a"),
            "target_se is 'a'; it must be a finite number, above 0",
        ),
        (
            lambda: ImportanceSampling(target_se=np.inf),
            "target_se is inf; it must be a finite number",
        ),
        (
            lambda: ImportanceSampling(compile="yes"),
            "compile is 'yes'; it must be 'auto', True or False",
        ),
        (lambda: ImportanceSampling(proposal=Defensive), "proposal is <class"),
        (
            lambda: Defensive(share="a"),
            r"Defensive\(share\) is 'a'; it must be a finite number, above 0 and below 1",
        ),
        (lambda: Defensive(share=1.0), r"Defensive\(share\) is 1.0"),
        (
            lambda: Defensive("inflated", inflation=1),
            r"Defensive\(inflation\) is 1; it must be a finite number, above 1",
        ),
        (
            lambda: Defensive("priors"),
            r"Defensive\(component\) is 'priors'; it must be 'prior' or 'inflated'",
        ),
        (lambda: pv.HMC(1.5), r"HMC\(num_samples\) is 1.5; it must be a whole number"),
        (
            lambda: pv.HMC(num_warmup=-1),
            r"HMC\(num_warmup\) is -1; it must be a whole number, at least 0",
        ),
        (lambda: pv.HMC(target_accept="a"), r"HMC\(target_accept\) is 'a'"),
        (lambda: pv.AIS("a"), r"AIS\(num_chains\) is 'a'; it must be a whole number"),
        (lambda: pv.AIS(4, 2.5), r"AIS\(num_temperatures\) is 2.5"),
        (lambda: pv.AIS(start="x"), r"AIS\(start\) is 'x'; it must be 'guide' or 'prior'"),
        (lambda: pv.AIS(chunk_size=0), r"AIS\(chunk_size\) is 0"),
        (lambda: pv.AIS(sampler=3), r"AIS\(sampler\) is 3; it must be an HMC, as in HMC\(...\)"),
        (
            lambda: pv.ReverseAIS(num_chains=1),
            r"ReverseAIS\(num_chains\) is 1; it must be a whole number, at least 2",
        ),
        (lambda: pv.ReverseAIS(pv.AIS(1)), r"ReverseAIS\(annealed.num_chains\) is 1"),
        (lambda: pv.ReverseAIS(annealed=3), r"ReverseAIS\(annealed\) is 3; it must be an AIS"),
        (lambda: pv.ReverseAIS(sampler=pv.HMC), r"ReverseAIS\(sampler\) is <class"),
        (lambda: pv.ChiUpperBound(0), r"ChiUpperBound\(num_particles\) is 0"),
        (
            lambda: pv.ChiUpperBound(order=np.inf),
            r"ChiUpperBound\(order\) is inf; it must be a finite number, at least 1",
        ),
        (lambda: pv.ChiUpperBound(order=0.5), r"ChiUpperBound\(order\) is 0.5"),
        (lambda: pv.GradientRefinement(0), r"GradientRefinement\(num_steps\) is 0"),
        (
            lambda: pv.GradientRefinement(learning_rate=0),
            r"GradientRefinement\(learning_rate\) is 0; it must be",
        ),
        (
            lambda: pv.GradientRefinement(objective="IWAE"),
            r"GradientRefinement\(objective\) is 'IWAE'",
        ),
        (lambda: pv.SampledRefinement(inflation=0.0), r"SampledRefinement\(inflation\) is 0.0"),
        (lambda: pv.SampledRefinement(num_chains=0), r"SampledRefinement\(num_chains\) is 0"),
        (
            lambda: Sandwich(level=2),
            r"Sandwich\(level\) is 2; it must be a finite number, above 0 and below 1",
        ),
        (lambda: Sandwich(check="x"), "is 'x'; pass an instance of a method"),
        (
            lambda: Sandwich(upper=pv.ChiUpperBound()),
            r"Sandwich\(upper\) is ChiUpperBound.*must be a ReverseAIS",
        ),
    ],
)
def test_settings_are_checked_where_they_are_given(setting, message):
    with pytest.raises(ValueError, match=message):
        setting()


def test_arguments_are_checked_where_they_are_given():
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    for call, error, message in (
        (
            lambda: pv.log_evidence(model, guide, x, num_particle=10),
            TypeError,
            "'num_particle': did you mean num_particles",
        ),
        (
            lambda: pv.log_evidence(None, guide, x),
            TypeError,
            "model is of type NoneType; give an object that can be",
        ),
        (
            lambda: pv.log_evidence(model, beds.linear_gaussian(4), x),
            TypeError,
            "guide is of type LinearGaussianBed",
        ),
        (
            lambda: pv.evidence_interval(model, guide, x, pv.AIS()),
            ValueError,
            "method is AIS.*; it must be a Sandwich",
        ),
        (
            lambda: pv.refine(model, guide, x, "HMC"),
            ValueError,
            "method is 'HMC'; pass an instance of GradientRefinement",
        ),
        (
            lambda: pv.bdmc(model, guide, method=ImportanceSampling()),
            ValueError,
            "method is Importance.*must be an AIS",
        ),
        (
            lambda: pv.bdmc(model, guide, num_data=0),
            ValueError,
            "num_data is 0; it must be a whole number",
        ),
        (
            lambda: pv.inference_gaps(model, guide, x, num_particles=1),
            ValueError,
            "num_particles is 1; .* at least 2",
        ),
        (
            lambda: pv.sample_posterior(model, guide, x, num_chains=0),
            ValueError,
            "num_chains is 0; it must be",
        ),
        (
            lambda: pv.sample_posterior(model, guide, x, sampler="HMC"),
            ValueError,
            "sampler is 'HMC'; it must be an HMC",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_numpys_whole_numbers_are_pythons():
    assert repr(ImportanceSampling(np.int64(50))) == repr(ImportanceSampling(50))
    assert repr(pv.AIS(np.int32(4), chunk_size=np.int64(8))) == repr(pv.AIS(4, chunk_size=8))
    assert repr(pv.HMC(np.int64(5))) == repr(pv.HMC(5))


def test_the_warning_of_few_particles_is_at_the_callers_line():
    (model, guide), x = vae(), data_for("Bernoulli", 4)
    for method in (
        ImportanceSampling(5),
        pv.AIS(5, 2),
        pv.ReverseAIS(pv.AIS(5, 2), pv.HMC(8, 4, 1)),
    ):
        with pytest.warns(UserWarning, match="k-hat needs at least") as caught:
            pv.log_evidence(model, guide, x, method)
        assert [warning.filename for warning in caught] == [__file__]


def test_a_checkpoint_without_a_suffix_is_the_only_file(tmp_path):
    bed = beds.linear_gaussian(4)
    evidence = pv.log_evidence(
        bed.model, bed.guide, bed.x, num_particles=50, checkpoint=tmp_path / "plain"
    )
    again = pv.log_evidence(
        bed.model, bed.guide, bed.x, num_particles=50, checkpoint=tmp_path / "plain"
    )
    np.testing.assert_array_equal(again.log_evidence, evidence.log_evidence)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_evidence_is_shown_in_one_line():
    log_w = np.random.default_rng(0).normal(size=(100, 7))
    evidence = reduce_log_weights(log_w)
    summary = evidence.summary()
    k_hat = f"k-hat > 0.7 for {100 * summary.share_bad_k:.0f} %, weights too skewed for 86 %)"
    errors = f"(Monte Carlo se unknown, data se {summary.data_se:.3f})"
    bound = f"mean log p(x) >= {summary.log_evidence:.3f} {errors}"
    assert repr(evidence) == f"Evidence(7 rows, an estimate for 0 % of the rows: {bound}, {k_hat}"
    assert errors in str(summary)
    assert "refine" in str(summary)
    tame = reduce_log_weights(0.1 * log_w)
    found = tame.summary()
    errors = f"(Monte Carlo se {found.mc_se:.3f}, data se {found.data_se:.3f})"
    assert (
        repr(tame) == f"Evidence(7 rows, mean log p(x) = {found.log_evidence:.3f} {errors}, "
        "k-hat > 0.7 for 0 %)"
    )
    few = reduce_log_weights(log_w[:10])
    assert "nan" not in repr(few)
    assert str(few.summary()).endswith("k-hat unknown for some of 7 rows at K=10")
    assert repr(evidence[:0]) == "Evidence(0 rows)"


def test_a_bar_has_the_title_it_is_given(monkeypatch):
    bed = beds.linear_gaussian(4)
    titles = []
    monkeypatch.setattr(
        "ppl_vae.runtime.progress._kind",
        lambda: lambda desc, **options: titles.append(desc) or tqdm(**options),
    )
    narrow = beds.linear_gaussian(2, guide_scale=0.5)
    method = Sandwich(ImportanceSampling(50), upper=pv.ReverseAIS(pv.AIS(30, 2), pv.HMC(8, 4, 1)))
    pv.evidence_interval(narrow.model, narrow.guide, narrow.x, method)
    pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=50)
    assert [title for title in titles if title not in ("", "HMC")] == [
        *("log p(x), estimate by ImportanceSampling", "log p(x), check by ImportanceSampling"),
        *("log p(x), bounds by AIS", "log p(x), bounds by ReverseAIS", "log p(x)"),
    ]


# --- bfloat16 -------------------------------------------------------------------------------------


def bits_and_programs():
    """A decoder whose logits are large, as a trained one's are: there bfloat16 would round log(1 -
    p) to 0."""
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), 40)
        model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(40))
        model.likelihood.link.linear.bias.data -= 6.0
        return model, guide, (torch.rand(50, 40) < 0.01).float()


@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_says_what_it_does_to_log_p(compile):
    """In the model alone, by the same draws. A logit near -6 is off by up to 0.016; 40 lost log(1 -
    p) would be 0.1."""
    model, guide, x = bits_and_programs()
    options = {"num_particles": 100, "seed": 0}
    exact = pv.log_evidence(model, guide, x, compile=False, **options)
    rounded = pv.log_evidence(model, guide, x, dtype="bfloat16", compile=compile, **options)
    change = rounded.log_evidence - exact.log_evidence
    assert 0 < np.abs(change).max() < 0.05
    difference = (
        rounded.checks["rounding"] - change
    )  # by draws of its own: 4 standard errors over the data
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(len(x))
    assert np.abs(difference).max() < 0.01
    assert not exact.checks


def test_bfloat16_is_for_one_proposal():
    with pytest.raises(ValueError, match="dtype is 'float16'; it must be 'bfloat16' or None"):
        ImportanceSampling(dtype="float16")
    with pytest.raises(ValueError, match="leave one of them out"):
        ImportanceSampling(proposal=Defensive(), dtype="bfloat16")
