"""A configuration says what Python says: same names, same keywords, same numbers, and nothing is
guessed."""

import shutil
import tomllib
from abc import ABC
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from pyro.infer import ELBO

from ppl_vae import (
    Guide,
    Model,
    Training,
    evidence,
    fit,
    likelihoods,
    load,
    log_evidence,
    networks,
    objectives,
    posteriors,
    priors,
)
from ppl_vae.data import Dataset, readers
from ppl_vae.evidence import AIS, Defensive, Evidence, ImportanceSampling
from ppl_vae.experiment import (
    Config,
    ConfigError,
    Estimates,
    Folder,
    build,
    demo_config,
    differences,
    evaluate_run,
    load_run,
    read_config,
    reading,
    run_experiment,
    table,
    to_toml,
)
from ppl_vae.experiment.rows.sources import load_data
from ppl_vae.experiment.run import load_experiment
from ppl_vae.experiment.signatures import choices
from ppl_vae.experiment.tables import MethodTable
from ppl_vae.runtime.sealed import read_json
from ppl_vae.training import schedules

DIGITS = [("data.name", "digits")]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL = [
    ("data.name", "digits"),
    ("data.binarize", "dynamic"),
    ("posterior.latent_dim", 2),
    ("encoder.hidden_dims", [8]),
    ("decoder.hidden_dims", [8]),
    ("training.num_epochs", 2),
    ("evaluation.num_particles", 30),
    ("evaluation.num_data", 12),
]


def small(*changes):
    return read_config(changes=[*SMALL, *changes])


# --- what a file may say --------------------------------------------------------------------------


def test_config_survives_its_file():
    for config in (
        demo_config(),
        small(("evaluation.method", "AIS"), ("evaluation.num_chains", 50)),
        small(("evaluation.proposal", {"name": "Defensive", "share": 0.3})),
        small(("prior.name", "GaussianMixture")),
        small(
            ("training.learning_rate", {"schedule": "Cosine", "start": 1e-3}),
            ("training.optimizer", "RMSprop"),
        ),
    ):
        assert Config.model_validate(tomllib.loads(to_toml(config))) == config


def test_config_is_complete_with_defaults():
    written = tomllib.loads(to_toml(small()))
    assert written["encoder"] == {
        "name": "MLP",
        "hidden_dims": [8],
        "activation": "ReLU",
        "dropout": 0.0,
        "skip": False,
    }
    settings = {
        field.name: field.default for field in fields(Training) if field.default is not None
    }
    settings = settings | {"num_epochs": 2}
    del settings["progress"]  # the caller's
    assert written["training"] == settings


OF_COVARIATES = ("ConditionalNormal", "GaussianProcess")


