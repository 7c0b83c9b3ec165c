"""What is measured, on which servers, and what is read from it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.contestants import CONTESTANTS, PEERS, RECORD, Settings
from benchmarks.flood import FLOODS

Figures = dict[str, float]


def cpu_per(unit: str) -> Callable[[Figures], float]:
    return lambda figures: figures["cpu_seconds"] * 1e6 / max(figures[unit], 1)


def per_second(unit: str) -> Callable[[Figures], float]:
    return lambda figures: figures[unit] / figures["seconds"]


def figure(name: str) -> Callable[[Figures], float]:
    return lambda figures: figures[name]


def busy(figures: Figures) -> float:
    """The share of its core that the server used; well below 1 it waited for the load."""
    return figures["cpu_seconds"] / figures["seconds"]


SYNC = {
    "cpu_us": cpu_per("acks"),
    "per_second": per_second("acks"),
    "p50_us": figure("ack_p50_us"),
    "p99_us": figure("ack_p99_us"),
    "busy": busy,
}
DELIVERY = {
    "cpu_us": cpu_per("events"),
    "per_second": per_second("events"),
    "p50_us": figure("event_p50_us"),
    "p99_us": figure("event_p99_us"),
    "busy": busy,
}
MEMORY = {"kib": figure("kib_per_connection"), "connect_cpu_us": figure("connect_cpu_us")}
CONNECT = {
    "cpu_us": cpu_per("connects"),
    "per_second": per_second("connects"),
    "p50_us": figure("ack_p50_us"),
    "p99_us": figure("ack_p99_us"),
}
LATENCY = {"p99_us": figure("ack_p99_us"), "p50_us": figure("ack_p50_us"), "cpu_us": cpu_per("acks")}
DELAY = {"p99_us": figure("event_p99_us"), "p50_us": figure("event_p50_us"), "rss_mib": figure("rss_mib")}
STORM = {
    "cpu_us": lambda figures: figures["cpu_seconds"] * 1e6 / (figures["clients"] - 1),
    "seconds": figure("seconds"),
    "recovered": lambda figures: figures["recovered"] / (figures["clients"] - 1),
    "p99_us": figure("ack_p99_us"),
}


# Requests a second of those who share a server with a flood.
VICTIMS_RATE = 200


def beside_flood(name: str) -> Callable[[Figures], float]:
    """A percentile in ms; where requests were not answered in time, all of the time that was measured."""

    def milliseconds(figures: Figures) -> float:
        if figures["acks"] < 0.9 * VICTIMS_RATE * figures["seconds"]:
            return figures["seconds"] * 1e3
        return figures[name] / 1e3

    return milliseconds


VICTIM = {"p99_ms": beside_flood("ack_p99_us"), "p50_ms": beside_flood("ack_p50_us"), "rss_mib": figure("rss_mib")}


@dataclass(frozen=True)
class Case:
    """A contestant in a scenario, with settings of the load that differ from the scenario's."""

    contestant: str
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A load, and the figures to be read from it; the first metric is the one that is plotted."""

    name: str
    title: str
    unit: str
    settings: Settings
    metrics: dict[str, Callable[[Figures], float]]
    cases: dict[str, Case]
    # How often it is measured at most; None for as often as was asked for.
    rounds: int | None = None


EVERYONE = {name: Case(name) for name in ("bbio", *PEERS)}
US_SYNC = "us of server CPU per sync"
US_DELIVERY = "us of server CPU per delivery"
LARGE = f'{{{RECORD},"body":"{"x" * 10_000}"}}'
# In the place of updates: a client creates one record, and reads it from then on.
READ = '42/messages,$n["sync",{"method":"read","model":{"id":$m},"options":{}}]'
# In the place of updates: one field alone, which differs each time.
PATCH = '42/messages,$n["sync",{"method":"patch","model":{"id":$m,"n":$n},"options":{}}]'
CREATE_LARGE = f'42/messages,$n["sync",{{"method":"create","model":{LARGE},"options":{{}}}}]'


def variants(*names: str) -> dict[str, Case]:
    return {name: Case(name) for name in names}


def scenario(
    name: str,
    title: str,
    unit: str,
    metrics: dict,
    cases: dict[str, Case],
    *,
    rounds: int | None = None,
    **settings: str | int,
) -> Scenario:
    return Scenario(name, title, unit, settings, metrics, cases, rounds)


SCENARIOS = {
    one.name: one
    for one in (
        scenario("sync1", "Sync, 50 clients, one in flight each", US_SYNC, SYNC, EVERYONE, mode="sync", depth=1),
        scenario("sync4", "Sync, 50 clients, four in flight each", US_SYNC, SYNC, EVERYONE, mode="sync", depth=4),
        scenario(
            "deliver200",
            "Delivery to 200 listeners",
            US_DELIVERY,
            DELIVERY,
            EVERYONE,
            mode="fanout",
            clients=201,
            writers=4,
        ),
        scenario(
            "deliver1000",
            "Delivery to 1,000 listeners",
            US_DELIVERY,
            DELIVERY,
            EVERYONE,
            mode="fanout",
            clients=1001,
            writers=4,
        ),
        scenario(
            "mixed",
            "Mixed: 60 % reads, 40 % writes, five clients a channel",
            "us of server CPU per request",
            SYNC,
            EVERYONE,
            mode="mixed",
            channels=10,
        ),
        scenario(
            "latency",
            "Latency of an ack at 1,000 syncs a second",
            "us, 99th percentile",
            LATENCY,
            EVERYONE,
            mode="sync",
            rate=1000,
        ),
        scenario(
            "connect",
            "Connect, join, listen, close",
            "us of server CPU per connection",
            CONNECT,
            EVERYONE,
            mode="connect",
            clients=50,
        ),
        scenario(
            "idle",
            "Memory per idle connection, 1,000 of them",
            "KiB",
            MEMORY,
            EVERYONE,
            mode="idle",
            clients=1000,
            seconds=1,
        ),
        scenario(
            "idle10000",
            "Memory per idle connection, 10,000 of them",
            "KiB",
            MEMORY,
            variants("bbio"),
            mode="idle",
            clients=10_000,
            seconds=1,
        ),
        scenario(
            "signed-in",
            "Sync of users who have signed in",
            US_SYNC,
            SYNC,
            variants("bbio-signed-in", "feathers-signed-in"),
            mode="sync",
        ),
        scenario("engine", "Sync by engine", US_SYNC, SYNC, variants("bbio", "bbio-plain"), mode="sync"),
        scenario("version1", "Sync by protocol version", US_SYNC, SYNC, variants("bbio", "bbio-v1"), mode="sync"),
        scenario(
            "version1-deliver",
            "Delivery to 200 listeners by protocol version",
            US_DELIVERY,
            DELIVERY,
            variants("bbio", "bbio-v1"),
            mode="fanout",
            clients=201,
            writers=4,
        ),
        scenario(
            "history",
            "Sync with and without history",
            US_SYNC,
            SYNC,
            variants("bbio", "bbio-no-history"),
            mode="sync",
        ),
        scenario(
            "create",
            "Creating, 50 clients, on the disk when acknowledged",
            "us of server CPU per create",
            SYNC,
            variants("bbio", "bbio-sqlite", "sqlite-create"),
            mode="sync",
            writes="create",
        ),
        scenario(
            "create-postgres",
            "Creating in PostgreSQL, 50 clients",
            "us of server CPU per create, without PostgreSQL's own",
            SYNC,
            variants("bbio-postgres", "asyncpg-create"),
            mode="sync",
            writes="create",
        ),
        scenario(
            "patch-postgres",
            "Patching one field in PostgreSQL, 50 clients",
            "us of server CPU per patch, without PostgreSQL's own",
            SYNC,
            variants("bbio-postgres"),
            mode="sync",
            update=PATCH,
        ),
        scenario(
            "read",
            "Reading one model, 50 clients",
            "us of server CPU per read",
            SYNC,
            variants("bbio", "bbio-sqlite", "sqlite-read"),
            mode="sync",
            update=READ,
        ),
        scenario(
            "layers",
            "Sync by layers in the stack",
            US_SYNC,
            SYNC,
            variants("bbio", "bbio-5-layers", "bbio-20-layers"),
            mode="sync",
            depth=4,
        ),
        scenario(
            "backends",
            "Sync by backends served",
            US_SYNC,
            SYNC,
            variants("bbio", "bbio-100-backends"),
            mode="sync",
            depth=4,
        ),
        scenario(
            "clients",
            "Sync by clients and channels beside the 50 that write",
            US_SYNC,
            SYNC,
            {
                "bbio": Case("bbio"),
                "2,000 clients": Case("bbio", {"clients": 2000, "channels": 1}),
                "2,000 channels": Case("bbio", {"clients": 2000}),
            },
            mode="sync",
            depth=4,
            writers=50,
        ),
        scenario(
            "slow",
            "Delivery with clients attached that never read",
            "us until it arrives, 99th percentile",
            DELAY,
            {"none": Case("bbio"), "3 slow": Case("bbio", {"slow": 3})},
            mode="fanout",
            clients=51,
            rate=200,
            create=CREATE_LARGE,
            writes="create",
            warm=1,
            seconds=3,  # a percentile of few samples says little
        ),
        scenario(
            "storm",
            "Reconnecting at once with `since`",
            "us of server CPU per client",
            STORM,
            {
                "none missed": Case("bbio-v1", {"missed": 0}),
                "100 missed": Case("bbio-v1", {"missed": 100}),
            },
            mode="storm",
            clients=2001,
            warm=0,
        ),
        scenario(
            "floods",
            "Requests of others beside one client that floods the server",
            "ms, 99th percentile",
            VICTIM,
            {
                f"{flood}, {engine}": Case(contestant, {"flood": flood})
                for flood in FLOODS
                for engine, contestant in (("fast", "bbio"), ("plain", "bbio-plain"))
            },
            rounds=1,
            mode="sync",
            clients=4,
            channels=4,
            rate=VICTIMS_RATE,
            seconds=2,
        ),
        scenario(
            "budget",
            "Sync with and without a budget of time",
            US_SYNC,
            SYNC,
            variants("bbio", "bbio-no-budget"),
            mode="sync",
        ),
    )
}

QUICK = {"sync1", "sync4", "deliver200", "deliver1000", "idle"}
QUICK_PEERS = {"socketio-node", "python-socketio", "aiohttp"}
LABELS = {name: contestant.label for name, contestant in CONTESTANTS.items()}
