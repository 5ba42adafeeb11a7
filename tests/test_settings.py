"""Settings stand as they were given; a training's state is whole; nothing is matched by its
position."""

import copy
import re
import threading
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, GRADIENTS, OBJECTIVES, REAL_POSTERIORS, data_for, vae
from pyro.infer import ReweightedWakeSleep, Trace_ELBO
from torch import nn, optim
from torch.optim import lr_scheduler

import ppl_vae as pv
from ppl_vae import beds, likelihoods, objectives, posteriors, priors
from ppl_vae.runtime.sealed import write_tensors
from ppl_vae.training import schedules


def quiet(**settings):
    return pv.Training(**{"num_epochs": 4, "batch_size": 16, "progress": False} | settings)


def small_data(likelihood="Bernoulli"):
    return pv.Dataset(data_for(likelihood, num_data=80)).split(valid=16, test=16)


def fitted(training, objective=None, data=None, seed=0, **kinds):
    torch.manual_seed(seed)
    model, guide = vae(**kinds)
    result = pv.fit(
        model, guide, small_data() if data is None else data, objective=objective, training=training
    )
    return {name: values for name, values in result.history.items() if name != "seconds"}, weights(
        model, guide
    )


def weights(*programs):
    return [
        value.detach().clone() for program in programs for value in program.state_dict().values()
    ]


def same(one, other):
    return one[0] == other[0] and all(
        torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True)
    )


# -- optimisers and their rates
# ---------------------------------------------------------------------------------------


def two_groups(parameters):
    first, *rest = parameters
    return optim.SGD([{"params": [first], "lr": 0.02}, {"params": rest, "lr": 0.1}])


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1e-3]),
        ({"learning_rate": 1e-2}, [1e-2]),
        ({"optimizer": lambda ps: optim.SGD(ps, lr=0.1)}, [0.1]),
        ({"optimizer": optim.RMSprop}, [1e-2]),
        ({"optimizer": two_groups}, [0.02, 0.1]),
        ({"optimizer": two_groups, "learning_rate": 0.04}, [0.04, 0.2]),
        ({"optimizer": two_groups, "learning_rate": schedules.Linear(0.01, 0.01)}, [0.01, 0.05]),
        (
            {"optimizer": lambda ps: optim.Adam(ps, lr=torch.tensor(0.25)), "learning_rate": 0.125},
            [0.125],
        ),
    ],
)
def test_an_optimiser_steps_at_its_own_rates_unless_told_and_groups_keep_their_ratios(
    settings, rates
):
    seen = []

    def watched(parameters):
        optimizer = settings.get("optimizer", optim.Adam)(parameters)
        optimizer.register_step_pre_hook(
            lambda o, *_: seen.append([float(group["lr"]) for group in o.param_groups])
        )
        return optimizer

    history, _ = fitted(quiet(**settings | {"optimizer": watched}))
    assert all(found == pytest.approx(rates) for found in seen)
    assert len(seen) == 4 * 3
    assert history["learning_rate"] == pytest.approx([rates[0]] * 4)