@pytest.mark.parametrize("room", [priors, likelihoods, posteriors, networks, objectives])
def test_every_name_of_a_room_is_a_choice(room):
    abstract = {name for name in room.__all__ if ABC in getattr(room, name).__bases__}
    assert set(choices(room.__name__)) == set(room.__all__) - abstract


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("prior", name) for name in choices(priors.__name__) if name not in OF_COVARIATES),
        *(
            ("posterior", name)
            for name in choices(posteriors.__name__)
            if name not in OF_COVARIATES
        ),
        *(("objective", name) for name in choices(objectives.__name__, ELBO)),
        *(("encoder", name) for name in ("MLP", "ResNet", "ConvEncoder")),
        *(("decoder", name) for name in ("MLP", "ResNet", "ConvDecoder", "GRUDecoder")),
    ],
)
def test_a_class_is_built_from_its_name_alone(section, name):
    experiment = build(read_config(changes=[("data.name", "digits"), (f"{section}.name", name)]))
    holders = {
        "prior": experiment.model,
        "decoder": experiment.model,
        "posterior": experiment.guide,
    }
    holders |= {"encoder": experiment.guide, "objective": experiment}
    assert type(getattr(holders[section], section)).__name__ == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("prior.name", "VampPriors"),
            "[prior] priors has no 'VampPriors': did you mean VampPrior?",
        ),
        (
            ("posterior.name", "GaussianProcess"),
            "[posterior] GaussianProcess is made from a prior, which a file does not give",
        ),
        (
            ("encoder.hidden_dim", [8]),
            "[encoder] MLP takes no 'hidden_dim': did you mean hidden_dims? Allowed: hidden",
        ),
        (("training.epochs", 3), "[training] Training takes no 'epochs': did you mean num_epochs?"),
        (("training.progress", True), "[training] Training takes no 'progress'"),
        (
            ("training.num_epochs", -1),
            "[training] Training(num_epochs) is -1; it must be a whole number, at least 0",
        ),
        (("traning.num_epochs", 3), "there is no table [traning]: did you mean training?"),
        (("data.binarise", "dynamic"), "[data] takes no 'binarise': did you mean binarize?"),
        (
            ("data.binarize", "dynamical"),
            "[data] binarize = 'dynamical': Input should be 'dynamic'",
        ),
        (("encoder.hidden_dims", "wide"), "[encoder] hidden_dims = 'wide': "),
        (("encoder.activation", "tanh"), "[encoder] nn has no 'tanh': did you mean Tanh?"),
        (("training.learning_rate", {"schedule": "Exponentail"}), "did you mean Exponential?"),
        (
            ("training.learning_rate", {"schedule": "Exponential", "start": 0.1}),
            "missing 1 required",
        ),
        (
            ("prior.latent_dim", 3),
            "[prior] latent_dim is 3, [posterior] latent_dim 2: give it in [posterior] alone",
        ),
        (
            ("evaluation.num_particles", 0),
            "[evaluation] num_particles is 0; it must be a whole number, at least 1",
        ),
        (("evaluation.num_particles", 2.5), "[evaluation] num_particles = 2.5: "),
        (
            ("evaluation.splits", "test"),
            "[evaluation] with method ImportanceSampling takes no 'splits': did you mean sp",
        ),
        (
            ("evaluation.method", "IAS"),
            "[evaluation] evidence has no 'IAS': did you mean AIS? Allowed: AIS, ",
        ),
        (("evaluation.method", "Defensive"), "[evaluation] evidence has no 'Defensive'"),
        (("evaluation.method", 3), "[evaluation] 3 is neither a name nor a table with a name"),
        (
            ("evaluation.method.num_chains", 3),
            "[evaluation] ImportanceSampling takes no 'num_chains'",
        ),
        (
            ("evaluation.method", {"name": "AIS", "num_chains": 0}),
            "[evaluation] AIS(num_chains) is 0; it must be a whole number, at least",
        ),
        (
            ("evaluation.proposal", "gide"),
            "[evaluation] proposal = 'gide': did you mean guide? Allowed: guide, prior, D",
        ),
        (
            ("evaluation.proposal", {"name": "Defensive", "share": 2}),
            "[evaluation] Defensive(share) is 2;",
        ),
        (
            ("evaluation.split", "all"),
            "[evaluation] split = 'all': Input should be 'train', 'valid' or 'test'",
        ),
        (("objective.num_particles", "many"), "[objective] num_particles = 'many': "),
        (("encoder.in_shape", 3), "[encoder] MLP takes no 'in_shape'"),
        (
            ("training.compile", "maybe"),
            '[training] compile = \'maybe\': write one of "auto", "cudagraphs", true, false',
        ),
        (
            ("training.compile", "True"),
            '[training] compile = \'True\': write one of "auto", "cudagraphs", true, false',
        ),
        (
            ("training.compile", 1),
            '[training] compile = 1: write one of "auto", "cudagraphs", true, false',
        ),
        (
            ("evaluation.compile", "maybe"),
            "[evaluation] compile = 'maybe': write one of \"auto\", true, false",
        ),
        (("training.optimizer", "LBFGS"), "[training] optim has no 'LBFGS': Allowed: ASGD, "),
        (("training.optimizer", "Optimizer"), "[training] optim has no 'Optimizer': "),
        (("prior", "VampPrior"), "'prior' is not a keyword of a table: write table.keyword"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, said):
    with pytest.raises(ConfigError) as error:
        small(change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", choices("torch.optim"))
def test_every_optimizer_that_may_be_named_takes_steps(name):
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.clone()
    optimizer = build(small(("training.optimizer", name))).training.optimizer(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_a_scheduler_may_be_named_with_its_keywords():
    scheduler = build(
        small(("training.scheduler", {"name": "StepLR", "step_size": 3}))
    ).training.scheduler
    made = scheduler(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    assert isinstance(made, torch.optim.lr_scheduler.StepLR)
    assert made.step_size == 3
    with pytest.raises(ConfigError, match="lr_scheduler has no 'StepLRR'"):
        small(("training.scheduler", "StepLRR"))


@pytest.mark.parametrize("compile", ["auto", "cudagraphs", True, False])
def test_every_way_to_compile_may_be_asked_for(compile):
    assert build(small(("training.compile", compile))).training.compile == compile


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("data.name", "digit")], "[data] 'digit' is neither a file nor one of digits"),
        ([("data.name", "rain.csv")], "[data] rain.csv: no such file"),
        (
            [("likelihood.name", "Gaussian"), ("likelihood.scale", -1.0)],
            "[likelihood] scale is -1.0",
        ),
        ([("encoder.activation", "Linear")], "[encoder] "),
        (
            [("prior.name", "VampPrior"), ("prior.pseudo_inputs", 5000)],
            "only 1297 training rows have no missing",
        ),
    ],
)
def test_what_does_not_suit_the_data_names_its_table(changes, said):
    with pytest.raises(ConfigError) as error:
        build(small(*changes))
    assert said in str(error.value)


