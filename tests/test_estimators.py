"""compare_estimators: values and variances that are known, ratios without a false floor, and
nothing left changed."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from cases import SMALL_NETWORKS, vae
from pyro import infer
from torch import nn
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae import beds, objectives
from ppl_vae.cli import app
from ppl_vae.diagnostics import Replicates, compare_estimators, plot_estimators
from ppl_vae.diagnostics.estimators.advice import advised
from ppl_vae.diagnostics.estimators.cost import peak_memory
from ppl_vae.diagnostics.estimators.noise import GradientNoise, Moments, gradient_noise
from ppl_vae.diagnostics.estimators.row import EstimatorRow
from ppl_vae.experiment import Folder, build, read_config
from ppl_vae.objectives import VIMCO, DoublyReparameterized, ScoreFunction, StickingTheLanding

CLOCK = ["seconds", "theta_variance_seconds", "phi_variance_seconds"]
LEVEL = 4.5  # standard errors: 7e-6 for one comparison, two-sided


class LinearModel(nn.Module):
    """The linear-Gaussian bed with its loading and mean as parameters."""

    def __init__(self, bed):
        super().__init__()
        self.loading, self.mean, self.noise = (
            nn.Parameter(bed.loading),
            nn.Parameter(bed.mean),
            bed.noise,
        )

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x", dist.Normal(z @ self.loading.T + self.mean, self.noise).to_event(1), obs=x
            )


class LinearGuide(nn.Module):
    """Its posterior N(A x + b, scale^2 S), exact at scale 1, with A, b and the root of S as
    parameters."""

    def __init__(self, bed, scale=1.0):
        super().__init__()
        covariance = bed.posterior_covariance[0]
        self.weight = nn.Parameter(covariance @ bed.loading.T / bed.noise**2)
        self.offset = nn.Parameter(-self.weight.detach() @ bed.mean)
        self.root = nn.Parameter(scale * torch.linalg.cholesky(covariance))

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            root = self.root.tril()
            pyro.sample(
                "z", dist.MultivariateNormal(x @ self.weight.T + self.offset, scale_tril=root)
            )


def linear(scale=1.0, num_data=16):
    bed = beds.linear_gaussian(num_data=num_data)
    return bed, LinearModel(bed), LinearGuide(bed, scale)


def compare(model, guide, x, chosen, num_replicates=40, **options):
    return compare_estimators(
        model, guide, x, chosen, num_replicates=num_replicates, progress=False, **options
    )


# --- signal and noise -----------------------------------------------------------------------------

NUM_RUNS = 200
SPECTRA = {"flat": torch.ones(40), "falling": torch.arange(1, 41.0) ** -0.5, "one": torch.ones(1)}


def gradients(snr, spectrum, num_replicates=50, seed=0):
    """Normal gradients, independent components, the same ratio in each: NUM_RUNS times (R, P)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        NUM_RUNS, num_replicates, len(spectrum), generator=generator, dtype=torch.float64
    )
    return (snr + noise) * spectrum.double()


def squared_ratio(samples):
    """The estimate of SNR^2 before it is cut off at 0."""
    moments = Moments()
    for sample in samples:
        moments.add(sample)
    num_blocks = np.count_nonzero(moments.counts)
    return float(moments.estimates(np.ones(num_blocks))[1])