def test_sgd_moves_by_its_rate_times_the_gradient():
    """One step on all rows, by hand."""
    x, found = data_for("Bernoulli"), []
    for rate in (0.1, 0.2):
        torch.manual_seed(0)
        model, guide = vae()
        before = weights(model, guide)
        training = quiet(
            num_epochs=1, batch_size=64, optimizer=lambda ps, rate=rate: optim.SGD(ps, lr=rate)
        )
        pv.fit(model, guide, x, training=training)
        found.append([(a - b) / rate for a, b in zip(weights(model, guide), before, strict=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, gamma=0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, 1e-3, 1e-2, step_size_up=2, cycle_momentum=False
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1.0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_gives_the_rates_of_a_plain_loop_and_resumes_exactly(name, tmp_path):
    training = {
        "scheduler": SCHEDULERS[name],
        "optimizer": lambda ps: optim.SGD(ps, lr=0.01, momentum=0.9),
    }
    whole = fitted(quiet(**training))
    fitted(quiet(**training, num_epochs=2, checkpoint=tmp_path / "run.pt"))
    resumed = fitted(quiet(**training, checkpoint=tmp_path / "run.pt"), seed=9)
    assert same(whole, resumed)
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = optim.SGD([parameter], lr=0.01, momentum=0.9)
    scheduler, rates = SCHEDULERS[name](optimizer), []
    for epoch in range(4):
        for _ in range(3):
            optimizer.step()
            if name in ("OneCycleLR", "CyclicLR"):
                scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
        if name == "ReduceLROnPlateau":
            scheduler.step(-whole[0]["valid"][epoch])
        elif name not in ("OneCycleLR", "CyclicLR"):
            scheduler.step()
    assert whole[0]["learning_rate"] == pytest.approx(rates)
    assert len(set(rates)) > 1


@pytest.mark.parametrize(("mode", "falls"), [("min", True), ("max", False)])
def test_a_plateau_counts_epochs_at_full_weight_and_a_bound_as_what_is_to_grow(mode, falls):
    """The training bound where nothing is held out. It does not move: a loss has to fall by 1 %, or
    a bound to grow."""

    def scheduler(optimizer):
        threshold = {"threshold": 0.01 if falls else -1e6, "threshold_mode": "abs"}
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, mode=mode, factor=0.5, patience=0, eps=0.0, **threshold
        )

    training = quiet(num_epochs=6, kl_warmup_epochs=3, scheduler=scheduler, learning_rate=1e-20)
    history, _ = fitted(training, data=data_for("Bernoulli"))
    assert "valid" not in history
    halved = [0, 0, 0, 0, 1, 2] if falls else [0] * 6
    assert history["learning_rate"] == pytest.approx(
        [1e-20 * 0.5**times for times in halved], rel=1e-6, abs=0
    )


@pytest.mark.parametrize(("mode", "is_said"), [("max", True), ("min", False)])
def test_a_relative_threshold_of_a_negative_metric_is_warned_of_once(mode, is_said, caplog):
    """torch's default: -100.009 counts as better than -100."""
    training = quiet(scheduler=lambda o: lr_scheduler.ReduceLROnPlateau(o, mode=mode))
    fitted(training)
    assert caplog.text.count('give threshold_mode="abs"') == int(is_said)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"optimizer": lambda ps: 3},
            TypeError,
            "Training(optimizer) gave 3; it must give a torch.optim.Optimizer",
        ),
        (
            {"scheduler": lambda o: 3},
            TypeError,
            "Training(scheduler) gave 3; it must give one of torch.optim.lr_sch",
        ),
        (
            {"scheduler": lambda o: lr_scheduler.StepLR(optim.SGD([torch.zeros(1)]), 1)},
            ValueError,
            "another optimizer",
        ),
        (
            {"scheduler": 3},
            ValueError,
            "Training(scheduler) is 3; it must be a function of the optimiser",
        ),
        (
            {"scheduler": SCHEDULERS["StepLR"], "learning_rate": schedules.Cosine(0.1)},
            ValueError,
            "both set the rate: give one of them",
        ),
    ],
)
def test_what_is_no_optimiser_or_scheduler_is_refused(settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        fitted(quiet(**settings))


def test_lbfgs_reaches_the_optimum_of_a_linear_gaussian_model():
    """All rows at once, the same draws at each evaluation of a step: probabilistic PCA's log
    p(x)."""
    bed = beds.linear_gaussian(300, noise=0.6)
    torch.manual_seed(0)
    guide = pv.Guide(posteriors.FullRankNormal(2), 5, nn.Identity()).double()
    model = pv.Model(
        priors.StandardNormal(2), likelihoods.Gaussian(5), nn.Identity(), start=bed.x
    ).double()
    training = quiet(
        num_epochs=12,
        batch_size=300,
        optimizer=lambda ps: optim.LBFGS(ps, line_search_fn="strong_wolfe"),
    )
    objective = objectives.MeanFieldELBO(10)
    result = pv.fit(
        model, guide, pv.Dataset(bed.x, dtype=torch.float64), objective=objective, training=training
    )
    history = result.history["train"]
    centred = bed.x - bed.x.mean(0)
    spectrum = torch.linalg.eigvalsh(centred.mT @ centred / len(bed.x)).flip(0)
    noise = spectrum[2:].mean()
    log_det = spectrum[:2].log().sum() + 3 * noise.log()
    best = -0.5 * (5 * np.log(2 * np.pi) + log_det + 5).item()
    assert history[-1] == pytest.approx(best, abs=0.05)
    assert history[0] < best - 0.3


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.Adam,
        optim.Adagrad,
        optim.NAdam,
        two_groups,
        partial(optim.LBFGS, lr=0.1, max_iter=5),
        partial(optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe"),
    ],
    ids=["Adam", "Adagrad", "NAdam", "two groups", "LBFGS", "LBFGS, strong Wolfe"],
)
def test_every_optimiser_resumes_exactly(optimizer, tmp_path):
    whole = fitted(quiet(optimizer=optimizer))
    fitted(quiet(optimizer=optimizer, num_epochs=2, checkpoint=tmp_path / "run.pt"))
    assert same(whole, fitted(quiet(optimizer=optimizer, checkpoint=tmp_path / "run.pt"), seed=9))


