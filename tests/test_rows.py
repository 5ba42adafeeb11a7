"""A row's numbers are its own: networks see one batch dim, and networks that mix rows are
refused."""

import pytest
import torch
from torch import nn

from ppl_vae import Guide, Model, likelihoods, log_weights, posteriors, priors
from ppl_vae.programs.traces import log_terms
from tests.cases import data_for

WIDTH = 6  # of what a network reads: latents for a decoder, features for an encoder


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d())


class LastState(nn.Module):
    """An LSTM over the inputs as a sequence; its features are the last hidden state."""

    def __init__(self, batch_first):
        super().__init__()
        self.lstm = nn.LSTM(2, 5, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x):
        states, _ = self.lstm(x.view(len(x), 3, 2))
        return states[:, -1] if self.batch_first else states.flatten(1)


class View(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.view(*self.shape)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def attention(batch_first):
    layer = nn.TransformerEncoderLayer(3, 1, 8, dropout=0.5, batch_first=batch_first)
    return nn.Sequential(nn.Unflatten(1, (2, 3)), layer, nn.Flatten())


def image(*layers):
    return nn.Sequential(nn.Linear(WIDTH, 32), nn.Unflatten(1, (2, 4, 4)), *layers)


NETWORKS = {
    "linear": lambda: nn.Linear(WIDTH, 8),
    "softmax over features": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Softmax(dim=1)),
    "unflatten": lambda: nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Conv1d(3, 4, 1), nn.Flatten()),
    "flatten": lambda: nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 8)),
    "view": lambda: nn.Sequential(View(-1, 3, 2), nn.Linear(2, 4), View(-1, 12)),
    "batch norm": lambda: nn.Sequential(nn.Linear(WIDTH, 64), nn.BatchNorm1d(64)),
    "batch norm of images": lambda: image(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1)),
    "layer norm": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.LayerNorm(8)),
    "group norm": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.GroupNorm(2, 8)),
    "instance norm": lambda: image(nn.InstanceNorm2d(2)),
    "deconvolution": lambda: image(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Dropout2d(0.5)),
    "dropout": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.9)),
    "attention": lambda: attention(True),
    "LSTM": lambda: LastState(True),
    "lazy": lazy,
}
MIXING = {
    "softmax over rows": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.Softmax(dim=0)),
    "view across rows": lambda: View(-1, 3),
    "one row": lambda: View(1, -1),
    "attention": lambda: attention(False),
    "LSTM": lambda: LastState(False),
    "statistics of the batch": lambda: image(nn.BatchNorm2d(2, track_running_stats=False)),
}


def vae(network, as_encoder):
    """A model and a guide with this network as decoder, or as encoder."""
    torch.manual_seed(0)
    encoder, decoder = (network, nn.Linear(2, 4)) if as_encoder else (nn.Linear(4, 8), network)
    latent_dim, width = (2, WIDTH) if as_encoder else (WIDTH, 4)
    guide = Guide(posteriors.FullRankNormal(latent_dim), width, encoder)
    return Model(priors.StandardNormal(latent_dim), likelihoods.Bernoulli(width), decoder), guide


def moved(model, guide):
    """Batch norms whose running statistics are no longer those of N(0, 1)."""
    for part in (*model.modules(), *guide.modules()):
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    return model.double().eval(), guide.double().eval()


@pytest.mark.parametrize("as_encoder", [False, True], ids=["decoder", "encoder"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("num_particles", "num_rows"), [(1, 1), (1, 64), (7, 5), (64, 1), (64, 64)]
)
def test_a_row_has_the_log_weight_that_it_has_alone(name, as_encoder, num_particles, num_rows):
    model, guide = moved(*vae(NETWORKS[name](), as_encoder))
    x = data_for("Bernoulli", num_rows, event=guide.event_shape[0]).double()
    with torch.no_grad():
        together = log_terms(model, guide, x, num_particles=num_particles)
        z = together.guide_trace.nodes["z"]["value"]
        for row in {0, num_rows // 2, num_rows - 1}:
            alone = model.decode(z[:, row : row + 1]).log_prob(x[row : row + 1])
            torch.testing.assert_close(together.log_likelihood[:, row : row + 1], alone)
            single = model.decode(z[0, row]).log_prob(x[row])
            torch.testing.assert_close(together.log_likelihood[0, row], single)
            log_q = guide.encode(x[row : row + 1]).log_prob(z[:, row : row + 1])
            torch.testing.assert_close(together.log_q[:, row : row + 1], log_q)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_keep_any_batch_dims(name):
    model, guide = moved(*vae(NETWORKS[name](), as_encoder=False))
    z = torch.randn(3, 2, 5, WIDTH, dtype=torch.float64)
    expected = model.decode(z.flatten(0, 2)).mean.detach()
    torch.testing.assert_close(model.decode(z).mean.detach().flatten(0, 2), expected)
    x = torch.rand(3, 2, 4, dtype=torch.float64)
    expected = guide.encode(x.flatten(0, 1)).mean.detach()
    torch.testing.assert_close(guide.encode(x).mean.detach().flatten(0, 1), expected)


@pytest.mark.parametrize("as_encoder", [False, True], ids=["decoder", "encoder"])
@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_rows_is_refused(name, as_encoder):
    role = "encoder" if as_encoder else "decoder"
    with pytest.raises(ValueError, match=f"^the {role} mixes rows: .*batch_first=True"):
        vae(MIXING[name](), as_encoder)


def test_a_network_that_cannot_read_one_row_is_refused():
    network = nn.BatchNorm1d(WIDTH, track_running_stats=False)
    with pytest.raises(
        ValueError,
        match=r"^the encoder cannot read inputs of shape \(\*, 6\): Expected more than 1",
    ):
        vae(network, as_encoder=True)


def test_a_prior_that_mixes_rows_is_refused():
    class Ranked(priors.LearnedNormal):
        def forward(self, context=None):
            return super().forward(context - context.mean(0))

    with pytest.raises(ValueError, match="^the prior mixes rows"):
        Model(Ranked(2, context_dim=3), likelihoods.Bernoulli(4), context_dim=3)


def test_a_row_that_comes_out_as_many_is_named():
    model, guide = vae(nn.Linear(WIDTH, 8), as_encoder=False)
    model.decoder = View(-1, 3)
    with pytest.raises(ValueError, match="View returns 6 rows for 3 rows of input"):
        log_weights(model, guide, torch.zeros(3, 4), seed=0)


@pytest.mark.parametrize(
    "network", [Noise(), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(WIDTH))]
)
def test_building_leaves_random_streams_modes_and_buffers_alone(network):
    buffers = [buffer.clone() for buffer in network.buffers()]
    network.train()
    list(network.modules())[-1].training = False  # one part at rest, as a frozen one is
    modes = [part.training for part in network.modules()]
    torch.manual_seed(3)
    expected = torch.rand(2)
    guide = Guide(posteriors.MeanFieldNormal(2), WIDTH, nn.Identity())
    torch.manual_seed(3)
    Guide(posteriors.MeanFieldNormal(2), WIDTH, nn.Identity())
    after_plain = torch.rand(2)
    torch.manual_seed(3)
    guide = Guide(posteriors.MeanFieldNormal(2), WIDTH, network)
    assert torch.equal(torch.rand(2), after_plain), (
        "beside the link's initial weights nothing is drawn"
    )
    assert not torch.equal(after_plain, expected)
    assert [part.training for part in guide.encoder.modules()] == modes
    assert all(torch.equal(*pair) for pair in zip(network.buffers(), buffers, strict=True))