def test_objects_inside_a_table():
    tight = build(
        small(("objective.name", "IWAE"), ("objective.gradient", "DoublyReparameterized"))
    ).objective
    assert isinstance(tight.gradient, objectives.DoublyReparameterized)
    base = {"name": "LogNormal", "floor": 0.01}
    changes = [("likelihood.name", "Censored"), ("likelihood.base", base)]
    censored = build(small(*changes, ("likelihood.lower", 0.5))).model.likelihood
    assert (type(censored.base), censored.base.floor) == (likelihoods.LogNormal, 0.01)
    assert censored.lower.unique().tolist() == [0.5]
    schedule = {"schedule": "Cosine", "start": 0.1}
    assert build(
        small(("training.learning_rate", schedule))
    ).training.learning_rate == schedules.Cosine(0.1)
    leaky = build(
        small(("encoder.activation", {"name": "LeakyReLU", "negative_slope": 0.3}))
    ).guide.encoder
    assert [
        layer.negative_slope for layer in leaky.modules() if isinstance(layer, torch.nn.LeakyReLU)
    ] == [0.3]


# --- the method of [evaluation] -------------------------------------------------------------------


@pytest.mark.parametrize("name", choices(MethodTable.module, MethodTable.kind))
def test_a_method_is_built_from_its_name_alone(name):
    assert (
        read_config(changes=[*DIGITS, ("evaluation.method", name)]).evaluation.method.build()
        == getattr(evidence, name)()
    )


def test_keywords_beside_the_method_are_the_methods():
    short = small(
        ("evaluation.num_particles", 50),
        ("evaluation.target_se", 0.1),
        ("evaluation.chunk_size", 99),
    )
    table = {"name": "ImportanceSampling", "num_particles": 50, "target_se": 0.1, "chunk_size": 99}
    assert small(("evaluation.method", table)) == short
    assert short.evaluation.method.build() == ImportanceSampling(50, target_se=0.1, chunk_size=99)
    flat = [
        ("evaluation.method", "AIS"),
        ("evaluation.num_chains", 50),
        ("evaluation.sampler.num_leapfrog", 3),
    ]
    sampler = replace(AIS().sampler, num_leapfrog=3)
    for order in (flat, flat[::-1]):
        assert small(*order).evaluation.method.build() == AIS(50, sampler=sampler)