# -- checkpoints
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({"optimizer": optim.SGD}, {"optimizer": optim.Adam}, "was written with optimizer=SGD("),
        (
            {"optimizer": optim.SGD},
            {"optimizer": lambda ps: optim.SGD(ps, momentum=0.9)},
            "momentum=0, ",
        ),
        ({"optimizer": optim.SGD}, {"optimizer": lambda ps: optim.SGD(ps, lr=0.5)}, "lr=0.001, "),
        ({"optimizer": optim.SGD}, {"optimizer": two_groups}, "not SGD(1 parameters: "),
        ({}, {"scheduler": SCHEDULERS["StepLR"]}, "was written with scheduler=None, not StepLR("),
        (
            {"scheduler": SCHEDULERS["StepLR"]},
            {"scheduler": SCHEDULERS["LambdaLR"]},
            "was written with scheduler=StepLR(",
        ),
        (
            {"scheduler": SCHEDULERS["LambdaLR"]},
            {"scheduler": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch)},
            "was written with scheduler=LambdaLR(",
        ),
    ],
)
def test_a_checkpoint_of_another_optimiser_or_scheduler_is_refused(first, then, said, tmp_path):
    fitted(quiet(**first, num_epochs=1, checkpoint=tmp_path / "run.pt"))
    with pytest.raises(ValueError, match=re.escape(said)):
        fitted(quiet(**then, checkpoint=tmp_path / "run.pt"))


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    fitted(quiet(num_epochs=1, checkpoint=path))
    state = torch.load(path, weights_only=True)
    for change in ({"format": 99}, {"format": 1}):
        write_tensors(path, state | change)
        with pytest.raises(
            ValueError,
            match=rf"has format {change['format']} and this version .*: delete it to start",
        ):
            fitted(quiet(checkpoint=path))
    write_tensors(path, {name: value for name, value in state.items() if name != "format"})
    with pytest.raises(ValueError, match="has format 1 and this version of ppl_vae reads format"):
        fitted(quiet(checkpoint=path))


def with_moving_average(name):
    objective = OBJECTIVES[name]()
    objective.gradient = objectives.ScoreFunction("moving-average", decay=0.5)
    objective.gradient.check(objective)
    return objective


ESTIMATORS = {
    **OBJECTIVES,
    **{
        f"{name}, moving average": partial(with_moving_average, name)
        for name, make in OBJECTIVES.items()
        if make().of_log_weights
    },
}


def test_only_a_moving_average_keeps_a_state():
    assert [name for name, make in GRADIENTS.items() if make().has_state] == []
    assert objectives.ScoreFunction("moving-average").has_state


