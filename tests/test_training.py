"""fit: same seed, same result; stops, resumes and fails as it says; reaches the exact optimum where
there is one."""

import dataclasses
import functools
import logging
import math
import re
from contextlib import nullcontext

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, data_for, vae
from pyro import poutine
from pyro.infer import (
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from test_importance import TwoSites
from torch import nn

import ppl_vae as pv
from ppl_vae import beds, evidence, likelihoods, objectives, posteriors, priors
from ppl_vae.training import schedules


def quiet(**settings):
    return pv.Training(**{"num_epochs": 4, "batch_size": 16, "progress": False} | settings)


def split_data(likelihood="Bernoulli", **options):
    return pv.Dataset(data_for(likelihood, num_data=80), **options).split(valid=16, test=16)


def fitted(training, data=None, **kinds):
    torch.manual_seed(0)
    model, guide = vae(**kinds)
    result = pv.fit(model, guide, split_data() if data is None else data, training=training)
    return result, [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]


def without_clock(history):
    return {name: values for name, values in history.items() if name != "seconds"}


def test_same_seed_same_result_another_seed_another():
    (first, weights), (again, same), (other, different) = (fitted(quiet(seed=s)) for s in (1, 1, 2))
    assert without_clock(first.history) == without_clock(again.history)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert not torch.equal(weights[0], different[0])
    assert other.seed == 2


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("around", ["the call", "the data"])
@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_of_torch_changes_neither_training_nor_evidence(mode, around):
    """To the bit; autocast would round the products of matrices to 8 bits."""
    results = [_in_mode(inner, around) for inner in (nullcontext, MODES[mode])]
    for plain, within in zip(*results, strict=True):
        assert torch.equal(plain, within)


def _in_mode(mode, around):
    """Weights after training, and estimates of log p(x) by two methods."""
    torch.manual_seed(0)
    model, guide = vae()
    with mode() if around == "the data" else nullcontext():
        data = split_data()
    with mode() if around == "the call" else nullcontext():
        pv.fit(model, guide, data, training=quiet(num_epochs=1))
        few = data.test[:3]
        sampled = pv.log_evidence(model, guide, few, num_particles=40, progress=False)
        method = evidence.AIS(30, 5)
        annealed = pv.log_evidence(model, guide, few, method=method, progress=False)
    found = [p.detach() for p in [*model.parameters(), *guide.parameters()]]
    return [*found, *(torch.tensor(each.log_evidence) for each in (sampled, annealed))]


def test_parameters_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model, guide = vae()
    said = r" of the model was made inside torch.inference_mode\(\)"
    with pytest.raises(ValueError, match=said):
        pv.fit(model, guide, split_data(), training=quiet())


def test_history_has_a_row_per_epoch_and_unannealed_validation():
    result, _ = fitted(quiet(kl_warmup_epochs=2, learning_rate=schedules.Exponential(1e-2, 1e-3)))
    history = result.history
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["kl_weight"] == [0.5, 1.0, 1.0, 1.0]
    assert history["learning_rate"] == sorted(history["learning_rate"], reverse=True)
    assert result.best_epoch == 2 + np.argmax(history["valid"][1:])
    assert result.wall_time == pytest.approx(sum(history["seconds"]))


def test_works_without_a_validation_split():
    result, _ = fitted(quiet(), data=data_for("Bernoulli"))
    assert "valid" not in result.history
    assert result.best_epoch == 4


def test_validation_bound_does_not_depend_on_the_batch_size():
    """Exact guide, exact model: the bound is the mean of log p(x) however rows are cut, a smaller
    last batch too."""
    bed = beds.linear_gaussian(50)
    guide = pv.Guide(posteriors.FullRankNormal(2), 5, nn.Identity()).double()
    model = pv.Model(
        priors.StandardNormal(2), likelihoods.Gaussian(5, scale=0.5), nn.Identity()
    ).double()
    set_to_bed(model, guide, bed)
    data = pv.Dataset(bed.x, dtype=torch.float64).split(valid=23, test=0)
    frozen = pv.Training(num_epochs=1, learning_rate=1e-30, progress=False)
    exact = bed.exact_log_evidence(data.valid.x).mean().item()
    for batch_size in (1, 7, 23, 1000):
        training = dataclasses.replace(frozen, batch_size=batch_size)
        found = pv.fit(
            model, guide, data, objective=objectives.TraceELBO(), training=training
        ).history
        assert found["valid"][0] == pytest.approx(exact, abs=1e-9)
        assert found["train"][0] == pytest.approx(
            bed.exact_log_evidence(data.train.x).mean().item(), abs=1e-9
        )


def set_to_bed(model, guide, bed):
    """Write the bed's parameters and its exact posterior into our Model and Guide."""
    mean, covariance = bed.posterior_mean, bed.posterior_covariance[0]
    factor = torch.linalg.cholesky(covariance)
    solution = torch.linalg.lstsq(torch.cat([bed.x, torch.ones(len(bed.x), 1)], 1), mean).solution
    link = guide.posterior.link.linear
    with torch.no_grad():
        model.likelihood.link.linear.weight.copy_(bed.loading)
        model.likelihood.link.linear.bias.copy_(bed.mean)
        link.weight.zero_()
        link.weight[:2] = solution[:-1].T
        link.bias[:2] = solution[-1]
        link.bias[2:4] = torch.log(torch.expm1(factor.diagonal() - 1e-6))
        link.bias[4:] = factor[1, 0] / factor[1, 1]


def test_our_model_and_guide_are_the_bed_at_its_parameters():
    bed = beds.linear_gaussian(20)
    guide = pv.Guide(posteriors.FullRankNormal(2), 5, nn.Identity()).double()
    model = pv.Model(
        priors.StandardNormal(2), likelihoods.Gaussian(5, scale=0.5), nn.Identity()
    ).double()
    set_to_bed(model, guide, bed)
    log_w = pv.log_weights(model, guide, bed.x, num_particles=3)
    torch.testing.assert_close(log_w, bed.log_evidence.expand(3, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("scale", "oracle"), [("global", PCA), ("feature", FactorAnalysis)])
def test_a_trained_linear_vae_reaches_ppca_and_factor_analysis(scale, oracle):
    """Held-out mean log p(x) within 0.05 nat of scikit-learn's maximum-likelihood fit."""
    bed = beds.linear_gaussian(1500, noise=0.6)
    x = bed.x * torch.linspace(0.5, 1.5, 5) if scale == "feature" else bed.x
    data = pv.Dataset(x, dtype=torch.float64).split(valid=0, test=500)
    theirs = (
        oracle(n_components=2).fit(data.train.x.numpy()).score_samples(data.test.x.numpy()).mean()
    )
    guide = pv.Guide(posteriors.FullRankNormal(2), 5, nn.Identity()).double()
    model = pv.Model(
        priors.StandardNormal(2), likelihoods.Gaussian(5, scale=scale), nn.Identity()
    ).double()
    training = quiet(num_epochs=60, batch_size=50, learning_rate=schedules.Exponential(3e-2, 1e-3))
    pv.fit(model, guide, data, training=training)
    ours = pv.log_evidence(model, guide, data.test, num_particles=100).summary().log_evidence
    assert abs(ours - theirs) < 0.05


def test_early_stopping_goes_back_to_the_best_weights():
    """A learning rate that ruins the fit after a good start."""
    data = split_data()
    training = quiet(
        num_epochs=50, patience=3, learning_rate=lambda fraction: 1e-2 if fraction < 0.1 else 1.0
    )
    torch.manual_seed(0)
    model, guide = vae()
    result = pv.fit(model, guide, data, training=training)
    assert result.stopped == "early stopping"
    assert result.num_epochs == result.best_epoch + 3
    with pv.seeded(0):
        bound = objectives.MeanFieldELBO(200).bound(model, guide, data.valid.x).mean().item()
    assert bound == pytest.approx(max(result.history["valid"]), abs=0.3)


def test_patience_waits_for_the_end_of_the_warm_up():
    result, _ = fitted(quiet(num_epochs=8, patience=1, kl_warmup_epochs=6, learning_rate=1e-30))
    assert result.num_epochs >= 6


def test_cyclic_annealing_takes_the_best_epoch_at_full_weight():
    result, _ = fitted(quiet(num_epochs=8, kl_schedule=schedules.Cyclic(num_cycles=2)))
    assert result.history["kl_weight"] == [0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    eligible = {
        e: v
        for e, v, w in zip(
            *(result.history[n] for n in ("epoch", "valid", "kl_weight")), strict=True
        )
        if w == 1
    }
    assert result.best_epoch == max(eligible, key=eligible.get)
    with pytest.raises(ValueError, match="both set the KL's weight"):
        pv.Training(kl_warmup_epochs=2, kl_schedule=schedules.Linear())


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_is_exact(tmp_path, stop):
    whole, weights = fitted(quiet(clip_norm=1.0))
    checkpoint = tmp_path / "run.ckpt"
    torch.manual_seed(0)
    model, guide = vae()
    pv.fit(
        model,
        guide,
        split_data(),
        training=quiet(clip_norm=1.0, num_epochs=stop, checkpoint=checkpoint),
    )
    torch.manual_seed(99)
    model, guide = vae()  # another process, other starting weights
    resumed = pv.fit(
        model, guide, split_data(), training=quiet(clip_norm=1.0, checkpoint=checkpoint)
    )
    assert without_clock(resumed.history) == without_clock(whole.history)
    assert resumed.best_epoch == whole.best_epoch
    for mine, theirs in zip([*model.parameters(), *guide.parameters()], weights, strict=True):
        assert torch.equal(mine, theirs)


def test_checkpoints_of_other_settings_and_foreign_files_are_refused(tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    fitted(quiet(num_epochs=1, checkpoint=checkpoint))
    with pytest.raises(
        ValueError, match="was written with seed=0, not 1: delete it to start afresh"
    ):
        fitted(quiet(checkpoint=checkpoint, seed=1))
    fitted(quiet(num_epochs=1, checkpoint=tmp_path / "rate.ckpt", learning_rate=lambda t: 1e-3))
    with pytest.raises(
        ValueError, match=r"was written with learning_rate=(0.001 ?){9}, not (0.1 ?){9}: delete it"
    ):
        fitted(quiet(checkpoint=tmp_path / "rate.ckpt", learning_rate=lambda t: 1e-1))
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"is not a checkpoint file written by ppl_vae"):
        fitted(quiet(checkpoint=checkpoint))


def test_a_checkpoint_knows_its_data_and_its_model(tmp_path):
    """Weights of the same shapes would go on silently."""
    checkpoint = tmp_path / "run.ckpt"
    fitted(quiet(num_epochs=1, checkpoint=checkpoint))
    other_rows = pv.Dataset(1 - data_for("Bernoulli", num_data=80)).split(16, 16)
    for said, other in (
        ("other training rows", {"data": other_rows}),
        ("another model", {"likelihood": "Gaussian"}),
    ):
        with pytest.raises(ValueError, match=f"was written with {said}: delete it to start afr"):
            fitted(quiet(checkpoint=checkpoint), **other)


def test_patience_and_a_refit_need_held_out_data():
    for settings, said in (({"patience": 3}, "patience=3"), ({"refit": True}, "refit=True")):
        with pytest.raises(ValueError, match=f"{said} needs held-out data"):
            fitted(quiet(**settings), data=data_for("Bernoulli"))


def test_a_refit_is_a_training_on_all_rows_up_to_the_best_epoch(tmp_path):
    """From the same weights, along the same schedule; an interrupted one goes on."""
    data = split_data()
    rate = schedules.Linear(1e-2, 1.0)  # soon too high
    training = quiet(num_epochs=12, patience=3, learning_rate=rate, refit=True)
    result, weights = fitted(training, data)
    first, _ = fitted(dataclasses.replace(training, refit=False), data)
    assert without_clock(result.history) == without_clock(first.history)
    assert result.refit_epochs == result.best_epoch < result.num_epochs

    rows = np.concatenate([data.splits["train"], data.splits["valid"]])
    short = quiet(
        num_epochs=result.best_epoch, learning_rate=lambda t: rate(t * result.best_epoch / 12)
    )
    _, expected = fitted(short, data.with_splits({"train": rows}))
    for mine, theirs in zip(weights, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)

    training = dataclasses.replace(training, checkpoint=tmp_path / "run.pt")
    fitted(training, data)
    (tmp_path / "run-refit.pt").unlink()  # as if interrupted before the second training
    torch.manual_seed(99)
    other, guide = vae()  # another process, other starting weights
    assert pv.fit(other, guide, data, training=training).refit_epochs == result.refit_epochs
    for mine, theirs in zip([*other.parameters(), *guide.parameters()], weights, strict=True):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_cannot_execute(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"settings": Malicious()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint file"):
        fitted(quiet(checkpoint=tmp_path / "evil.ckpt"))


def test_a_nan_names_epoch_batch_and_site_and_keeps_the_last_good_weights():
    data = split_data("Poisson")
    torch.manual_seed(0)
    model, guide = vae(likelihood="Poisson")
    good = {}

    def explode(fraction):
        if fraction >= 0.5:
            good.setdefault("weights", [p.detach().clone() for p in model.parameters()])
            return 1e30
        return 1e-3

    with pytest.raises(
        pv.NonFiniteLossError,
        match=r"epoch 3, batch 1, site 'z'.*after epoch 2 were put back: lower lear",
    ):
        pv.fit(model, guide, data, training=quiet(num_epochs=4, learning_rate=explode))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), good["weights"], strict=True))


@pytest.mark.parametrize(
    "objective", [Trace_ELBO(), TraceMeanField_ELBO(), TraceGraph_ELBO(), TraceEnum_ELBO()]
)
def test_pyros_own_objectives_train(objective):
    """TraceGraph_ELBO has no `differentiable_loss`; fit steps its `loss_and_grads`."""
    torch.manual_seed(0)
    model, guide = vae()
    result = pv.fit(
        model,
        guide,
        split_data(),
        objective=objective,
        training=quiet(num_epochs=6, learning_rate=1e-2),
    )
    assert result.history["valid"][-1] > result.history["valid"][0]
    with pytest.raises(ValueError, match="cannot be annealed: use one of ppl_vae's objectives"):
        pv.fit(model, guide, split_data(), objective=objective, training=quiet(kl_warmup_epochs=1))


def test_an_enumerated_mixture_trains_by_pyros_objective_and_by_ours():
    """A Gaussian mixture with an explicit label site, through Pyro's TraceEnum_ELBO: scikit-learn's
    maximum."""
    bed = beds.discrete_mixture(400, guide_scale=1.0)
    x = bed.x
    sklearn_fit = GaussianMixture(3, covariance_type="diag", n_init=5, random_state=0).fit(
        x.numpy()
    )
    start = (
        torch.tensor(sklearn_fit.means_) + 0.5 * torch.randn(3, 2).double()
    )  # near the same maximum, not at it
    parameters = nn.ParameterDict(
        {"logits": torch.zeros(3).double(), "loc": start, "raw": torch.zeros_like(start)}
    )

    def model(x):
        logits, loc, raw = (pyro.param(name, parameters[name]) for name in ("logits", "loc", "raw"))
        with pyro.plate("data", len(x), dim=-1):
            label = pyro.sample(
                "label",
                pyro.distributions.Categorical(logits=logits),
                infer={"enumerate": "parallel"},
            )
            pyro.sample(
                "x", pyro.distributions.Normal(loc[label], raw.exp()[label]).to_event(1), obs=x
            )

    def guide(x):
        pass

    objective = TraceEnum_ELBO(max_plate_nesting=1)
    training = quiet(num_epochs=60, batch_size=400, learning_rate=schedules.Exponential(0.2, 0.01))
    result = pv.fit(model, guide, x, objective=objective, training=training)
    assert abs(result.history["train"][-1] - sklearn_fit.score(x.numpy())) < 0.02
    evidence = pv.log_evidence(model, guide, x, num_particles=30)
    assert abs(evidence.log_evidence.mean() - result.history["train"][-1]) < 0.02
    again = pv.fit(model, guide, x, objective=objectives.TraceELBO(), training=quiet(num_epochs=2))
    assert abs(again.history["train"][-1] - sklearn_fit.score(x.numpy())) < 0.02


class PlainModule(nn.Module):
    """A model that has told Pyro of no parameter."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, EVENT)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x", pyro.distributions.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x
            )


class PlainGuide(nn.Module):
    """Its guide."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(EVENT, 2)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(self.encoder(x), 0.5).to_event(1))


@pytest.mark.parametrize(
    "objective", [Trace_ELBO(), TraceGraph_ELBO(), objectives.TraceELBO(), objectives.IWAE(3)]
)
def test_plain_modules_train_though_pyro_does_not_see_their_parameters(objective):
    """SVI moves nothing here and gives no warning."""
    model, guide = PlainModule(), PlainGuide()
    before = [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]
    pv.fit(model, guide, data_for("Bernoulli"), objective=objective, training=quiet(num_epochs=1))
    after = [*model.parameters(), *guide.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_where_they_cannot_train_it_is_said():
    """RenyiELBO has only the method that leaves them out."""
    with pytest.raises(
        ValueError, match="RenyiELBO gave no parameter a gradient: make model and guide PyroModules"
    ):
        pv.fit(
            PlainModule(),
            PlainGuide(),
            data_for("Bernoulli"),
            objective=RenyiELBO(0.5),
            training=quiet(),
        )


@pytest.mark.parametrize("with_global", [False, True])
def test_a_users_plain_functions_train_and_are_evaluated(with_global):
    program, x = TwoSites(with_global), torch.randn(40, 4, dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in program.named_parameters()}
    result = pv.fit(
        program.model, program.guide, x, training=quiet(learning_rate=1e-2, num_epochs=10)
    )
    assert result.history["train"][-1] > result.history["train"][0]
    assert [name for name, p in program.named_parameters() if torch.equal(p, before[name])] == []
    with pytest.warns(UserWarning, match="'theta' lies outside") if with_global else nullcontext():
        evidence = pv.log_evidence(program.model, program.guide, x, num_particles=50)
    assert (evidence.log_evidence > evidence.elbo).all()


class NamedModel(PyroModule):
    """A model and its guide with networks, and constrained parameters, whose names are the same in
    every instance."""

    def __init__(self):
        super().__init__()
        self.network, self.prior_scale = (
            nn.Linear(2, EVENT),
            PyroParam(torch.tensor(1.0), dist.constraints.positive),
        )

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), self.prior_scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.network(z)).to_event(1), obs=x)


class NamedGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.network, self.scale = (
            nn.Linear(EVENT, 2),
            PyroParam(torch.tensor(1.0), dist.constraints.positive),
        )

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.network(x), self.scale).to_event(1))


WRAPPERS = {
    "function": lambda program: lambda x: program(x),
    "partial": functools.partial,
    "handler": lambda program: pyro.poutine.scale(program, scale=1.0),
    "config_enumerate": functools.partial(
        config_enumerate, default=None
    ),  # marks nothing: the wrapping alone
}


@pytest.mark.parametrize(
    "objective", [objectives.TraceELBO(), Trace_ELBO()], ids=["ours", "Pyro's"]
)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_modules_train_like_bare_ones_however_many_a_process_fits(wrapper, objective):
    """Pyro's store would keep the first pair's parameters under the names of all: the later ones
    would not move."""
    x, found = data_for("Bernoulli"), []
    for wrapping in (None, WRAPPERS[wrapper], WRAPPERS[wrapper]):
        torch.manual_seed(0)
        model, guide = NamedModel(), NamedGuide()
        programs = [
            program if wrapping is None else wrapping(program) for program in (model, guide)
        ]
        before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
        pv.fit(*programs, x, objective=objective, training=quiet(num_epochs=2))
        found.append([p.detach().clone() for p in (*model.parameters(), *guide.parameters())])
        assert not any(torch.equal(a, b) for a, b in zip(before, found[-1], strict=True))
        weighed = (
            pv.log_weights(*pair, x, num_particles=3, seed=0) for pair in (programs, (model, guide))
        )
        assert torch.equal(*weighed), "evaluation sees the parameters of this pair"
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_constrained_parameters_of_one_name_in_model_and_guide_are_refused():
    """Pyro would make them one."""
    model = NamedModel()
    model.scale = PyroParam(torch.tensor(2.0), dist.constraints.positive)
    with pytest.raises(
        ValueError, match="model and guide both have a PyroParam 'scale', which Pyro would merge"
    ):
        pv.fit(model, NamedGuide(), data_for("Bernoulli"), training=quiet())


