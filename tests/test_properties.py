"""Properties over many generated inputs: few in the tests, and `make soak` runs more of them."""

import os
import tempfile
import tomllib
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppl_vae as pv
from ppl_vae import likelihoods
from ppl_vae.cli.options import value as option
from ppl_vae.data.tables.files import read_frame
from ppl_vae.errors import DamagedFileError, TooLargeError
from ppl_vae.experiment import ConfigError, Metrics, read_config, read_study
from ppl_vae.experiment.config import _literal, read_toml
from ppl_vae.families.missing import observed_part
from ppl_vae.families.modules import shape_of
from ppl_vae.runtime import memory
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.sealed import read_tensors, write_arrays, write_tensors

SOAK = int(os.environ.get("PPL_VAE_SOAK", "0"))  # examples of each property; 0 is that of the tests
EXAMPLES = SOAK or 15
settings.register_profile(
    "here",
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not SOAK,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("here")

numbers = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@st.composite
def tables(draw, most_rows=8, most_columns=4, elements=numbers):
    """Rows of numbers, some of them missing."""
    shape = draw(st.integers(1, most_rows)), draw(st.integers(1, most_columns))
    size = shape[0] * shape[1]
    return np.array(draw(st.lists(elements, min_size=size, max_size=size))).reshape(shape)


def outcome(call, *arguments, **options):
    """The result, or None and the message of an error that a user may make."""
    try:
        return call(*arguments, **options), ""
    except (ValueError, TypeError, KeyError, OSError) as error:
        return None, str(error)


# -- data
# ------------------------------------------------------------------------------------------


@given(tables(), st.sampled_from([torch.float32, torch.float64]), st.data())
def test_a_data_set_holds_what_it_was_given_and_its_splits_are_disjoint(x, dtype, data):
    found = pv.Dataset(x, dtype=dtype)
    assert np.array_equal(found.x.numpy(), x.astype(found.x.numpy().dtype), equal_nan=True)
    assert np.array_equal(found.mask.numpy(), ~np.isnan(x))
    rows = data.draw(st.lists(st.integers(-len(x), len(x) - 1), min_size=1))
    assert np.array_equal(found[rows].x.numpy(), found.x.numpy()[rows], equal_nan=True)
    names = data.draw(
        st.lists(
            st.sampled_from(["train", "valid", "test", None]), min_size=len(x), max_size=len(x)
        )
    )
    splits = {
        name: np.flatnonzero([each == name for each in names])
        for name in ("train", "valid", "test")
    }
    parted = found.with_splits(splits)
    for name, chosen in splits.items():
        if chosen.size:
            part = getattr(parted, name) if parted.splits else parted
            assert np.array_equal(part.x.numpy(), found.x.numpy()[chosen], equal_nan=True)
    assert sum(map(len, parted.splits.values())) == sum(name is not None for name in names)


@given(st.integers(2, 200), st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_random_splits_are_a_partition_or_are_refused(num_rows, valid, test, seed):
    data = pv.Dataset(np.zeros((num_rows, 1)))
    found, said = outcome(data.split, valid=valid, test=test, seed=seed)
    if found is None:
        assert "to train on" in said
        return
    rows = np.concatenate([*found.splits.values()])
    assert np.array_equal(np.sort(rows), np.arange(num_rows))


@given(tables(elements=st.floats(-100, 100, width=32)), st.data())
def test_a_csv_and_a_parquet_file_give_the_rows_of_the_frame(x, data):
    names = data.draw(
        st.lists(texts.map(lambda name: f"c{name}"), min_size=x.shape[1], max_size=x.shape[1])
        .filter(lambda each: len({name.strip() for name in each}) == len(each))
        .filter(lambda each: not any(sign in "".join(each) for sign in "\r\n\0"))
    )
    frame = pd.DataFrame(x.astype(np.float64), columns=names)
    with tempfile.TemporaryDirectory() as folder:
        for suffix, write in ((".csv", frame.to_csv), (".parquet", frame.to_parquet)):
            path = Path(folder) / f"t{suffix}"
            write(path, index=False)
            found = pv.read(path, dtype=torch.float64)
            assert list(found.coords["feature"]) == names
            np.testing.assert_array_equal(found.x.numpy(), frame.to_numpy())


# -- configurations and the command line
# ------------------------------------------------------------------------------------------

values = st.recursive(
    st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_any_value_is_read_back_from_toml(value):
    found = tomllib.loads(f"value = {_literal(value)}")["value"]
    assert repr(found) == repr(value)


@given(texts, values)
def test_a_wrong_configuration_is_refused_in_one_line(key, value):
    for name in (key, f"training.{key}", "posterior.latent_dim", "data.valid", "prior.name"):
        _, said = outcome(read_config, changes=[("data.name", "digits"), (name, value)])
        assert "\n" not in said


@given(st.text(max_size=60))
def test_any_option_is_a_toml_value_or_a_text(text):
    found = option(text)
    assert type(found) is not str or found == text or text.strip()[:1] in "\"'"


# -- families
# ------------------------------------------------------------------------------------------

KINDS = {
    "Gaussian": st.floats(-5, 5, width=32),
    "StudentT": st.floats(-5, 5, width=32),
    "Bernoulli": st.integers(0, 1),
    "Poisson": st.integers(0, 9),
    "NegativeBinomial": st.integers(0, 9),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_missing_entry_leaves_exactly_its_own_term_out(kind, data):
    x = torch.tensor(data.draw(tables(elements=KINDS[kind])), dtype=torch.float64)
    mask = torch.tensor(data.draw(tables(*[st.booleans()] * 0, elements=st.booleans()))).bool()
    mask = mask.repeat(8, 8)[: x.shape[0], : x.shape[1]]
    likelihood = getattr(likelihoods, kind)(x.shape[1]).double()
    likelihood.build((2,))
    likelihood.double()
    p = likelihood(torch.ones(len(x), 2, dtype=torch.float64))
    terms = p.base_dist.log_prob(x)
    observed, filled = observed_part(p, x.masked_fill(mask, torch.nan))
    torch.testing.assert_close(observed.log_prob(filled), terms.masked_fill(mask, 0.0).sum(-1))


@given(st.integers(-3, 6) | st.lists(st.integers(-1, 4), max_size=4) | st.floats() | st.text())
def test_a_shape_has_positive_sizes(size):
    shape, said = outcome(shape_of, size)
    if shape is None:
        assert "event_shape" in said
        return
    assert all(each > 0 for each in shape)
    assert len(shape) > 0


# -- damaged files
# ------------------------------------------------------------------------------------------


def files():
    """One good file of each kind, and its reader."""
    folder = Path(tempfile.mkdtemp())
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.5, 0.25, 0.125]})
    np.savez(folder / "x.npz", x=frame.to_numpy())
    np.save(folder / "x.npy", frame.to_numpy())
    frame.to_csv(folder / "x.csv", index=False)
    frame.to_parquet(folder / "x.parquet", index=False)
    write_tensors(folder / "x.pt", {"x": torch.ones(3)})
    evidence = pv.Evidence.exact([-1.0, -2.0], [[0.0], [1.0]], measure="lebesgue")
    evidence.save(folder / "evidence.npz")
    (folder / "x.toml").write_text('[data]\nname = "digits"\n', encoding="utf-8")
    (folder / "x.json").write_text('{"kl": 1.5, "rows": {"train": 3}}', encoding="utf-8")
    return {
        "npz": (folder / "x.npz", pv.read),
        "npy": (folder / "x.npy", pv.read),
        "csv": (folder / "x.csv", pv.read),
        "parquet": (folder / "x.parquet", pv.read),
        "pt": (folder / "x.pt", lambda path: read_tensors(path, "tensors")),
        "evidence": (folder / "evidence.npz", pv.Evidence.load),
        "toml": (folder / "x.toml", read_config),
        "json": (folder / "x.json", Metrics.read),
    }


FILES = files()


@st.composite
def damages(draw, content):
    """The content with bytes changed, cut off, doubled or replaced."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        piece = draw(st.binary(min_size=1, max_size=9))
        kind = draw(st.sampled_from(["change", "cut", "insert", "replace", "repeat"]))
        if kind == "change":
            found[place : place + len(piece)] = piece
        elif kind == "cut":
            del found[place:]
        elif kind == "insert":
            found[place:place] = piece
        elif kind == "repeat":
            found[place:place] = found[place : place + 40] * 5
        else:
            found = bytearray(draw(st.binary(max_size=200)))
    return bytes(found)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore")
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_that_names_it(kind, data):
    good, read = FILES[kind]
    path = good.with_name(f"damaged{good.suffix}")
    path.write_bytes(data.draw(damages(good.read_bytes())))
    _, said = outcome(read, path)
    assert "\n" not in said, said
    assert len(said) < 1_200, said


NOT_FILES = {
    "deep.toml": b"a = " + b"[" * 5_000 + b"]" * 5_000,
    "large.toml": b"a = 1\n" * 9_000_000,
    "deep.json": b"[" * 100_000,
    "list.json": b"[1, 2]",
    "wide.csv": b",".join(b"c%d" % i for i in range(300_000)) + b"\n1",
    "not.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,)}",
    "empty.parquet": b"",
    "empty.pt": b"",
}
READ = {
    ".toml": read_toml,
    ".json": Metrics.read,
    ".csv": pv.read,
    ".npy": pv.read,
    ".parquet": pv.read,
    ".pt": lambda path: read_tensors(path, "tensors"),
}


@pytest.mark.parametrize("name", NOT_FILES)
def test_files_that_are_deep_large_or_empty_are_refused_in_one_line(name, tmp_path):
    path = write_whole(tmp_path / name, lambda p: p.write_bytes(NOT_FILES[name]))
    with pytest.raises((DamagedFileError, ConfigError, TooLargeError), match=name) as caught:
        READ[path.suffix](path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", READ)
def test_a_pipe_or_a_folder_is_refused_before_it_is_opened(suffix, tmp_path):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises((OSError, ConfigError), match=rf"{name}{suffix}|no tensors at"):
            READ[suffix](tmp_path / f"{name}{suffix}")


def zeros_in(path, shape, num_bytes):
    """An .npz file that declares an array of zeros and holds the first bytes of it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(num_bytes))


