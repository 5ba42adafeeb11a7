"""What `after_epoch` changes in a model or guide has the same effect with and without graphs."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.training import step

GLOBAL = {"scale": 1.0}
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(30, 2)) @ RNG.normal(size=(2, 3))).astype("float32")


class Decoder(nn.Module):
    """Linear, times one for each place in which a program may keep a number."""

    of_class = 1.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 4)
        self.attribute = 1.0
        self.nested = {"a": [1.0]}
        self.tensors = [torch.tensor(1.0)]
        self.at_rest = 1.0
        self.is_frozen = False
        self.register_buffer("buffer", torch.tensor(1.0))

    def forward(self, z):
        features = self.linear(z)
        if self.is_frozen:
            features = features.detach()
        if not self.training:
            features = features * self.at_rest
        scale = self.attribute * GLOBAL["scale"] * type(self).of_class * self.nested["a"][0]
        return features * scale * self.tensors[0] * self.buffer


def replace_buffer(decoder, value):
    decoder.buffer = torch.tensor(value)


CHANGES = {
    "attribute": lambda decoder, value: setattr(decoder, "attribute", value),
    "global": lambda decoder, value: GLOBAL.update(scale=value),
    "class": lambda decoder, value: setattr(Decoder, "of_class", value),
    "nested": lambda decoder, value: decoder.nested["a"].__setitem__(0, value),
    "tensor in a list": lambda decoder, value: decoder.tensors.__setitem__(0, torch.tensor(value)),
    "buffer replaced": replace_buffer,
    "gradient alone": lambda decoder, value: setattr(decoder, "is_frozen", value != 1.0),
    "evaluation alone": lambda decoder, value: setattr(decoder, "at_rest", value),
}
FOLLOWED = {  # by a graph as it is
    "nothing": lambda decoder, value: None,
    "buffer": lambda decoder, value: decoder.buffer.fill_(value),
    "weights": lambda decoder, value: decoder.linear.weight.detach().clamp_(-0.1, 0.1),
    "unused attribute": lambda decoder, value: setattr(decoder, "epoch", value),
}


@pytest.fixture(autouse=True)
def restored(monkeypatch, caplog):
    monkeypatch.setattr(step, "FEWEST_STEPS_TO_RECORD", 1)
    caplog.set_level(logging.INFO, logger="ppl_vae")
    yield
    GLOBAL["scale"] = 1.0
    Decoder.of_class = 1.0


def programs():
    with pv.seeded(0):
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(3), Decoder())
        return model, pv.Guide(pv.posteriors.MeanFieldNormal(2), 3)


def trained(change, compile, num_epochs=3, at=(2,)):
    """History and weights of a training in which a callback changes something at some epochs."""
    GLOBAL["scale"] = 1.0
    Decoder.of_class = 1.0
    model, guide = programs()

    def after_epoch(record):
        if record["epoch"] in at:
            change(model.decoder, 1.0 + record["epoch"] / 4)

    data = pv.Dataset(X, splits={"train": range(20), "valid": range(20, 30)})
    training = pv.Training(
        num_epochs=num_epochs,
        batch_size=10,
        learning_rate=1e-2,
        progress=False,
        compile=compile,
    )
    history = pv.fit(model, guide, data, training=training, after_epoch=after_epoch).history
    rows = torch.tensor([history[name] for name in ("train", "valid", "rate")])
    weights = [p.detach() for part in (model, guide) for p in part.parameters()]
    return rows, torch.cat([each.view(-1) for each in weights])


def assert_same(change, **settings):
    for one, other in zip(
        trained(change, "auto", **settings), trained(change, False, **settings), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_the_graph(name, caplog):
    assert_same(CHANGES[name])
    said = "after_epoch changed what model or guide computes after epoch 2: graphs are recorded"
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_graph_stays_in_use_where_it_follows_a_change(name, caplog):
    assert_same(FOLLOWED[name], at=(1, 2))
    assert "training step recorded" in caplog.text
    assert "after_epoch changed" not in caplog.text


def test_programs_that_change_at_every_epoch_are_left_to_the_handlers(caplog):
    assert_same(CHANGES["attribute"], num_epochs=5, at=range(1, 5))
    assert caplog.text.count("graphs are recorded afresh") == 2
    assert caplog.text.count("after epoch 3: no graph is used from now on") == 1


def freeze(decoder, value):
    decoder.linear.weight.requires_grad_(False)


def replace(decoder, value):
    decoder.linear.weight = nn.Parameter(torch.ones(4, 2))


def add(decoder, value):
    decoder.more = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("compile", "change", "done"),
    [
        ("auto", freeze, "froze or removed"),
        (False, freeze, "froze or removed"),
        (False, replace, "replaced"),
        (False, add, "added or made trainable"),
    ],
)
def test_parameters_that_are_frozen_or_replaced_are_named(compile, change, done):
    said = rf"after_epoch {done} the parameter model.decoder.* after epoch 1, and fit trains"
    with pytest.raises(ValueError, match=said):
        trained(change, compile, at=(1,))


def test_parameters_may_be_frozen_where_no_step_follows():
    trained(freeze, False, at=(3,))
