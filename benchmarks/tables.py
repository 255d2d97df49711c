"""Figures -> Markdown."""

from __future__ import annotations

import contextlib
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import aims, modes, sdk, telemetry, workloads
from .growth import AXES
from .instructions import Counts, ratios
from .telemetry import Requests
from .wall import Times

Names = Mapping[str, str] | None  # what the modes are called; None: by what is installed


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    names = list(head)
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment() -> str:
    """What was measured, on what; no date, so that the same figures give the same page."""
    names = ", ".join(f"{name} {version(name)}" for name in ("sqlalchemy", "sessionwatch"))
    return f"{names}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} x {_processor()}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "a processor without a name"


def of_instructions(counted: list[Counts], under: str = "", names_of: Names = None, aimed: bool = False) -> str:
    """Ratio of instructions to the bare program; the first row is the bare program's own thousands.

    ``aimed``: below each of our rows is the one that was aimed at.
    """
    if counted[0].mode != "bare" or counted[0].cannot:
        return _notes([f"bare: {counted[0].cannot or 'not measured, so that there is no ratio'}"])
    bare, names = (
        counted[0],
        [w.name for w in (*workloads.ALL, *workloads.REQUESTS) if w.name in counted[0].instructions],
    )
    rows = [["bare, 1000 instructions", *(f"{bare.instructions[name] / 1000:,.0f}" for name in names)]]
    found = ratios(counted)
    for counts in counted[1:]:
        if counts.cannot is None:
            rows.append([_label(counts.mode, names_of), *(_ratio(found[counts.mode].get(name)) for name in names)])
            if aimed and counts.mode in aims.RATIOS:
                aim = aims.RATIOS[counts.mode]
                rows.append(
                    [
                        f"{_label(counts.mode, names_of)}, aim",
                        *(f"≤ {aim[name]:.3f}" if name in aim else "" for name in names),
                    ]
                )
    rows.append(["spread of bare, %", *(f"{bare.spread[name] * 100:.1f}" for name in names)])
    return table([f"instructions{under}, ratio to bare", *names], rows) + _notes(_remarks(counted, names_of))


def _remarks(counted: list[Counts], names_of: Names) -> list[str]:
    notes = [f"{_label(counts.mode, names_of)}: cannot run: {counts.cannot}" for counts in counted if counts.cannot]
    for counts in counted:
        notes += [f"{counts.mode}, {name}: cannot run: {reason}" for name, reason in counts.failed.items()]
        for complaint, times in Counter(counts.complaints).items():
            notes.append(f"{counts.mode}: {complaint}" + (f" ({times} times)" if times > 1 else ""))
    return notes


def of_examples(counted: list[Counts], names_of: Names = None) -> str:
    """Ratio of instructions to the bare program, a row an example of SQLAlchemy's."""
    if counted[0].mode != "bare" or counted[0].cannot:
        return _notes([f"bare: {counted[0].cannot or 'not measured, so that there is no ratio'}"])
    bare, found = counted[0].instructions, ratios(counted)
    rows = [
        [name, f"{bare[name] / 1000:,.1f}", *(_ratio(by_name.get(name)) for by_name in found.values())] for name in bare
    ]
    head = ["SQLAlchemy's example", "bare, 1000 instructions an item", *(_label(mode, names_of) for mode in found)]
    return table(head, rows) + _notes(_remarks(counted, names_of))


def of_bytecodes(found: dict[str, dict[str, Any]]) -> str:
    """What each mode adds, a table a workload: functions that make up a hundredth of the bare program, and the rest."""
    parts = []
    for name, counted in found.items():
        bare, added = counted["bare"], counted["added"]
        places = dict.fromkeys(place for by_place in added.values() for place in by_place)
        most = {place: max(abs(by_place.get(place, 0)) for by_place in added.values()) for place in places}
        shown = sorted((place for place in most if most[place] >= bare / 100), key=lambda place: -most[place])
        rows = [[f"`{place}`", *(f"{by_place.get(place, 0):,.0f}" for by_place in added.values())] for place in shown]
        rest = [sum(by_place.values()) - sum(by_place.get(place, 0) for place in shown) for by_place in added.values()]
        rows.append(["all others", *(f"{count:,.0f}" for count in rest)])
        rows.append(["together", *(f"{sum(by_place.values()):,.0f}" for by_place in added.values())])
        parts.append(table([f"{name}: bytecodes over the bare program's {bare:,.0f}", *added], rows))
    return "\n\n".join(parts)


