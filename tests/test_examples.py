"""The examples in their quick form, and whether they show what they say; seeds are fixed."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

import ppl_vae as pv
from ppl_vae.tasks.anomaly import LogEvidence

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, folder):
    """What the example's `main` returns, quick, with its picture drawn into the folder."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main(["--quick", "--output", str(folder)])
    assert (folder / f"{name}.png").stat().st_size > 10_000
    return module, found


@pytest.mark.statistical
def test_signal_to_noise_has_the_slopes_of_the_papers(tmp_path):
    module, (ratios, slopes) = run("signal_to_noise", tmp_path)
    for (_, _, _, claim), (fitted, error) in zip(module.CLAIMS, slopes, strict=True):
        assert error < 0.05  # so that the next line tells 1/2 from 0 and from -1/2
        assert (
            abs(fitted - claim) < 0.15 + 4 * error
        )  # 0.15 is the bias at these K; 4 se: level 6e-5 each
    for k in (16, 64, 256):
        doubly, plain = (ratios[name, module.PHI, k] for name in ("IWAE, DReG", "IWAE"))
        assert doubly.snr - plain.snr > 4 * np.hypot(doubly.error, plain.error)


def test_reverse_kl_hides_in_one_mode_and_forward_kl_covers_both(tmp_path):
    _, found = run("forward_and_reverse_kl", tmp_path)
    (_, exact_sd), (mode, mode_sd) = found["exact posterior"], found["its right mode"]
    reverse, renyi, forward, chi = list(found.values())[2:]
    # After the decay of the step the guides' sds repeat within 1 % from seed to seed, their means
    # within 0.02.
    assert reverse == pytest.approx((mode, mode_sd), rel=0.05)
    assert abs(forward[0]) < 0.05
    assert forward[1] == pytest.approx(exact_sd, rel=0.05)
    assert reverse[1] < renyi[1] < forward[1] < chi[1]


@pytest.mark.statistical
def test_aevb_ends_above_wake_sleep_at_equal_samples(tmp_path):
    module, found = run("aevb_figure_3", tmp_path)
    for size in module.QUICK.sizes:
        aevb, wake_sleep, mcem = (found[name, size] for name in module.ALGORITHMS)
        assert aevb[-1].num_samples == wake_sleep[-1].num_samples == module.QUICK.budget
        assert mcem[-1].num_samples == module.QUICK.mcem_budget
        difference = aevb[-1].test.elbo - wake_sleep[-1].test.elbo  # paired: the same test images
        assert difference.mean() > 4 * difference.std(ddof=1) / np.sqrt(
            len(difference)
        )  # level 3e-5
        for points in (aevb, wake_sleep, mcem):
            assert points[-1].test.log_evidence.mean() > points[0].test.log_evidence.mean()


def test_annealing_is_right_where_importance_sampling_is_not(tmp_path):
    _, rows = run("annealed_evidence", tmp_path)
    sharp = {row.method: row for row in rows if row.sigma == 0.05}
    assert sharp["IS, prior"].error < -1000
    assert sharp["IS, guide"].error < -50
    assert sharp["AIS, guide"].error > -30  # at 10 temperatures; at 800 it is -0.07
    assert sharp["IS, guide"].pareto_k > 0.7


def test_a_mixed_table_goes_from_frame_to_frame(tmp_path):
    _, (comparison, frame, drawn) = run("mixed_table", tmp_path)
    at = comparison.names.index("independent columns")
    assert comparison.interval[at][1] < 0  # the VAE is better, by a simultaneous interval
    assert list(drawn) == list(frame)
    for name in ("town", "grade"):
        assert set(drawn[name].dropna()) == set(frame[name].dropna())
    assert drawn["visits"].dtype.kind == "i"
    assert (tmp_path / "drawn.csv").stat().st_size > 1000


def test_a_pooled_regression_is_nearer_the_truth_than_complete_cases(tmp_path):
    module, (complete, frame, imputations, pooled, tipping) = run("imputation", tmp_path)
    assert len(imputations) == 20
    assert (pooled.fmi > 0).all()
    dose = module.NAMES.index("dose")
    low, high = pooled.interval[:, dose]
    assert low < module.EFFECT < high
    of_all = module.regression(complete)[0][dose]
    of_complete_cases = module.regression(frame)[0][dose]
    assert abs(pooled.estimate[dose] - of_all) < abs(of_complete_cases - of_all)


def test_digits_take_about_as_many_bits_as_their_bound(tmp_path):
    pytest.importorskip("constriction")
    _, found = run("compression", tmp_path)
    assert found["bits-back"] == pytest.approx(found["-ELBO / log 2"], rel=0.02)
    assert found["bits-back"] < found["bz2"]


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")  # by 30 epochs of training
def test_noisy_digits_are_cleaned(tmp_path):
    _, found = run("denoising", tmp_path)
    for before, after, covered in found.values():
        gain = after - before
        assert gain.mean() > 4 * gain.std(ddof=1) / np.sqrt(len(gain)) + 3  # dB; level 3e-5
        assert covered.mean() > 0.9 - 4 * covered.std(ddof=1) / np.sqrt(len(covered))