@pytest.mark.parametrize("snr", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("spectrum", ["flat", "falling"])
def test_the_squared_ratio_is_unbiased(snr, spectrum):
    """Within 4.5 standard errors over 200 runs; 1 / variance adds a relative 2 / (nu R), nu >= 16
    dimensions."""
    found = np.array([squared_ratio(run) for run in gradients(snr, SPECTRA[spectrum])])
    allowance = 2 / (16 * 50) * snr**2
    assert abs(found.mean() - snr**2) < LEVEL * found.std() / NUM_RUNS**0.5 + allowance


def test_naive_ratios_have_a_floor_and_debiased_ones_have_not():
    """Without signal: 1 / sqrt(R) aggregated, 0.8 / sqrt(R) per component, 0.34 / sqrt(R) debiased
    per component.

    The constants are those of a normal; a t with 49 degrees of freedom adds 2 to 5 %.
    """
    samples, count = gradients(0.0, SPECTRA["flat"]), 50
    mean, sd = samples.mean(1), samples.std(1)
    aggregated = ((mean**2).sum(-1) / (sd**2).sum(-1)).sqrt()
    found = [gradient_noise(run) for run in samples]
    assert aggregated.mean() == pytest.approx(count**-0.5, rel=0.05)
    assert (mean.abs() / sd).mean() == pytest.approx(0.8 / count**0.5, rel=0.05)
    assert np.mean([noise.component_snr for noise in found]) == pytest.approx(
        found[0].component_floor, rel=0.08
    )
    assert np.median([noise.snr for noise in found]) < 0.3 * count**-0.5
    assert np.mean([noise.snr == 0 for noise in found]) > 0.4


@pytest.mark.statistical
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_floor_is_exceeded_by_chance_in_one_run_of_forty(spectrum):
    """Share of 200 runs without signal; 0.025 + 4.5 binomial standard errors is 0.075."""
    found = [gradient_noise(run) for run in gradients(0.0, SPECTRA[spectrum], seed=1)]
    assert 0 < np.mean([noise.snr > noise.snr_floor for noise in found]) < 0.075
    if spectrum == "one":
        assert found[0].snr_floor == pytest.approx(((5.0239 - 1) / 50) ** 0.5, rel=1e-4)


@pytest.mark.statistical
def test_intervals_cover():
    """95 % intervals of the ratio and of the variance hold the truth in 90 to 99 % of 200 runs."""
    found = [gradient_noise(run) for run in gradients(0.3, SPECTRA["flat"])]
    assert 0.90 < np.mean([noise.snr_low < 0.3 < noise.snr_high for noise in found]) < 0.99
    assert (
        0.90
        < np.mean([abs(noise.variance - 40) < 2.09 * noise.variance_se for noise in found])
        < 0.99
    )


def test_variance_is_the_trace_of_the_covariance_however_large_the_mean():
    samples = gradients(0.0, SPECTRA["falling"])[0]
    exact = samples.var(0).sum().item()
    assert gradient_noise(samples).variance == pytest.approx(exact, rel=1e-12)
    assert gradient_noise(samples + 1e6).variance == pytest.approx(exact, rel=1e-8)
    assert gradient_noise(samples + 1e6).snr == pytest.approx(1e6 * (40 / exact) ** 0.5, rel=1e-4)


def test_what_never_varies_has_no_ratio():
    noise = gradient_noise(torch.ones(10, 3))
    assert (noise.variance, np.isnan(noise.snr), np.isnan(noise.component_snr)) == (0.0, True, True)
    assert np.isnan(gradient_noise(torch.ones(10, 0)).variance)


# --- values ---------------------------------------------------------------------------------------


def test_biases_have_the_known_sign_and_shrink():
    """ELBO at a guide twice too wide: log p(x) - KL in closed form. IWAE: below log p(x), closer as
    K grows."""
    bed, model, guide = linear(2.0)
    chosen = {
        "ELBO": objectives.TraceELBO(),
        "IWAE-4": objectives.IWAE(4),
        "IWAE-32": objectives.IWAE(32),
    }
    found = compare(model, guide, bed.x, chosen, exact=bed.log_evidence).table
    kl = 0.5 * (2 * 2.0**2 - 2) - 2 * np.log(2.0)
    assert abs(found.loc["ELBO", "bias"] + kl) < LEVEL * found.loc["ELBO", "bias_se"]
    assert (found["bias"] < -LEVEL * found["bias_se"])[:2].all()
    assert found["bias"].iloc[2] < LEVEL * found["bias_se"].iloc[2]
    bias, error = found["bias"].to_numpy(), found["bias_se"].to_numpy()
    assert (np.diff(bias) > LEVEL * np.hypot(error[1:], error[:-1])).all()


def test_the_reference_agrees_with_the_exact_value_and_says_its_k():
    bed, model, guide = linear(1.4)
    found = compare(model, guide, bed.x, [objectives.IWAE(2)], 5, reference_particles=2000)
    exact = bed.log_evidence.mean().item()
    assert abs(found.reference.log_evidence - exact) < LEVEL * found.reference.se
    assert (
        abs(found.reference.elbo - exact + 0.96 - 2 * np.log(1.4)) < LEVEL * found.reference.elbo_se
    )
    assert "K = 2,000 particles per observation" in str(found)
    assert "exact" in str(
        compare(model, guide, bed.x, [objectives.IWAE(2)], 5, exact=bed.log_evidence).reference
    )


def test_at_the_exact_posterior_the_path_gradient_alone_is_still():
    bed, model, guide = linear()
    chosen = {
        "total": objectives.TraceELBO(),
        "path": objectives.TraceELBO(gradient=StickingTheLanding()),
    }
    chosen["DReG"] = objectives.IWAE(5, gradient=DoublyReparameterized())
    found = compare(model, guide, bed.x, chosen, exact=bed.log_evidence).table
    assert (found["bias"].abs() < 1e-10).all()
    assert (found.loc[["path", "DReG"], "phi_variance"] < 1e-10).all()
    assert found.loc["total", "phi_variance"] > 1e-2


def test_gradients_are_those_of_the_mean_bound_per_datum():
    """Four copies of the data: the same expected gradient, a quarter of the variance."""
    bed, model, guide = linear(1.4)
    few, many = (
        compare(model, guide, x, [objectives.TraceELBO()], 80, exact=log_p).table.iloc[0]
        for x, log_p in (
            (bed.x, bed.log_evidence),
            (bed.x.repeat(4, 1), bed.log_evidence.repeat(4)),
        )
    )
    for group in ("theta", "phi"):
        error = np.hypot(few[f"{group}_variance_se"], 4 * many[f"{group}_variance_se"])
        assert abs(few[f"{group}_variance"] - 4 * many[f"{group}_variance"]) < LEVEL * error
        assert many[f"{group}_snr"] > few[f"{group}_snr"]


def test_doubly_reparameterized_gradients_have_the_better_ratio():
    bed = beds.rainforth(num_data=8, latent_dim=2)
    chosen = {
        "IWAE": objectives.IWAE(64),
        "DReG": objectives.IWAE(64, gradient=DoublyReparameterized()),
    }
    found = compare(bed.model, bed.amortised_guide, bed.x, chosen, exact=bed.log_evidence).table
    assert found.loc["DReG", "phi_snr_low"] > found.loc["IWAE", "phi_snr_high"]
    assert found.loc["DReG", "phi_snr"] > 3 * found.loc["DReG", "phi_snr_floor"]


# --- discrete latents -----------------------------------------------------------------------------


class Digits:
    """A plain Pyro program: ten Bernoulli latents, 8 x 8 binary digits; parameters in Pyro's
    store."""

    def __init__(self):
        self.decoder, self.encoder = nn.Linear(10, 64), nn.Linear(64, 10)
        self.x = pv.load("digits", binarize="static", flatten=True).train.x[:32]

    def model(self, x):
        decoder = pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(x.new_full((10,), 0.5)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        encoder = pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=encoder(x)).to_event(1))


