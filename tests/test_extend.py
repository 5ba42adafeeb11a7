"""Extensions written outside the package, as on docs/howto/extend.md, against exact answers."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.report import Findings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "howto" / "extend.md"


@pytest.fixture(scope="module")
def page():
    """The names that the page's code defines, run from top to bottom."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "extensions"}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    return names


def test_the_likelihood_has_the_density_of_scipy(page):
    likelihood = page["Exponential"](2)
    likelihood.build((3,))
    likelihood.double()
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.tensor([[0.1, 4.0]]).double().expand(5, 2)
    mean = likelihood(features).mean.detach().numpy()
    expected = stats.expon.logpdf(x.numpy(), scale=mean).sum(-1)
    assert likelihood(features).log_prob(x).detach().numpy() == pytest.approx(expected, abs=1e-12)


def test_the_likelihood_serves_the_whole_library(page):
    evidence, model, data = page["evidence"], page["model"], page["data"]
    assert evidence.measure == "lebesgue"
    assert evidence.is_estimate.mean() > 0.9
    marginals = stats.expon.logpdf(data.x.numpy(), scale=np.nanmean(data.x.numpy(), 0))
    assert evidence.log_evidence.mean() == pytest.approx(np.nansum(marginals, 1).mean(), abs=0.2)
    with pytest.raises(ValueError, match="use NaN for missing values"):
        pv.log_evidence(model, page["guide"], -data.x, progress=False)


def test_the_objective_is_its_formula_and_a_lower_bound(page):
    bed = beds.linear_gaussian(num_data=1, guide_scale=1.3)
    log_w = pv.log_weights(bed.model, bed.guide, bed.x, num_particles=50_000, seed=0)
    groups = log_w.reshape(5, -1, 1)  # (K, replicates, B)
    found = page["PenalizedIWAE"]().reduce(groups).flatten().numpy()
    weights = groups[..., 0].numpy()
    expected = np.log(np.exp(weights).mean(0)) - 0.1 * weights.var(0, ddof=1)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found.mean() < bed.log_evidence.item()


def test_the_objective_is_exact_with_the_exact_posterior(page):
    bed = beds.linear_gaussian(num_data=3)
    loss = page["PenalizedIWAE"](num_particles=4).loss(bed.model, bed.guide, bed.x)
    assert -loss == pytest.approx(bed.log_evidence.sum().item(), abs=1e-8)


def test_the_evidence_method_covers_the_exact_value(page):
    bed = beds.linear_gaussian(num_data=400, guide_scale=1.3)
    method = page["Repeated"](ImportanceSampling(100), times=40)
    found = pv.log_evidence(bed.model, bed.guide, bed.x, method, seed=0, progress=False)
    z = (found.log_evidence - bed.log_evidence.numpy()) / found.mc_se
    # Student's t with 39 degrees of freedom: 95 % of 400 rows within 2.02 se, level 0.001
    inside = int((np.abs(z) < stats.t.ppf(0.975, 39)).sum())
    assert stats.binom.ppf(0.0005, 400, 0.95) <= inside <= stats.binom.ppf(0.9995, 400, 0.95)
    assert (found.num_used == 4000).all()


@pytest.mark.parametrize(("zeros", "verdict"), [(0, "pass"), (10, "look"), (60, "fail")])
def test_the_diagnosis_judges_its_share(page, zeros, verdict):
    diagnosis = page["zeros"]
    x = torch.ones(100, 2)
    x.flatten()[:zeros] = 0.0
    found = Findings(SimpleNamespace(rows=pv.Dataset(x)), [*page["DIAGNOSES"], diagnosis])
    check = diagnosis.rules[0].check(found, diagnosis.title)
    assert (check.verdict, check.value, check.panel) == (verdict, zeros / 200, "zeros")
    assert diagnosis.titled_panel(found).says == [f"{zeros / 200:.1%} of the values are zero."]
