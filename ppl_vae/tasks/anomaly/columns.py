"""odd_columns: in which columns a row is odd, given the rest of it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.diagnostics.predictive.cdf import elementwise
from ppl_vae.diagnostics.predictive.hiding import Hiding, Predicted
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.model import Model
from ppl_vae.programs.inference import Inference, rows_per_chunk
from ppl_vae.programs.observed.functions_of_x import require_x_itself
from ppl_vae.programs.traces import Program
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.tasks.anomaly.p_values import conformal_p_values

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["odd_columns"]


def odd_columns(
    model: Program,
    guide: Program,
    calibration: Dataset | Any,
    data: Dataset | Any,
    *,
    num_particles: int = 500,
    seed: int = 0,
    progress: bool = True,
) -> "pd.DataFrame":
    """P-values of each column of each row: is x_j odd, given the other entries of its row?

    The score is -log p(x_j given x_-j), with x_j hidden: log sum_k w_k p(x_j given z_k) over draws
    of z given x_-j, as in `conditional_pit`. It is ranked among the same scores of the rows of
    calibration that have x_j. These p-values explain a row that was declared anomalous and are not
    discoveries of their own. A wrong entry makes those odd too that are predicted from it. Draws of
    the rows are independent. The cost is that of one evaluation of all rows for each column.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1 whose entries are
            independent given z.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        calibration: The rows of calibration, as in `anomaly_pvalues`.
        data: The rows to explain, such as `data.test[found.discoveries()]`.
        num_particles: Draws of z for each row and column K.
        seed: Seed of the draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        A frame of p-values with the rows of `data` and their columns; NaN where x is missing, or no
        row of calibration has the column.

    Raises:
        ValueError: A likelihood whose entries have one joint density; a model with a missingness
            model; rows with several dims.

    References:
        Gelfand, Dey and Chang (1992), Model determination using predictive distributions, Bayesian
        Statistics 4; Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=60)
        >>> rows = bed.x[:1].clone()
        >>> rows[0, 2] += 5.0
        >>> found = odd_columns(bed.model, bed.guide, bed.x[1:], rows, num_particles=100)
        >>> found.shape, bool(found.iloc[0, 2] < 0.05)
        ((1, 5), True)
    """
    import pandas as pd

    whole_number(num_particles, "num_particles")
    if isinstance(model, Model) and model.likelihood.is_joint:
        raise ValueError(
            f"entries of {type(model.likelihood).__name__} have one joint density, so that no "
            "column is hidden without the others"
        )
    if getattr(model, "missingness", None) is not None:
        raise ValueError(
            "hidden entries are not missing by the model's mechanism, which would count in their "
            "densities: odd_columns needs a model without missingness="
        )
    parts = [Inference(model, guide, as_dataset(rows).in_memory()) for rows in (calibration, data)]
    tested = parts[1].data
    if len(tested.event_shape) > 1:
        raise ValueError(f"x has rows of shape {tuple(tested.event_shape)}: give rows of columns")
    require_x_itself(model, tested)
    num_cells = tested.event_shape[0] * sum(map(len, parts))
    with progress_bar(num_cells, "columns", unit="cells", progress=progress) as bar:
        known, asked = (_scores(part, num_particles, seed, bar) for part in parts)
    p_values = np.full(asked.shape, np.nan)
    for column, values in enumerate(asked.T):
        among = known[~np.isnan(known[:, column]), column]
        here = ~np.isnan(values)
        if len(among):
            p_values[here, column] = conformal_p_values(among, values[here])
    names = tested.coords[tested.dims[1]]
    return pd.DataFrame(p_values, index=tested.coords[tested.dims[0]], columns=names)


def _scores(inference: Inference, num_particles: int, seed: int, bar: Any) -> np.ndarray:
    """-log p(x_j given x_-j), (N, P); NaN where x_j is missing."""
    x = inference.data.x
    found = np.full(x.shape, np.nan)
    step = rows_per_chunk(len(x), num_particles)
    folds = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    name = inference.site_of_x
    first = inference.block(slice(0, 1), seed=0)
    with first.evaluating():
        hiding = Hiding(inference.model, inference.guide, first, folds[0])
    for column, fold in enumerate(folds):
        for block in inference.blocks(step, seed=seed, keys=(column,)):
            with block.evaluating():
                predicted = hiding.predict(block, fold, num_particles)
                found[block.rows, column] = -_best(predicted, block.data, column, name)
            bar.update(len(block))
    return np.where(x.isnan().cpu().numpy(), np.nan, found)


def _best(predicted: list[Predicted], data: Dataset, column: int, name: str) -> np.ndarray:
    """log p(x_j given x_-j) of each row, by the proposal with the largest ESS, (B,)."""
    log_weights = np.stack([weights.cpu().numpy() for _, weights in predicted])
    ess = np.stack([reduce_log_weights(each).ess for each in log_weights])
    densities = np.stack([_densities(traces, data, column, name) for traces, _ in predicted])
    relative = log_weights - logsumexp(log_weights, axis=1, keepdims=True)
    found = logsumexp(relative + densities, axis=1)
    return found[np.nan_to_num(ess).argmax(0), np.arange(len(data))]


def _densities(traces: list[Any], data: Dataset, column: int, name: str) -> np.ndarray:
    """log p(x_j given z) at the draws of the traces, one after the other, (K, B)."""
    x = data.x.nan_to_num()
    found: list[Tensor] = []
    for trace in traces:
        fn = trace.nodes[name]["fn"]
        log_p = elementwise(fn).log_prob(x.reshape(len(x), *fn.event_shape))
        found.append(log_p.reshape(-1, len(x), *data.event_shape)[..., column])
    return torch.cat(found).double().cpu().numpy()