def test_vimco_has_a_tenth_of_the_variance_of_reinforce():
    digits = Digits()
    chosen = {
        "VIMCO": objectives.IWAE(5, gradient=VIMCO()),
        "plain": objectives.IWAE(5, gradient=ScoreFunction(None)),
    }
    chosen |= {
        "leave-one-out": objectives.IWAE(5, gradient=ScoreFunction()),
        "path": objectives.IWAE(5),
    }
    found = compare(
        digits.model, digits.guide, digits.x, chosen, num_replicates=40, reference_particles=50
    )
    table = found.table
    assert table.loc["plain", "phi_variance"] > 10 * table.loc["VIMCO", "phi_variance"]
    assert table.loc["plain", "phi_variance"] > 10 * table.loc["leave-one-out", "phi_variance"]
    assert table["theta_variance"][:3].max() < 1.5 * table["theta_variance"][:3].min()
    assert table["phi_variance_seconds"]["plain"] > table["phi_variance_seconds"]["VIMCO"]
    assert found.facts["num_theta"] == 10 * 64 + 64
    assert found.facts["num_phi"] == 64 * 10 + 10


def test_an_objective_that_cannot_be_used_is_a_row_that_says_why():
    digits = Digits()
    chosen = {"VIMCO": objectives.IWAE(2, gradient=VIMCO()), "path": objectives.IWAE(2)}
    found = compare(
        digits.model, digits.guide, digits.x, chosen, num_replicates=5, reference_particles=50
    )
    assert "'z' (Independent) is not reparameterised" in found.table.loc["path", "reason"]
    assert found.table.drop(columns="reason").loc["path"].isna().all()
    assert found.table.loc["VIMCO", "reason"] == ""
    assert "path       not usable: ValueError: IWAE" in str(found)
    assert "| path | not usable: ValueError: IWAE" in found.to_markdown()
    with pytest.raises(
        ValueError, match="none of the objectives can be used: .*not reparameterised"
    ):
        compare(digits.model, digits.guide, digits.x, [objectives.IWAE(2), objectives.TraceELBO()])