def test_objects_inside_a_method():
    table = {"name": "Defensive", "share": 0.3}
    proposal = small(("evaluation.proposal", table)).evaluation.method.build().proposal
    assert proposal == Defensive(share=0.3)
    assert (
        small(("evaluation.proposal", "Defensive")).evaluation.method.build().proposal
        == Defensive()
    )
    method = {
        "name": "AIS",
        "sampler": {"num_leapfrog": 3},
    }  # what is left out is AIS's own default, not that of HMC
    assert small(("evaluation.method", method)).evaluation.method.build().sampler.num_samples == 1


def test_another_method_drops_the_keywords_of_the_old_one(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text('[data]\nname = "digits"\n[evaluation]\nnum_particles = 7\nchunk_size = 99\n')
    for change in (
        ("evaluation.method.name", "AIS"),
        ("evaluation.method", {"name": "AIS", "chunk_size": 99}),
    ):
        assert read_config(path, [change]).evaluation.method.build() == AIS(chunk_size=99)


def test_a_folder_of_an_earlier_version_is_read(tmp_path):
    now = small(("evaluation.chunk_size", 99))
    lines = to_toml(now).splitlines()
    old = ["num_particles = 30", 'proposal = "guide"', "chunk_size = 99"]
    before = "\n".join("\n".join(old) if line.startswith("method") else line for line in lines)
    (tmp_path / "config.toml").write_text(before)
    assert "method" not in before
    assert differences(read_config(tmp_path / "config.toml"), now) == []


def test_differences_go_into_tables():
    one, other = (small(("evaluation.num_particles", number)) for number in (30, 40))
    assert differences(one, other) == ["evaluation.method.num_particles is 30, not 40"]


def test_no_toml(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[data\nname = 1")
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML: .*line 1"):
        read_config(path)


def test_another_class_drops_the_keywords_of_the_old_one():
    config = small(
        ("prior.name", "VampPrior"), ("prior.pseudo_inputs", 9), ("prior.name", "StandardNormal")
    )
    assert config.prior.keywords == {}
    config = small(
        ("posterior.name", "LowRankNormal"),
        ("posterior.rank", 2),
        ("posterior.name", "FullRankNormal"),
    )
    assert config.posterior.keywords == {"latent_dim": 2}


def test_differences_name_the_keyword():
    assert differences(small(), small(("training.seed", 1))) == ["training.seed is 0, not 1"]
    assert differences(small(), small()) == []


def test_examples():
    assert read_config(EXAMPLES / "digits.toml") == demo_config()
    config = read_config(EXAMPLES / "mnist.toml")
    assert config.latent_dim == 50
    training = build(read_config(EXAMPLES / "mnist.toml", [("data.name", "digits")])).training
    assert training == Training(
        num_epochs=100, batch_size=100, learning_rate=schedules.Exponential(1e-3, 1e-4)
    )


# --- what is built --------------------------------------------------------------------------------


def test_missing_values_and_covariates_reach_the_model(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).round(3)
    lines = [
        ",".join(map(str, row)) + f",{row[0] > 0:d},{group}"
        for row, group in zip(x, "ab" * 20, strict=True)
    ]
    lines[5] = "," + lines[5].partition(",")[2]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["u,v,w,treated,group", *lines]))
    changes = [
        ("data.name", str(path)),
        ("data.label", "group"),
        ("data.context", ["treated"]),
        ("likelihood.name", "Gaussian"),
        ("prior.name", "VampPrior"),
        ("prior.pseudo_inputs", 6),
        ("training.num_epochs", 1),
        ("evaluation.num_particles", 30),
    ]
    experiment = build(read_config(changes=changes))
    assert experiment.guide.missing
    assert experiment.model.context_dim == experiment.guide.context_dim == 1
    assert experiment.model.prior.pseudo_context.shape == (6, 1)
    metrics = run_experiment(experiment.config, tmp_path / "run", progress=False)
    assert metrics["num_data"] == 4
    assert load_run(tmp_path / "run").data.labels is not None


@pytest.mark.parametrize(
    ("header", "first", "features"),
    [
        ("", [4, 5, 6], ["may", "june"]),
        ("id", ["a", "b", "c"], ["may", "june"]),
        ("Index", [1, 2, 3], ["may", "june"]),
        ("index", [0.5, 1.5, 2.5], ["index", "may", "june"]),  # a quantity
        ("id", [1, 1, 2], ["id", "may", "june"]),  # of groups
        ("april", [0, 1, 2], ["april", "may", "june"]),
    ],
)
def test_row_numbers_of_a_table_are_no_feature(tmp_path, header, first, features):
    rows = "".join(f"{name},{0.5 * i},{2.0 * i}\n" for i, name in enumerate(first))
    (tmp_path / "rain.csv").write_text(f"{header},may,june\n{rows}")
    data = load_data(
        read_config(changes=[("data.name", str(tmp_path / "rain.csv")), ("data.valid", 0)]).data
    )
    assert list(data.coords["feature"]) == features
    assert list(data.coords["datum"]) == (first if len(features) == 2 else [0, 1, 2])


# --- what is run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vamp"
    config = small(("prior.name", "VampPrior"), ("prior.pseudo_inputs", 5))
    return folder, run_experiment(config, folder, progress=False)


def test_metrics_are_what_python_gives(finished):
    folder, metrics = finished
    data = load("digits", binarize="dynamic")
    torch.manual_seed(0)
    guide = Guide(posteriors.MeanFieldNormal(2), data.event_shape, networks.MLP((8, 8), [8]))
    prior = priors.VampPrior(guide, pseudo_inputs=data.train.x[:5])
    likelihood = likelihoods.Bernoulli(data.event_shape)
    model = Model(prior, likelihood, networks.MLP(2, [8]), start=data.train.x)
    result = fit(model, guide, data, training=Training(num_epochs=2, progress=False))
    evidence = log_evidence(model, guide, data.test[:12], num_particles=30)
    summary = evidence.summary()
    assert metrics["history"]["train"] == pytest.approx(result.history["train"], rel=1e-5)
    for name in ("log_evidence", "elbo", "mc_se", "data_se", "mean_ess", "share_bad_k"):
        assert metrics[name] == pytest.approx(getattr(summary, name), rel=1e-4), name
    with np.load(folder / "evidence.npz") as arrays:
        np.testing.assert_allclose(arrays["log_evidence"], evidence.log_evidence, rtol=1e-4)


def test_rate_and_distortion_add_up_to_the_elbo(finished):
    _, metrics = finished
    # two Monte Carlo estimates (K = 100 and 30) of the same ELBO over 12 rows: sd of log w is below
    # 3 nats
    assert metrics["kl"] + metrics["distortion"] == pytest.approx(
        -metrics["elbo"], abs=4 * 3 / np.sqrt(12 * 30)
    )


def test_folder_is_complete(finished):
    folder, metrics = finished
    pictures = {
        f"{name}.png" for name in ("training", "reconstructions", "samples", "latent", "k_hat")
    }
    files = {
        "config.toml",
        "checkpoint.pt",
        "weights.safetensors",
        "run.json",
        "README.md",
        "evidence.npz",
        "metrics.json",
        "posterior.nc",
    }
    assert {path.name for path in folder.iterdir()} == pictures | files
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert read_json(folder / "metrics.json") == {"format": 1, **metrics}
    with xarray.open_datatree(folder / "posterior.nc", engine="h5netcdf") as tree:
        assert tree["posterior"]["z"].sizes["datum"] == 12
        assert tree.attrs["objective"] == repr(objectives.MeanFieldELBO())


def test_a_finished_run_is_not_run_again(finished):
    folder, metrics = finished
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    assert run_experiment(read_config(folder / "config.toml"), folder, progress=False) == metrics
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before


def test_another_configuration_is_refused(finished):
    folder, _ = finished
    with pytest.raises(
        ConfigError, match="holds another run .prior.name is 'VampPrior', not 'StandardNormal'"
    ):
        run_experiment(small(), folder, progress=False)


EDITED = {
    "pseudo_inputs = 5": ("pseudo_inputs = 6", "prior.pseudo_inputs is 6, not 5"),
    'activation = "ReLU"': ('activation = "Tanh"', "encoder.activation is 'Tanh', not 'ReLU'"),
    'binarize = "dynamic"': ('binarize = "static"', "data.binarize is 'static', not 'dynamic'"),
    "num_epochs = 2": ("num_epochs = 3", "training.num_epochs is 3, not 2"),
    "num_particles = 1\n": ("num_particles = 4\n", "objective.num_particles is 4, not 1"),
}


@pytest.mark.parametrize("setting", EDITED)
def test_a_configuration_that_was_edited_after_training_is_refused(setting, finished, tmp_path):
    """Of the same shapes of weights, so that nothing else would notice some of them."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    text = (folder / "config.toml").read_text()
    assert setting in text
    other, said = EDITED[setting]
    (folder / "config.toml").write_text(text.replace(setting, other, 1))
    calls = [
        lambda: load_run(folder),
        lambda: load_experiment(folder),
        lambda: run_experiment(read_config(folder / "config.toml"), folder, progress=False),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=f"was changed after training: {said} as in"):
            call()


def test_what_is_evaluated_may_be_edited_after_training(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    text = (folder / "config.toml").read_text()
    edited = text.replace("num_data = 12", "num_data = 3")
    edited = edited.replace('compile = "auto"', "compile = false")
    (folder / "config.toml").write_text("# a remark\n" + edited)
    assert evaluate_run(load_run(folder), progress=False)["num_data"] == 3


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        run_experiment(small(), tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_loaded_run_is_the_trained_one(finished):
    folder, metrics = finished
    run = load_run(folder)
    evidence = log_evidence(run.model, run.guide, run.held_out, num_particles=30)
    assert evidence.summary().log_evidence == pytest.approx(metrics["log_evidence"], rel=1e-6)


def test_no_such_split_is_said_before_training(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x_train=np.zeros((8, 3)), x_valid=np.zeros((4, 3)))
    config = small(("data.name", str(path)))
    with pytest.raises(ConfigError, match="split = 'test', but 'x' has train, valid"):
        run_experiment(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_batch_without_a_row_for_each_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.runtime.distributed.num_processes", lambda: 4)
    said = (
        r"^\[training\] batch_size=3 is shared by 4 processes: give each at least one row, "
        r"batch_size=4$"
    )
    with pytest.raises(ConfigError, match=said):
        run_experiment(small(("training.batch_size", 3)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_on_data_in_a_file_is_that_on_the_same_data_in_memory(tmp_path, monkeypatch):
    """With a prior that takes the first rows without a missing value."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    x[0, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    changes = [
        ("data.name", str(tmp_path / "x.npy")),
        ("prior.name", "VampPrior"),
        ("prior.pseudo_inputs", 5),
        ("likelihood.name", "Gaussian"),
        ("training.num_epochs", 1),
        ("evaluation.num_particles", 50),
    ]
    config = read_config(changes=changes)
    found = []
    for name, limit in (("memory", 2**28), ("file", 100)):
        monkeypatch.setattr(readers, "LARGEST_IN_MEMORY", limit)
        found.append(run_experiment(config, tmp_path / name, progress=False))
    assert found[0].log_evidence == pytest.approx(found[1].log_evidence, rel=1e-6)


