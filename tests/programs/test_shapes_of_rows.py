"""Sizes and names of plates, scalars, and what is refused about them in words."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from ppl_vae.refinement import GradientRefinement

FEW = GradientRefinement(num_steps=2)
QUIET = {"progress": False}


def rows(num=30, shape=()):
    torch.manual_seed(0)
    return pv.Dataset(torch.randn(num, *shape, dtype=torch.float64), dtype=torch.float64)


def guide(x, plate="n", name="z", scale=0.45):
    with pyro.plate(plate, len(x)):
        pyro.sample(name, dist.Normal(0.8 * x, scale))


def shared(x):
    mu = pyro.sample("data", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 0.7))
        pyro.sample("obs", dist.Normal(z, 0.5), obs=x)


def of_shared(x):
    mu = pyro.sample("data", dist.Normal(x.new_zeros(()), 0.03))
    with pyro.plate("n", len(x)):
        pyro.sample("z", dist.Normal(0.66 * x + 0.33 * mu, 0.41))


@pytest.mark.filterwarnings("ignore:'data' lies outside")
def test_a_shared_latent_may_be_named_data_and_rows_be_taken_one_by_one():
    x = rows(6)
    refined = pv.refine(shared, of_shared, x, FEW, **QUIET)
    for chunk_size in (40, None):
        found = pv.log_evidence(
            shared, refined, x, num_particles=40, chunk_size=chunk_size, **QUIET
        )
        assert torch.as_tensor(found.log_evidence).isfinite().all()
    tree = pv.to_datatree(shared, refined, x, num_samples=40, **QUIET)
    assert tree["posterior"]["data"].shape == (1, 40)


def test_a_latent_of_the_rows_may_be_named_data():
    def model(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("data", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x)

    x = rows(4)
    refined = pv.refine(model, lambda x: guide(x, name="data"), x, FEW, **QUIET)
    found = pv.log_evidence(model, refined, x, num_particles=400, **QUIET)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x.x.reshape(-1))
    assert (abs(found.log_evidence - exact.numpy()) <= 5 * found.mc_se + 1e-6).all()


def test_an_inner_plate_of_as_many_entries_as_the_rows_looked_at():
    def model(x):
        with pyro.plate("people", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("time", 4, dim=-2):
                pyro.sample("obs", dist.Normal(z, 0.5), obs=x.transpose(-1, -2))

    def of_people(x):
        with pyro.plate("people", len(x)):
            pyro.sample("z", dist.Normal(0.9 * x.mean(-1), 0.3))

    x = rows(10, (4,))
    found = pv.log_evidence(model, of_people, x, num_particles=400, **QUIET)
    covariance = 0.25 * torch.eye(4, dtype=torch.float64) + 1
    exact = dist.MultivariateNormal(x.x.new_zeros(4), covariance).log_prob(x.x)
    assert (abs(found.log_evidence - exact.numpy()) <= 5 * found.mc_se + 1e-6).all()


def in_plate(size, **options):
    def model(x):
        with pyro.plate("n", size or len(x), **options):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x)

    return model


def test_a_plate_of_a_fixed_size_takes_all_rows_at_once():
    def of_fixed(x):
        with pyro.plate("n", 30):
            pyro.sample("z", dist.Normal(0.8 * x, 0.45))

    x = rows()
    found = pv.log_evidence(in_plate(30), of_fixed, x, num_particles=300, **QUIET)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x.x.reshape(-1))
    assert (abs(found.log_evidence - exact.numpy()) <= 5 * found.mc_se + 1e-6).all()
    with pytest.raises(ValueError, match="'n' holds 30 of .* rows at site 'z': its size is fixed"):
        pv.log_evidence(in_plate(30), of_fixed, x, num_particles=1_000, **QUIET)


SUBSAMPLED = {
    "fit": lambda *each: pv.fit(*each, training=pv.Training(num_epochs=1, batch_size=7)),
    "log_evidence": lambda *each: pv.log_evidence(*each, **QUIET),
    "evidence_interval": lambda *each: pv.evidence_interval(*each, **QUIET),
    "to_datatree": lambda *each: pv.to_datatree(*each, **QUIET),
    "calibration": lambda *each: pv.calibration(*each, num_data=40, **QUIET),
    "refine": lambda *each: pv.refine(*each, **QUIET),
}


def by_row(size):
    """A guide of a subsample, with parameters for each row."""

    def guide(x):
        loc = pyro.param("loc", x.new_zeros(len(x)))
        with pyro.plate("n", len(x), subsample_size=size) as i:
            pyro.sample("z", dist.Normal(loc[i], 0.45))

    return guide


@pytest.mark.parametrize("task", SUBSAMPLED)
@pytest.mark.parametrize("has_parameters", [False, True])
def test_a_plate_that_subsamples_itself_is_named(task, has_parameters):
    def model(x):
        with pyro.plate("n", len(x), subsample_size=10) as i:
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x[i])

    def amortised(x):
        with pyro.plate("n", len(x), subsample_size=10) as i:
            pyro.sample("z", dist.Normal(0.8 * x[i], 0.45))

    message = "^.{0,60}a plate that subsamples itself takes all rows"
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=message):
        SUBSAMPLED[task](model, by_row(10) if has_parameters else amortised, rows())
    pyro.clear_param_store()


def test_an_observation_outside_the_plate_is_named():
    def model(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("obs", dist.Normal(z, 0.5).to_event(1), obs=x)

    with pytest.raises(ValueError, match="no observed site .* in a plate over the rows.*'n'"):
        pv.log_evidence(model, guide, rows(), **QUIET)


def test_a_factor_outside_the_plate_leaves_scalars_as_they_are():
    def model(x):
        pyro.factor("prior", x.new_zeros(()))
        in_plate(0)(x)

    found = pv.log_evidence(model, guide, rows(), num_particles=300, **QUIET)
    assert len(found) == 30


def test_a_marked_latent_without_a_list_of_values_is_named():
    def model(x):
        with pyro.plate("n", len(x)):
            k = pyro.sample("k", dist.Poisson(3.0), infer={"enumerate": "parallel"})
            pyro.sample("obs", dist.Normal(k.to(x), 0.5), obs=x)

    with pytest.raises(ValueError, match="site 'k', Poisson, is marked .* no list of values"):
        pv.log_evidence(model, lambda x: None, rows(), num_particles=300, **QUIET)


def test_a_missing_category_is_named():
    def model(x):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x[..., 0])
            pyro.sample("k", dist.Categorical(x.new_ones(3)), obs=x[..., 1])

    x = torch.zeros(5, 2)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="log-density of site 'k' is NaN for row 3: x is missing"):
        pv.log_evidence(model, lambda x: guide(x[..., 0]), x, num_particles=300, **QUIET)


def test_what_is_outside_a_support_is_named_as_x_or_not():
    def model(x, k):
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5), obs=x)
            pyro.sample("k", dist.Bernoulli(0.5), obs=k)

    def of_both(x, k):
        guide(x)

    x = pv.Dataset(torch.randn(3) / 2, args={"k": torch.tensor([0.0, 7.0, 1.0])})
    with pytest.raises(ValueError, match="row 1 of an argument besides x .* it observes 7"):
        pv.log_evidence(model, of_both, x, **QUIET)


def test_a_network_that_is_given_a_missing_entry_is_told_what_to_do():
    x = torch.zeros(5)
    x[2] = torch.nan

    def model(x):
        seen = ~x.isnan()
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("obs", dist.Normal(z, 0.5).mask(seen), obs=x.nan_to_num())

    with pytest.raises(ValueError, match="'z' is NaN for row 2: .* give the network x.nan_to_num"):
        pv.log_evidence(model, guide, x, **QUIET)


TABLE = torch.tensor([-0.5, 0.0, 0.5])
INDEXED = {
    "an index": lambda x: TABLE[x],
    "an embedding": lambda x: torch.nn.functional.embedding(x, TABLE[:, None]).squeeze(-1),
    "one hot": lambda x: torch.nn.functional.one_hot(x, 3).float() @ TABLE,
    "gathered": lambda x: TABLE.gather(0, x),
}


@pytest.mark.parametrize("way", INDEXED)
def test_whole_numbers_that_are_an_index_are_told_their_type(way):
    def guide(x):
        with pyro.plate("n", len(x)):
            pyro.sample("z", dist.Normal(INDEXED[way](x), 1.0))

    x = pv.Dataset(torch.tensor([0, 1, 2, 1]))
    with pytest.raises(ValueError, match=r"arrives as floats: write x\.long\(\)"):
        pv.log_evidence(in_plate(0), guide, x, **QUIET)
