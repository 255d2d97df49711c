"""Wall or processor time: all modes take turns in short slices, so that whatever else happens hits all of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from . import children, workloads
from .databases import UnavailableError, url_of

Say = Callable[[str], None]
SLICE = 0.02  # seconds of a bare slice, about


@dataclass
class Times:
    """Medians over the rounds: ``ratio`` and its quartiles to the bare slice of the same round, microseconds bare."""

    database: str
    clock: str = "wall"
    ratio: dict[str, dict[str, tuple[float, float, float]]] = field(default_factory=dict)  # by mode and workload
    bare: dict[str, float] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)
    complaints: dict[str, list[str]] = field(default_factory=dict)


def measure(
    kind: str,
    modes: Iterable[str],
    names: Iterable[str] = (),
    rounds: int = 30,
    say: Say = lambda line: None,
    *,
    clock: str = "wall",
    options: Iterable[str] = (),
) -> Times:
    """Interleave the modes on a database of that kind (see `databases.DRIVERS`).

    ``clock``: ``wall``, or ``cpu`` for the processor time of all threads. ``options`` are the driver's.
    """
    times = Times(kind, clock)
    try:
        with url_of(kind) as url:
            workers = _workers(modes, ["--database", url, *options], times)
            try:
                for workload in workloads.named(list(names)):
                    _workload(workload, workers, rounds, times)
                    say(f"timed {workload.name} on {kind}")
                for worker in workers:
                    found = worker.ask().get("complaints")
                    if found:
                        times.complaints[worker.mode] = found
            finally:
                for worker in workers:
                    worker.close()
    except UnavailableError as error:
        times.cannot[kind] = str(error)
    return times


def _workers(modes: Iterable[str], options: list[str], times: Times) -> list[children.Worker]:
    workers = []
    for worker in [children.Worker(mode, "benchmarks.driver", *options) for mode in modes]:
        answer = worker.answer()
        if "cannot" in answer:
            times.cannot[worker.mode] = answer["cannot"]
            worker.close()
        else:
            workers.append(worker)
    return workers


def _workload(workload: workloads.Workload, workers: list[children.Worker], rounds: int, times: Times) -> None:
    first = [worker.ask(workload=workload.name, repeats=1) for worker in workers]  # and caches fill
    able = [worker for worker, answer in zip(workers, first, strict=True) if "cannot" not in answer]
    for worker, answer in zip(workers, first, strict=True):
        if "cannot" in answer:
            times.cannot[f"{worker.mode}, {workload.name}"] = answer["cannot"]
    if not able or able[0].mode != "bare":
        return
    once = able[0].ask(workload=workload.name, repeats=1)["wall"]
    repeats = workload.slice or max(1, min(20_000, workload.most, round(SLICE / once)))
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds):
        order = able[turn % len(able) :] + able[: turn % len(able)]  # nobody is always first
        seconds = {worker.mode: worker.ask(workload=workload.name, repeats=repeats)[times.clock] for worker in order}
        for mode, taken in seconds.items():
            found[mode].append(taken / seconds["bare"] if mode != "bare" else taken / repeats * 1e6)
    times.bare[workload.name] = statistics.median(found.pop("bare"))
    for mode, ratios in found.items():
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        times.ratio.setdefault(mode, {})[workload.name] = (middle, low, high)
