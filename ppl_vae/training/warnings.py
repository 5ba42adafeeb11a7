"""Warnings of `fit`: few rows, constant features, a bound that still rises, bad fitted scales."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.data.streaming import in_file
from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import LogTerms, Program, log_terms, nonfinite_site
from ppl_vae.runtime.checks import one_line, shown
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import counted
from ppl_vae.semi_supervised import SemiSupervisedModel
from ppl_vae.training.monitoring.trend import still_rising
from ppl_vae.training.record import FitResult

__all__ = [
    "constant_features",
    "few_rows",
    "unobserved_features",
    "warn_after",
    "warn_before",
]

logger = logging.getLogger(__name__)

FEW_ROWS = {"train": 50, "valid": 20, "test": 20}
MOST_SORTED = 10_000  # rows that repeated values are looked for in
ROWS_A_LEVEL = 5  # on average, as for the expected counts of a chi-squared test
MANY_LATENTS = 10  # for each value of a row
LEAKED = 0.1  # share of the test rows that equal a training row
CODES = (-9, -99, -999, -9999, -99999, 99, 999, 9999, 99999)  # that stand for a missing value
SPIKE = 0.2  # share of one value of a column with a density


def warn_before(model: Program, data: Dataset) -> None:
    """Give the warnings about faults that training cannot correct.

    Example:
        >>> warn_before(lambda x: None, Dataset(np.zeros((200, 2))))
    """
    sizes = {name: len(rows) for name, rows in data.splits.items()} or {"train": len(data)}
    num_features = data.event_shape.numel()
    latent_dim = model.latent_dim if isinstance(model, Model) else 0
    messages = [few_rows(sizes), many_latents(latent_dim, num_features)]
    if len(data.train) > 1:
        messages += faults_of_rows(model, data)
    for message in filter(None, messages):
        logger.warning(message)


def faults_of_rows(model: Program, data: Dataset) -> list[str | None]:
    """What is wrong with the training rows, of which at most 10,000 are read from a file.

    Example:
        >>> [each for each in faults_of_rows(lambda x: None, Dataset(np.eye(3))) if each]
        []
    """
    step = max(1, len(data.train) // MOST_SORTED)
    train = data.train[::step] if in_file(data.train.x) else data.train
    num_features = data.event_shape.numel()
    dense = densities(model, train, train.feature_names)
    some = train.x[:: max(1, len(train) // MOST_SORTED)]
    numbers = [name for name in train.feature_names if name not in train.levels]
    messages = [
        constant_features(constant_densities(model, train), num_features),
        repeated_values(some[:, train.places_of(dense)], dense),
        missing_codes(some[:, train.places_of(numbers)], numbers),
        coded_categories(model, train),
        *unobserved(model, train),
        few_levels(train),
        constant_columns(model, train),
        rows_in_both(data, dense) if dense else None,
    ]
    if len(train) == len(data.train):
        return messages
    return [each and f"of {len(train):,} training rows: {each}" for each in messages]


def warn_after(result: FitResult) -> None:
    """Warn if the held-out bound still rises.

    Example:
        >>> warn_after(FitResult(seed=0, objective="IWAE(5)"))
    """
    bounds = result.history.get("valid", [])
    weights = result.history.get("kl_weight", [])[-len(bounds) :]
    rising = still_rising(bounds, weights)
    if rising is not None and result.stopped != "early stopping":
        logger.warning(rising)


def few_rows(sizes: Mapping[str, int]) -> str | None:
    """A sentence if a split is too small for estimates; None if all are large enough.

    Example:
        >>> few_rows({"train": 16, "test": 2})
        'few rows (16 train, 2 test): a VAE overfits few training rows, and a mean over few \
held-out rows is unreliable; data.folds() holds out each row once'
    """
    few = [
        f"{sizes[name]} {name}"
        for name, least in FEW_ROWS.items()
        if sizes.get(name, least) < least
    ]
    if not few:
        return None
    return (
        f"few rows ({', '.join(few)}): a VAE overfits few training rows, and a mean over few "
        "held-out rows is unreliable; data.folds() holds out each row once"
    )


def many_latents(latent_dim: int, num_features: int) -> str | None:
    """A sentence if there are more than ten times as many latents as values in a row.

    Example:
        >>> many_latents(5000, 5)
        'latent_dim=5000, and a row has 5 values: most latents can carry no information; lower it'
    """
    if latent_dim <= MANY_LATENTS * num_features:
        return None
    return (
        f"latent_dim={latent_dim}, and a row has {counted(num_features, 'value')}: most latents "
        "can carry no information; lower it"
    )


def densities(model: Program, train: Dataset, names: Sequence[str]) -> list[str]:
    """Those of these features that the likelihood has a density of, without the classes of M2.

    Example:
        >>> densities(lambda x: None, Dataset(np.zeros((20, 2))), ["0", "1"])
        []
    """
    measure = getattr(getattr(model, "likelihood", None), "measure", "")
    classes = classes_of(model, train)
    parts = measure.split(", ")
    return [
        name
        for name in names
        if name not in classes and (measure == "lebesgue" or f"{name}: lebesgue" in parts)
    ]


def constant_densities(model: Program, train: Dataset) -> list[str]:
    """Features that a density is given to, and that do not vary in the training rows.

    Example:
        >>> constant_densities(lambda x: None, Dataset(np.zeros((20, 2))))
        []
    """
    if in_file(train.x) or len(train) < 2:
        return []
    return densities(model, train, train.constant_features)


def constant_columns(model: Program, train: Dataset) -> str | None:
    """A sentence if columns of a named table that no density is given to do not vary.

    Arrays without names are not looked at: many pixels of an image are black in all rows.

    Example:
        >>> import pandas as pd
        >>> constant_columns(None, Dataset(pd.DataFrame({"a": [1, 2], "town": ["Rome", "Rome"]})))
        "column 'town' of x is 'Rome' in all training rows and carries no information: drop it"
    """
    is_looked_at = hasattr(model, "likelihood") and "x" in train.columns
    known = {*densities(model, train, train.feature_names), *classes_of(model, train)}
    constant = [
        name
        for name in train.constant_features
        if name in train.feature_levels or (is_looked_at and name not in known)
    ]
    if not constant:
        return None
    first = constant[0]
    value = train.x[:, train.feature_names.index(first)].nan_to_num(-torch.inf).max()
    levels = train.feature_levels.get(first)
    where = f"{first!r} of x is {repr(levels[int(value)]) if levels else shown(value)}"
    others = f" ({len(constant)} such columns)" if len(constant) > 1 else ""
    return f"column {where} in all training rows and carries no information: drop it{others}"


def repeated_values(x: Tensor, names: Sequence[str]) -> str | None:
    """A sentence if a column with a density has one value in a fifth of its rows or more.

    Example:
        >>> import torch
        >>> pay = torch.tensor([[0.0], [0.0], [3.1], [2.7]])
        >>> repeated_values(pay, ["pay"])
        "50 % of 'pay' are exactly 0: a density has no upper limit there, and log p(x) is \
not meaningful; use a likelihood with a probability of this value (Censored, a hurdle), or split \
the column"
    """
    for place, name in enumerate(names):
        observed = x[:, place][~x[:, place].isnan()]
        if not len(observed):
            continue
        values, counts = observed.unique(return_counts=True)
        share = float(counts.max()) / len(observed)
        if SPIKE <= share < 1:
            return (
                f"{100 * share:.0f} % of {name!r} are exactly {shown(values[counts.argmax()])}: a "
                "density has no upper limit there, and log p(x) is not meaningful; use a "
                "likelihood with a probability of this value (Censored, a hurdle), or split the "
                "column"
            )
    return None


def missing_codes(x: Tensor, names: Sequence[str]) -> str | None:
    """A sentence if a number such as -999 is repeated in a column, far from its other values.

    Far is further than these spread from the smallest to the largest.

    Example:
        >>> import torch
        >>> missing_codes(torch.tensor([[41.0], [-999.0], [39.0], [-999.0]]), ["age"])
        "2 values of 'age' are -999, and the others lie between 39 and 41: if it stands for a \
missing value, write NaN there (na_values for a .csv)"
    """
    for code in CODES:
        num_coded = (x == code).sum(0)
        for place in (num_coded > 1).nonzero().flatten().tolist():
            column = x[:, place]
            others = column[(column != code) & ~column.isnan()]
            if len(others) and _are_far(code, low := others.min(), high := others.max()):
                return (
                    f"{int(num_coded[place])} values of {names[place]!r} are {code}, and the "
                    f"others lie between {shown(low)} and {shown(high)}: if it stands for a "
                    "missing value, write NaN there (na_values for a .csv)"
                )
    return None


def _are_far(code: float, low: Tensor, high: Tensor) -> bool:
    """Whether a number lies further from this range than the range is long."""
    return bool(torch.maximum(low - code, code - high) > high - low)


def coded_categories(model: Program, data: Dataset) -> str | None:
    """A sentence if a column holds categories and the likelihood is one of numbers.

    Example:
        >>> coded_categories(lambda x: None, Dataset(np.zeros((200, 2))))
    """
    if not isinstance(model, Model):
        return None
    coded = [name for name in data.feature_names if name in data.levels]
    if not coded or not (model.has_counts or model.likelihood.measure == "lebesgue"):
        return None
    return (
        f"column {coded[0]!r} holds categories, whose codes {type(model.likelihood).__name__} "
        "treats as numbers: use likelihoods.Columns.of(data), a likelihood for each column"
    )


def few_levels(train: Dataset) -> str | None:
    """A sentence if a category has too few rows for its levels.

    Example:
        >>> import pandas as pd
        >>> few_levels(Dataset(pd.DataFrame({"a": [1, 2], "town": ["Rome", "Oslo"]})))
        "column 'town' of x has 2 levels in 2 training rows, fewer than 5 rows for each ..."
    """
    for name in train.feature_levels:
        codes = train.x[:, train.feature_names.index(name)]
        observed = codes[~codes.isnan()]
        num_levels = len(observed.unique())
        if 1 < num_levels and num_levels * ROWS_A_LEVEL > len(observed):
            return (
                f"column {name!r} of x has {counted(num_levels, 'level')} in "
                f"{counted(len(observed), 'training row')}, fewer than {ROWS_A_LEVEL} rows for "
                "each on average: their probabilities are poorly known; join rare ones, or drop it"
            )
    return None


def rows_in_both(data: Dataset, dense: Sequence[str]) -> str | None:
    """A sentence if a tenth of the test rows or more equal a training row in all columns.

    Only rows with a value in a column with a density are counted: others may agree by chance.

    Example:
        >>> x = np.tile([[0.5], [1.5]], (3, 1))
        >>> rows_in_both(Dataset(x, splits={"train": range(4), "test": [4, 5]}), ["0"])
        '2 of 2 test rows equal a training row: log p(x) of new rows is lower ...'
    """
    parts = [data.train, data.test] if "test" in data.splits else []
    if not parts or any(len(part.event_shape) != 1 or in_file(part.x) for part in parts):
        return None
    known = set(_as_bytes(parts[0]))
    test = _as_bytes(parts[1])
    is_seen = parts[1].mask[:, data.places_of(dense)].any(1).tolist()
    num_equal = sum(row in known for row, seen in zip(test, is_seen, strict=True) if seen)
    if num_equal < LEAKED * len(test):
        return None
    return (
        f"{num_equal} of {counted(len(test), 'test row')} equal a training row: log p(x) of new "
        "rows is lower than that of these; remove repeated rows, or keep equal rows in one split"
    )


def _as_bytes(rows: Dataset) -> list[bytes]:
    """Each row with its covariates, as bytes that are equal for equal numbers."""
    parts = [rows.x] if rows.context is None else [rows.x, rows.context]
    values = torch.cat(parts, dim=1).double().cpu().numpy() + 0.0  # no negative zeros
    return [row.tobytes() for row in np.where(np.isnan(values), np.nan, values)]


def constant_features(constant: Sequence[str], num_features: int) -> str | None:
    """A sentence if features of the training rows do not vary, so that a scale would vanish.

    Example:
        >>> constant_features(["b"], 2)
        '1 of 2 features is constant in the training rows (the first is b): its density rises ...'
    """
    if not constant:
        return None
    verb, whose = ("is", "its") if len(constant) == 1 else ("are", "their")
    them = "it" if len(constant) == 1 else "them"
    return (
        f"{len(constant)} of {num_features} features {verb} constant in the training rows (the "
        f"first is {constant[0]}): {whose} density rises as the scale falls, and log p(x) reflects "
        f"only the smallest scale allowed; leave {them} out"
    )


def classes_of(model: Program, train: Dataset) -> tuple[str, ...]:
    """The column of the classes of M2; none of other models."""
    return train.feature_names[-1:] if isinstance(model, SemiSupervisedModel) else ()


def unobserved(model: Program, train: Dataset) -> list[str | None]:
    """Sentences on what is missing in all training rows: features, and the class of M2."""
    missing = train.unobserved_features
    classes = classes_of(model, train)
    features = [name for name in missing if name not in classes]
    found = [unobserved_features(features, train.event_shape.numel())]
    if len(features) < len(missing):
        found.append(
            f"no training row has a class (column {classes[0]!r}): classes are then clusters, in "
            "any order; give the classes of some rows"
        )
    return found


def unobserved_features(unobserved: Sequence[str], num_features: int) -> str | None:
    """A sentence if features are missing in all training rows.

    Example:
        >>> unobserved_features(["b"], 2)
        'no training row has a value of 1 of 2 features (the first is b): leave it out'
    """
    if not unobserved:
        return None
    them = "it" if len(unobserved) == 1 else "them"
    return (
        f"no training row has a value of {len(unobserved)} of {num_features} features (the first "
        f"is {unobserved[0]}): leave {them} out"
    )


def concerns(model: Model, guide: Program, args: tuple[Tensor, ...], seed: int) -> list[str]:
    """Warnings about the fitted parameters of the likelihood, at one batch."""

    def read(terms: LogTerms) -> list[str]:
        return model.concerns(terms.guide_trace.nodes["z"]["value"], *args[1:])

    found = examined(model, guide, args, seed, read)
    if isinstance(found, Exception):
        return [f"the fitted likelihood could not be examined: {one_line(found)}"]
    return found


def culprit(model: Program, guide: Program, args: tuple[Tensor, ...]) -> str:
    """The first site with a value or density that is not finite, in words."""
    site = examined(model, guide, args, 0, nonfinite_site)
    return f"site {site!r}" if isinstance(site, str) else "no single site (their sum overflowed)"


def examined[Found](
    model: Program,
    guide: Program,
    args: tuple[Tensor, ...],
    seed: int,
    read: Callable[[LogTerms], Found],
) -> Found | Exception:
    """The result of one run in evaluation mode, or its error: diagnostics never end `fit`."""
    try:
        with evaluating(model, guide), seeded(seed):
            return read(log_terms(model, guide, *args))
    except Exception as error:
        return error