def test_a_run_without_validation_data(tmp_path):
    metrics = run_experiment(small(("data.valid", 0)), tmp_path / "run", progress=False)
    assert metrics["rows"] == {"train": 1497, "test": 300}
    assert "valid" not in metrics["history"]


def test_an_evaluation_names_its_method_and_keeps_every_datum(finished, tmp_path):
    run = load_run(finished[0])
    table_of_ais = {
        "name": "AIS",
        "num_chains": 30,
        "num_temperatures": 2,
        "sampler": {"num_leapfrog": 1},
    }
    metrics = evaluate_run(run, tmp_path / "ais.json", progress=False, method=table_of_ais)
    ais = AIS(30, 2, sampler=replace(AIS().sampler, num_leapfrog=1))
    found = log_evidence(run.model, run.guide, run.held_out, ais, progress=False)
    assert metrics["log_evidence"] == found.summary().log_evidence
    assert metrics["elbo"] == pytest.approx(
        -metrics["kl"] - metrics["distortion"], rel=1e-6
    )  # the guide's own
    method = metrics["evaluation"]["method"]
    assert (method["name"], method["num_chains"], method["num_temperatures"]) == ("AIS", 30, 2)
    assert "test split, 12 rows, AIS with 30 chains each" in table(metrics)
    assert "of 30 chains, on average" in table(metrics)
    assert read_json(tmp_path / "ais.json") == {"format": 1, **metrics}
    np.testing.assert_array_equal(
        Evidence.load(tmp_path / "ais.npz").log_evidence, found.log_evidence
    )


