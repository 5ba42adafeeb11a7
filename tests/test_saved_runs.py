"""save_run and load_run: a run makes the same programs again, to the bit, and runs no code."""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cases import LIKELIHOODS, data_for, pairs, vae
from test_mixed_columns import frame
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, networks, posteriors, priors
from ppl_vae.experiment import ConfigError, SavedRun
from ppl_vae.experiment.saved.describe import _arguments
from ppl_vae.experiment.saved.names import LAYERS, name_of

ROOT = Path(__file__).resolve().parent.parent
NUM_ROWS = 60


def log_weights(model, guide, data):
    x = data.x.to(next(model.parameters()).dtype)
    return pv.log_weights(model, guide, x, data.context, num_particles=3, seed=1).nan_to_num()


def again(folder, model, guide, data, **options):
    """The run after a round trip."""
    pv.save_run(folder, model, guide, data, **options)
    return pv.load_run(folder)


def assert_same(run, model, guide, data):
    assert torch.equal(log_weights(run.model, run.guide, data), log_weights(model, guide, data))
    assert run.document.programs.custom == ""
    for found, expected in ((run.model, model), (run.guide, guide)):
        buffers = dict(found.named_buffers())
        for name, each in expected.named_buffers():
            assert buffers[name].dtype == each.dtype, name
            assert torch.equal(buffers[name].nan_to_num(), each.nan_to_num()), name


# --- every family ---------------------------------------------------------------------------------


WITH_COVARIATES = ("ConditionalNormal", "GaussianProcess")  # these are tested below
PAIRS = [pair for pair in pairs(without=WITH_COVARIATES) if pair[1] not in WITH_COVARIATES]


BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@BOTH
@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_every_prior_and_posterior_comes_back(prior, posterior, dtype, tmp_path):
    model, guide = vae(prior, posterior=posterior)
    model, guide = model.to(dtype), guide.to(dtype)
    data = pv.Dataset(data_for("Bernoulli", 10), dtype=dtype)
    run = again(tmp_path, model, guide, data)
    assert_same(run, model, guide, data)
    with pv.seeded(0):
        expected = model.sample(2)
    with pv.seeded(0):
        assert torch.equal(run.model.sample(2), expected)


@BOTH
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_comes_back(likelihood, dtype, tmp_path):
    model, guide = vae(likelihood=likelihood)
    model, guide = model.to(dtype), guide.to(dtype)
    data = pv.Dataset(data_for(likelihood, 10, missing=True), dtype=dtype)
    run = again(tmp_path, model, guide, data)
    assert_same(run, model, guide, data)
    assert repr(run.model) == repr(model)
    assert run.model.likelihood.measure == model.likelihood.measure


def test_a_run_that_is_loaded_in_inference_mode_can_be_used(tmp_path):
    model, guide = vae()
    data = pv.Dataset(data_for("Bernoulli", 10))
    pv.save_run(tmp_path, model, guide, data)
    with torch.inference_mode():
        run = pv.load_run(tmp_path)
    assert_same(run, model, guide, data)
    assert not any(each.is_inference() for each in run.model.parameters())


@pytest.mark.parametrize("named", [True, False])
def test_covariates_of_new_rows_come_from_their_columns_or_beside_them(named, tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=["a", "b", "age"])
    ages = table[["age"]].to_numpy()
    if named:
        data = pv.Dataset(table, context=["age"])
    else:
        data = pv.Dataset(table[["a", "b"]], context=ages)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, context_dim=1, start=data)
    likelihood = likelihoods.Columns.of(data)
    model = pv.Model(priors.StandardNormal(1), likelihood, context_dim=1, start=data)
    run = again(tmp_path, model, guide, data)
    if named:
        assert torch.equal(run.read(table).context, data.context)
        with pytest.raises(ConfigError, match=r"covariates \(age\) are columns of these"):
            run.read(table, context=ages)
    else:
        assert torch.equal(run.read(table[["b", "a"]], context=ages).context, data.context)


