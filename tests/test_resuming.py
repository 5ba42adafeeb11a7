"""What is read back is what was written, bit for bit, and belongs to the call that reads it."""

import dataclasses
import zipfile

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO
from torch import optim

import ppl_vae as pv
from ppl_vae import objectives, posteriors, priors
from ppl_vae.errors import DamagedFileError, OtherSettingsError
from ppl_vae.evidence import EvidenceInterval
from ppl_vae.runtime.sealed import read_arrays, read_tensors, write_arrays, write_tensors
from ppl_vae.tasks import Fits
from ppl_vae.training import schedules


def quiet(**settings):
    return pv.Training(**{"num_epochs": 2, "batch_size": 20, "progress": False} | settings)


def rows(context=0.0, held_out=0.0, weight=1.0):
    """Sixty rows with a covariate and weights; some of which may differ."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    covariate = rng.normal(size=60)
    weights = np.ones(60)
    x[50, 0] += held_out
    covariate[5] += context
    weights[5] = weight
    splits = {"train": range(40), "valid": range(40, 60)}
    return pv.Dataset(x, context=covariate, weights=weights, splits=splits)


def pair(scale="feature"):
    torch.manual_seed(0)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, context_dim=1)
    likelihood = pv.likelihoods.Gaussian(3, scale=scale)
    return pv.Model(priors.StandardNormal(2), likelihood, context_dim=1), guide


def trained(training, data=None, model=None, objective=None):
    model = pair() if model is None else model
    return pv.fit(*model, rows() if data is None else data, objective=objective, training=training)


# -- a training goes on only with what it began with
# ------------------------------------------------------------------------------------------

OTHERS = {
    "covariates": ({"data": rows(context=1.0)}, "other covariates of the training rows"),
    "validation rows": ({"data": rows(held_out=1.0)}, "other validation rows"),
    "weights": ({"data": rows(weight=2.0)}, "other weights of the training rows"),
    "model": ({"model": pair(scale="decoder")}, "another model"),
    "objective": ({"objective": Trace_ELBO()}, "objective=MeanFieldELBO"),
    "particles": ({"objective": objectives.IWAE(3)}, "objective=MeanFieldELBO"),
}
OTHER_SETTINGS = {
    "num_parts": (2, "num_parts=1, not 2"),
    "batch_size": (10, "batch_size=20, not 10"),
    "seed": (1, "seed=0, not 1"),
    "clip_norm": (1.0, "clip_norm=None, not 1.0"),
    "refit": (True, "refit=False, not True"),
    "optimizer": (lambda ps: optim.SGD(ps, lr=1e-3), "optimizer=Adam"),
    "scheduler": (lambda o: optim.lr_scheduler.StepLR(o, 1), "scheduler=None"),
    "weight_decay": (0.1, "weight_decay=0.0, not 0.1"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "run.pt"
    trained(quiet(num_epochs=1, checkpoint=path))
    return path


@pytest.mark.parametrize("name", OTHERS)
def test_a_training_does_not_go_on_with_other_rows_or_programs(name, checkpoint):
    other, said = OTHERS[name]
    with pytest.raises(OtherSettingsError, match=rf"run.pt was written with {said}.*: delete it"):
        trained(quiet(checkpoint=checkpoint), **other)


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_a_training_does_not_go_on_with_other_settings(name, checkpoint):
    value, said = OTHER_SETTINGS[name]
    with pytest.raises(OtherSettingsError, match=rf"run.pt was written with {said}.*: delete it"):
        trained(quiet(checkpoint=checkpoint, **{name: value}))


def test_every_setting_that_changes_the_draws_is_compared():
    """Those that are left out change only where and how long it computes."""
    free = {"num_epochs", "device", "compile", "checkpoint", "progress", "optimizer", "scheduler"}
    every = {each.name for each in dataclasses.fields(pv.Training)}
    assert every - free == set(pv.Training().described())


class Own(torch.nn.Module):
    """A custom model or guide: what it computes is not told by its parameters."""

    def __init__(self, program):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(*((3, 2) if program.guides else (2, 3)))
        self.program = program

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            return self.program(self.linear, x)


@dataclasses.dataclass
class Normals:
    """Densities that differ in what no parameter holds."""

    guides: bool = False
    function: object = torch.tanh
    scale: float = 1.0
    noise: float = 0.0
    num_rows: int | None = None  # the only number of rows that it takes

    def __call__(self, linear, x):
        if self.num_rows not in (None, len(x)):
            raise ValueError("another number of rows")
        if self.guides:
            return pyro.sample("z", Normal(linear(x), self.scale).to_event(1))
        z = pyro.sample("z", Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        mean = self.function(linear(z)) + self.noise * torch.randn(3)
        return pyro.sample("x", Normal(mean, self.scale).to_event(1), obs=x)


DENSITIES = {
    "function": ({"function": torch.sin}, {}, "another model, .* at site 'x' differs"),
    "scale": ({"scale": 1.1}, {}, "another model, .* at site 'x' differs"),
    "guide": ({}, {"scale": 1.1}, "another guide, .* at site 'z' differs"),
}


@pytest.mark.parametrize("num_rows", [None, 20], ids=["any rows", "all rows"])
@pytest.mark.parametrize("name", DENSITIES)
def test_a_training_does_not_go_on_with_other_densities_at_equal_weights(name, num_rows, tmp_path):
    of_model, of_guide, said = DENSITIES[name]
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    fixed = {"num_rows": num_rows}

    def fitted(num_epochs, **changes):
        model = Own(Normals(**fixed | changes.get("model", {})))
        guide = Own(Normals(guides=True, **fixed | changes.get("guide", {})))
        training = quiet(num_epochs=num_epochs, checkpoint=tmp_path / "run.pt")
        before = model.linear.weight.clone()
        try:
            return pv.fit(model, guide, x, training=training)
        except OtherSettingsError:
            assert torch.equal(model.linear.weight, before)  # refused, and left as it was
            raise

    fitted(1)
    with pytest.raises(OtherSettingsError, match=f"run.pt was written with {said}.*: delete it"):
        fitted(2, model=of_model, guide=of_guide)
    assert fitted(2).num_epochs == 2


def test_random_densities_are_not_compared(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for num_epochs in (1, 2):
        model, guide = Own(Normals(noise=1.0)), Own(Normals(guides=True))
        torch.manual_seed(num_epochs)
        training = quiet(num_epochs=num_epochs, checkpoint=tmp_path / "run.pt")
        assert pv.fit(model, guide, x, training=training).num_epochs == num_epochs


def test_a_checkpoint_changes_neither_weights_nor_buffers_nor_random_states(tmp_path):
    """The network has batch normalisation and dropout, which a probe in training mode moves."""
    found = []
    for path in (None, tmp_path / "run.pt"):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)]
        guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, torch.nn.Sequential(*layers))
        model = pv.Model(priors.StandardNormal(2), pv.likelihoods.Gaussian(3))
        pv.fit(model, guide, rows().x, training=quiet(checkpoint=path))
        found.append([*guide.state_dict().values(), *model.state_dict().values(), torch.rand(3)])
    assert all(map(torch.equal, *found))


def test_a_checkpoint_of_more_epochs_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    done = trained(quiet(num_epochs=3, checkpoint=path))
    again = trained(quiet(num_epochs=3, checkpoint=path))  # the result of a finished training
    assert again.history == done.history
    with pytest.raises(OtherSettingsError, match=r"run.pt is of 3 epochs, more than the 2 of this"):
        trained(quiet(num_epochs=2, checkpoint=path))


VARYING = {
    "learning_rate": schedules.Cosine(1e-2),
    "kl_schedule": lambda fraction: min(1.0, 0.1 + fraction),
}
STEADY = {
    "learning_rate": schedules.Constant(1e-2),
    "kl_schedule": lambda fraction: 0.5,
    "kl_warmup_epochs": 2,
    "scheduler": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 4),
}


def resumed(path, **settings):
    """Trained for two epochs, then for two more."""
    trained(quiet(num_epochs=2, checkpoint=path, **settings))
    return trained(quiet(num_epochs=4, checkpoint=path, **settings))


@pytest.mark.parametrize("name", VARYING)
def test_more_epochs_than_a_schedule_was_read_for_are_a_warning(name, tmp_path, caplog):
    settings = {name: VARYING[name]}
    result = resumed(tmp_path / "run.pt", **settings)
    said = f"run.pt: {name} depends on the fraction of num_epochs, which was 2 and is 4: the result"
    assert caplog.text.count(said) == 1
    assert result.settings["num_epochs"] == "4"
    trained(quiet(num_epochs=4, checkpoint=tmp_path / "run.pt", **settings))
    assert caplog.text.count(said) == 1


@pytest.mark.parametrize("name", STEADY)
def test_more_epochs_of_a_steady_schedule_are_one_training(name, tmp_path, caplog):
    settings = {name: STEADY[name]}
    found = resumed(tmp_path / "run.pt", **settings)
    assert "fraction of num_epochs" not in caplog.text
    at_once = trained(quiet(num_epochs=4, **settings))
    for column in ("train", "valid", "kl_weight", "learning_rate"):
        assert found.history[column] == at_once.history[column]


def test_pyros_own_objective_goes_on_in_another_process(tmp_path):
    """Its repr holds an address."""
    path = tmp_path / "run.pt"
    trained(quiet(num_epochs=1, checkpoint=path), objective=Trace_ELBO())
    again = Trace_ELBO()  # at another address
    assert trained(quiet(checkpoint=path), objective=again).num_epochs == 2


def test_weights_that_are_not_finite_are_refused(tmp_path, checkpoint):
    state = read_tensors(checkpoint, "checkpoint")
    name = next(iter(state["weights"]["model"]))
    state["weights"]["model"][name].view(-1)[0] = torch.nan
    write_tensors(tmp_path / "nan.pt", state)
    with pytest.raises(DamagedFileError, match=rf"model.{name} holds NaN or infinity: delete"):
        trained(quiet(checkpoint=tmp_path / "nan.pt"))


# -- evidence
# ------------------------------------------------------------------------------------------


def evidence(path=None, data=None, **options):
    return pv.log_evidence(
        *pair(),
        rows() if data is None else data,
        **{"num_particles": 30, "checkpoint": path, "progress": False} | options,
    )


@pytest.mark.parametrize("num_rows", [59, 61, 120])
def test_a_checkpoint_of_evidence_holds_the_rows_of_the_data_and_no_others(num_rows, tmp_path):
    path = tmp_path / "evidence.npz"
    evidence(path)
    arrays = read_arrays(path)
    index = np.arange(num_rows) % 60
    changed = {
        name: values[index]
        for name, values in arrays.items()
        if values.ndim and name != "probe" and (num_rows > 59 or name == "ess")  # or one alone
    }
    write_arrays(path, arrays | changed)
    with pytest.raises(DamagedFileError, match=r"evidence.npz holds \d+ rows, of 60 in the data"):
        evidence(path)


def test_a_checkpoint_of_evidence_knows_covariates_and_the_order_of_rows(tmp_path):
    path = tmp_path / "evidence.npz"
    evidence(path)
    with pytest.raises(OtherSettingsError, match="was written with different settings"):
        evidence(path, rows(context=1.0))
    arrays = read_arrays(path)
    write_arrays(path, arrays | {"digests": arrays["digests"][::-1]})
    with pytest.raises(OtherSettingsError, match="holds other rows: delete it"):
        evidence(path)


# -- checksums
# ------------------------------------------------------------------------------------------


def written(kind, folder):
    """A file that is read back, and how."""
    if kind == "tensors":
        path = write_tensors(folder / "a.pt", {"x": torch.arange(5.0), "name": "a"})
        return path, lambda: read_tensors(path, "tensors")
    if kind == "arrays":
        path = write_arrays(folder / "a.npz", {"x": np.arange(5.0)})
        return path, lambda: read_arrays(path)
    if kind == "training":
        path = folder / "run.pt"
        trained(quiet(num_epochs=1, checkpoint=path))
        return path, lambda: trained(quiet(checkpoint=path))
    if kind == "evidence":
        path = folder / "evidence.npz"
        found = evidence(path)
        found.save(path)
        return path, lambda: pv.Evidence.load(path)
    if kind == "interval":
        found = evidence()
        interval = EvidenceInterval(found, found, np.full(60, "estimate"), 0.9)
        path = interval.save(folder / "interval.npz")
        return path, lambda: EvidenceInterval.load(path)
    model, guide = pair()
    weights = {"model": model.state_dict(), "guide": guide.state_dict()}
    path = Fits(model, guide, [weights]).save(folder / "fits.pt")
    return path, lambda: Fits.load(path, model, guide)


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_every_flipped_bit_is_refused(kind, tmp_path):
    """All bytes, one bit of each; the checksum is of the file, not of what a reader looks at."""
    path, read = written(kind, tmp_path)
    read()
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(flipped(content, 8 * place + place % 8))
        with pytest.raises(DamagedFileError, match=r"is damaged|not a tensors file"):
            read()


@pytest.mark.parametrize("kind", ["training", "evidence", "interval", "fits"])
def test_damage_is_refused_wherever_a_file_is_read_back(kind, tmp_path):
    path, read = written(kind, tmp_path)
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(8 * len(content), size=20):
        path.write_bytes(flipped(content, int(place)))
        with pytest.raises(DamagedFileError, match=rf"{path.name}.* is damaged"):
            read()
    for end in (0, 1, 21, 22, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(DamagedFileError, match=path.name):
            read()
    path.write_bytes(content)
    read()


def test_a_sealed_file_is_a_zip_archive_as_others_read_it(tmp_path):
    for kind in ("tensors", "arrays"):
        path, _ = written(kind, tmp_path)
        assert zipfile.ZipFile(path).testzip() is None
    assert np.load(tmp_path / "a.npz")["x"].tolist() == list(range(5))
    assert torch.load(tmp_path / "a.pt", weights_only=True)["name"] == "a"


def test_files_without_a_checksum_are_those_of_earlier_versions(tmp_path):
    found = evidence()
    np.savez(tmp_path / "old.npz", **found.arrays())
    assert len(pv.Evidence.load(tmp_path / "old.npz")) == 60
    np.savez(tmp_path / "stripped.npz", format=1, **found.arrays())
    with pytest.raises(DamagedFileError, match="checksum"):
        pv.Evidence.load(tmp_path / "stripped.npz")


def test_what_after_epoch_changes_in_the_weights_is_resumed(tmp_path):
    """A projection after each epoch, whose last call before the interruption raises."""

    class Interrupted(Exception):
        pass

    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "fit.pt"

    def trained(last=None, checkpoint=None):
        with pv.seeded(0):
            model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(3))
            guide = pv.Guide(pv.posteriors.MeanFieldNormal(1), 3)

        def project(row):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-0.02, 0.02)
            if row["epoch"] == last:
                raise Interrupted

        training = pv.Training(num_epochs=6, batch_size=20, checkpoint=checkpoint, progress=False)
        history = pv.fit(model, guide, x, training=training, after_epoch=project).history
        return history["train"], [p.detach() for p in model.parameters()]

    expected, weights = trained()
    with pytest.raises(Interrupted):
        trained(last=3, checkpoint=path)
    found, others = trained(checkpoint=path)
    assert found == expected
    assert all(one.equal(other) for one, other in zip(weights, others, strict=True))