# --- what it takes, and leaves --------------------------------------------------------------------


def test_the_same_seed_gives_the_same_table():
    bed, model, guide = linear(1.4)
    chosen = [objectives.IWAE(3), objectives.IWAE(3)]
    first, again, other = (
        compare(model, guide, bed.x, chosen, 8, reference_particles=50, seed=s).table
        for s in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first.drop(columns=CLOCK), again.drop(columns=CLOCK))
    assert first["value"].nunique() == 2, "every objective has draws of its own"
    assert list(first.index) == ["IWAE(num_particles=3)", "IWAE(num_particles=3) #2"]
    assert (first["value"] != other["value"]).all()


def test_nothing_is_left_changed():
    model, guide = vae("VampPrior")
    guide.encoder.register_forward_hook(lambda *_: None)
    model.train()
    guide.eval()
    model.decoder[0].weight.grad = torch.ones_like(model.decoder[0].weight)
    x = torch.bernoulli(torch.full((8, 3), 0.5))
    before = {
        name: p.detach().clone()
        for name, p in [*model.named_parameters(), *guide.named_parameters()]
    }
    grads = {name: p.grad for name, p in [*model.named_parameters(), *guide.named_parameters()]}
    moving = objectives.TraceELBO(gradient=ScoreFunction("moving-average"))
    pyro.param("mine", torch.tensor(3.0))
    state, stored = torch.get_rng_state(), pyro.get_param_store()["mine"].unconstrained()
    compare(
        model, guide, x, [objectives.IWAE(2), moving, infer.Trace_ELBO()], 5, reference_particles=30
    )
    for name, p in [*model.named_parameters(), *guide.named_parameters()]:
        assert torch.equal(p, before[name])
        assert p.grad is grads[name]
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.get_param_store()["mine"].unconstrained() is stored
    assert model.decoder.training
    assert not guide.encoder.training
    assert (
        moving == objectives.TraceELBO(gradient=ScoreFunction("moving-average"))
        or moving.gradient._average is None
    )


