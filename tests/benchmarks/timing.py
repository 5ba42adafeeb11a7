"""The clock of all benchmarks: works are timed in turn, A B A B, and compared round by round."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Work = Callable[[], float]  # does it, and returns the seconds of one unit
Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Options:
    """How much is measured, and where the environments of other libraries are kept."""

    quick: bool
    envs: Path

    def pick(self, whole: int, quick: int) -> int:
        return quick if self.quick else whole

    def some(self, cases: dict) -> list[tuple]:
        return list(cases.items())[: 1 if self.quick else None]


@dataclass
class Row:
    """One figure of the page: the median over rounds with its quartiles, the target, and what it
    was made of."""

    work: str
    against: str = ""
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    unit: str = ""  # a ratio has none
    medians: tuple[float, float] | None = None  # of both sides of a ratio
    medians_unit: str = "s"
    rounds: int = 0
    at_most: float | None = None
    at_least: float | None = None
    not_measured: str = ""
    series: dict[str, list[float]] = field(default_factory=dict)  # what is drawn as a line

    @property
    def is_met(self) -> bool | None:
        """None where there is no target, or no figure."""
        if self.median is None or self.at_most is self.at_least is None:
            return None
        low, high = self.at_least or -math.inf, self.at_most or math.inf
        return low <= self.median <= high


def timed(work: Callable[[], object], units: int = 1) -> Work:
    """Seconds per unit of something that does this many."""

    def clocked() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / units

    return clocked


def in_turn(works: Mapping[str, Work], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each work, once per round, after a round that does not count."""
    for work in works.values() if warm_up else ():
        work()
    taken = [{name: work() for name, work in works.items()} for _ in range(rounds)]
    return {name: [times[name] for times in taken] for name in works}


def spread(values: Sequence[float]) -> dict:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": (low, high), "rounds": len(values)}


def ratio(work: str, times: Times, ours: str, theirs: str, **target: float) -> Row:
    """Time of ours over time of theirs, round by round."""
    ratios = [one / other for one, other in zip(times[ours], times[theirs], strict=True)]
    medians = (statistics.median(times[ours]), statistics.median(times[theirs]))
    return Row(work, theirs, medians=medians, **spread(ratios), **target)


def rate(work: str, times: Times, ours: str, theirs: str, **target: float) -> Row:
    """Throughput of ours over throughput of theirs, round by round."""
    row = ratio(work, {"theirs": times[ours], theirs: times[theirs]}, theirs, "theirs", **target)
    row.against, row.medians = theirs, row.medians[::-1]
    return row


def seconds(work: str, values: Sequence[float], **target: float) -> Row:
    return Row(work, unit="s", **spread(values), **target)
