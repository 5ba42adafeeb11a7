"""What latent coordinates keep of the rows' neighbourhoods, beside principal components."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.data.validation import as_array
from ppl_vae.diagnostics.latents.means import LatentMeans, latent_means
from ppl_vae.guide import Guide
from ppl_vae.programs.inference import treat_alike
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.seeding import generator
from ppl_vae.runtime.text import table
from ppl_vae.tasks.reduction.jackknife import jackknife_se
from ppl_vae.tasks.reduction.neighbours import MEASURES, measured, neighbour_order, without

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EmbeddingQuality", "embedding_quality"]

MOST_ROWS = 1000
NUM_GROUPS = 20  # left out in turn for the standard errors
BY_MODEL = "VAE"
BASE = "PCA"
TITLES = ("trustworthiness", "continuity", "neighbours kept")


@dataclass(frozen=True, repr=False)
class EmbeddingQuality(Shown):
    """Trustworthiness, continuity and share of neighbours kept, by coordinates and by k.

    `print` shows the values with their standard errors in brackets, and the differences from
    principal components.

    Args:
        values: (M, 3, K): M kinds of coordinates, the three measures of `measures`, and K numbers
            of neighbours.
        se: Standard errors, shaped like `values`.
        difference_se: Standard errors of the differences from "PCA", shaped alike.
        names: The kinds of coordinates: "VAE", "PCA", and those of `others`.
        num_neighbours: The numbers k.
        coordinates: The coordinates of the rows by name, (N, D).
        latents: Means and sds of q(z given x) of these rows.

    Example:
        >>> found = np.array([[[0.9], [0.9], [0.5]], [[0.8], [0.9], [0.4]]])
        >>> EmbeddingQuality(found, found / 90, found / 90, ("VAE", "PCA"), (5,)).measures
        ('trustworthiness', 'continuity', 'kept')
    """

    values: np.ndarray
    se: np.ndarray
    difference_se: np.ndarray
    names: tuple[str, ...]
    num_neighbours: tuple[int, ...]
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)
    latents: LatentMeans | None = None

    measures = MEASURES

    @property
    def difference(self) -> np.ndarray:
        """Values minus those of principal components, (M, 3, K)."""
        return self.values - self.values[self.names.index(BASE)]

    def to_frame(self) -> "pd.DataFrame":
        """One row for each kind of coordinates, measure and k."""
        import pandas as pd

        levels = [self.names, self.measures, self.num_neighbours]
        names = ["coordinates", "measure", "num_neighbours"]
        columns = {
            "value": self.values,
            "se": self.se,
            "difference": self.difference,
            "difference_se": self.difference_se,
        }
        index = pd.MultiIndex.from_product(levels, names=names)
        return pd.DataFrame({name: each.ravel() for name, each in columns.items()}, index=index)

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [("k, coordinates", *TITLES)]
        for i, k in enumerate(self.num_neighbours):
            for name, values, errors in zip(self.names, self.values, self.se, strict=True):
                rows.append((f"{k}, {name}", *_cells(values[:, i], errors[:, i], ".3f")))
            parts = zip(self.names, self.difference, self.difference_se, strict=True)
            for name, values, errors in parts:
                if name != BASE:
                    cells = _cells(values[:, i], errors[:, i], "+.3f")
                    rows.append((f"{k}, {name} - {BASE}", *cells))
        return table(rows)

    def __repr__(self) -> str:
        numbers = ", ".join(map(str, self.num_neighbours))
        num_rows = len(next(iter(self.coordinates.values()), ()))
        kinds = ", ".join(self.names)
        return f"EmbeddingQuality({kinds}; {num_rows} rows, {numbers} neighbours)"


def _cells(values: np.ndarray, errors: np.ndarray, form: str) -> list[str]:
    return [f"{value:{form}} ({error:.3f})" for value, error in zip(values, errors, strict=True)]


def embedding_quality(
    guide: Program,
    data: Dataset | Any,
    trained_on: Dataset | Any,
    *,
    num_neighbours: int | Sequence[int] = (5, 15, 50),
    others: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> EmbeddingQuality:
    """Neighbours of held-out rows in x and among the means of q(z given x), beside PCA.

    With r_x(i, j) the rank of row j among the neighbours of row i in x, and U_k(i) its k nearest in
    z, trustworthiness is 1 - 2 / (N k (2 N - 3 k - 1)) sum_i sum_{j in U_k(i)} max(0, r_x(i, j) -
    k): rows that are close in z are close in x. Continuity is the same with x and z exchanged: rows
    that are close in x stay together. The share of neighbours kept is that of U_k(i) among the k
    nearest in x. One is perfect; the first two are about 1/2 for random coordinates.

    Principal components are fitted to the rows of training, as many as there are latents (or
    features, if these are fewer). Distances are Euclidean. Those in x are of what the encoder
    reads: standardised numbers, logarithms of counts, indicators of levels; for a guide other than
    `Guide` of x as it is. PCA reads the same. Standard errors are of the jackknife over 20 groups
    of rows, given model and components; differences are paired. Neighbours are no smooth function
    of the rows, and in simulations these errors were 1.1 to 1.6 times too large, never too small.

    Args:
        guide: `Guide`, or any Pyro guide with a plate "data" at dim -1.
        data: Rows that training has not seen, complete; of more than 1,000, 1,000 at random.
        trained_on: The rows of training, for principal components: of a `Dataset` `.train`.
        num_neighbours: One k or several, each below half the number of rows.
        others: Coordinates by other methods, such as UMAP, of all rows of `data`, (N, any), by
            name.
        seed: Seed of the rows, of the groups, and of draws where q has no mean of its own.
        progress: Whether to show a bar after two seconds.

    Returns:
        Values, standard errors and differences from principal components, with the coordinates.

    Raises:
        ValueError: Values are missing; k is out of range; other coordinates are not of these rows.

    References:
        Venna and Kaski (2001), Neighborhood preservation in nonlinear projection methods: an
        experimental study, ICANN, eq. 1 and 2; Lee and Verleysen (2009), Quality assessment of
        dimensionality reduction: rank-based criteria, Neurocomputing 72; Efron and Tibshirani
        (1993), An introduction to the bootstrap, chapter 11 (jackknife).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=200, latent_dim=2, data_dim=5)
        >>> found = embedding_quality(bed.guide, bed.x[:100], bed.x[100:], num_neighbours=5)
        >>> found.names, found.values.shape
        (('VAE', 'PCA'), (2, 3, 1))
    """
    data = as_dataset(data)
    rows = _chosen(data, seed)
    numbers = _checked(num_neighbours, len(rows))
    held_out = data[rows]
    treat_alike(held_out, "the quality of an embedding")
    latents = latent_means(guide, held_out, seed=seed, progress=progress)
    x, train = (_inputs(guide, each) for each in (held_out, as_dataset(trained_on).train))
    coordinates = {BY_MODEL: latents.mean, BASE: _components(train, x, latents.mean.shape[1])}
    for name, given in (others or {}).items():
        data.refuse_other_index(given, f"others[{name!r}]")
        coordinates[name] = _given(given, name, len(data))[rows]
    of_x = neighbour_order(x)
    of_z = [neighbour_order(points) for points in coordinates.values()]
    groups = np.array_split(generator(seed).permutation(len(x)), NUM_GROUPS)
    values = np.array([measured(of_x, each, numbers) for each in of_z])
    left_out = np.array([_without(of_x, of_z, group, numbers) for group in groups])
    return EmbeddingQuality(
        values=values,
        se=jackknife_se(left_out),
        difference_se=jackknife_se(left_out - left_out[:, [1]]),
        names=tuple(coordinates),
        num_neighbours=numbers,
        coordinates=coordinates,
        latents=latents,
    )


def _without(
    of_x: np.ndarray, of_z: Sequence[np.ndarray], group: np.ndarray, numbers: Sequence[int]
) -> list[np.ndarray]:
    """The measures of all coordinates among the rows outside the group."""
    known = without(of_x, group)
    return [measured(known, without(each, group), numbers) for each in of_z]


def _chosen(data: Dataset, seed: int) -> np.ndarray:
    """Numbers of the rows that are used."""
    order = generator(seed).permutation(len(data))
    return np.sort(order[:MOST_ROWS])


def _checked(num_neighbours: int | Sequence[int], num_rows: int) -> tuple[int, ...]:
    """The numbers of neighbours, for which every leave-out still has enough rows."""
    given = np.atleast_1d(np.asarray(num_neighbours)).tolist()
    numbers = tuple(whole_number(k, "num_neighbours") for k in given)
    fewest = num_rows - -(-num_rows // NUM_GROUPS)
    if not numbers or 2 * max(numbers) >= fewest:
        raise ValueError(
            f"num_neighbours={num_neighbours} with {num_rows} rows: each must be below half the "
            f"rows that are left without a twentieth of them, {fewest / 2:g}"
        )
    return numbers


def _inputs(guide: Program, data: Dataset) -> np.ndarray:
    """Complete rows as the encoder reads them, (N, features)."""
    x: Tensor = data.in_memory().x
    if x.isnan().any():
        row = int(x.flatten(1).isnan().any(1).nonzero()[0])
        raise ValueError(
            f"row {row} has missing values, and distances need complete rows: leave such rows out, "
            "or impute them first"
        )
    if isinstance(guide, Guide):
        parameter = next(guide.parameters())
        with evaluating(guide), torch.no_grad():
            x = guide.units(x.to(parameter))
    return x.flatten(1).double().cpu().numpy()


def _components(train: np.ndarray, x: np.ndarray, num: int) -> np.ndarray:
    """Principal components of the rows, by those of training."""
    from sklearn.decomposition import PCA

    pca = PCA(min(num, *train.shape), svd_solver="full").fit(train)
    return pca.transform(x)


def _given(values: Any, name: str, num_rows: int) -> np.ndarray:
    """Coordinates of another method."""
    points = as_array(values, np.float64)
    if points.ndim != 2 or len(points) != num_rows or not np.isfinite(points).all():
        raise ValueError(
            f"others[{name!r}] has the shape {points.shape}: give finite coordinates of the "
            f"{num_rows} rows, ({num_rows}, dimensions)"
        )
    return points