def test_parameters_of_plain_functions_are_found_and_not_created():
    """The store's own are used where they are; else they live as long as the comparison."""

    def model(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

    x = torch.randn(6, 2)
    chosen = [
        objectives.TraceELBO(),
        infer.Trace_ELBO(),
        infer.TraceMeanField_ELBO(),
        infer.RenyiELBO(num_particles=3),
    ]
    found = compare(model, guide, x, chosen, 60, reference_particles=1000)
    assert len(pyro.get_param_store()) == 0
    assert (found.facts["num_theta"], found.facts["num_phi"], found.facts["num_shared"]) == (
        2,
        2,
        0,
    )
    table = found.table
    assert list(table.index[1:]) == [
        f"{name}(num_particles={k})"
        for name, k in (("Trace_ELBO", 1), ("TraceMeanField_ELBO", 1), ("RenyiELBO", 3))
    ]
    elbos = table.iloc[:3]
    assert (
        (elbos["value"] - found.reference.elbo).abs()
        < LEVEL * elbos["value_se"] + LEVEL * found.reference.elbo_se
    ).all()
    error = LEVEL * np.hypot(table["phi_variance_se"].iloc[0], table["phi_variance_se"].iloc[1])
    assert abs(table["phi_variance"].iloc[0] - table["phi_variance"].iloc[1]) < error
    pyro.param("loc", torch.full((2,), 5.0))
    assert (
        compare(model, guide, x, chosen, 5, reference_particles=30).table["value"]
        < table["value"] - 5
    ).all()


def test_parameters_that_model_and_guide_share_count_for_the_guide():
    model, guide = vae("VampPrior")
    found = compare(model, guide, torch.ones(4, 3), [objectives.IWAE(2)], 5, reference_particles=30)
    sizes = {
        name: sum(p.numel() for p in program.parameters())
        for name, program in (("model", model), ("guide", guide))
    }
    assert found.facts["num_shared"] == found.facts["num_phi"] == sizes["guide"]
    assert found.facts["num_theta"] == sizes["model"] - sizes["guide"]
    assert f"including {sizes['guide']} shared with the model" in str(found)


def test_an_upper_bound_has_its_own_sign_and_no_gradient_for_the_model():
    bed, model, guide = linear(1.4)
    found = compare(
        model, guide, bed.x, [objectives.CUBO(2, 64)], exact=bed.log_evidence
    ).table.iloc[0]
    assert found["bias"] > LEVEL * found["bias_se"]
    assert (found["theta_variance"], np.isnan(found["theta_snr"])) == (0.0, True)


def test_with_global_latents_there_is_no_reference():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("shift", dist.Normal(pyro.param("at", torch.tensor(0.1)), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 1.0))

    found = compare(model, guide, torch.randn(4, 1), [objectives.TraceELBO()], 5)
    assert np.isnan(found.table["bias"].iloc[0])
    assert "no reference for log p(x): with latents outside the data plate" in str(found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chosen": []}, ValueError, "objectives is empty"),
        ({"chosen": ["IWAE"]}, TypeError, "is a str: give objects like"),
        ({"chosen": [objectives.IWAE]}, TypeError, "is a class: give objects like"),
        (
            {"chosen": objectives.IWAE(5)},
            TypeError,
            r"objectives is IWAE.*; it must be a list or a dict",
        ),
        ({"chosen": "IWAE"}, TypeError, "objectives is 'IWAE'; it must be a list or a dict"),
        ({"chosen": None}, TypeError, "objectives is None; it must be a list or a dict"),
        ({"exact": [1.0]}, ValueError, r"exact has shape \(1,\), the data have 4 rows"),
        (
            {"exact": [1.0, np.nan, 0.0, 0.0]},
            ValueError,
            "exact is nan at row 1: give a finite log p",
        ),
        ({"exact": "no"}, TypeError, "exact is a str: give log p"),
        ({"num_replicates": 3}, ValueError, r"Replicates\(num_replicates\) is 3; .* at least 4"),
        (
            {"num_replicates": 5.5},
            ValueError,
            r"Replicates\(num_replicates\) is 5.5; it must be a whole number",
        ),
        ({"reference_particles": "a"}, ValueError, r"Replicates\(reference_particles\) is 'a'"),
        ({"replicates": Replicates(5)}, ValueError, "num_replicates was given beside replicates"),
    ],
)
def test_refusals(options, error, message):
    bed, model, guide = linear(num_data=4)
    options = {"chosen": [objectives.TraceELBO()], **options}
    with pytest.raises(error, match=message):
        compare(model, guide, bed.x, **options)


