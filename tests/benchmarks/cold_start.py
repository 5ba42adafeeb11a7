"""What is paid once: the command line's answer, the imports, the first step that is compiled."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from timing import Options, Row, in_turn, ratio, seconds, timed

TITLE = "Cold start"
HELP = "from ppl_vae.cli import app\napp(['--help'], standalone_mode=False)"
PUBLIC, BASIS = "from ppl_vae import Model, Guide, fit", "import torch, pyro"
FIRST_STEP = """
import time, torch
import ppl_vae as pv
from ppl_vae import objectives
from problems import Trainer, bits, ours
trainer = Trainer(ours(), pv.Dataset(bits(1_000)), objectives.MeanFieldELBO(), 128, True)
start = time.perf_counter()
trainer.steps([torch.arange(128)])
print(time.perf_counter() - start)
"""


def run(code: str, **variables: str) -> str:
    options = {"cwd": Path(__file__).parent, "env": os.environ | variables, "text": True}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, **options
    ).stdout


def first_steps() -> tuple[float, float]:
    """Seconds with an empty cache of torch's compiler, then with what that left."""
    with tempfile.TemporaryDirectory() as folder:
        empty, filled = (float(run(FIRST_STEP, TORCHINDUCTOR_CACHE_DIR=folder)) for _ in range(2))
    return empty, filled


def measure(options: Options) -> list[Row]:
    codes = {"ppl-vae --help": HELP, PUBLIC: PUBLIC, BASIS: BASIS}
    times = in_turn(
        {name: timed(partial(run, code)) for name, code in codes.items()}, options.pick(15, 1)
    )
    empty, filled = zip(*[first_steps() for _ in range(options.pick(3, 1))], strict=True)
    return [
        seconds("ppl-vae --help", times["ppl-vae --help"], at_most=0.3),
        ratio(PUBLIC, times, PUBLIC, BASIS, at_most=1.15),
        seconds("first compiled step, torch's cache empty", empty),
        seconds("first compiled step, compiled before by another process", filled, at_most=2),
    ]
