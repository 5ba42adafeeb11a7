"""What fit tells trackers and functions after every epoch, across interruptions."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae.training import Tracker

ROOT = Path(__file__).resolve().parent.parent


class Memory:
    """A tracker that keeps what it is told."""

    log_dir = None

    def __init__(self, fails_at=None):
        self.metrics = []
        self.params = []
        self.flushed = 0
        self.fails_at = fails_at

    def log_metric(self, name, value, step=None):
        raise AssertionError

    def log_metrics(self, metrics, step=None):
        if step == self.fails_at:
            raise ConnectionError("no route")
        self.metrics.append((step, metrics))

    def log_params(self, params):
        self.params.append(params)

    def add_figure(self, name, figure, step=None):
        raise AssertionError

    def flush(self):
        self.flushed += 1

    @property
    def steps(self):
        return [step for step, _ in self.metrics]


@pytest.fixture(scope="module")
def made():
    with pv.seeded(0):
        data = pv.Dataset(torch.randn(60, 4)).split(valid=0.2, test=0, seed=0)
        decoder = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.2))
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(4), decoder)
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 4)
    return model, guide, data


def trained(made, num_epochs=4, checkpoint=None, refit=False, **options):
    """A copy of model and guide after training, with its result."""
    model, guide, data = copy.deepcopy(made)
    settings = {"num_epochs": num_epochs, "batch_size": 16, "checkpoint": checkpoint}
    training = pv.Training(**settings, refit=refit, progress=False)
    return pv.fit(model, guide, data, training=training, **options), model, guide


def assert_same_weights(first, second):
    for one, other in zip(first[1:], second[1:], strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_a_tracker_is_told_the_settings_and_every_epoch(made):
    tracker = Memory()
    assert isinstance(tracker, Tracker)
    result, *_ = trained(made, tracker=tracker)
    assert tracker.steps == [1, 2, 3, 4]
    assert tracker.flushed == 4
    for name, values in result.history.items():
        if name != "epoch":
            assert [metrics[name] for _, metrics in tracker.metrics] == values
    (params,) = tracker.params
    assert params["num_epochs"] == 4
    assert params["batch_size"] == "16"
    assert "MeanFieldELBO" in params["objective"]


def test_nobody_who_watches_changes_the_numbers(made):
    """Not by draws from the global stream, estimates of log p(x), gradients or modes."""
    model, guide, data = copy.deepcopy(made)

    def meddle(record):
        torch.randn(5)
        np.random.rand()  # noqa: NPY002
        assert not model.decoder.training
        pv.log_evidence(model, guide, data.valid, num_particles=50, progress=False)
        model.train()
        record.clear()

    training = pv.Training(num_epochs=4, batch_size=16, progress=False)
    options = {"tracker": Memory(), "after_epoch": meddle}
    result = pv.fit(model, guide, data, training=training, **options)
    alone = trained(made)
    assert_same_weights(alone, (result, model, guide))
    assert result.history["valid"] == alone[0].history["valid"]


@pytest.mark.parametrize("interrupt", ["end", "after_epoch", "tracker", "step"])
def test_a_resumed_training_neither_repeats_nor_loses_epochs(
    made, tmp_path, monkeypatch, interrupt
):
    """Interrupted in or after epoch 2 in four ways, then resumed with the same tracker."""
    path = tmp_path / "checkpoint.pt"
    tracker = Memory(fails_at=3 if interrupt == "tracker" else None)
    seen = []

    def hook(record):
        seen.append(int(record["epoch"]))
        if interrupt == "after_epoch" and seen == [1, 2]:
            raise KeyboardInterrupt

    options = {"tracker": tracker, "after_epoch": hook, "checkpoint": path}
    if interrupt == "end":
        trained(made, num_epochs=2, **options)
    elif interrupt == "step":
        epochs = pv.training.loop.Run._epoch
        with monkeypatch.context() as patch:
            patch.setattr(pv.training.loop.Run, "_epoch", lambda run, n: stopped(epochs, run, n))
            with pytest.raises(KeyboardInterrupt):
                trained(made, **options)
    else:
        with pytest.raises((KeyboardInterrupt, ConnectionError)):
            trained(made, **options)
    tracker.fails_at = None
    assert_same_weights(trained(made, **options), trained(made))
    assert tracker.steps == [1, 2, 3, 4]
    assert seen == [1, 2, 3, 4]
    assert len(tracker.params) == 1


def stopped(epochs, run, number):
    """The epoch, but for the third, which is interrupted when its steps are done."""
    row = epochs(run, number)
    if number == 3:
        raise KeyboardInterrupt
    return row


def test_a_function_stops_training(made):
    result, *weights = trained(made, after_epoch=lambda record: record["epoch"] == 2)
    assert (result.num_epochs, result.stopped) == (2, "after_epoch")
    assert trained(made)[0].stopped == "finished"
    assert_same_weights((result, *weights), trained(made, after_epoch=two_epochs()))


def two_epochs():
    """A function that stops at its second call."""
    seen = []
    return lambda record: seen.append(record) or len(seen) == 2


class Pruned(Exception):
    """As Optuna's TrialPruned."""


def test_errors_keep_their_type_and_name_the_function(made):
    def prune(record):
        if record["epoch"] == 2:
            raise Pruned("trial 7")

    model, guide, data = copy.deepcopy(made)
    training = pv.Training(num_epochs=4, batch_size=16, progress=False)
    with pytest.raises(Pruned, match="^trial 7") as caught:
        pv.fit(model, guide, data, training=training, after_epoch=prune)
    assert caught.value.__notes__ == ["raised by after_epoch of fit after epoch 2"]
    assert not model.training
    assert_same_weights((None, model, guide), trained(made, after_epoch=two_epochs()))
    with pytest.raises(ConnectionError) as caught:
        trained(made, tracker=Memory(fails_at=1))
    assert caught.value.__notes__ == ["raised by tracker.log_metrics of fit after epoch 1"]


def test_a_second_training_has_names_of_its_own(made):
    tracker = Memory()
    seen = []
    result, *_ = trained(made, refit=True, tracker=tracker, after_epoch=seen.append)
    again = [step for step, metrics in tracker.metrics if "refit/train" in metrics]
    assert again == list(range(1, result.refit_epochs + 1))
    assert tracker.steps == [1, 2, 3, 4, *again]
    assert [name for name in tracker.params[1] if not name.startswith("refit/")] == []
    assert len(seen) == 4


def test_what_is_no_tracker_is_refused(made):
    with pytest.raises(TypeError, match="type str, without log_dir, log_metric, .*flush: give an"):
        trained(made, tracker="runs/demo")
    with pytest.raises(TypeError, match="after_epoch is of type int"):
        trained(made, after_epoch=3)


def test_tensorboard_through_an_adapter(made, tmp_path):
    """Its event file holds the history; the adapter is that of docs/howto/tracking.md."""
    tensorboard = pytest.importorskip(
        "torch.utils.tensorboard", reason="TensorBoard is not installed"
    )
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    page = (ROOT / "docs" / "howto" / "tracking.md").read_text(encoding="utf-8")
    names = {}
    exec(page.split("```python")[1].split("```")[0], names)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        result, *_ = trained(made, tracker=names["TensorBoard"](writer))
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    logged = read.Scalars("valid")
    assert [each.step for each in logged] == [1, 2, 3, 4]
    found = [each.value for each in logged]
    np.testing.assert_allclose(found, result.history["valid"], rtol=1e-6)