def test_an_upper_bound_is_called_one(finished):
    metrics = evaluate_run(load_run(finished[0]), progress=False, method="ChiUpperBound")
    assert metrics["bound"] == "upper in the limit"
    assert "log p(x), upper in the limit" in table(metrics)
    assert "log p(x) is at most this in the limit of many particles" in table(metrics)
    assert "lower bound" not in table(metrics)


def test_an_adaptive_number_of_particles_is_told_as_one(finished):
    metrics = evaluate_run(
        load_run(finished[0]), progress=False, num_particles=5000, target_se=0.05
    )
    assert metrics["mean_used"] < metrics["num_particles"]
    assert f"with {metrics['mean_used']:.0f} particles on average, at most " in table(metrics)


def test_the_same_settings_find_the_same_file():
    folder, settings = Folder("run"), small().evaluation
    assert folder.evaluation(settings) == folder.evaluation(small().evaluation)
    others = [
        small(change).evaluation
        for change in (("evaluation.seed", 1), ("evaluation.num_particles", 31))
    ]
    assert len({folder.evaluation(settings), *map(folder.evaluation, others)}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {},
            "log p(x) is a lower bound, not an estimate, for 50 % of the rows (weights too skewed "
            "for 32 chains for 50 %)",
        ),
        (
            {"share_estimate": 1.0},
            "log p(x) is an estimate for all rows, by k-hat, and its standard errors are valid",
        ),
        ({"share_bad_k": 0.004}, "50 % of the rows (k-hat > 0.7 for less than 1 %, weights too"),
        ({"share_bad_k": 0.5}, "for 50 % of the rows (k-hat > 0.7 for 50 %), and"),
        ({"share_bad_k": None}, "k-hat needs at least 30 chains: "),
        (
            {"bound": "upper if converged"},
            "if the chains behind it have reached the posterior; where k-hat > 0.7 (0 %",
        ),
    ],
)
def test_what_k_hat_says(change, said):
    ais = {"evaluation": {"method": {"name": "AIS", "num_chains": 32}}, "active_units": None}
    ais["num_particles"] = 32
    assert (
        said in reading(Estimates(**ais | {"share_bad_k": 0.0, "share_estimate": 0.5} | change))[0]
    )


def test_few_particles_leave_k_hat_unknown(tmp_path):
    with pytest.warns(UserWarning, match="k-hat needs at least 30 particles"):
        metrics = run_experiment(
            small(("evaluation.num_particles", 5)), tmp_path / "run", progress=False
        )
    assert metrics["share_bad_k"] is None
    assert "the reliability of log p(x) is not known" in table(metrics)


def test_held_out_rows_are_the_first_of_the_split():
    experiment = build(small())
    assert torch.equal(experiment.held_out.x, experiment.data.test.x[:12])
    assert isinstance(
        replace(experiment, config=small(("evaluation.split", "valid"))).held_out, Dataset
    )
