"""Bits-back coding: exact rows, -ELBO bits, and no wrong rows from a file that is not whole."""

import numpy as np
import pytest
import torch
from cases import EVENT, LIKELIHOODS
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.tasks.compression.latents import Grid

constriction = pytest.importorskip("constriction")
NUM_ROWS = 40
MASSES = [
    name
    for name, (make, _, _) in LIKELIHOODS.items()
    if make((EVENT,)).measure == "counting" and not make((EVENT,)).is_joint
]


def pair(likelihood, latent_dim=2, prior=None, **options):
    """A model and a guide with weights that were not trained, and whose z tells something of x."""
    with pv.seeded(3):
        prior = prior or priors.StandardNormal(latent_dim)
        guide = pv.Guide(posteriors.MeanFieldNormal(latent_dim), likelihood.event_shape, **options)
        model = pv.Model(prior, likelihood, **options)
        for weights in [*model.parameters(), *guide.parameters()]:
            weights.data += 0.03 * torch.randn_like(weights)
    return model, guide


def rows_of(name, num_rows=NUM_ROWS, event=(EVENT,)):
    with pv.seeded(4):
        return LIKELIHOODS[name][1](torch.rand(num_rows, *event))


@pytest.mark.parametrize("name", MASSES)
def test_every_likelihood_of_masses_gives_the_rows_back(name):
    x = rows_of(name)
    model, guide = pair(LIKELIHOODS[name][0]((EVENT,)))
    file = pv.compress(model, guide, x, batch_size=16)
    assert torch.equal(pv.decompress(model, guide, file), x)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name not in MASSES])
