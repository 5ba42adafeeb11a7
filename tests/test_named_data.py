"""Named sets: found in a folder, split as published, and one clear error when there is nothing."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae.data import available, load
from ppl_vae.data import downloads as sources

REAL = os.environ.get("PPL_VAE_DATA")
SHAPES = {
    "mnist": (28, 28),
    "binarized_mnist": (28, 28),
    "fashion_mnist": (28, 28),
    "freyfaces": (28, 20),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder, and no network."""
    import pooch

    monkeypatch.delenv("PPL_VAE_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setattr(pooch, "HTTPDownloader", no_network)
    return tmp_path / "cache"


def no_network(**options):
    def download(url, output_file, pooch_object):
        raise ConnectionError(f"no route to {url}")

    return download


def fake(folder, name):
    """A few rows in the format of the real file."""
    generator = np.random.default_rng(0)
    path = Path(folder) / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)

    def pixels(num_data):
        return generator.integers(0, 256, (num_data, *SHAPES[name]), dtype=np.uint8)

    if name == "freyfaces":
        np.savez(path, x=pixels(60 * 15))
    elif name == "binarized_mnist":
        sizes = {"train": 30, "valid": 5, "test": 7}
        bits = {
            f"x_{part}": generator.integers(0, 256, (n, 98), dtype=np.uint8)
            for part, n in sizes.items()
        }
        np.savez(path, **bits, **{f"y_{part}": np.zeros(n, np.uint8) for part, n in sizes.items()})
    else:
        np.savez(
            path,
            x_train=pixels(40),
            y_train=np.zeros(40, np.uint8),
            x_test=pixels(6),
            y_test=np.ones(6, np.uint8),
        )
    return np.load(path)


def sizes(data):
    return data.describe()["splits"]


def test_digits_are_embedded_and_split():
    data = load("digits")
    assert sizes(data) == {"train": 1297, "valid": 200, "test": 300}
    assert (data.event_shape, data.image_shape, data.dims) == (
        (8, 8),
        (8, 8),
        ("datum", "row", "column"),
    )
    assert data.describe()["range"] == (0.0, 1.0)
    assert set(data.labels) == set(range(10))
    rows = np.concatenate(list(data.splits.values()))
    assert sorted(rows) == list(range(1797))


def test_digits_splits_follow_the_seed_and_keep_the_test_rows():
    data = load("digits")
    assert np.array_equal(load("digits").splits["test"], data.splits["test"])
    assert not np.array_equal(load("digits", seed=1).splits["test"], data.splits["test"])
    for valid, expected in (
        (0, {"train": 1497, "test": 300}),
        (0.1, {"train": 1317, "valid": 180, "test": 300}),
    ):
        other = load("digits", valid=valid)
        assert sizes(other) == expected
        assert np.array_equal(other.splits["test"], data.splits["test"])


def test_flatten_keeps_the_picture_and_the_bits():
    flat, data = (
        load("digits", flatten=True, binarize="dynamic"),
        load("digits", binarize="dynamic"),
    )
    assert (flat.event_shape, flat.image_shape, flat.dims) == ((64,), (8, 8), ("datum", "feature"))
    assert torch.equal(flat.test.x, data.test.x.flatten(1))
    assert torch.equal(flat.train.intensity, data.train.intensity.flatten(1))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("place", ["data_dir", "variable", "cache"])
def test_grey_sets_from_a_folder(cache, tmp_path, monkeypatch, name, place):
    folder = {"data_dir": tmp_path / "a", "variable": tmp_path / "b", "cache": cache}[place]
    written = fake(folder, name)
    if place == "variable":
        monkeypatch.setenv("PPL_VAE_DATA", str(folder))
    data = load(name, valid=10, data_dir=folder if place == "data_dir" else None)
    assert sizes(data) == {"train": 30, "valid": 10, "test": 6}
    np.testing.assert_array_equal(
        data.test.x, written["x_test"].astype(np.float32) / np.float32(255)
    )
    assert (data.test.labels == 1).all()
    whole = load(name, valid=0, data_dir=folder)
    np.testing.assert_array_equal(
        whole.train.x, written["x_train"].astype(np.float32) / np.float32(255)
    )


def test_a_validation_set_too_large_is_named(cache):
    fake(cache, "mnist")
    with pytest.raises(ValueError, match="valid=10000 rows leave none of 46 to train on"):
        load("mnist")
    with pytest.raises(ValueError, match="valid=41 rows leave none of 40 to train on"):
        load("mnist", valid=41)


def test_binarized_mnist_keeps_its_official_parts(cache):
    written = fake(cache, "binarized_mnist")
    data = load("binarized_mnist")
    assert sizes(data) == {"train": 30, "valid": 5, "test": 7}
    for part in ("train", "valid", "test"):
        bits = np.unpackbits(written[f"x_{part}"], axis=1).reshape(-1, 28, 28)
        np.testing.assert_array_equal(getattr(data, part).x, bits)
    assert sizes(load("binarized_mnist", valid=0)) == {"train": 35, "test": 7}
    assert load("binarized_mnist", flatten=True).event_shape == (784,)
    with pytest.raises(
        ValueError, match="already binary, so binarize='dynamic' has no effect: use mnist"
    ):
        load("binarized_mnist", binarize="dynamic")