@pytest.mark.parametrize("name", ESTIMATORS)
def test_resuming_and_fitting_again_are_exact_for_every_objective(name, tmp_path):
    make = ESTIMATORS[name]
    objective = make()
    training = {"num_epochs": 3, "batch_size": 40, "learning_rate": 0.05}
    data = data_for("Bernoulli")
    whole = fitted(quiet(**training), objective, data)
    assert same(fitted(quiet(**training), objective, data), whole), "the same object again"
    fitted(quiet(**training | {"num_epochs": 1}, checkpoint=tmp_path / "run.pt"), make(), data)
    assert same(
        fitted(quiet(**training, checkpoint=tmp_path / "run.pt"), make(), data, seed=9), whole
    )


# -- what is left when numbers stop being finite, and modes
# -----------------------------------------------------------

OPTIMISERS = {
    "Adam": optim.Adam,
    "SGD": optim.SGD,
    "Adagrad": optim.Adagrad,
    "RMSprop": optim.RMSprop,
}


@pytest.mark.parametrize("rate", [3.0, 1e4, 1e30])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_what_is_put_back_is_finite_and_gives_a_finite_bound(optimizer, rate):
    failures = 0
    for posterior in REAL_POSTERIORS:
        torch.manual_seed(0)
        model, guide = vae(likelihood="Poisson", posterior=posterior)
        x = data_for("Poisson")
        training = quiet(num_epochs=10, optimizer=OPTIMISERS[optimizer], learning_rate=rate)
        failure = None
        try:
            pv.fit(model, guide, x, training=training)
        except pv.NonFiniteLossError as error:
            failure = str(error)
        said = r"(after epoch \d+|starting weights) were put back: lower learning_rate"
        assert failure is None or re.search(said, failure)
        failures += failure is not None
        assert all(value.isfinite().all() for value in weights(model, guide))
        with pv.seeded(3):
            assert objectives.TraceELBO(5).bound(model, guide, x).isfinite().all()
    assert failures or rate < 1e30


def test_modules_rest_when_looked_at_and_work_when_trained():
    """sample, decode and encode do not depend on the mode, and leave it; what is trained through
    does."""
    torch.manual_seed(0)

    def network(size):
        return nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    guide = pv.Guide(posteriors.MeanFieldNormal(2), EVENT, network(EVENT))
    prior = priors.VampPrior(guide, pseudo_inputs=data_for("Bernoulli", num_data=5))
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5))
    model = pv.Model(prior, likelihoods.Bernoulli(EVENT), decoder)
    x, z = data_for("Bernoulli"), torch.randn(6, 2)
    looks = {
        "encode": lambda: guide.encode(x).base_dist.loc,
        "decode": lambda: model.decode(z).base_dist.logits,
        "sample": lambda: model.sample(50),
    }
    for look in looks.values():
        found = []
        for training in (True, False):
            model.train(training)
            before = weights(model)
            with pv.seeded(0):
                found.append(look())
            assert all(part.training == training for part in model.modules())
            assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True)), (
                "batch norm's averages"
            )
        assert torch.equal(*found)
    model.train()
    with pv.seeded(0):
        first, again = (guide(x) for _ in range(2))
    assert not torch.equal(first, again)
    pv.fit(model, guide, x, training=quiet(num_epochs=1))
    assert not any(part.training for program in (model, guide) for part in program.modules())


def test_a_last_row_alone_joins_the_batch_before_where_batches_are_normalised():
    sizes = []

    def network(size, normalised):
        layers = nn.Sequential(
            nn.Linear(size, 8), nn.BatchNorm1d(8) if normalised else nn.Identity()
        )
        layers[1].register_forward_pre_hook(
            lambda module, args: sizes.append(len(args[0])) if module.training else None
        )
        return layers

    for normalised, num_parts, expected in (
        (True, 1, [16, 17]),
        (False, 1, [16, 16, 1]),
        (True, 2, [8, 8, 9, 8]),
    ):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), EVENT, network(EVENT, normalised))
        model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli(EVENT), nn.Linear(2, 8))
        sizes.clear()
        data = data_for("Bernoulli", num_data=33)
        pv.fit(model, guide, data, training=quiet(num_epochs=1, batch_size=16, num_parts=num_parts))
        assert sizes == expected
    with pytest.raises(
        ValueError,
        match="batch normalisation needs 2 rows in each part of a batch, not batch_size=3 in 2",
    ):
        pv.fit(model, guide, data, training=quiet(batch_size=3, num_parts=2))