def test_programs_settings_and_pictures_of_another_kind_are_refused():
    bed, model, guide = linear(num_data=4)
    chosen = [objectives.TraceELBO()]
    with pytest.raises(TypeError, match="replicates is 10; it must be an object, as in Replicates"):
        compare_estimators(model, guide, bed.x, chosen, 10)
    with pytest.raises(TypeError, match="guide is of type str; give an object that can be called"):
        compare(model, "guide", bed.x, chosen)
    found = compare(model, guide, bed.x, {1: objectives.TraceELBO()}, 4)
    assert str(found).splitlines()[1].startswith("1 ")
    with pytest.raises(
        TypeError, match="comparison is a DataFrame: give what compare_estimators returned"
    ):
        plot_estimators(found.table)


def test_a_reference_of_few_particles_says_that_it_cannot_be_judged():
    bed, model, guide = linear(1.2, num_data=4)
    for count, is_said in ((2, True), (1000, False)):
        found = compare(model, guide, bed.x, [objectives.TraceELBO()], 4, reference_particles=count)
        assert (
            "too few for a k-hat, so the reliability of log p(x) is unknown" in str(found)
        ) == is_said


def test_without_parameters_there_is_nothing_to_compare():
    bed = beds.linear_gaussian(num_data=4)
    with pytest.raises(ValueError, match="no gradient to compare"):
        compare(bed.model, bed.guide, bed.x, [objectives.TraceELBO()])


# --- cost -----------------------------------------------------------------------------------------


def test_peak_memory_counts_what_is_alive_at_once():
    weight, device = torch.ones(100, 100, requires_grad=True), torch.device("cpu")
    size = weight.numel() * 4
    assert peak_memory(lambda: (weight.detach() + 1).add_(1).view(-1).sum(), device) == size + 4
    assert (
        peak_memory(lambda: [(weight.detach() + i).sum() for i in range(5)], device) <= size + 5 * 4
    )
    assert peak_memory(lambda: [weight.detach() + i for i in range(5)], device) == 5 * size

    def step():
        weight.exp().sin().sum().backward()  # exp's output, sin's, then the gradients in their turn

    assert 3 * size <= peak_memory(step, device) <= 3 * size + 8
    weight.grad = None


def test_memory_grows_with_the_number_of_particles():
    bed, model, guide = linear()
    found = compare(
        model, guide, bed.x, [objectives.IWAE(10), objectives.IWAE(100)], 5, exact=bed.log_evidence
    ).table
    assert found["peak_memory"].iloc[1] == pytest.approx(10 * found["peak_memory"].iloc[0], rel=0.1)


# --- what it looks like ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    bed, model, guide = linear(1.4)
    names = {"ELBO": objectives.TraceELBO(), "no | way": infer.Trace_ELBO()}
    return compare(
        model, guide, bed.x, names | {"IWAE": objectives.IWAE(8)}, 20, reference_particles=100
    )


def test_the_markdown_table_has_as_many_cells_in_every_line(compared):
    lines = [line for line in compared.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {14}
    value, error = compared.table.loc["IWAE", ["value", "value_se"]]
    cell = lines[-1].split("|")[2].strip()
    assert float(cell.split(" ")[0]) == pytest.approx(value, abs=error / 10)


def test_the_text_is_aligned(compared):
    lines = str(compared).splitlines()
    assert len(lines[0]) == len(lines[1]) == len(lines[3])
    assert lines[2].startswith("no | way   not usable: ")


def test_the_tree_survives_a_file(compared, tmp_path):
    tree = compared.to_datatree()
    tree.to_netcdf(tmp_path / "comparison.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "comparison.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), tree)
    table = compared.table
    assert (
        tree["gradient"].snr.sel(group="phi", objective="IWAE").item()
        == table.loc["IWAE", "phi_snr"]
    )
    np.testing.assert_allclose(tree["draws"]["values"].mean("replicate"), table["value"])
    assert tree.attrs["reference_num_particles"] == 100