def test_frey_faces_are_split_in_blocks(cache):
    fake(cache, "freyfaces")
    data = load("freyfaces")
    assert sizes(data) == {"train": 510, "valid": 195, "test": 195}
    for rows in data.splits.values():
        blocks = rows.reshape(-1, 15)
        assert (blocks % 15 == np.arange(15)).all()
        assert (np.diff(blocks) == 1).all()
    assert sizes(load("freyfaces", valid=0)) == {"train": 705, "test": 195}
    assert data.image_shape == (28, 20)


@pytest.mark.parametrize("name", SHAPES)
def test_offline_without_a_cache_is_one_error_that_says_what_to_do(cache, monkeypatch, name):
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    message = str(caught.value)
    for part in (f"{name}.npz", str(cache), "PPL_VAE_DATA"):
        assert part in message
    assert "\n" not in message
    monkeypatch.setenv("PPL_VAE_DATA", "/nowhere/to/be/found")
    with pytest.raises(FileNotFoundError, match="/nowhere/to/be/found"):
        load(name)


def test_every_mirror_is_tried(cache, monkeypatch):
    asked = []

    def retrieve(url, known_hash, **options):
        asked.append(url)
        raise ValueError("hash does not match" if len(asked) == 1 else "again")

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with pytest.raises(FileNotFoundError, match="the download failed"):
        load("mnist")
    assert [url.rsplit("/", 1)[0] for url in asked] == [
        mirror.rstrip("/") for mirror in sources.MNIST.mirrors
    ]


def test_downloads_are_decoded_as_the_folder_is(cache, tmp_path, monkeypatch):
    written = fake(tmp_path / "folder", "mnist")
    files = {}
    for key, (file, _) in sources.MNIST.files.items():
        array = written[key]
        shape = np.array(array.shape, ">u4").tobytes()
        files[file] = tmp_path / file
        files[file].write_bytes(
            gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())
        )
    monkeypatch.setattr(
        "pooch.retrieve", lambda url, known_hash, fname, **options: str(files[fname])
    )
    downloaded, folder = (
        load("mnist", valid=10),
        load("mnist", valid=10, data_dir=tmp_path / "folder"),
    )
    assert torch.equal(downloaded.x, folder.x)
    assert np.array_equal(downloaded.labels, folder.labels)
    assert np.array_equal(downloaded.splits["valid"], folder.splits["valid"])


def amat(bits):
    """The published text: bits and spaces, one image a line."""
    text = np.full((len(bits), 2 * 784), ord(" "), np.uint8)
    text[:, ::2] = bits + ord("0")
    text[:, -1] = ord("\n")
    return text.tobytes()


def test_amat_text_is_read_bit_for_bit(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (3, 784), dtype=np.uint8)
    (tmp_path / "a.amat").write_bytes(amat(bits))
    np.testing.assert_array_equal(
        sources.BINARIZED_MNIST.decode(tmp_path / "a.amat"), bits.reshape(3, 28, 28)
    )


def test_a_path_is_read_and_split(tmp_path):
    np.savez(tmp_path / "rain.npz", x=np.zeros((50, 4, 2)))
    data = load(tmp_path / "rain.npz", flatten=True)
    assert (data.name, data.event_shape, data.image_shape) == ("rain", (8,), (4, 2))
    assert sizes(data) == {"train": 40, "valid": 5, "test": 5}
    assert sizes(load(str(tmp_path / "rain.npz"), valid=0)) == {"train": 45, "test": 5}
    with pytest.raises(KeyError, match="'moons' is neither a file nor one of digits, mnist"):
        load("moons")
    with pytest.raises(FileNotFoundError, match="moons.csv: no such file"):
        load("moons.csv")


def test_available_has_a_line_on_every_set():
    lines = available()
    assert set(lines) == {"digits", *SHAPES}
    assert all(line and "\n" not in line for line in lines.values())


@pytest.mark.skipif(REAL is None, reason="PPL_VAE_DATA is not set")
@pytest.mark.parametrize(
    ("name", "expected", "mean"),
    [
        (
            "mnist",
            {"train": 50_000, "valid": 10_000, "test": 10_000},
            (6 * 33.3184 + 33.7912) / 7 / 255,
        ),
        (
            "fashion_mnist",
            {"train": 50_000, "valid": 10_000, "test": 10_000},
            (6 * 72.9404 + 73.1466) / 7 / 255,
        ),
        (
            "binarized_mnist",
            {"train": 50_000, "valid": 10_000, "test": 10_000},
            (5 * 0.13056 + 0.13113 + 0.13251) / 7,
        ),
        ("freyfaces", {"train": 1575, "valid": 195, "test": 195}, 154.4609 / 255),
    ],
)
def test_the_real_files(name, expected, mean):
    data = load(name)
    assert sizes(data) == expected
    assert data.event_shape == SHAPES[name]
    assert data.x.double().mean().item() == pytest.approx(mean, abs=1e-5)
    assert (data.labels is None) == (name == "freyfaces")


@pytest.mark.skipif(REAL is None, reason="PPL_VAE_DATA is not set")
def test_the_pinned_hashes_are_those_of_the_real_bits():
    import hashlib

    found = np.load(Path(REAL) / "binarized_mnist.npz")
    for key, (_, pinned) in sources.BINARIZED_MNIST.files.items():
        assert (
            pinned
            == "sha256:" + hashlib.sha256(amat(np.unpackbits(found[key], axis=1))).hexdigest()
        )