def repeated(path, value, times):
    """A .parquet file of one value."""
    frame = pd.DataFrame({"a": [value] * times, "b": np.zeros(times)})
    frame.to_parquet(path, compression="zstd")


def in_chunks(path, shape, chunks):
    """A .zarr array of which nothing is written."""
    pytest.importorskip("zarr").create_array(path, shape=shape, chunks=chunks, dtype="f4")


def wide_row(path):
    """A short header, and a row that is not."""
    path.write_bytes(b"a,b\n" + b"1," * 200_000 + b"\n")


BOMBS = {
    "zeros.npz": lambda path: zeros_in(path, (2**18,), 2**21),
    "declared.npz": lambda path: zeros_in(path, (2**37,), 2**21),
    "equal.parquet": lambda path: repeated(path, 1.0, 2**18),
    "texts.parquet": lambda path: repeated(path, "x" * 2**12, 2**12),
    "chunk.zarr": lambda path: in_chunks(path, (400_000, 1_000), (400_000, 1_000)),
    "rows.zarr": lambda path: in_chunks(path, (10**13, 2), (1_000, 2)),
    "row.csv": wide_row,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_unpacked(name, tmp_path, monkeypatch):
    """Files that would fill the memory, with a limit of a megabyte instead of 256."""
    monkeypatch.setattr(memory, "LARGEST_UNPACKED", 2**20)
    BOMBS[name](tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match=name) as caught:
            pv.read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 20 * 2**20


def test_evidence_that_is_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "LARGEST_UNPACKED", 2**20)
    zeros_in(tmp_path / "evidence.npz", (2**18,), 2**21)
    with pytest.raises(
        TooLargeError, match=r"evidence.npz has [\d,]+ bytes, and 2,\d{3},\d{3} when"
    ):
        pv.Evidence.load(tmp_path / "evidence.npz")


