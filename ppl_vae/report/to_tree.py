"""The findings of a report as one xarray.DataTree, so that nothing is on the page alone."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import (
    PIT,
    ActiveUnits,
    Calibration,
    ELBOSurgery,
    LatentMeans,
    ModelComparison,
    PredictiveCheck,
    RateDistortion,
    Reliability,
)
from ppl_vae.evidence import Evidence
from ppl_vae.report.findings import Findings, Weights

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["findings_tree"]

PER_DATUM = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo", "smoothed", "num_used")
BINS = ("predicted", "frequency", "se", "count")


def findings_tree(findings: Findings) -> "xr.DataTree":
    """A group for each finding, in ArviZ's layout where it has one; rows carry their names, and may
    be fewer in some.

    importance (log p(x) of the run by datum), baselines, bounds and weights (of few particles),
    sbc, sbc_importance, prior_predictive, posterior_predictive and observed_data (test statistics),
    marginal_pit, conditional_pit, reliability, latent_means, active_units, surgery,
    rate_distortion.

    Args:
        findings: Of a run.

    Example:
        >>> PER_DATUM[:2]
        ('log_evidence', 'mc_se')
    """
    import xarray as xr

    subject = findings.subject
    attrs = {"inference_library": "ppl_vae", "data": subject.rows.name, "seed": subject.seed}
    tree = {"/": xr.Dataset(attrs=attrs)}
    for name, found in findings.found.items():
        tree |= _groups(name, found, findings)
    return xr.DataTree.from_dict(tree)


def _groups(name: str, found: Any, findings: Findings) -> dict[str, "xr.Dataset"]:
    subject = findings.subject
    match found:
        case Calibration():
            return {name: found.to_datatree()["sbc"].to_dataset()}
        case ModelComparison():
            return {name: found.to_datatree()["models"].to_dataset()}
        case PIT():
            return {name: found.to_datatree()["pit"].to_dataset()}
        case PredictiveCheck() | ELBOSurgery() | LatentMeans() | ActiveUnits() | RateDistortion():
            return {
                group: node.to_dataset() for group, node in found.to_datatree().children.items()
            }
        case Evidence():
            values = {key: getattr(found, key) for key in PER_DATUM} | dict(found.checks)
            return {name: _by_datum(values, subject.evaluated, {"bound": found.bound})}
        case Weights():
            rows = subject.evaluated[found.rows]
            return {
                "bounds": _bounds(found),
                name: _by_datum({"largest_share": found.largest}, rows),
            }
        case Reliability():
            return {
                name: _dataset(
                    {key: getattr(found, key) for key in BINS}, "bin", range(len(found.count))
                )
            }
    return {}


def _by_datum(
    values: dict[str, np.ndarray], rows: Dataset, attrs: dict[str, Any] | None = None
) -> "xr.Dataset":
    import xarray as xr

    datum = rows.dims[0]
    variables = {name: (datum, array) for name, array in values.items()}
    names = np.asarray(rows.coords[datum])
    coords = {datum: names.astype(str) if names.dtype == object else names}
    return xr.Dataset(variables, coords, attrs)


def _dataset(values: dict[str, np.ndarray], dim: str, names: Any, **attrs: Any) -> "xr.Dataset":
    import xarray as xr

    return xr.Dataset(
        {name: (dim, array) for name, array in values.items()}, {dim: list(names)}, attrs
    )


def _bounds(weights: Weights) -> "xr.Dataset":
    columns = zip(*weights.bounds.values(), strict=True)
    values = dict(zip(("bound", "mc_se", "data_se"), map(np.array, columns), strict=True))
    return _dataset(values, "num_particles", weights.bounds)
