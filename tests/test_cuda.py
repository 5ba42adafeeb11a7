"""The same on a GPU: steps in every way, streamed rows, log p(x) of a bed where it is known."""

import logging

import numpy as np
import pytest
import torch
from cases import LIKELIHOODS, OBJECTIVES, POSTERIORS, PRIORS, data_for, vae

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.importance import log_weights
from ppl_vae.training import step

DEVICE = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def bounds(data, *, objective=None, **settings):
    """Training bounds of two annealed epochs on the GPU, from the same start."""
    torch.manual_seed(0)
    settings = {
        "num_epochs": 2,
        "batch_size": 32,
        "kl_warmup_epochs": 2,
        "progress": False,
    } | settings
    training = pv.Training(device=DEVICE, **settings)
    result = pv.fit(*vae(), data, objective=objective, training=training)
    return torch.tensor(result.history["train"])


SAID = {"auto": "recorded", True: "compiled", "cudagraphs": "replayed as a CUDA graph"}
RECORDED = [("auto", name) for name in OBJECTIVES if name != "MCEM"]
COMPILED = [(how, name) for how in (True, "cudagraphs") for name in ("MeanFieldELBO", "IWAE")]


@pytest.mark.parametrize(("how", "name"), RECORDED + COMPILED)
def test_every_way_of_a_step_gives_the_same_bounds(how, name, monkeypatch, caplog):
    monkeypatch.setattr(step, "FEWEST_STEPS_TO_RECORD", 1)
    caplog.set_level(logging.INFO, logger="ppl_vae")
    data = pv.Dataset(data_for("Bernoulli", 80))
    eager, found = (bounds(data, objective=OBJECTIVES[name](), compile=way) for way in (False, how))
    assert f"training step {SAID[how]} (" in caplog.text
    assert torch.allclose(found, eager, rtol=1e-4)


def test_bfloat16_is_close():
    data = pv.Dataset(data_for("Bernoulli", 64))
    assert torch.allclose(bounds(data, dtype="bfloat16"), bounds(data), rtol=5e-3)


def test_rows_in_a_file_are_the_rows_in_memory(tmp_path):
    x = data_for("Bernoulli", 64).numpy().astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    data = pv.Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert torch.equal(bounds(data), bounds(pv.Dataset(torch.from_numpy(x).float())))


@pytest.mark.parametrize(
    "families",
    [
        *({"prior": name} for name in PRIORS),
        *({"likelihood": name} for name in LIKELIHOODS),
        *({"posterior": name} for name in POSTERIORS),
    ],
    ids=str,
)
def test_every_family_is_evaluated_where_it_is(families):
    likelihood = families.get("likelihood", "Bernoulli")
    model, guide = vae(**families)
    x = data_for(likelihood, 8)
    found = (
        log_weights(model.to(DEVICE), guide.to(DEVICE), x.to(DEVICE), num_particles=2_000, seed=0)
        .cpu()
        .double()
    )
    here = log_weights(model.cpu(), guide.cpu(), x, num_particles=2_000, seed=0).double()
    error = ((found.var(0) + here.var(0)) / 2_000).sqrt()
    assert ((found.mean(0) - here.mean(0)).abs() < 4.5 * error + 1e-4).all()  # 8 rows: level 6e-5


@pytest.mark.parametrize("compile", [False, True])
def test_log_evidence_of_a_bed(compile):
    """The guide is the exact posterior: each log-weight is log p(x)."""
    bed = beds.linear_gaussian(num_data=20)
    settings = pv.ImportanceSampling(num_particles=200, compile=compile)
    model, guide = bed.model.to(DEVICE), bed.guide.to(DEVICE)
    evidence = pv.log_evidence(model, guide, bed.x.to(DEVICE), method=settings, progress=False)
    assert np.allclose(evidence.log_evidence, bed.log_evidence.numpy(), atol=1e-3)