def test_the_picture_shows_the_table(compared):
    axes = plot_estimators(compared)
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == ["ELBO", "no | way\n(not usable)", "IWAE"]
    drawn = [line.get_xdata() for line in axes[0].lines if line.get_marker() == "D"]
    np.testing.assert_array_equal(drawn[0].astype(float), compared.table["value"])
    references = [
        line.get_xdata()[0] for line in axes[0].lines if line.get_label() in ("log p(x)", "ELBO")
    ]
    assert references == [compared.reference.log_evidence, compared.reference.elbo]
    assert axes[1].get_xscale() == axes[2].get_xscale() == "log"
    with pytest.raises(ValueError, match="holds 1 Axes"):
        plot_estimators(compared, axes[0])
    plt.close(axes[0].figure)


# --- the command line -----------------------------------------------------------------------------

SMALL = f"""
[data]
name = "digits"
binarize = "static"
{SMALL_NETWORKS}
[training]
num_epochs = 1
batch_size = 64

[evaluation]
num_particles = 30
num_data = 8
"""
ESTIMATORS = """
[replicates]
num_replicates = 6
reference_particles = 50

[[estimators]]
label = "plain"
name = "IWAE"

[[estimators]]
name = "IWAE"
gradient = "DoublyReparameterized"
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(path, text):
    path.write_text(text)
    return path


def test_the_command_writes_a_table_and_a_picture(tmp_path):
    config = written(tmp_path / "c.toml", SMALL + ESTIMATORS)
    result = call(
        "compare-estimators", config, "--output", tmp_path / "out", "--num-replicates", 5, "--quiet"
    )
    assert result.exit_code == 0, result.output
    assert "64 observations, 5 replicates" in result.stdout
    table = pd.read_csv(tmp_path / "out" / "table.csv", index_col="objective")
    long = "IWAE(num_particles=5, gradient=DoublyReparameterized(prior=False))"
    assert list(table.index) == ["plain", long]
    with xr.open_datatree(tmp_path / "out" / "comparison.nc", engine="h5netcdf") as tree:
        np.testing.assert_allclose(tree["value"].value, table["value"])
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"table.csv", "table.md", "comparison.nc", "estimators.png"}


def test_the_command_takes_a_finished_run(tmp_path):
    run, config = Folder(tmp_path / "run"), read_config(written(tmp_path / "run.toml", SMALL))
    run.claim(config)
    experiment = build(config)
    pv.fit(experiment.model, experiment.guide, experiment.data, training=experiment.training)
    pv.save_weights(run.weights, experiment.model, experiment.guide)
    alone = written(tmp_path / "alone.toml", ESTIMATORS)
    trained = call(
        "compare-estimators", alone, "--run", run.path, "--output", tmp_path / "a", "--quiet"
    )
    assert trained.exit_code == 0, trained.output
    both = written(tmp_path / "both.toml", SMALL + ESTIMATORS)
    for extra, folder in ((("--run", run.path), "b"), ((), "c")):
        assert (
            call(
                "compare-estimators", both, *extra, "--output", tmp_path / folder, "--quiet"
            ).exit_code
            == 0
        )
    found = [pd.read_csv(tmp_path / name / "table.csv")["value"].tolist() for name in "abc"]
    assert found[0] == found[1]
    assert min(found[1]) > max(found[2]), "an epoch of training helps"
    other = written(
        tmp_path / "other.toml", SMALL.replace("latent_dim = 2", "latent_dim = 3") + ESTIMATORS
    )
    refused = call("compare-estimators", other, "--run", run.path, "--output", tmp_path / "d")
    assert refused.exit_code == 2
    assert "posterior.latent_dim is 2, not 3" in refused.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL, "there is no [[estimators]] table"),
        (
            SMALL + '[[estimators]]\nname = "IWEA"',
            "[[estimators]] number 1: objectives has no 'IWEA': did you mean IWAE?",
        ),
        (
            SMALL + '[[estimators]]\nname = "IWAE"\ngradient = "StickingTheLanding"',
            "biased for IWAE",
        ),
        (
            SMALL + '[[estimators]]\nname = "IWAE"\n[[estimators]]\nname = "IWAE"',
            "are called 'IWAE(num_particles=5)'",
        ),
        (
            SMALL + ESTIMATORS.replace("= 6", "= 2"),
            "[replicates] Replicates(num_replicates) is 2; it must be a whole number, at least 4",
        ),
        (
            SMALL + ESTIMATORS.replace("num_replicates", "num"),
            "[replicates] Replicates takes no 'num'",
        ),
        (
            SMALL + ESTIMATORS.replace("[[estimators]]", "[[estimator]]"),
            "no table [estimator]: did you mean estimators?",
        ),
        (
            SMALL + '[estimators]\nname = "IWAE"',
            "[estimators] is a single table: write [[estimators]]",
        ),
        (SMALL + "[[estimators]]\nnum_particles = 5", "[[estimators]] number 1: name is missing"),
        (SMALL + '[objective]\nname = "IWAE"\n' + ESTIMATORS, "[objective] is not used"),
        (
            SMALL
            + '[[estimators]]\nname = "TraceELBO"\ngradient = {name = "ScoreFunction", decy = 0.5}',
            "did you mean decay? Allowed: baseline, decay",
        ),
        (ESTIMATORS, "[data] name is missing"),
        ("[data", "c.toml: "),
    ],
)
def test_what_is_wrong_with_the_file_is_said_in_a_line(text, message, tmp_path):
    result = call(
        "compare-estimators", written(tmp_path / "c.toml", text), "--output", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_as_the_folder_and_more_rows_than_there_are_are_refused_at_once(tmp_path):
    config = written(tmp_path / "c.toml", SMALL + ESTIMATORS)
    for options, message in (
        (("--output", config), "is a file"),
        (
            ("--output", tmp_path / "out", "--num-data", 10**6),
            "num_data is 1000000, the training split has",
        ),
    ):
        result = call("compare-estimators", config, *options)
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.replace("\u2502", " ").split())
        assert not (tmp_path / "out").exists()


def test_help_loads_nothing():
    code = """
