"""Pyro programs of every kind, unchanged: log p(x) draw by draw as Pyro's own densities give it."""

import pytest
import torch
from guides import GUIDES
from kinds import KINDS, ROWS, Sequences
from pyro import poutine

from ppl_vae import Dataset, log_weights
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import is_local, sample_sites
from ppl_vae.programs.traces import log_terms

PARTICLES = 3
ALL = KINDS | GUIDES


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pyros(kind, terms, k, rows):
    """log p - log q of Pyro's traces of the programs themselves, at the k-th draw."""
    args, named = kind.arguments(rows)
    drawn = poutine.trace(kind.guide).get_trace(*args, **named)
    for site in sample_sites(drawn):
        if not site["is_observed"]:
            ours = terms.guide_trace.nodes[site["name"]]
            value = rows_first(ours["value"], ours)[k, rows] if is_local(ours) else ours["value"]
            site["value"] = value.reshape(site["value"].shape)
    guide = poutine.trace(poutine.replay(kind.guide, trace=drawn)).get_trace(*args, **named)
    model = poutine.trace(poutine.replay(kind.model, trace=drawn)).get_trace(*args, **named)
    return model.log_prob_sum() - guide.log_prob_sum()


@pytest.mark.parametrize("name", ALL)
def test_log_weights_are_pyros_draw_by_draw(name):
    kind = ALL[name]()
    inference = Inference(kind.model, kind.guide, kind.data)
    with inference.evaluating(seed=0):
        terms = log_terms(*inference.programs, *inference.args, num_particles=PARTICLES)
        outside = terms.log_global + terms.global_likelihood
        found = kind.scale * terms.log_weights
        parts = [slice(b, b + 1) for b in range(ROWS)] if kind.of_rows else [slice(None)]
        for k in range(PARTICLES):
            for part in parts:
                expected = pyros(kind, terms, k, part)
                assert found[k, part].sum() + outside == pytest.approx(expected.item(), abs=1e-9)
    assert sample_sites(terms.guide_trace)


def test_a_hidden_markov_model_of_no_length_observes_series_of_any():
    found = []
    for duration in (4, None):
        torch.manual_seed(0)
        program = Sequences(duration=duration)
        data = Dataset(torch.randint(3, (ROWS, 4)), dtype=torch.float64)
        found.append(log_weights(program.model, program.guide, data, num_particles=2, seed=0))
    torch.testing.assert_close(*found)