def test_malignant_tumours_are_discovered(tmp_path):
    _, (found, is_malignant, columns) = run("anomalies", tmp_path)
    discovered = found.discoveries(0.1)
    assert (discovered & is_malignant).sum() >= 7
    assert (discovered & ~is_malignant).sum() <= 2
    assert columns.min(axis=None) < 0.05


def test_a_reduction_is_judged_beside_principal_components(tmp_path):
    module, (found, of_tumours, variance, loadings) = run("dimension_reduction", tmp_path)
    for quality in (*found.values(), of_tumours):
        assert quality.names == ("VAE", "PCA")
        assert (abs(quality.values) <= 1).all()
        assert (quality.difference_se > 0)[0].all()
    kept = [found[num].values[1, 2] for num in (2, 10)]
    assert (kept[1] > kept[0] + 0.2).all()  # ten components keep more neighbours than two
    assert abs(variance.first_order.sum() - variance.explained) < 0.5 * variance.explained
    assert (variance.total > variance.first_order - 4 * variance.first_order_se).all()
    assert loadings.draws.shape == (module.QUICK_FITS, 30, 2)


@pytest.mark.statistical
def test_contrasts_find_the_sexes_and_nothing_in_random_halves(tmp_path):
    module, (found, shares) = run("contrasts", tmp_path)
    sexes = found["sex"].to_frame().loc["feature"]
    assert sexes.loc["HDL", "adjusted"] <= module.ALPHA
    assert sexes.loc["HDL", "high"] < 0
    halves = found["random halves"].to_frame()
    assert (halves["adjusted"] > module.ALPHA).all()
    assert shares["copies as rows"] > 0.3
    error = np.sqrt(module.ALPHA * (1 - module.ALPHA) / module.QUICK_REPEATS)
    assert shares["copies by subject"] <= module.ALPHA + 3 * error  # level 0.002


def test_classes_of_digits_with_few_labels_are_calibrated_and_better_than_chance(tmp_path):
    _, (errors, calibration, evidence) = run("semi_supervised", tmp_path)
    assert errors["M2, p(class | x)"] < 0.6  # chance is 0.9
    assert abs(errors["M2, p(class | x)"] - errors["M2, q(class | x)"]) < 0.15
    assert calibration.reliability.count.sum() == 497
    assert (evidence.log_evidence >= evidence.elbo).all()


def test_clusters_of_wines_are_nearly_their_cultivars(tmp_path):
    _, (agreement, comparison, classes) = run("clusters", tmp_path)
    assert agreement["mixture prior"] > 0.6
    assert set(agreement) == set(comparison.names)
    assert np.allclose(classes.probabilities.sum(1), 1)


@pytest.mark.filterwarnings("ignore:.* not reliable")  # after few steps
def test_a_search_finds_its_best_number_of_latents(tmp_path):
    module, (searches, truth, values) = run("scikit_learn", tmp_path)
    for search, context_dim in zip(searches.values(), (0, 3), strict=True):
        means = module.fold_scores(search).mean(0)
        assert search.best_score_ == means.max()
        best = search.best_estimator_[-1]
        assert best.model_.context_dim == context_dim
        assert best.latent_dim == module.QUICK_LATENTS[means.argmax()]
    rmse = {name: np.sqrt(((found - truth) ** 2).mean()) for name, found in values.items()}
    assert rmse["VAEImputer"] < rmse["column means"]


@pytest.mark.filterwarnings("ignore:.*draws that are not reliable")  # after few steps
def test_the_command_line_says_what_python_says(tmp_path):
    module, (folder, complete, found) = run("saved_runs", tmp_path)
    loaded = pv.load_run(folder)
    new = loaded.read(pd.read_csv(tmp_path / "new.csv"))
    completed, odd, latents = found
    scores = LogEvidence(refinement=None).oddness(
        loaded.model, loaded.guide, new[[3, 17]], progress=False
    )
    np.testing.assert_allclose(odd["score"].iloc[[3, 17]], scores, atol=1e-4)
    adjusted = false_discovery_control(odd["p_value"])
    np.testing.assert_allclose(odd["adjusted"], adjusted, rtol=1e-12)
    assert (odd["anomaly"] == (adjusted <= module.LEVEL)).all()
    means = pv.latent_means(loaded.guide, new, progress=False)
    np.testing.assert_allclose(latents.filter(regex="]$"), means.mean, rtol=1e-5, atol=1e-6)
    holes = pd.read_csv(tmp_path / "new.csv", index_col=0)
    values = completed[complete.columns]
    assert values.notna().all(axis=None)
    pd.testing.assert_frame_equal(values[holes.notna()], holes)
    limits = [[f"{name}.{end}" for name in complete] for end in ("lower", "upper")]
    low, high = (completed.reindex(columns=each).to_numpy() for each in limits)
    inside = (values.to_numpy() >= low) & (values.to_numpy() <= high)
    assert (inside == holes.isna().to_numpy()).all()  # intervals beside imputed values alone