def test_modules_that_pyro_is_not_told_of_train_when_they_are_wrapped():
    """As in a lambda around a plain nn.Module, or its method `forward`."""
    for wrap in (lambda program: program.forward, lambda program: lambda x: program(x)):
        model, guide = PlainModule(), PlainGuide()
        before = [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]
        pv.fit(wrap(model), wrap(guide), data_for("Bernoulli"), training=quiet(num_epochs=1))
        after = [*model.parameters(), *guide.parameters()]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "objective", [objectives.TraceELBO(), Trace_ELBO()], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("is_called", [False, True])
def test_a_guide_that_makes_its_parameters_late_is_trained(objective, is_called):
    """Pyro's autoguides make them at their first call, one normal per row, so that all rows are one
    batch."""
    model, x = NamedModel(), data_for("Bernoulli", num_data=8)
    guide = AutoNormal(model)
    if is_called:
        guide(x)
    pv.fit(model, guide, x, objective=objective, training=quiet(num_epochs=1))
    before = [p.detach().clone() for p in guide.parameters()]
    pv.fit(model, guide, x, objective=objective, training=quiet())
    assert len(before) == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))


def test_a_parameter_made_anew_at_each_run_is_refused():
    def guide(x):
        loc = pyro.param("loc", nn.Parameter(torch.zeros(2)))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    with pytest.raises(
        ValueError, match="'loc' is a new nn.Parameter at each run: give pyro.param a tensor"
    ):
        pv.fit(PlainModule(), guide, data_for("Bernoulli"), training=quiet())