def test_parts_that_are_shared_stay_shared(tmp_path):
    model, guide = vae("VampPrior")
    data = pv.Dataset(data_for("Bernoulli", 10))
    run = again(tmp_path / "vamp", model, guide, data)
    assert run.model.prior.guide is run.guide
    x = data_for("Gaussian", 10)
    data = pv.Dataset(x, context=torch.linspace(0, 1, 10)[:, None])
    prior = priors.GaussianProcess(1, 1, num_inducing=4)
    guide = pv.Guide(posteriors.GaussianProcess(prior), 3, nn.Linear(4, 5), context_dim=1)
    model = pv.Model(prior, likelihoods.Gaussian(3), nn.Identity(), start=data)
    run = again(tmp_path / "process", model, guide, data)
    assert run.guide.posterior.prior is run.model.prior
    assert_same(run, model, guide, data)


def test_networks_mechanisms_exposures_and_types_come_back(tmp_path):
    counts = pd.DataFrame({"a": [0, 3, 1, 2] * 5, "b": [1.5, np.nan, 2.5, 0.5] * 5})
    counts["hours"] = np.arange(1.0, 21.0)
    counts["sex"] = ["f", "m"] * 10
    data = pv.Dataset(counts, context=["hours", "sex"])
    guide = pv.Guide(
        posteriors.MeanFieldNormal(2),
        data.event_shape,
        networks.ResNet(7, 8, num_blocks=1, activation=nn.Tanh),
        missing=True,
        hide=0.1,
        start=data,
    )
    families = {"a": likelihoods.Poisson, "b": likelihoods.LogNormal(1)}
    model = pv.Model(
        priors.ConditionalNormal(2, 3, network=nn.Sequential(nn.Linear(3, 4), nn.GELU())),
        likelihoods.Columns(families),
        nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Dropout(0.1)),
        start=data,
        exposure="hours",
        missingness=pv.missingness.SelfMasking({"b": 1}),
    )
    for name, program in (("float", (model, guide)), ("double", (model.double(), guide.double()))):
        run = again(tmp_path / name, *program, data)
        x = pv.Dataset(counts, context=["hours", "sex"], dtype=next(model.parameters()).dtype)
        assert_same(run, model, guide, x)
        assert run.model.missingness.columns == ["b"]
        assert repr(run.model) == repr(model)
        assert run.guide.hide == 0.1


SIZES = {
    "AvgPool1d": (2,),
    "AvgPool2d": (2,),
    "BatchNorm1d": (4,),
    "BatchNorm2d": (4,),
    "Conv1d": (2, 3, 2),
    "Conv2d": (2, 3, 2),
    "ConvTranspose1d": (2, 3, 2),
    "ConvTranspose2d": (2, 3, 2),
    "GroupNorm": (2, 4),
    "LayerNorm": (4,),
    "Linear": (3, 4),
    "MaxPool1d": (2,),
    "MaxPool2d": (2,),
    "PReLU": (3,),
    "RMSNorm": (4,),
    "Unflatten": (1, (2, 2)),
}


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Sequential"])
def test_layers_of_torch_are_made_again_from_their_attributes(name):
    layer = getattr(nn, name)(*SIZES.get(name, ()))
    positional, keywords = _arguments(layer, name_of(type(layer)))
    made = type(layer)(*positional, **keywords)
    assert repr(made) == repr(layer)
    shapes = [
        {key: each.shape for key, each in part.state_dict().items()} for part in (layer, made)
    ]
    assert shapes[0] == shapes[1]


# --- a fitted table -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rows = frame(NUM_ROWS)
    rows["sex"] = np.random.default_rng(0).choice(["female", "male"], NUM_ROWS)
    return rows


@pytest.fixture(scope="module")
def fitted(table):
    torch.manual_seed(0)
    data = pv.Dataset(table, context=["sex"], name="survey").split(valid=10, test=10)
    recipe = pv.recipe(data, latent_dim=2, num_steps=20, progress=False)
    return recipe.model, recipe.guide, recipe.data, recipe.fit()


@pytest.fixture
def saved(fitted, tmp_path):
    return pv.save_run(tmp_path / "run", *fitted)