def of_times(times: Times, under: str = "", names_of: Names = None) -> str:
    """Ratio of wall or processor time to the bare program, with quartiles."""
    names = list(times.bare)
    notes = [f"{what}: cannot run: {reason}" for what, reason in times.cannot.items()]
    notes += [f"{mode}: {text}" for mode, texts in times.complaints.items() for text in dict.fromkeys(texts)]
    if not names:
        return _notes(notes).lstrip()
    rows = [["bare, µs", *(f"{times.bare[name]:,.1f}" for name in names)]]
    digits = 3 if times.clock == "cpu" else 2
    for mode, found in times.ratio.items():
        cells = ["{0:.{3}f} ({1:.{3}f}-{2:.{3}f})".format(*found[n], digits) if n in found else "" for n in names]
        rows.append([_label(mode, names_of), *cells])
    return table([f"{times.clock} time on {times.database}{under}, ratio to bare (quartiles)", *names], rows) + _notes(
        notes
    )


def of_requests(found: Requests, names_of: Names = None) -> str:
    """Ratios of processor time and of instructions a request to the bare application, a table an SDK's set-up."""
    parts = []
    for kind, times in found.cpu.items():
        parts.append(of_times(times, f", {kind}", names_of) + _shares(telemetry.shares(times.ratio), names_of))
        counted = found.instructions.get(kind)
        if counted:
            parts.append(of_instructions(counted, f" on {times.database}, {kind}", names_of))
            if all(counts.cannot is None for counts in counted):
                parts[-1] += _shares(telemetry.shares(ratios(counted)), names_of)
    if found.cannot:
        parts.append(f"- instructions were not counted: {found.cannot}")
    return "\n\n".join(parts)


def _shares(found: dict[str, float], names_of: Names) -> str:
    if not found:
        return ""
    told = "; ".join(f"{name} {share * 100:.0f} %" for name, share in found.items())
    return f"\n\nAdded by sessionwatch, of what {_label('otel', names_of)} adds: {told}"


def of_memory(found: dict[str, Any]) -> str:
    """Bytes a piece, and resident memory over many sessions and objects."""
    names = list(next(iter(found["bytes"].values())))
    rows = [
        [what, *(f"{by_mode[name]:,.0f}" for name in names), f"≤ {aims.BYTES[what]:,}" if what in aims.BYTES else ""]
        for what, by_mode in found["bytes"].items()
    ]
    text = table(["bytes over bare", *names, "aim"], rows)
    for what, by_mode in found["growth"].items():
        head = f"MiB resident, over {found['growth_over'][what]:,} {what}"
        steps = range(len(next(iter(by_mode.values()))))
        rows = [[mode, *(f"{taken / 2**20:.1f}" for taken in points)] for mode, points in by_mode.items()]
        text += "\n\n" + table([head, *(f"{step}" if step else "first" for step in steps)], rows)
    return text


def of_growth(found: dict[str, Any]) -> str:
    """Microseconds of processor time an operation, by size."""
    parts = []
    for axis, by_mode in found.items():
        sizes = list(max(by_mode.values(), key=len))
        rows = [
            [mode, *(f"{points[size]:,.0f}" if size in points else "" for size in sizes)]
            for mode, points in by_mode.items()
        ]
        head = f"µs of processor time an operation, by {AXES[axis][1]}"
        parts.append(table([head, *(f"{int(size):,}" for size in sizes)], rows))
    return "\n\n".join(parts)


def of_startup(found: dict[str, float]) -> str:
    """Milliseconds, median and least."""
    names = [name for name in found if not name.endswith("(least)")]
    rows = [
        [name, f"{found[name]:.1f}", f"{found[f'{name} (least)']:.1f}", f"≤ {aims.milliseconds(name)}"]
        for name in names
    ]
    return table(["start-up", "median, ms", "least, ms", "aim"], rows)


def names() -> dict[str, str]:
    """What each peer is called in a table, with its version here."""
    return {mode: modes.version(mode) for mode in modes.PEERS}


def _label(mode: str, names_of: Names = None) -> str:
    if mode == "off":
        return "all rules off"
    if mode == sdk.SPAN:
        return "one span of the SDK, and nothing else"
    return (names_of or names()).get(mode, mode)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _notes(notes: list[str]) -> str:
    return "".join(f"\n\n- {note}" if number == 0 else f"\n- {note}" for number, note in enumerate(notes))