def test_a_model_marked_for_enumeration_fits_with_an_empty_guide_the_second_time_too():
    """Each starts afresh: the same history."""
    bed, histories = beds.discrete_mixture(60, guide_scale=1.0), []
    for _ in range(2):
        locs = PyroModule[nn.ParameterList](
            [torch.randn(3, 2, generator=torch.Generator().manual_seed(0))]
        )

        def model(x, locs=locs):
            with pyro.plate("data", len(x), dim=-1):
                label = pyro.sample("label", dist.Categorical(logits=torch.zeros(3)))
                pyro.sample("x", dist.Normal(locs[0][label], 1.0).to_event(1), obs=x)

        objective, training = (
            TraceEnum_ELBO(max_plate_nesting=1),
            quiet(num_epochs=3, learning_rate=0.1),
        )
        programs = config_enumerate(model), lambda x: None
        histories.append(
            pv.fit(*programs, bed.x.float(), objective=objective, training=training).history[
                "train"
            ]
        )
    assert histories[0] == histories[1]
    assert histories[0][-1] > histories[0][0] + 0.1


def test_dynamic_binarisation_is_fresh_each_epoch_and_fixed_for_validation():
    seen = {"train": [], "valid": []}

    class Spy(objectives.TraceELBO):
        def terms(self, model, guide, x, **kwargs):
            seen["train" if torch.is_grad_enabled() else "valid"].append(x.numpy().tobytes())
            return super().terms(model, guide, x, **kwargs)

    model, guide = vae()
    grey = pv.Dataset(torch.rand(200, EVENT), binarize="dynamic").split(valid=100, test=0)
    pv.fit(model, guide, grey, objective=Spy(), training=quiet(num_epochs=3, batch_size=100))
    assert len(set(seen["train"])) == 3
    assert len(set(seen["valid"])) == 1