# -- diagnostics that cannot be had
# -----------------------------------------------------------------------------------


class NoRoomForParticles(nn.Module):
    """`torch.mm` takes two dims and no plate of particles."""

    def __init__(self):
        super().__init__()
        self.loading = nn.Parameter(
            torch.randn(2, EVENT, generator=torch.Generator().manual_seed(0))
        )
        self.encoder = nn.Linear(EVENT, 2)

    def model(self, x):
        pyro.module("whole", self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=torch.mm(z, self.loading)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("whole", self)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def test_a_program_without_room_for_particles_is_monitored():
    """Its rate is the mean of KL(N(m, 0.5^2) || N(0, 1)) over latents, in closed form."""
    program = NoRoomForParticles()
    programs = program.model, program.guide
    result = pv.fit(
        *programs, data_for("Bernoulli"), objective=Trace_ELBO(), training=quiet(learning_rate=1e-2)
    )
    with torch.no_grad():
        mean = program.encoder(data_for("Bernoulli"))
    rate = 0.5 * (0.25 + mean.square() - 1 - np.log(0.25)).sum(-1).mean()
    assert result.history["rate"][-1] == pytest.approx(rate.item(), rel=0.2)
    assert result.history["train"][-1] > result.history["train"][0]


def test_the_history_of_pyros_wake_sleep_is_the_models_bound():
    """log p(x) where the guide is exact: z ~ N(0, 1), x ~ N(z, 1). The guide's loss is minus no
    bound."""
    x = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.5, dtype=x.dtype))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(slope * x, x.new_tensor(0.5).sqrt()).to_event(1))

    objective = ReweightedWakeSleep(
        num_particles=2, insomnia=1.0, model_has_params=False, vectorize_particles=False
    )
    training = quiet(num_epochs=1, batch_size=13, learning_rate=1e-30, optimizer=optim.SGD)
    data = pv.Dataset(x, dtype=torch.float64).split(valid=14, test=0)
    history = pv.fit(model, guide, data, objective=objective, training=training).history
    for name in ("train", "valid"):
        exact = (
            torch.distributions.Normal(x.new_zeros(()), x.new_tensor(2.0).sqrt())
            .log_prob(getattr(data, name).x)
            .mean()
            .item()
        )
        assert history[name] == pytest.approx([exact], abs=1e-9)


# -- threads
# --------------------------------------------------------------------------------------------------


def test_threads_give_what_one_after_the_other_gives():
    found = {}
    torch.manual_seed(0)
    programs, jobs = [vae() for _ in range(4)], range(4)
    copies, x = copy.deepcopy(programs), data_for("Bernoulli")

    def work(seed, programs):
        if seed < 2:
            result = pv.fit(*programs[seed], x, training=quiet(seed=seed, num_epochs=6))
            found[seed] = result.history["train"], weights(*programs[seed])
        else:
            found[seed] = pv.log_evidence(*programs[seed], x, num_particles=300, seed=seed)

    for seed in jobs:
        work(seed, programs)
    alone, found = found, {}
    with pv.seeded(0):
        state = torch.get_rng_state()
        threads = [threading.Thread(target=work, args=(seed, copies)) for seed in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.equal(torch.get_rng_state(), state)
    for seed in jobs:
        if seed < 2:
            assert same(alone[seed], found[seed])
        else:
            np.testing.assert_array_equal(alone[seed].log_evidence, found[seed].log_evidence)
