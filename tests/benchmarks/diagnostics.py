"""What a statistician waits for: a DataTree of 1,000 x 1,000 draws, calibration by 1,000
simulations, and refinement, Hamiltonian Monte Carlo and an interval for 100 rows."""

from functools import partial

import problems
from timing import Options, Row, in_turn, seconds, timed

import ppl_vae as pv
from ppl_vae.hmc import HMC, sample_posterior

TITLE = "Diagnostics"


def measure(options: Options) -> list[Row]:
    num, (model, guide) = options.pick(1_000, 30), problems.ours(64, (64,), 8)
    x, sizes = problems.bits(num, 64), {"num_samples": num, "num_data": num, "progress": False}
    works = {
        f"to_datatree, {num:,} rows x {num:,} draws": partial(
            pv.to_datatree, model, guide, x, **sizes
        ),
        f"calibration, {num:,} simulations": partial(pv.calibration, model, guide, num_data=num),
    }
    times = in_turn({name: timed(work) for name, work in works.items()}, options.pick(5, 1))
    rows = [seconds(name, values, at_most=5.0) for name, values in times.items()]
    return rows + by_row(options, model, guide)


def by_row(options: Options, model: pv.Model, guide: pv.Guide) -> list[Row]:
    """What is done for single rows."""
    rows = problems.bits(options.pick(100, 5), 64)
    draws = options.pick(500, 5)
    sampler = HMC(num_samples=draws, num_warmup=2 * draws // 5)
    works = {
        f"refine, {len(rows)} rows": partial(pv.refine, model, guide, rows, progress=False),
        f"sample_posterior, {len(rows)} rows, 4 chains of {draws} draws": partial(
            sample_posterior, model, guide, rows, sampler=sampler
        ),
        f"evidence_interval, {len(rows)} rows": partial(
            pv.evidence_interval, model, guide, rows, progress=False
        ),
    }
    times = in_turn({name: timed(work) for name, work in works.items()}, options.pick(5, 1))
    return [seconds(name, values) for name, values in times.items()]