import sys
from ppl_vae.cli import app
app(["compare-estimators", "--help"], standalone_mode=False)
heavy = {"torch", "pyro", "arviz", "sklearn", "numpy", "matplotlib", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ppl-vae compare-estimators examples/estimators.toml" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


# --- advice ---------------------------------------------------------------------------------------


def advised_of(snr, seconds, spread=0.05, floor=0.1):
    noise = GradientNoise(
        1.0, 0.1, snr, max(0.0, snr - spread), snr + spread, floor, snr, 0.0, 100, 5
    )
    return {"theta": noise, "phi": noise, "seconds": np.full(100, seconds), "values": np.zeros(100)}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            {"a": (1.0, 0.001), "b": (0.5, 0.001)},
            "Use a: its gradient of phi reaches the same precision in 25% of the time of b",
        ),
        (
            {"a": (1.0, 0.016), "b": (0.5, 0.001)},
            "Use b: its gradient of phi reaches the same precision in 25% of the time of a",
        ),
        (
            {"a": (1.0, 0.001), "b": (0.99, 0.001)},
            "The gradients of phi do not separate a and b",
        ),
        (
            {"a": (0.05, 0.001), "b": (0.02, 0.001)},
            "No gradient of phi can be distinguished from 0, so their order is noise",
        ),
        ({"a": (0.5, 0.001), "b": (0.02, 0.001)}, "only its gradient of phi differs from 0"),
    ],
    ids=["less noise", "cheaper", "alike", "noise", "one above its floor"],
)
def test_a_sentence_says_which_to_take(rows, said):
    found = [EstimatorRow(name, **advised_of(*each)) for name, each in rows.items()]
    assert said in advised(found)
