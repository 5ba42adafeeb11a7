"""The other end of `Peer`: what the scripts of this folder share. Needs nothing but Python."""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version


def serve(works: dict[str, Callable[[int], object]], *packages: str) -> None:
    """Tell the versions; then do what is asked, [what, how often] a line, and answer with the
    seconds it took."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(what: object) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    answer(", ".join(f"{package} {version(package)}" for package in packages))
    for line in sys.stdin:
        what, times = json.loads(line)
        start = time.perf_counter()
        found = works[what](times)
        answer(time.perf_counter() - start if found is None else found)