def test_a_smaller_last_batch_weighs_each_datum_the_same():
    """Batches of 16 and 1: the lone datum's step is a sixteenth of what a mean over its own batch
    would make it."""
    steps = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            steps.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
            return super().step(closure)

    model, guide = vae()
    x = data_for("Bernoulli", num_data=1).repeat(17, 1)
    training = quiet(
        num_epochs=1, batch_size=16, optimizer=lambda ps: Recorder(ps, lr=0.0), learning_rate=1e-30
    )
    torch.nn.init.constant_(guide.posterior.link.linear.weight, 0.0)
    torch.nn.init.constant_(guide.posterior.link.linear.bias, -20.0)  # no noise: z is 0
    pv.fit(model, guide, x, training=training)
    whole, last = (step[-1] for step in steps)
    torch.testing.assert_close(whole, 16 * last, rtol=1e-3, atol=1e-4)


def test_modules_are_left_in_evaluation_mode_and_global_state_is_given_back():
    model, guide = vae()
    before = torch.get_rng_state()
    pv.fit(model, guide, data_for("Bernoulli"), training=quiet(num_epochs=1))
    assert not any(part.training for program in (model, guide) for part in program.modules())
    assert torch.equal(before, torch.get_rng_state())
    assert len(pyro.get_param_store()) == 0
    assert torch.distributions.Distribution._validate_args


