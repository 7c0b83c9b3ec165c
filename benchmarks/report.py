"""Results: the JSON that is kept, the tables that are printed, the picture."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import toolchain
from benchmarks.bar import Line
from benchmarks.scenarios import LABELS, SCENARIOS, Scenario

HEADINGS = {
    "cpu_us": "CPU us",
    "per_second": "per second",
    "p50_us": "p50 us",
    "p99_us": "p99 us",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "busy": "busy",
    "foreign": "others",
    "kib": "KiB",
    "connect_cpu_us": "CPU us to connect",
    "rss_mib": "RSS MiB",
    "seconds": "seconds",
    "recovered": "recovered",
}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def node_version() -> str:
    try:
        return subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def empty_result(options: argparse.Namespace) -> dict:
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "node": node_version(),
            "load_average": os.getloadavg()[0],
        },
        "rounds": options.rounds,
        "seconds": options.seconds,
        "values": {},
    }


def add(result: dict, scenario: Scenario, case: str, values: dict[str, float] | None) -> None:
    measured = result["values"].setdefault(scenario.name, {}).setdefault(case, {})
    for metric in (*scenario.metrics, "foreign"):
        measured.setdefault(metric, []).append(None if values is None else round(values[metric], 3))


def save(result: dict, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['when'].replace(':', '')}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def spread(values: list[float | None]) -> str:
    """Median, with minimum and maximum where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "failed"
    middle = statistics.median(known)
    digits = 0 if middle >= 1000 else 1 if middle >= 100 else 2
    if len(known) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({min(known):,.{digits}f}-{max(known):,.{digits}f})"


def in_order(scenario: Scenario, cases: Iterable[str]) -> list[str]:
    """Sort cases as the scenario lists them; those of another checkout, which an earlier result has, come last."""
    listed = {name: place for place, name in enumerate(scenario.cases)}
    return sorted(cases, key=lambda name: listed.get(name, len(listed)))


def print_tables(result: dict) -> None:
    machine = result["machine"]
    print(
        f"\n{machine['processor']}, {machine['cores']} cores; "
        f"Python {machine['python']}, Node {machine['node']}\n"
        f"{result['rounds']} rounds of {result['seconds']:g} s; median (minimum-maximum)"
    )
    for name, cases in result["values"].items():
        scenario = SCENARIOS[name]
        metrics = [*scenario.metrics, "foreign"]
        rows = [["", *(HEADINGS[metric] for metric in metrics)]]
        # As in the list of scenarios: the order in which they were measured changes from round to round.
        for case in in_order(scenario, cases):
            rows.append([LABELS.get(case, case), *(spread(cases[case][metric]) for metric in metrics)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        print(f"\n{scenario.title}")
        for row in rows:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_bar(result: dict, bar: list[Line]) -> int:
    """Print which promises were kept; returns how many were not."""
    missed = 0
    lines = [(line, figures) for line in bar if (figures := line.compute(result["values"]))]
    if lines:
        print("\nThe bar, median over the rounds (minimum-maximum)")
    for line, figures in lines:
        kept = statistics.median(figures) <= line.limit
        missed += not kept
        print(f"  {'PASS' if kept else 'MISS'}  {line.text}: {spread(figures)}, at most {line.limit:g}")
    return missed


def plot(path: Path) -> Path:
    """Draw a result; in an environment of its own, so that the project needs no plotting library."""
    picture = path.with_suffix(".png")
    interpreter = toolchain.python_environment("plot", toolchain.HERE / "requirements-plot.txt")
    panels = []
    result = load(path)
    for name, cases in result["values"].items():
        scenario = SCENARIOS[name]
        metric = next(iter(scenario.metrics))
        bars = {
            LABELS.get(case, case): [value for value in cases[case][metric] if value is not None]
            for case in in_order(scenario, cases)
        }
        panels.append({"title": scenario.title, "unit": scenario.unit, "bars": bars})
    drawn = subprocess.run(
        [interpreter, toolchain.HERE / "plot.py", picture],
        input=json.dumps(panels),
        text=True,
        capture_output=True,
    )
    if drawn.returncode:
        raise toolchain.Missing(f"the picture could not be drawn:\n{drawn.stderr[-2000:]}")
    return picture
