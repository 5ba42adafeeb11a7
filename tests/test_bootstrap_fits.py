"""Bootstrap fits carry the sampling variance of theta, and leave the fitted model alone."""

import copy
import os
import pickle
import signal
from dataclasses import replace

import joblib
import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae.errors import WorkerError
from ppl_vae.objectives import MeanFieldELBO
from ppl_vae.runtime.seeding import derived_seed
from ppl_vae.tasks.imputation import Fits, bootstrap_fits
from ppl_vae.tasks.imputation.fits import Bootstrap, _Work
from ppl_vae.training.schedules import Cosine
from ppl_vae.training.step import RecordedStep

NUM_ROWS, NUM_COLUMNS = 100, 6
FEW = pv.Training(num_epochs=3, batch_size=NUM_ROWS, learning_rate=1e-2, progress=False)


@pytest.fixture(scope="module")
def trained():
    """A linear-Gaussian model of columns with unlike units, its guide and its rows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(NUM_ROWS, NUM_COLUMNS)) + rng.normal(size=(NUM_ROWS, 1))
    data = pv.Dataset(100 + x * 10.0 ** np.arange(-2, 4), dtype=torch.float64)
    with pv.seeded(0):
        likelihood = pv.likelihoods.Gaussian(NUM_COLUMNS)
        prior = pv.priors.StandardNormal(1)
        model = pv.Model(prior, likelihood, torch.nn.Identity(), start=data).double()
        posterior = pv.posteriors.MeanFieldNormal(1)
        guide = pv.Guide(posterior, NUM_COLUMNS, torch.nn.Identity(), start=data).double()
    training = pv.Training(
        num_epochs=150, batch_size=NUM_ROWS, learning_rate=Cosine(5e-2), progress=False
    )
    pv.fit(model, guide, data, training=training)
    return model, guide, data


def states(fits):
    return [
        torch.cat([each.double().flatten() for part in pair for each in part.state_dict().values()])
        for pair in fits
    ]


@pytest.mark.statistical
def test_the_mean_varies_between_fits_as_between_samples(trained):
    model, guide, data = trained
    training = pv.Training(num_epochs=60, batch_size=NUM_ROWS, learning_rate=Cosine(0.1))
    fits = bootstrap_fits(model, guide, data, training=training, num_fits=40)
    means = torch.stack(
        [pair[0].decode(torch.zeros(1, 1).double()).mean[0] for pair in fits]
    ).detach()
    x = data.x.numpy()
    ratios = means.numpy().var(0, ddof=1) / (x.var(0) / NUM_ROWS)
    # The columns correlate by 1/2, and squares of their means by 1/4.
    error = np.sqrt(2 / 39 * (1 + (NUM_COLUMNS - 1) / 4) / NUM_COLUMNS)
    assert abs(ratios.mean() - 1) < 3 * error
    # Fit i has the mean of its own sample, and its noise is that of a few gradients.
    samples = np.stack([x[sample_rows(i)].mean(0) for i in range(40)])
    noise = ((means.numpy() - samples) ** 2).mean(0) / (x.var(0) / NUM_ROWS)
    assert noise.max() < 0.1


def sample_rows(i):
    rng = np.random.default_rng(derived_seed(0, i))
    return rng.integers(NUM_ROWS, size=NUM_ROWS)


def test_the_fitted_model_and_the_units_stay(trained):
    model, guide, data = trained
    before = copy.deepcopy([model.state_dict(), guide.state_dict()])
    fits = bootstrap_fits(model, guide, data, training=FEW, num_fits=2)
    for part, kept in zip((model, guide), before, strict=True):
        assert all(torch.equal(kept[name], each) for name, each in part.state_dict().items())
    for pair in fits:
        for part, kept in zip(pair, before, strict=True):
            assert not part.training
            changed = {n for n, p in part.named_parameters() if not torch.equal(p, kept[n])}
            assert changed == dict(part.named_parameters()).keys()
            assert all(torch.equal(b, kept.get(name, b)) for name, b in part.named_buffers())
    assert fits[0][0] is not fits[0][0]


def test_fits_do_not_depend_on_the_number_of_jobs(trained):
    model, guide, data = trained
    alone = bootstrap_fits(model, guide, data, training=FEW, num_fits=3)
    with joblib.parallel_config("threading"):  # processes would take seconds to start
        shared = bootstrap_fits(model, guide, data, training=FEW, num_fits=3, num_jobs=2)
    for one, other in zip(states(alone), states(shared), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(states(alone)[0], states(alone)[1])
    work = _Work(model, guide, data, MeanFieldELBO(), FEW, Bootstrap(progress=False))
    sent = pickle.loads(pickle.dumps(work)).share([1])  # as a process gets it
    torch.testing.assert_close(sent[1], alone.weights[1], rtol=1e-9, atol=1e-9)


def test_a_recorded_step_serves_all_fits(trained, monkeypatch):
    model, guide, data = trained
    x = data.x.clone()
    x[3, 0] = torch.nan  # a sample without this row has no missing values
    slow = bootstrap_fits(model, guide, x, training=FEW, num_fits=3)
    monkeypatch.setattr("ppl_vae.training.step.FEWEST_STEPS_TO_RECORD", 9)
    made = []
    graph = RecordedStep._graph
    monkeypatch.setattr(
        RecordedStep, "_graph", lambda *given: made.append(graph(*given)) or made[-1]
    )
    fast = bootstrap_fits(model, guide, x, training=FEW, num_fits=3)
    assert [each is not None for each in made] == [True]
    for one, other in zip(states(slow), states(fast), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_finished_fits_are_kept_in_a_folder(trained, tmp_path, monkeypatch):
    model, guide, data = trained
    first = bootstrap_fits(model, guide, data, training=FEW, num_fits=2, folder=tmp_path)
    (tmp_path / "fit-001.pt").unlink()
    made = []
    fit = _Work._fit
    monkeypatch.setattr(_Work, "_fit", lambda *given: made.append(given[-1]) or fit(*given))
    again = bootstrap_fits(model, guide, data, training=FEW, num_fits=3, folder=tmp_path)
    assert made == [1, 2]
    for one, other in zip(states(first), states(again), strict=False):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="with other rows"):
        bootstrap_fits(model, guide, data.x[:50], training=FEW, num_fits=1, folder=tmp_path)


def test_fits_go_through_a_file(trained, tmp_path):
    model, guide, data = trained
    fits = bootstrap_fits(model, guide, data, training=FEW, num_fits=2)
    again = Fits.load(fits.save(tmp_path / "fits.pt"), model, guide)
    assert repr(again) == "Fits(2 fits of Model and Guide)"
    assert all(map(torch.equal, states(fits), states(again)))
    assert len(again[1:]) == 1
    with pytest.raises(ValueError, match="does not fit"):
        Fits.load(tmp_path / "fits.pt", guide, model)


def test_programs_without_weights_are_refused(trained):
    _, guide, data = trained
    with pytest.raises(TypeError, match="model is of type function"):
        bootstrap_fits(lambda x: x, guide, data)


def test_test_rows_are_not_sampled(trained):
    model, guide, data = trained
    splits = {"train": range(50), "test": range(60, NUM_ROWS), "valid": range(50, 60)}
    fits = bootstrap_fits(model, guide, data.with_splits(splits), training=FEW, num_fits=1)
    alone = bootstrap_fits(model, guide, data[:60], training=FEW, num_fits=1)
    torch.testing.assert_close(states(fits)[0], states(alone)[0])


def test_rows_are_taken_in_the_float_type_of_the_model(trained):
    model, guide, data = trained
    single = pv.Dataset(data.x.float(), dtype=torch.float32)
    fits = bootstrap_fits(model, guide, single, training=FEW, num_fits=1)
    assert {p.dtype for p in fits[0][0].parameters()} == {torch.float64}


@pytest.mark.filterwarnings("ignore:resource_tracker:UserWarning")
def test_a_killed_worker_is_told_in_one_line(trained):
    """An optimiser that kills its process, as the system does where memory is short."""
    model, guide, data = trained
    deadly = replace(FEW, optimizer=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with (
        joblib.parallel_config("loky", n_jobs=2),
        pytest.raises(WorkerError, match=r"^a worker process was killed.*: lower num_jobs, and"),
    ):
        bootstrap_fits(model, guide, data, training=deadly, num_fits=2, num_jobs=2)
