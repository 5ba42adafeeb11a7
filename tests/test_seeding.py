"""A stream of its own: the one that torch.manual_seed starts, without what else that call does."""

import threading
import traceback

import pytest
import torch
from soak.pairs import soak

from ppl_vae.programs.modules import own_parameters
from ppl_vae.runtime.seeding import Stream, derived_seed, seeded


def test_it_is_the_stream_of_that_seed_and_the_callers_is_left_alone():
    before = torch.get_rng_state()
    with seeded(3):
        inside = torch.randn(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.manual_seed(3) and torch.randn(5))


def test_the_callers_stream_is_left_alone_by_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3):
        torch.randn(5).reshape(2, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a CUDA device nothing is put off")
def test_nothing_is_kept_for_devices_that_are_not_there(monkeypatch):
    """`torch.manual_seed` formats and keeps the stack of each call, to seed devices should they
    ever be used."""

    def fails():
        raise AssertionError("a stack trace was made")

    monkeypatch.setattr(traceback, "format_stack", fails)
    for seed in range(3):
        with seeded(seed):
            torch.randn(1)


def test_a_part_of_a_job_without_a_seed_has_none():
    assert derived_seed(None, Stream.STEPS, 3) is None
    assert derived_seed(5, Stream.STEPS, 3) == derived_seed(5, 1, 3)


def test_fits_in_two_threads_end_as_they_do_alone():
    assert soak(3)["wrong"] == []


def test_a_thread_waits_for_the_store_that_all_share():
    entered = threading.Event()

    def enter():
        with own_parameters(torch.nn.Linear(1, 1)):
            entered.set()

    other = threading.Thread(target=enter)
    with own_parameters(torch.nn.Linear(1, 1)):
        other.start()
        assert not entered.wait(0.1)
    other.join()
    assert entered.is_set()
