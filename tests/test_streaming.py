"""Data that stay in their file: every number is what the same data give in memory."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from cases import EVENT, vae

import ppl_vae as pv
from ppl_vae import Dataset
from ppl_vae.data import readers
from ppl_vae.data.arrays import as_array
from ppl_vae.data.streaming import Rows, ahead, blocks, in_turn
from ppl_vae.errors import InFileError
from ppl_vae.evidence import AIS
from ppl_vae.refinement import GradientRefinement

NUM = 519
QUIET = {"progress": False}
INDICES = {
    "one": 5,
    "from the end": -1,
    "slice": slice(3, NUM, 2),
    "backwards": slice(None, None, -1),
    "repeated": [4, 4, 1],
    "shuffled": torch.randperm(NUM, generator=torch.Generator().manual_seed(1)),
    "mask": np.arange(NUM) % 3 == 0,
}


def values(dtype="float32", *event):
    numbers = np.random.default_rng(0).integers(0, 256, (NUM, *(event or (EVENT,))))
    return numbers.astype(dtype) if dtype == "uint8" else (numbers / 255).astype(dtype)


def mapped(folder, x, mode="r"):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode=mode)


def zarr_array(folder, x):
    array = zarr.create_array(
        folder / "x.zarr", shape=x.shape, chunks=(100, *x.shape[1:]), dtype=x.dtype
    )
    array[:] = x
    return zarr.open_array(folder / "x.zarr", mode="r")


SOURCES = {"memory map": mapped, "zarr": zarr_array}


@pytest.mark.parametrize("largest_page", [1, 64, 2**21])
@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("source", SOURCES)
def test_an_index_reads_the_rows_it_would_in_memory(
    source, index, largest_page, tmp_path, monkeypatch
):
    """In however many pieces a memory map is read."""
    monkeypatch.setattr("ppl_vae.data.streaming.LARGEST_PAGE", largest_page)
    x, rows = Dataset(SOURCES[source](tmp_path, values())).x, np.arange(NUM)[INDICES[index]]
    assert isinstance(x, Rows)
    assert torch.equal(x[INDICES[index]], torch.from_numpy(values()[rows]))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_every_type_and_shape_is_as_in_memory(dtype, event, tmp_path):
    x = values(dtype, *(event or (1,))).reshape(NUM, *event)
    scale, native = 255.0 if dtype == "uint8" else 1.0, x.astype(x.dtype.newbyteorder("="))
    found, expected = (Dataset(source, scale=scale) for source in (mapped(tmp_path, x), native))
    assert found.event_shape == expected.event_shape
    assert torch.equal(found.in_memory().x, expected.x)
    assert torch.equal(found[:5].x, expected[:5].x)
    assert found.describe() == expected.describe()


def test_missing_values_stay_missing(tmp_path):
    x = values()
    x[::4, 1] = np.nan
    found = Dataset(mapped(tmp_path, x))
    assert found.has_missing
    assert torch.equal(found[:].mask, Dataset(x).mask)


def test_splits_are_rows_of_the_file(tmp_path):
    found, expected = (
        Dataset(source).split(seed=3) for source in (mapped(tmp_path, values()), values())
    )
    for part in ("train", "valid", "test"):
        assert isinstance(getattr(found, part).x, Rows)
        assert torch.equal(getattr(found, part).x[:], getattr(expected, part).x)


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_training_is_as_in_memory(source, num_parts, tmp_path):
    """Same seeds, same losses and parameters, to the last bit."""
    histories, weights = [], []
    for x in (SOURCES[source](tmp_path, values()), values()):
        torch.manual_seed(0)
        model, guide = vae(likelihood="Gaussian")
        training = pv.Training(num_epochs=2, batch_size=100, num_parts=num_parts, progress=False)
        result = pv.fit(model, guide, Dataset(x).split(), training=training)
        histories.append([list(result.history[name]) for name in ("train", "valid")])
        weights.append(
            torch.nn.utils.parameters_to_vector([*model.parameters(), *guide.parameters()])
        )
    assert histories[0] == histories[1]
    assert torch.equal(*weights)


@pytest.mark.parametrize("source", SOURCES)
def test_evidence_is_as_in_memory(source, tmp_path):
    model, guide = vae(likelihood="Gaussian")
    sizes = {"num_particles": 40, "seed": 1, "chunk_size": 40 * 100, **QUIET}
    found, expected = (
        pv.log_evidence(model, guide, Dataset(x), **sizes)
        for x in (SOURCES[source](tmp_path, values()), values())
    )
    np.testing.assert_array_equal(found.log_evidence, expected.log_evidence)
    np.testing.assert_array_equal(found.pareto_k, expected.pareto_k)


def test_bits_belong_to_seed_and_row(tmp_path):
    """The same in every batch, split and order; with another seed others; as often one as the grey
    value says."""
    grey = np.tile(np.float32([0.0, 0.3, 1.0]), (4000, 1))
    data = Dataset(mapped(tmp_path, grey), binarize="dynamic", seed=1)
    bits = data.x[:]
    order = torch.randperm(4000)
    assert torch.equal(data.x[order], bits[order])
    train = data.with_splits({"train": order[:50].numpy()}).train
    assert torch.equal(train.x[:], bits[order[:50]])
    assert not torch.equal(Dataset(mapped(tmp_path, grey), binarize="dynamic", seed=2).x[:], bits)
    assert bits[:, 0].eq(0).all()
    assert bits[:, 2].eq(1).all()
    assert abs(bits[:, 1].mean() - 0.3) < 4 * (0.21 / 4000) ** 0.5  # four standard errors


def test_each_epoch_draws_fresh_bits(tmp_path):
    data, generator = (
        Dataset(mapped(tmp_path, values()), binarize="dynamic"),
        torch.Generator().manual_seed(0),
    )
    first, second = (data.draw(generator)[:] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(data.draw(torch.Generator().manual_seed(0))[:], first)


def test_threshold_is_as_in_memory(tmp_path):
    x = values("uint8")
    found, expected = (
        Dataset(source, scale=255, binarize="threshold")
        for source in (mapped(tmp_path, x), np.float32(x))
    )
    assert torch.equal(found.x[:], expected.x)


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="what a mapping holds is read from Linux's /proc"
)
def test_pages_that_were_read_are_given_back(tmp_path):
    source = mapped(tmp_path, np.zeros((2000, 2048), dtype=np.float32))
    x = Dataset(source).x

    def held():
        text = Path("/proc/self/smaps").read_text()
        return int(re.search(r"x\.npy\n(?:.*\n)*?Rss: +(\d+) kB", text).group(1))

    source.sum()
    assert held() > 15_000
    x[:1000]
    assert held() == 0


def test_a_private_copy_keeps_what_was_written_in_it(tmp_path):
    source = mapped(tmp_path, values(), mode="c")
    source[3] = 7.0
    x = Dataset(source).x
    assert x[3].eq(7.0).all()
    assert x[3].eq(7.0).all()


def test_what_is_written_to_the_file_is_read(tmp_path):
    source = mapped(tmp_path, values(), mode="r+")
    x = Dataset(source).x
    source[3] = 7.0
    assert x[[3, 3]].eq(7.0).all()
    assert np.load(tmp_path / "x.npy")[3].tolist() == [7.0] * EVENT


def test_a_large_file_is_left_where_it_is(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", values())
    assert isinstance(pv.read(tmp_path / "x.npy").x, torch.Tensor)
    monkeypatch.setattr(readers, "LARGEST_IN_MEMORY", 100)
    assert torch.equal(pv.read(tmp_path / "x.npy").x[:], torch.from_numpy(values()))
    assert isinstance(pv.read(tmp_path / "x.npy").x, Rows)


def test_a_damaged_row_is_named_when_it_is_read(tmp_path):
    x = values()
    x[300, 2] = np.inf
    data = Dataset(mapped(tmp_path, x))
    assert len(data[:300]) == 300
    with pytest.raises(ValueError, match="row 300, feature 2: x takes finite"):
        data[:]
    x[300, 2] = 1.5
    with pytest.raises(ValueError, match="row 300, feature 2: binarize takes grey"):
        Dataset(mapped(tmp_path, x), binarize="dynamic")[:]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_array_that_is_gone_is_refused(zarr_format, tmp_path):
    """zarr itself would read zeros; a chunk alone may be missing, for one of zeros is not
    written."""
    array = zarr.create_array(
        tmp_path / "x.zarr", data=values(), chunks=(100, EVENT), zarr_format=zarr_format
    )
    array[100:200] = 0.0
    data = Dataset(zarr.open_array(tmp_path / "x.zarr", mode="r"))
    assert torch.equal(data.x[95:105], torch.from_numpy(array[95:105]))
    for gone in (*(tmp_path / "x.zarr").glob(".zarray"), *(tmp_path / "x.zarr").glob("zarr.json")):
        gone.unlink()
        with pytest.raises(FileNotFoundError, match=r"x\.zarr: the array is missing"):
            data.x[5]
    shutil.rmtree(tmp_path / "x.zarr")
    torch.manual_seed(0)
    with pytest.raises(FileNotFoundError, match=r"x\.zarr: the array is missing"):
        pv.fit(*vae(likelihood="Gaussian"), data, training=pv.Training(num_epochs=1, **QUIET))


def test_a_damaged_chunk_names_file_and_row(tmp_path):
    x = Dataset(zarr_array(tmp_path, values())).x
    (tmp_path / "x.zarr" / "c" / "1" / "0").write_bytes(b"no chunk")
    assert len(x[:100]) == 100
    with pytest.raises(
        OSError, match=r"x\.zarr: row 103 cannot be read, nor the rest of its chunk \(.*Zstd"
    ):
        x[[3, 402, 181, 103]]


def test_rows_are_no_tensor(tmp_path):
    data = Dataset(mapped(tmp_path, values()))
    assert issubclass(InFileError, AttributeError)
    with pytest.raises(InFileError, match="x is in a file and has no 'mean'"):
        data.x.mean(0)
    with pytest.raises(InFileError, match="kinds is for tables in memory"):
        assert data.kinds


CHECKS = {
    "marginal_pit": lambda m, g, d: pv.marginal_pit(m, d, num_samples=5, **QUIET).values,
    "conditional_pit": lambda m, g, d: (
        pv.conditional_pit(m, g, d, num_folds=2, num_particles=50, **QUIET).values
    ),
    "predictive_check": lambda m, g, d: pv.predictive_check(
        m, g, d, num_samples=5, **QUIET
    ).observed["mean"],
    "elbo_surgery": lambda m, g, d: pv.elbo_surgery(m, g, d, **QUIET).marginal_kl,
    "simulate": lambda m, g, d: pv.simulate(m, d)[0].x,
    "bdmc": lambda m, g, d: pv.bdmc(m, g, d, method=AIS(2, 3)).lower.log_evidence,
    "refine": lambda m, g, d: pv.refine(m, g, d, GradientRefinement(num_steps=1), **QUIET).raw,
    "inference_gaps": lambda m, g, d: (
        pv.inference_gaps(
            m, g, d, GradientRefinement(num_steps=1), num_particles=5, **QUIET
        ).amortization
    ),
    "compare_estimators": lambda m, g, d: pv.compare_estimators(
        m, g, d, {"a": pv.objectives.TraceELBO()}, num_replicates=4, **QUIET
    ).table["value"],
    "baselines": lambda m, g, d: (
        pv.baselines(d.split(test=20), pv.likelihoods.Gaussian)["independent normals"].log_evidence
    ),
}


@pytest.mark.parametrize("name", list(CHECKS))
def test_checks_are_as_in_memory(name, tmp_path):
    x = values()[:60]
    model, guide = vae(likelihood="Gaussian")
    found = [
        as_array(CHECKS[name](model, guide, Dataset(each))) for each in (x, mapped(tmp_path, x))
    ]
    np.testing.assert_array_equal(*found)


def test_blocks_and_batches_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data.streaming.VALUES_PER_BLOCK", 100 * EVENT)
    x, expected = Dataset(mapped(tmp_path, values())).x, torch.from_numpy(values())
    parts = list(blocks(x))
    assert [len(part) for part in parts] == [100] * 5 + [NUM - 500]
    assert torch.equal(torch.cat(parts), expected)
    batches = torch.randperm(NUM).split(100)
    announced = in_turn(x, batches)
    for rows in batches[:2]:
        assert torch.equal(announced[rows], expected[rows])
    with pytest.raises(IndexError, match="in the order given"):
        announced[batches[0]]


def test_reading_ahead_passes_errors_on():
    found = ahead(lambda x: 1 / x, [1, 0])
    assert next(found) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(found)