def test_a_fitted_table_comes_back(fitted, saved, table):
    model, guide, data, result = fitted
    run = pv.load_run(saved)
    assert_same(run, model, guide, data)
    assert run.result == result
    assert run.result.settings["refit"] == "True"
    assert str(run.model.likelihood) == str(model.likelihood)
    for name in ("columns", "levels", "num_train", "unobserved"):
        assert getattr(run.model, name) == getattr(model, name)
    assert not run.model.training
    first, second = (
        pv.impute(*each, pv.Dataset(table, context=["sex"])[:9], num_imputations=2, progress=False)
        for each in ((model, guide), (run.model, run.guide))
    )
    pd.testing.assert_frame_equal(first.complete(1), second.complete(1))


def test_other_rows_are_read_as_those_of_training(fitted, saved, table):
    data = fitted[2]
    run = pv.load_run(saved)
    some = table[table["sex"] == "male"].iloc[:3]
    shuffled = some.assign(other="x")[["other", *reversed(some.columns)]]
    rows = run.read(shuffled)
    expected = data[np.flatnonzero(table["sex"] == "male")[:3]]
    assert torch.equal(rows.x.nan_to_num(), expected.x.nan_to_num())
    assert torch.equal(rows.context, expected.context)
    assert rows.levels == data.levels
    assert rows.kinds == data.kinds
    assert rows.context_names == data.context_names
    assert replace(rows.schema, name="survey") == run.schema
    with pytest.raises(ConfigError, match="no column 'sex' for context"):
        run.read(table.drop(columns="sex"))
    with pytest.raises(ConfigError, match="'none' at row 0, which is none of its known levels"):
        run.read(table.assign(sex="none"))
    with pytest.raises(ConfigError, match="'income' .* levels .* trained with numbers there"):
        run.read(table.assign(income="much"))


def test_arrays_are_read_by_their_place(tmp_path):
    model, guide = vae(likelihood="Gaussian")
    data = pv.Dataset(data_for("Gaussian", 10))
    run = again(tmp_path, model, guide, data)
    assert torch.equal(run.read(data.x.numpy()).x, data.x)
    with pytest.raises(ConfigError, match="rows have the shape"):
        run.read(np.zeros((2, 4)))
    with pytest.raises(ConfigError, match="not a table with named columns"):
        run.read(pd.DataFrame(np.zeros((2, 3))))


def test_rows_are_kept_only_if_asked(fitted, saved, tmp_path):
    model, guide, data, result = fitted
    run = pv.load_run(saved)
    with pytest.raises(ConfigError, match=r"does not hold the rows .* keep_data=True"):
        run.held_out  # noqa: B018
    assert len(pv.load_run(saved, data=data).held_out) == 10
    with pytest.raises(ConfigError, match="trained on other rows"):
        pv.load_run(saved, data=data[1:])
    kept = pv.load_run(pv.save_run(tmp_path / "kept", model, guide, data, keep_data=True)).data
    assert torch.equal(kept.x.nan_to_num(), data.x.nan_to_num())
    assert torch.equal(kept.context, data.context)
    assert kept.schema == data.schema
    assert {k: v.tolist() for k, v in kept.splits.items()} == {
        k: v.tolist() for k, v in data.splits.items()
    }
    pd.testing.assert_frame_equal(
        kept.to_frame().reset_index(drop=True), data.to_frame().reset_index(drop=True)
    )


def test_a_new_model_still_starts_from_the_rows_when_it_is_fitted(tmp_path):
    x = 100 + 10 * torch.randn(50, 2)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), nn.Linear(1, 3))
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, nn.Linear(2, 3))
    run = again(tmp_path, model, guide, pv.Dataset(x))
    training = pv.Training(num_epochs=1, progress=False)
    with torch.random.fork_rng():
        results = [
            pv.fit(*programs, x, training=training).history["train"]
            for programs in ((model, guide), (run.model.train(), run.guide.train()))
        ]
    assert results[0] == results[1]


# --- custom programs ------------------------------------------------------------------------------


class Doubled(nn.Module):
    """A network of the user."""

    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(2, width)

    def forward(self, z):
        return 2 * self.linear(z)


def custom(width=4):
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(3), Doubled(width))
    return model, pv.Guide(posteriors.MeanFieldNormal(2), 3, nn.Linear(3, 4))


