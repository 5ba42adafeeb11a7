"""Named data sets: their sources and splits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data.dataset import Binarize, Dataset
from ppl_vae.data.downloads import BINARIZED_MNIST, FASHION_MNIST, MNIST, Source, find
from ppl_vae.data.readers import SUFFIXES, assemble, read
from ppl_vae.data.splits import count, random_blocks, random_rows
from ppl_vae.runtime.checks import file_path

__all__ = ["available", "load"]

Fields = dict[str, Any]
Taker = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """The source and the splits of a named data set.

    Args:
        about: One line: size, licence, source.
        fields: A function from the folder (or None) to the fields of a `Dataset`.
        scale: Divisor of x.
        valid: Default number of validation rows; None keeps those of the file.
        test: Number of test rows, for sets without their own.
        take: A function that draws rows at random.
    """

    about: str
    fields: Callable[[str | Path | None], Fields]
    scale: float = 255.0
    valid: int | None = None
    test: int = 0
    take: Taker = random_rows


def load(
    name_or_path: str | Path,
    *,
    binarize: Binarize | None = None,
    flatten: bool = False,
    valid: float | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Dataset:
    """A data set by name, or from a file, with its splits.

    Grey values are in [0, 1] (bytes divided by 255), and labels are for colouring. `digits` is part
    of scikit-learn. For the others, `<name>.npz` is looked for in `data_dir`, in the folder
    `PPL_VAE_DATA` and in the cache, and downloaded if it is in none of them (hashes pinned). Frey
    faces have no source with a known hash and are not downloaded. The test rows of MNIST, binarised
    MNIST and Fashion-MNIST are the official ones. Neighbouring frames of the Frey faces, a film,
    are near copies: blocks of 15 frames go to one split, so that different splits have near copies
    at block borders only.

    Args:
        name_or_path: A name of `available()`, or a file that `read` takes; a file without splits
            gives 10 % to each of validation and test.
        binarize: As in `Dataset`; not for `binarized_mnist`, which is already binary.
        flatten: Whether events are one-dimensional; `image_shape` keeps the shape of the picture.
        valid: Validation rows, as a fraction of all rows or a number; with 0 they are trained on.
            None is the default of the data set: 10,000 for MNIST and Fashion-MNIST, the official
            10,000 for binarised MNIST, 200 for digits, 195 for Frey faces.
        data_dir: The folder to search first.
        seed: Seed of random splits and evaluation bits.
        scale: Divisor of x in a file (255 for bytes that are grey values); named data sets have
            their own.

    Returns:
        The data with `train`, `valid` and `test`.

    Raises:
        KeyError: Neither a name nor a file.
        FileNotFoundError: The file was neither found nor downloaded; folder, file and variable are
            named.

    References:
        LeCun et al. (1998), Gradient-based learning applied to document recognition; Salakhutdinov
        and Murray (2008), On the quantitative analysis of deep belief networks; Xiao, Rasul and
        Vollgraf (2017), arXiv:1708.07747.

    Example:
        >>> load("digits", binarize="dynamic")
        Dataset('digits', 1797 x (8, 8), binarize='dynamic', train 1297 / valid 200 / test 300)
    """
    if str(name_or_path) not in RECIPES:
        path = file_path(name_or_path, "name_or_path")
        if not path.exists() and path.suffix not in SUFFIXES:
            raise KeyError(f"{str(path)!r} is neither a file nor one of {', '.join(RECIPES)}")
        data = read(path, binarize=binarize, seed=seed, scale=scale)
        if data.splits:
            splits = _validation(data.splits, len(data), valid, seed, random_rows)
            data = data.with_splits(splits)
        else:
            data = data.split(0.1 if valid is None else valid, 0.1, seed)
        return data.flatten() if flatten else data
    name = str(name_or_path)
    if name == "binarized_mnist" and binarize is not None:
        raise ValueError(
            f"binarized_mnist is already binary, so binarize={binarize!r} has no effect: use mnist"
        )
    recipe = RECIPES[name]
    fields = recipe.fields(data_dir)
    num_data = len(fields["x"])
    splits = fields.pop("splits", {})
    if not splits:
        train, test = recipe.take(np.arange(num_data), recipe.test, seed)
        splits = {"train": train, "test": test}
    valid = recipe.valid if valid is None else valid
    fields["splits"] = _validation(splits, num_data, valid, seed, recipe.take)
    data = Dataset(**fields, binarize=binarize, seed=seed, name=name, scale=recipe.scale)
    return data.flatten() if flatten else data


def available() -> dict[str, str]:
    """The named data sets, with a line for each: size, licence, source.

    Example:
        >>> list(available())
        ['digits', 'mnist', 'binarized_mnist', 'fashion_mnist', 'freyfaces']
    """
    return {name: recipe.about for name, recipe in RECIPES.items()}


def _validation(
    splits: dict[str, np.ndarray], num_data: int, valid: float | None, seed: int, take: Taker
) -> dict[str, np.ndarray]:
    """New validation rows from all rows that are not test rows; None keeps the splits."""
    if valid is None:
        return splits
    none = splits["train"][:0]
    rest = np.concatenate([splits["train"], splits.get("valid", none)])
    num_valid = count(valid, num_data, "valid")
    if num_valid >= len(rest):
        raise ValueError(f"valid={num_valid} rows leave none of {len(rest)} to train on")
    train, validation = take(rest, num_valid, seed)
    return {"train": train, "valid": validation, "test": splits.get("test", none)}


def _digits(data_dir: str | Path | None) -> Fields:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"x": digits.images, "labels": digits.target}


def _archive(name: str, source: Source | None, data_dir: str | Path | None) -> Fields:
    found = find(name, source, data_dir)
    for key, array in found.items():
        if array.shape[1:] == (98,):  # 784 bits packed in 98 bytes
            found[key] = np.unpackbits(array, axis=1).reshape(-1, 28, 28)
    return assemble(found, None, None)


RECIPES = {
    "digits": Recipe(
        "1,797 grey 8 x 8 handwritten digits; CC BY 4.0; UCI (Alpaydin and Kaynak, 1998), embedded "
        "in scikit-learn",
        _digits,
        scale=16.0,
        valid=200,
        test=300,
    ),
    "mnist": Recipe(
        "70,000 grey 28 x 28 handwritten digits, 12 MB; no licence stated, listed as CC BY-SA 3.0; "
        "LeCun et al. (1998)",
        partial(_archive, "mnist", MNIST),
        valid=10_000,
    ),
    "binarized_mnist": Recipe(
        "70,000 binary 28 x 28 digits, binarised once, 105 MB; no licence stated; Salakhutdinov "
        "and Murray (2008)",
        partial(_archive, "binarized_mnist", BINARIZED_MNIST),
        scale=1.0,
    ),
    "fashion_mnist": Recipe(
        "70,000 grey 28 x 28 articles of clothing, 31 MB; MIT; Xiao, Rasul and Vollgraf (2017), "
        "Zalando",
        partial(_archive, "fashion_mnist", FASHION_MNIST),
        valid=10_000,
    ),
    "freyfaces": Recipe(
        "1,965 grey 28 x 20 frames of a face, 1 MB, folder only; no licence stated; Brendan Frey, "
        "Sam Roweis",
        partial(_archive, "freyfaces", None),
        valid=195,
        test=195,
        take=partial(random_blocks, length=15),
    ),
}
