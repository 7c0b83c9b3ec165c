"""What bbio is held to: ratios and differences of servers measured in turn in one run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Values = dict[str, dict[str, dict[str, list[float | None]]]]


@dataclass(frozen=True)
class Line:
    """A promise: `compute` gives a figure for each round, and their median must not exceed `limit`."""

    text: str
    limit: float
    compute: Callable[[Values], list[float]]


def rounds(values: Values, scenario: str, metric: str, *cases: str) -> list[tuple[float, ...]]:
    """The rounds in which all these cases were measured."""
    measured = values.get(scenario, {})
    columns = [measured.get(case, {}).get(metric, []) for case in cases]
    return [row for row in zip(*columns, strict=False) if None not in row]


def ratio(scenario: str, other: str, metric: str = "cpu_us", case: str = "bbio") -> Callable[[Values], list[float]]:
    return lambda values: [a / b for a, b in rounds(values, scenario, metric, case, other) if b]


def added(scenario: str, case: str, base: str, per: float = 1, metric: str = "cpu_us"):
    return lambda values: [(a - b) / per for a, b in rounds(values, scenario, metric, case, base)]


def value(scenario: str, metric: str, case: str) -> Callable[[Values], list[float]]:
    return lambda values: [a for (a,) in rounds(values, scenario, metric, case)]


def shortfall(scenario: str, metric: str, case: str) -> Callable[[Values], list[float]]:
    return lambda values: [1 - a for (a,) in rounds(values, scenario, metric, case)]


def worst(scenario: str, metric: str, ending: str) -> Callable[[Values], list[float]]:
    """The greatest of all cases whose names end so, in each round."""

    def compute(values: Values) -> list[float]:
        measured = [figures[metric] for case, figures in values.get(scenario, {}).items() if case.endswith(ending)]
        return [max(math.inf if each is None else each for each in row) for row in zip(*measured, strict=False)]

    return compute


# What must not grow is still measured with some noise.
SAME = 1.1

BAR = [
    Line("sync, 1 in flight: x Socket.IO on Node", 0.85, ratio("sync1", "socketio-node")),
    Line("sync, 4 in flight: x Socket.IO on Node", 1.0, ratio("sync4", "socketio-node")),
    Line("sync, 1 in flight: x python-socketio", 0.22, ratio("sync1", "python-socketio")),
    Line("sync, 1 in flight: x Feathers", 0.12, ratio("sync1", "feathers")),
    Line(
        "sync of users who have signed in: x Feathers",
        0.12,
        ratio("signed-in", "feathers-signed-in", case="bbio-signed-in"),
    ),
    Line("sync, 1 in flight: x backbone.io", 1.0, ratio("sync1", "backboneio")),
    Line("delivery, 200 listeners: x Socket.IO on Node", 0.75, ratio("deliver200", "socketio-node")),
    Line("delivery, 1,000 listeners: x Socket.IO on Node", 0.75, ratio("deliver1000", "socketio-node")),
    Line("delivery, 1,000 listeners: x python-socketio", 0.12, ratio("deliver1000", "python-socketio")),
    Line("delivery, 1,000 listeners: x backbone.io", 1.0, ratio("deliver1000", "backboneio")),
    Line("memory per idle connection: x python-socketio", 1.0, ratio("idle", "python-socketio", "kib")),
    Line(
        "KiB per idle connection, 10,000 held: x python-socketio's",
        1.0,
        lambda values: [
            a / b
            for (a,), (b,) in zip(
                rounds(values, "idle10000", "kib", "bbio"),
                rounds(values, "idle", "kib", "python-socketio"),
                strict=False,
            )
        ],
    ),
    Line(
        "commits of a bare sqlite3 loop: x durable creates",
        0.4,
        ratio("create", "bbio-sqlite", "per_second", "sqlite-create"),
    ),
    Line(
        "creates of a bare asyncpg loop: x creates in PostgreSQL",
        1 / 0.6,
        ratio("create-postgres", "bbio-postgres", "per_second", "asyncpg-create"),
    ),
    Line("durable create: x create in memory", 3.0, ratio("create", "bbio", case="bbio-sqlite")),
    Line(
        "what a read in a file adds to one in memory: x a bare sqlite3 read",
        2.0,
        lambda values: [
            (file - memory) / bare
            for file, memory, bare in rounds(values, "read", "cpu_us", "bbio-sqlite", "bbio", "sqlite-read")
        ],
    ),
    # The first layer also takes a request off the path of those that meet no code of the application.
    Line("us per layer in the stack, from 5 to 20", 0.5, added("layers", "bbio-20-layers", "bbio-5-layers", per=15)),
    Line("sync with 100 backends: x one backend", SAME, ratio("backends", "bbio", case="bbio-100-backends")),
    Line("sync beside 2,000 clients: x 50 clients", SAME, ratio("clients", "bbio", case="2,000 clients")),
    Line("sync beside 2,000 channels: x 50 channels", SAME, ratio("clients", "bbio", case="2,000 channels")),
    Line("others' p99 with slow consumers: x without", 1.2, ratio("slow", "none", "p99_us", "3 slow")),
    Line("us that version 1 adds to a sync", 2.5, added("version1", "bbio-v1", "bbio")),
    Line("delivery in version 1: x legacy", 1.1, ratio("version1-deliver", "bbio", case="bbio-v1")),
    Line("us that 100 missed events add to a resume", 1000, added("storm", "100 missed", "none missed")),
    Line("seconds until 2,000 clients have resumed", 30, value("storm", "seconds", "100 missed")),
    Line("share of 2,000 clients not recovered", 0, shortfall("storm", "recovered", "100 missed")),
    Line("ms, others' p99 beside the worst flood", 50, worst("floods", "p99_ms", ", fast")),
    Line('ms, the same with engine="plain"', 50, worst("floods", "p99_ms", ", plain")),
    # It is 1 % at most; the rest is for noise.
    Line("sync with a budget of time: x without", 1.03, ratio("budget", "bbio-no-budget")),
]
