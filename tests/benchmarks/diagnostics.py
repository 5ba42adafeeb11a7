"""What a statistician waits for: a DataTree of 1,000 x 1,000 draws, and calibration by 1,000
simulations."""

from functools import partial

import problems
from timing import Options, Row, in_turn, seconds, timed

import ppl_vae as pv

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
    return [seconds(name, values, at_most=5.0) for name, values in times.items()]