def test_other_likelihoods_are_refused(name):
    model, guide = pair(LIKELIHOODS[name][0]((EVENT,)))
    with pytest.raises(ValueError, match="has a density|depend on each other"):
        pv.compress(model, guide, rows_of(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_that_are_no_binary_fractions_come_back_to_the_last_bit(dtype):
    likelihood = likelihoods.DiscretizedLogistic(EVENT, num_levels=256)
    with pv.seeded(5):
        x = torch.randint(256, (NUM_ROWS, EVENT)).to(dtype) / 255
    model, guide = pair(likelihood)
    data = pv.Dataset(x, dtype=dtype)
    model, guide = model.to(dtype), guide.to(dtype)
    back = pv.decompress(model, guide, pv.compress(model, guide, data))
    assert back.dtype == dtype
    assert torch.equal(back, x)


@pytest.mark.parametrize("num_rows", [1, 2, 17])
@pytest.mark.parametrize("batch_size", [1, 4, 10**9])
def test_any_number_of_rows(num_rows, batch_size):
    x = rows_of("Poisson", num_rows)
    model, guide = pair(likelihoods.Poisson(EVENT), latent_dim=7)
    file = pv.compress(model, guide, x, batch_size=batch_size, seed=num_rows)
    assert torch.equal(pv.decompress(model, guide, file), x)


def test_images_covariates_and_learned_priors():
    x = rows_of("Bernoulli", event=(5, 4))
    context = torch.linspace(-1, 1, NUM_ROWS).unsqueeze(1)
    data = pv.Dataset(x, context=context)
    prior = priors.ConditionalNormal(2, 1)
    model, guide = pair(likelihoods.Bernoulli((5, 4)), prior=prior, context_dim=1)
    file = pv.compress(model, guide, data)
    assert torch.equal(pv.decompress(model, guide, file, context=context), x)
    with pytest.raises(ValueError, match="context differs"):
        pv.decompress(model, guide, file, context=context.flip(0))
    with pytest.raises(ValueError, match="covariates"):
        pv.decompress(model, guide, file)


def mixture(guide, num_components, spread=3.0):
    """A mixture prior of components that are apart, of unequal weights."""
    prior = priors.GaussianMixture(guide.posterior.latent_dim, num_components)
    with torch.no_grad():
        prior.loc *= spread
        prior.logits.copy_(torch.linspace(-1, 1, num_components))
    return prior


@pytest.mark.parametrize("num_rows", [1, 2, NUM_ROWS])
@pytest.mark.parametrize("num_components", [1, 2, 9])
def test_a_mixture_prior_gives_the_rows_back(num_rows, num_components):
    x = rows_of("Poisson", num_rows)
    model, guide = pair(likelihoods.Poisson(EVENT))
    model.prior = mixture(guide, num_components)
    file = pv.compress(model, guide, x, batch_size=16)
    assert torch.equal(pv.decompress(model, guide, file), x)


def test_a_vamp_prior_gives_the_rows_back():
    x = rows_of("Bernoulli")
    model, guide = pair(likelihoods.Bernoulli(EVENT))
    model.prior = priors.VampPrior(guide, x[:7])
    assert torch.equal(pv.decompress(model, guide, pv.compress(model, guide, x)), x)


def test_mixed_tables_of_discrete_columns():
    families = {
        "smokes": likelihoods.Bernoulli,
        "visits": likelihoods.Poisson,
        "days": likelihoods.Poisson,
        "group": likelihoods.Categorical(1, 4),
    }
    model, guide = pair(likelihoods.Columns(families))
    with pv.seeded(0):
        x = torch.stack([torch.randint(top, (NUM_ROWS,)) for top in (2, 9, 30, 4)], 1).float()
    assert torch.equal(pv.decompress(model, guide, pv.compress(model, guide, x)), x)


@pytest.mark.statistical
@pytest.mark.parametrize("latent_dim", [2, 10])
@pytest.mark.parametrize(
    "name", ["Bernoulli", "NegativeBinomial", "DiscretizedLogistic", "mixture"]
)
def test_rows_take_minus_elbo_bits(name, latent_dim):
    """The cost of a row is an unbiased draw of its -log w, but for the cells of z.

    A mixture has overlapping components of equal weight: without bits back each row would cost
    up to log2(8) = 3 bits more."""
    num_rows = 2000
    is_mixture = name == "mixture"
    name = "Bernoulli" if is_mixture else name
    model, guide = pair(LIKELIHOODS[name][0]((20,)), latent_dim)
    if is_mixture:
        model.prior = mixture(guide, 8, spread=0.3)
    x = rows_of(name, num_rows, (20,))  # not from the model: the bits on the stack are masked
    if name == "NegativeBinomial":  # larger counts than those of x get no probability
        x = model.sample(num_rows)
    compressed = pv.CompressedRows.from_bytes(pv.compress(model, guide, x))
    bits = -pv.log_weights(model, guide, x, num_particles=100, seed=1).double() / np.log(2)
    error = bits.var(0).sum().sqrt() / num_rows  # one draw for each row
    cells = 0.01 * latent_dim  # bits: 24-bit probabilities and cells of 1/8 sd
    assert abs(compressed.net_bits_per_row - bits.mean()) < 4 * error + cells  # level 6e-5
    assert compressed.num_rows == num_rows


def test_a_wide_or_narrow_posterior_costs_what_it_should():
    """Cells of z: the grid holds 16 sd on either side of every mean, in cells of 1/8 sd at most."""
    for sd in (1e-3, 0.1, 1.0):
        means = torch.tensor([[-3.0], [5.0]], dtype=torch.float64)
        sds = torch.tensor([[1.0], [sd]], dtype=torch.float64)
        grid = Grid.covering(torch.zeros(1, 1).double(), torch.ones(1, 1).double(), means, sds)
        low, high = grid.values(np.array([-grid.half, grid.half])).flatten().tolist()
        assert low <= -3 - 16
        assert high >= max(5 + 16 * sd, 16)
        assert grid.steps[0] == pytest.approx(max(sd / 8, (high - low) / 2**15), rel=1e-3)


def test_damaged_files_are_never_decoded():
    model, guide = pair(likelihoods.Bernoulli(EVENT))
    file = pv.compress(model, guide, rows_of("Bernoulli"))
    rng = np.random.default_rng(0)
    for place in [*range(40), *rng.integers(len(file), size=60)]:
        damaged = bytearray(file)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="damaged|not compressed rows"):
            pv.decompress(model, guide, bytes(damaged))
    for size in (0, 10, 30, len(file) - 1):
        with pytest.raises(ValueError, match="damaged|not compressed rows"):
            pv.decompress(model, guide, file[:size])
    with pytest.raises(TypeError, match="read_bytes"):
        pv.decompress(model, guide, "file.bin")


def test_other_weights_versions_and_machines_are_refused(monkeypatch):
    model, guide = pair(likelihoods.Bernoulli(EVENT))
    file = pv.compress(model, guide, rows_of("Bernoulli"))
    room = "ppl_vae.tasks.compression"
    with monkeypatch.context() as patched:
        patched.setattr(f"{room}.codes.Codes.probe", lambda self: "another")
        with pytest.raises(ValueError, match="last digits"):
            pv.decompress(model, guide, file)
    with monkeypatch.context() as patched:
        patched.setattr(f"{room}.bits_back.LIBRARIES", ("torch",))
        patched.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
        with pytest.raises(ValueError, match="ABACUS"):
            pv.decompress(model, guide, file)
    with monkeypatch.context() as patched:
        patched.setattr(f"{room}.compressed.FORMAT", 2)
        with pytest.raises(ValueError, match="format 1, and this version reads 2"):
            pv.decompress(model, guide, file)
    next(model.parameters()).data[0] += 1e-7
    with pytest.raises(ValueError, match="other weights"):
        pv.decompress(model, guide, file)


def test_what_cannot_be_coded_is_refused_before_work():
    model, guide = pair(likelihoods.Bernoulli(EVENT))
    x = rows_of("Bernoulli")
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="missing at row 3, feature 1"):
        pv.compress(model, guide, x)
    counts, _ = pair(likelihoods.Poisson(EVENT))
    with pytest.raises(ValueError, match="count of 100,000, and compression takes counts below"):
        pv.compress(counts, guide, torch.full((2, EVENT), 1e5))
    full = pv.Guide(posteriors.FullRankNormal(2), EVENT)
    with pytest.raises(ValueError, match="independent normal latents, and the posterior"):
        pv.compress(model, full, rows_of("Bernoulli"))
    for prior in (priors.StudentT(2), priors.VampPrior(full, torch.zeros(3, EVENT))):
        other, _ = pair(likelihoods.Bernoulli(EVENT), prior=prior)
        with pytest.raises(ValueError, match="independent normal latents, and the prior"):
            pv.compress(other, guide, rows_of("Bernoulli"))
    next(guide.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="of the Guide are not finite"):
        pv.compress(model, guide, rows_of("Bernoulli"))
    with pytest.raises(ValueError, match="guide is .* must be a Guide"):
        pv.compress(model, lambda x: None, rows_of("Bernoulli"))


def test_batch_norm_and_dropout_are_at_rest():
    encoder = nn.Sequential(nn.Linear(EVENT, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    guide = pv.Guide(posteriors.MeanFieldNormal(2), EVENT, encoder)
    decoder = networks.MLP(2, (8,))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(EVENT), decoder)
    x = rows_of("Bernoulli")
    file = pv.compress(model, guide, x)
    assert torch.equal(pv.decompress(model, guide, file), x)
    assert guide.training


def test_exchanged_programs_are_named():
    with pv.seeded(0):
        model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(2))
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 2)
    with pytest.raises(ValueError, match="model is Guide.* it must be a Model"):
        pv.compress(guide, model, torch.zeros(3, 2))