def test_settings_out_of_range_are_named():
    for settings, message in (
        ({"num_epochs": -1}, "(num_epochs) is -1; it must be a whole number, at least 0"),
        ({"num_epochs": 2.5}, "(num_epochs) is 2.5"),
        ({"num_epochs": None}, "(num_epochs) is None"),
        ({"batch_size": 0}, "(batch_size) is 0"),
        ({"batch_size": "16"}, "(batch_size) is '16'"),
        ({"learning_rate": 0.0}, "(learning_rate) is 0.0"),
        ({"learning_rate": math.nan}, "(learning_rate) is nan"),
        ({"clip_norm": -1.0}, "(clip_norm) is -1.0"),
        ({"weight_decay": -0.1}, "(weight_decay) is -0.1"),
        (
            {"weight_decay": 0.1, "optimizer": torch.optim.Adam},
            "optimizer and weight_decay both set the optimiser",
        ),
        ({"patience": 0}, "(patience) is 0"),
        ({"seed": 1.5}, "(seed) is 1.5"),
        ({"compile": "yes"}, "(compile) is 'yes'; it must be 'auto', True, False or 'cudagraphs'"),
        ({"progress": "no"}, "(progress) is 'no'"),
        ({"optimizer": "adam"}, "(optimizer) is 'adam'; it must be a function of the parameters"),
        ({"kl_schedule": 3}, "(kl_schedule) is 3; it must be a function of the fraction"),
        ({"device": 5}, "(device) is 5; it must be a name"),
        ({"checkpoint": 5}, "(checkpoint) is 5; it must be a path"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pv.Training(**settings)
    assert repr(pv.Training(num_epochs=np.int64(3))) == repr(pv.Training(num_epochs=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": lambda fraction: math.nan},
            "Training(learning_rate) after 0% of training is nan",
        ),
        (
            {"learning_rate": lambda fraction: "a"},
            "Training(learning_rate) after 0% of training is 'a'",
        ),
        ({"learning_rate": lambda fraction: 1e-3 - fraction}, "of training is -0.2"),
        ({"kl_schedule": lambda fraction: -1.0}, "Training(kl_schedule) after 0 epochs is -1.0"),
    ],
)
def test_schedules_that_leave_the_range_are_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(quiet(batch_size=48, **settings))


def test_what_is_no_setting_and_no_program_is_refused():
    (model, guide), x = vae(), data_for("Bernoulli")
    for training in ("fast", pv.Training, {"num_epochs": 1}):
        with pytest.raises(TypeError, match="training is .*; it must be an object, as in Training"):
            pv.fit(model, guide, x, training=training)
    for programs in (("model", guide), (pv.Model, guide)):
        with pytest.raises(TypeError, match="model is .*; give an object that can be called"):
            pv.fit(*programs, x, training=quiet())
    with pytest.raises(TypeError, match="objective is the class IWAE"):
        pv.fit(model, guide, x, objective=objectives.IWAE, training=quiet())


def test_one_row_at_the_end_of_an_epoch_does_not_end_a_training_that_compares_data():
    """33 rows in batches of 32; but batches, or parts of them, that are all of one row are
    refused."""
    model, guide = vae()
    x, info = data_for("Bernoulli", num_data=33), objectives.InfoVAE(0.0, 100.0)
    result = pv.fit(model, guide, x, objective=info, training=quiet(batch_size=32))
    assert result.num_epochs == 4
    for settings in ({"batch_size": 1}, {"batch_size": 32, "num_parts": 32}):
        with pytest.raises(
            ValueError, match="InfoVAE compares rows with each other: it needs 2 rows in each batch"
        ):
            pv.fit(model, guide, x, objective=info, training=quiet(**settings))


def test_nothing_marked_for_enumeration_is_said(caplog):
    """TraceEnum_ELBO would sample in silence."""
    x = data_for("Bernoulli")

    def program(x, infer, obs):
        with pyro.plate("data", len(x), dim=-1):
            label = pyro.sample(
                "label", dist.Categorical(logits=pyro.param("logits", torch.zeros(2))), infer=infer
            )
            if obs:
                pyro.sample(
                    "x",
                    dist.Bernoulli(torch.tensor([[0.2] * 3, [0.7] * 3])[label]).to_event(1),
                    obs=x,
                )

    for infer, is_said in (({}, True), ({"enumerate": "parallel"}, False)):
        caplog.clear()
        programs = (functools.partial(program, infer=infer, obs=obs) for obs in (True, False))
        pv.fit(
            *programs,
            x,
            objective=TraceEnum_ELBO(max_plate_nesting=1),
            training=quiet(num_epochs=1),
        )
        assert ("no site is marked for enumeration" in caplog.text) == is_said


def test_nothing_to_train_is_said():
    bed = beds.linear_gaussian(5)
    with pytest.raises(ValueError, match="neither model nor guide has a trainable parameter"):
        pv.fit(bed.model, bed.guide, bed.x, training=quiet())


def test_schedules_start_and_end_where_they_say():
    for schedule in (schedules.Exponential(1e-2, 1e-4), schedules.Cosine(1e-2, 1e-4)):
        assert (schedule(0.0), schedule(1.0)) == pytest.approx((1e-2, 1e-4))
        rates = [schedule(i / 20) for i in range(21)]
        assert rates == sorted(rates, reverse=True)
    stages = schedules.Stages(1e-3)
    assert len({stages(i / 3280) for i in range(3280)}) == 8
    assert stages(0.5 / 3280) == 1e-3  # the first stage is one pass in 3,280
    assert stages(1.5 / 3280) == pytest.approx(1e-3 * 10 ** (-1 / 7))


def test_the_library_prints_nothing(capsys, caplog):
    with caplog.at_level(logging.INFO):
        fitted(quiet(num_epochs=1))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_collapse_is_told_once(caplog):
    torch.manual_seed(0)
    model, guide = vae()
    training = pv.Training(num_epochs=15, batch_size=16, learning_rate=0.05, progress=False)
    result = pv.fit(
        model, guide, data_for("Bernoulli"), objective=objectives.BetaELBO(100.0), training=training
    )
    assert result.history["rate"][-1] < 0.1
    assert caplog.text.count("posterior collapse") == 1


def test_weight_decay_shrinks_matrices_alone():
    """Without a gradient AdamW multiplies weights by 1 - rate x decay at every step."""
    x = split_data()
    with pv.seeded(0):
        model, guide = vae()
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.register_hook(torch.zeros_like)
    before = {name: p.clone() for name, p in model.named_parameters()}
    training = quiet(num_epochs=2, learning_rate=0.01, weight_decay=0.5)
    pv.fit(model, guide, x, training=training)
    num_steps = 2 * -(-len(x.train) // training.batch_size)
    for name, parameter in model.named_parameters():
        factor = (1 - 0.01 * 0.5) ** num_steps if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter, factor * before[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("likelihood", "prior"),
    [
        (likelihoods.Gaussian((2, 2), scale="feature"), priors.GaussianMixture(2, 3)),
        (likelihoods.NegativeBinomial((2, 2)), priors.StandardNormal(2)),
        (likelihoods.Ordinal((2, 2), num_categories=4), priors.StandardNormal(2)),
    ],
)
def test_weight_decay_leaves_scales_of_any_shape(likelihood, prior):
    x = torch.arange(80.0).reshape(20, 2, 2) % 4
    with pv.seeded(0):
        model = pv.Model(prior, likelihood)
        guide = pv.Guide(posteriors.MeanFieldNormal(2), (2, 2))
    for parameter in (*model.parameters(), *guide.parameters()):
        parameter.register_hook(torch.zeros_like)
    pv.fit(model, guide, x, training=quiet(num_epochs=1))  # its units are set
    before = {name: p.clone() for name, p in model.named_parameters()}
    pv.fit(model, guide, x, training=quiet(num_epochs=2, learning_rate=0.01, weight_decay=0.5))
    for name, parameter in model.named_parameters():
        is_weight = name.endswith("weight")
        assert parameter.equal(before[name]) != is_weight


def test_a_scale_of_the_model_alone_is_refused():
    """A bound takes one in the guide for a row's factor; Pyro's ELBO tempers the joint density."""
    x = split_data()
    with pv.seeded(0):
        model, guide = vae()
    scaled = poutine.scale(model, scale=0.5)
    with pytest.raises(ValueError, match="the model scales its rows .* and the guide does not"):
        pv.fit(scaled, guide, x, training=quiet(num_epochs=1))
    pv.fit(scaled, poutine.scale(guide, scale=0.5), x, training=quiet(num_epochs=1))
    pv.fit(scaled, guide, x, objective=Trace_ELBO(), training=quiet(num_epochs=1))
