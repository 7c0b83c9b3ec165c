"""One measurement: a fresh server on one core, the load generator on another."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.contestants import CONTESTANTS
from benchmarks.scenarios import Figures, Scenario
from benchmarks.toolchain import HERE, LOADGEN

# Seconds. One that ends is noticed at once; on a machine that is busy with other things a start takes long.
STARTS_WITHIN = 90.0
QUIET = 0.1


class Failed(Exception):
    """A server did not start, or did not stand the load."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def server(command: list[str], core: int) -> Iterator[tuple[int, int]]:
    """Run a server pinned to a core; yields its port and process id."""
    port = free_port()

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        raise_file_limit()

    with TemporaryFile("w+") as log:
        process = subprocess.Popen([*command, str(port)], cwd=HERE.parent, stdout=log, stderr=log, preexec_fn=prepare)
        try:
            wait_for(port, process, log)
            yield port, process.pid
            if process.poll() is not None:
                raise Failed(f"the server ended by itself:\n{tail(log)}")
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen, log) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise Failed(f"the server ended at its start:\n{tail(log)}") from None
            if time.monotonic() > deadline:
                raise Failed(f"the server did not start within {STARTS_WITHIN:.0f} seconds:\n{tail(log)}") from None
            time.sleep(0.02)


def tail(log) -> str:
    log.seek(0)
    return log.read()[-2000:]


def busy_seconds(cores: set[int]) -> float:
    """What these cores have worked so far, for whomever; time that a hypervisor took counts."""
    names = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_in_quiet(scenario: Scenario, case: str, seconds: float, cores: tuple[int, int], patience: int) -> Figures:
    """Measure, again up to `patience` times while others use the cores; the least disturbed run counts."""
    runs = []
    if CONTESTANTS[scenario.cases[case].contestant].helped:
        patience = 0
    while True:
        runs.append(measure(scenario, case, seconds, cores))
        if runs[-1]["foreign"] <= QUIET or len(runs) > patience:
            return min(runs, key=lambda figures: figures["foreign"])
        time.sleep(1)


def measure_alone(command: list[str], seconds: float, cores: tuple[int, int]) -> Figures:
    """The figures of what needs no load."""

    def others() -> float:
        return busy_seconds(set(cores)) - children_seconds()

    start, before = time.monotonic(), others()
    done = subprocess.run(
        [*command, str(seconds)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}),
    )
    if done.returncode:
        raise Failed(done.stderr.strip()[-500:])
    foreign = (others() - before) / (time.monotonic() - start)
    return json.loads(done.stdout) | {"foreign": max(0.0, foreign)}


@contextmanager
def flooded(name: str, port: int, core: int) -> Iterator[None]:
    """A hostile client floods the server during the block, unless the flood has no name."""
    if not name:
        yield
        return

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        os.nice(19)  # those whose requests are timed must not wait for it

    command = [sys.executable, "-m", "benchmarks.flood", name, str(port)]
    process = subprocess.Popen(command, cwd=HERE.parent, preexec_fn=prepare)
    try:
        yield
        if process.poll() is not None:
            raise Failed(f"the flood of {name} ended by itself")
    finally:
        process.kill()
        process.wait()


def measure(scenario: Scenario, case: str, seconds: float, cores: tuple[int, int]) -> Figures:
    """The load generator's figures for one contestant in one scenario.

    Among them `foreign`: what other processes took of the two cores (the server's, the load's), in cores.
    """
    server_core, load_core = cores
    contestant = CONTESTANTS[scenario.cases[case].contestant]
    settings = {
        "seconds": seconds,
        **contestant.dialect,
        **scenario.settings,
        **scenario.cases[case].settings,
    }
    flood = str(settings.pop("flood", ""))
    if contestant.alone:
        return measure_alone(contestant.command(), seconds, cores)
    with server(contestant.command(), server_core) as (port, pid):

        def others() -> float:
            return busy_seconds({server_core, load_core}) - process_seconds(pid) - children_seconds()

        start, before = time.monotonic(), others()
        with flooded(flood, port, load_core):
            done = subprocess.run(
                [LOADGEN, f"port={port}", f"pid={pid}", *(f"{key}={value}" for key, value in settings.items())],
                capture_output=True,
                text=True,
                timeout=300,
                preexec_fn=lambda: os.sched_setaffinity(0, {load_core}),
            )
        foreign = (others() - before) / (time.monotonic() - start)
    complaint = done.stderr.strip()[-500:]
    if done.returncode:
        raise Failed(complaint)
    figures = json.loads(done.stdout)
    if figures["errors"]:
        raise Failed(f"{figures['errors']} errors, the first ones: {complaint}")
    return figures | {"foreign": max(0.0, foreign)}