def test_custom_programs_are_given_their_weights(tmp_path):
    data = pv.Dataset(data_for("Gaussian", 10))
    model, guide = custom()
    model.num_train = 7
    folder = pv.save_run(tmp_path / "run", model, guide, data)
    with pytest.raises(ConfigError, match=r"custom programs \(Doubled of test_saved_runs is not"):
        pv.load_run(folder)
    others = custom()
    run = pv.load_run(folder, model=others[0], guide=others[1])
    assert run.model is others[0]
    assert run.model.num_train == 7
    assert torch.equal(log_weights(*others, data), log_weights(model, guide, data))
    before = custom(5)
    start = [each.clone() for each in before[0].parameters()]
    with pytest.raises(
        ConfigError, match=r"has shape \(3, 4\), and that of these programs \(3, 5\)"
    ):
        pv.load_run(folder, model=before[0], guide=before[1])
    assert all(torch.equal(*pair) for pair in zip(start, before[0].parameters(), strict=True))


def test_parts_that_were_changed_by_hand_are_custom(tmp_path):
    model, guide = vae(likelihood="Gaussian")
    model.decoder[1] = nn.Tanh()
    data = pv.Dataset(data_for("Gaussian", 10))
    assert_same(again(tmp_path / "same", model, guide, data), model, guide, data)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, networks.MLP(3, (4,)))
    guide.encoder.layers[1] = nn.Tanh()  # was ReLU
    folder = pv.save_run(tmp_path / "changed", model, guide, data)
    with pytest.raises(ConfigError, match="were changed afterwards"):
        pv.load_run(folder)
    assert pv.load_run(folder, model=model, guide=guide).document.programs.custom


def test_programs_without_modules_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no torch module is found"):
        pv.save_run(tmp_path / "run", lambda x: None, lambda x: None, np.zeros((3, 2)))
    assert not any(tmp_path.iterdir())


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_refused(fitted, saved, tmp_path):
    with pytest.raises(ConfigError, match="holds a run: choose another folder, or give overwrite"):
        pv.save_run(saved, *fitted)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"not empty and holds no run \(thesis.tex"):
        pv.save_run(other, *fitted, overwrite=True)
    with pytest.raises(ConfigError, match="is a file"):
        pv.save_run(other / "thesis.tex", *fitted)
    (other / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="run of a configuration"):
        pv.save_run(other, *fitted, overwrite=True)
    assert (other / "thesis.tex").read_text() == "x"


def test_a_run_is_replaced_on_request(fitted, tmp_path):
    folder = pv.save_run(tmp_path / "run", *fitted, keep_data=True)
    assert (folder / "data.safetensors").exists()
    model, guide = vae(likelihood="Gaussian")
    data = pv.Dataset(data_for("Gaussian", 10))
    pv.save_run(folder, model, guide, data, overwrite=True)
    assert_same(pv.load_run(folder), model, guide, data)
    assert sorted(os.listdir(folder)) == ["README.md", "run.json", "weights.safetensors"]
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_nothing_is_written_if_a_weight_is_not_a_number(tmp_path):
    model, guide = vae(likelihood="Gaussian")
    with torch.no_grad():
        model.decoder[0].bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"model.decoder.0.bias holds NaN or infinity"):
        pv.save_run(tmp_path / "run", model, guide, data_for("Gaussian", 10))
    assert not any(tmp_path.iterdir())


def test_the_card_says_what_was_trained(saved):
    text = (saved / "README.md").read_text()
    for said in ("survey", "| income | x | ", "female, male", "GaussianMixture", "refit=True"):
        assert said in text
    assert "60 rows (train 40, valid 10, test 10)" in text


def test_the_page_runs():
    text = (ROOT / "docs" / "howto" / "save_runs.md").read_text(encoding="utf-8")
    found: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "save_runs.md", "exec"), found)
    assert found["report"].files[0].exists()
    assert found["run"].model is found["again"]
    assert found["run"].document.programs.custom.startswith("Doubled of")


# --- damage ---------------------------------------------------------------------------------------


def edited(folder, change):
    """The folder, with a change of run.json, as an earlier version writes it: without checksum."""
    path = folder / "run.json"
    values = json.loads(path.read_text())
    values.pop("sha256", None)
    change(values)
    path.write_text(json.dumps(values))
    return folder