def test_tensors_that_are_a_bomb_are_refused(tmp_path, monkeypatch):
    """torch would unpack them before it compares their size with what the file says."""
    monkeypatch.setattr(memory, "LARGEST_UNPACKED", 2**20)
    with zipfile.ZipFile(tmp_path / "fits.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fits/data.pkl", b"")
        archive.writestr("fits/data/0", bytes(2**21))
    with pytest.raises(TooLargeError, match=r"fits.pt has [\d,]+ bytes, and 2,\d{3},\d{3} when"):
        read_tensors(tmp_path / "fits.pt", "fits")


def test_results_that_no_run_writes_are_refused_by_their_size(tmp_path):
    path = tmp_path / "metrics.json"
    with path.open("wb") as file:
        file.truncate(10**9)  # a hole, which takes no room on the disk
    with pytest.raises(DamagedFileError, match="metrics.json is larger than any results"):
        Metrics.read(path)


def test_texts_that_repeat_are_read_as_they_are(tmp_path):
    """The check does not change what is read, and other kinds of columns are left to pandas."""
    frame = pd.DataFrame({"a": ["north", "south", None] * 50, "b": [[1, 2]] * 150})
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(
        read_frame(tmp_path / "a.parquet"), pd.read_parquet(tmp_path / "a.parquet")
    )


def test_a_study_of_too_many_cells_is_refused_with_their_number(tmp_path):
    lines = ["[data]", 'name = "digits"', "[grid]"]
    lines += [f'"training.{key}" = {list(range(1, 230))}' for key in ("seed", "batch_size")]
    lines += [f'"training.num_epochs" = {list(range(1, 230))}']
    path = tmp_path / "study.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"12,008,989 cells, each of which is a run: give at"):
        read_study(path)


def test_arrays_keep_their_names_and_values(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"a{i}": rng.normal(size=rng.integers(1, 9, 2)) for i in range(9)}
    path = write_arrays(tmp_path / "a.npz", arrays)
    with np.load(path) as found:
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[name], values)
