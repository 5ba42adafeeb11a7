"""Sources of the named data sets: a folder, the cache, or a download with pinned hashes."""

import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppl_vae.data.readers import arrays

FOLDER = "PPL_VAE_DATA"


@dataclass(frozen=True)
class Source:
    """Files to download, and how to read them.

    Args:
        mirrors: Web folders, tried in turn.
        files: The array in each file, by the name and hash of the file.
        decode: A function from a file to its array.
    """

    mirrors: Sequence[str]
    files: Mapping[str, tuple[str, str]]
    decode: Callable[[Path], np.ndarray]


def find(
    name: str, source: Source | None, data_dir: str | Path | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a named data set, from `<name>.npz` in a folder, or downloaded into the cache.

    Args:
        name: The set.
        source: What to download; None if there is no source.
        data_dir: The folder to look in first; then come the variable `PPL_VAE_DATA` and the cache.

    Raises:
        FileNotFoundError: There is no file and no download; folder, file and variable are named.
    """
    file = f"{name}.npz"
    for folder in (data_dir, os.environ.get(FOLDER), cache()):
        if folder and (Path(folder) / file).is_file():
            return arrays(Path(folder) / file)
    why = "it has no download"
    try:
        if source is not None:
            return {key: source.decode(_fetch(source, key, cache() / name)) for key in source.files}
    except OSError as error:
        why = f"the download failed ({type(error).__name__})"
    folder = data_dir or os.environ.get(FOLDER) or cache()
    raise FileNotFoundError(
        f"{name}: no {file} and {why}: put {file} into {folder}, or set {FOLDER} to the folder "
        "that holds it"
    )


def cache() -> Path:
    """The folder of downloads. Reference: the pooch library's `os_cache`."""
    import pooch

    return Path(pooch.os_cache("ppl_vae"))


def _fetch(source: Source, key: str, folder: Path) -> Path:
    import pooch

    file, known_hash = source.files[key]
    problem: Exception = OSError("no mirror")
    for mirror in source.mirrors:
        pooch.get_logger().setLevel("WARNING")  # there is a progress bar
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
        options = {"fname": file, "path": folder, "downloader": downloader}
        try:
            return Path(pooch.retrieve(mirror + file, known_hash, **options))
        except (OSError, ValueError) as error:  # ValueError: another hash than the pinned one
            problem = error
    raise OSError(str(problem)) from problem


def _idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    ndim = content[3]
    shape = np.frombuffer(content, ">u4", count=ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _amat(path: Path) -> np.ndarray:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    return (content[content >= ord("0")] - ord("0")).reshape(-1, 28, 28)


def _idx_files(hashes: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = {
        "x_train": "train-images-idx3",
        "y_train": "train-labels-idx1",
        "x_test": "t10k-images-idx3",
        "y_test": "t10k-labels-idx1",
    }
    return {key: (f"{name}-ubyte.gz", f"md5:{hashes[key]}") for key, name in names.items()}


MNIST = Source(
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    files=_idx_files(
        {
            "x_train": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "y_train": "d53e105ee54ea40749a09fcbcd1e9432",
            "x_test": "9fb629c4189551a2d022fa330f9573f3",
            "y_test": "ec29112dd5afa0611ce80d1b7f02629c",
        }
    ),
    decode=_idx,
)
FASHION_MNIST = Source(
    mirrors=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    files=_idx_files(
        {
            "x_train": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "y_train": "25c81989df183df01b3e8a0aad5dffbe",
            "x_test": "bef4ecab320f06d8554ea6380940ec79",
            "y_test": "bb300cfdad3c16e7a12a480ee83cd310",
        }
    ),
    decode=_idx,
)
BINARIZED_MNIST = Source(
    mirrors=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
    files={
        "x_train": (
            "binarized_mnist_train.amat",
            "sha256:ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        ),
        "x_valid": (
            "binarized_mnist_valid.amat",
            "sha256:1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        ),
        "x_test": (
            "binarized_mnist_test.amat",
            "sha256:e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
        ),
    },
    decode=_amat,
)