def parts_of(values, kind):
    return next(
        part for part in values["programs"]["description"]["parts"] if part["class"].endswith(kind)
    )


def set_class(values):
    values["programs"]["description"]["parts"][0]["class"] = "os.system"


def set_huge(values):
    parts_of(values, "MLP")["arguments"]["hidden_dims"] = [100_000, 100_000]


def set_many(values):
    parts_of(values, "GaussianMixture")["arguments"]["num_components"] = 10**11


def set_argument(values):
    parts_of(values, "GaussianMixture")["arguments"]["colour"] = 1


def set_other_shape(values):
    parts_of(values, "GaussianMixture")["arguments"]["num_components"] = 2


DAMAGES = {
    "newer": (lambda values: values.update(format=99), "has format 99, .* reads up to 1: update"),
    "no format": (lambda values: values.pop("format"), "is no file of a run"),
    "a format in words": (lambda values: values.update(format="new"), "is no file of a run"),
    "a missing key": (lambda values: values.pop("programs"), "damaged: programs: Field required"),
    "another type": (lambda values: values["data"].update(num_data="x"), "damaged: data.num_data"),
    "an unknown key": (lambda values: values.update(run="rm"), "damaged: run: Extra inputs"),
    "a foreign class": (set_class, "part 0: no part is called 'os.system'"),
    "huge layers": (set_huge, "GB of memory|far more memory than its weights"),
    "huge mixtures": (set_many, "num_components is 100000000000; it must be at most"),
    "an unknown argument": (set_argument, "unexpected keyword argument 'colour'"),
    "another size": (set_other_shape, r"model.prior.logits has shape \(8,\)"),
    "no parts": (lambda values: values["programs"]["description"].update(parts=[]), "damaged"),
    "a part of itself": (
        lambda values: values["programs"]["description"].update(model=99),
        "damaged",
    ),
    "a damaged column": (lambda values: values["data"]["columns"].pop("kinds"), "data.columns"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_description_is_refused_in_one_line(saved, damage):
    change, said = DAMAGES[damage]
    with pytest.raises(ConfigError, match=said) as caught:
        pv.load_run(edited(saved, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"format": 1}'])
def test_text_that_is_no_description_is_refused(saved, text):
    (saved / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run.json"):
        pv.load_run(saved)


def test_damaged_weights_are_refused(saved):
    path = saved / "weights.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-9], b"", content[:200] + b"\0" + content[201:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="digest differs"):
            pv.load_run(saved)
    path.unlink()
    with pytest.raises(ConfigError, match="not complete: there is no weights.safetensors"):
        pv.load_run(saved)
    path.symlink_to("/dev/null")
    with pytest.raises(ConfigError, match=r"not complete|digest differs"):
        pv.load_run(saved)


def test_weights_that_are_no_numbers_are_refused_by_name(saved):
    from safetensors.torch import load_file, save_file

    from ppl_vae.experiment.saved.weights import FORMAT_KEY, digest_of

    path = saved / "weights.safetensors"
    tensors = load_file(path)
    tensors["model.prior.loc"][0, 0] = torch.inf
    for written, said in (
        ({FORMAT_KEY: "1"}, "model.prior.loc holds NaN or infinity"),
        ({FORMAT_KEY: "2"}, "has format 2"),
        ({}, "is no file of a run"),
    ):
        save_file(tensors, path, written)
        edited(saved, lambda values: values["programs"].update(sha256=digest_of(path)))
        with pytest.raises(ConfigError, match=said):
            pv.load_run(saved)
    path.write_bytes(b"not safetensors")
    edited(saved, lambda values: values["programs"].update(sha256=digest_of(path)))
    with pytest.raises(ConfigError, match="cannot be read"):
        pv.load_run(saved)


def test_a_run_in_memory_has_the_same_face(fitted):
    model, guide, data, result = fitted
    run = SavedRun.of(model, guide, data, result)
    assert run.names["prior"] == "GaussianMixture"
    assert run.patience is not None
    assert run.evaluation.split == "test"
    assert asdict(run.result)["seed"] == 0
    assert "objective = IWAE" in run.listing
