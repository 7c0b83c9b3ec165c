"""The benchmark's command line."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import against, report, toolchain
from benchmarks.bar import BAR
from benchmarks.contestants import CONTESTANTS, PEERS
from benchmarks.load import Failed, measure_in_quiet
from benchmarks.scenarios import QUICK, QUICK_PEERS, SCENARIOS, Scenario

RESULTS = toolchain.HERE / "results"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure bbio and its peers in turn: one core serves, another one loads.",
        epilog=f"peers: {', '.join(PEERS)}. scenarios: {', '.join(SCENARIOS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round of a few scenarios and peers")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", help="these scenarios (a prefix will do: sync)")
    parser.add_argument("--cases", nargs="+", metavar="TEXT", help="of these, only the cases whose name holds a text")
    parser.add_argument("--peers", nargs="*", metavar="PEER", help="beside bbio, only these; none: bbio alone")
    parser.add_argument("--without-bbio", action="store_true", help="measure the peers alone")
    parser.add_argument(
        "--against", type=against.checkout, metavar="PATH", help="beside bbio, the same of another checkout, in turn"
    )
    parser.add_argument("--rounds", type=int, help="alternating rounds (5)")
    parser.add_argument("--seconds", type=float, help="measured seconds of each run (3)")
    parser.add_argument("--patience", type=int, help="repetitions of a run that others disturbed (3)")
    parser.add_argument("--server-core", type=int, default=0, help="core of the servers (0)")
    parser.add_argument("--load-core", type=int, default=1, help="core of the load generator (1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON and the picture")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print and plot an earlier result again")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    if options.patience is None:
        options.patience = 0 if options.quick else 3
    unknown = [peer for peer in options.peers or () if peer not in PEERS]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    for wanted in options.only or ():
        if not any(name.startswith(wanted) for name in SCENARIOS):
            parser.error(f"no such scenario: {wanted}; there are {', '.join(SCENARIOS)}")
    return options


def chosen(options: argparse.Namespace) -> list[tuple[Scenario, list[str]]]:
    """The scenarios to run, each with the names of its contestants."""
    plan = []
    for name, scenario in SCENARIOS.items():
        if options.only and not any(name.startswith(wanted) for wanted in options.only):
            continue
        if options.quick and not options.only and name not in QUICK:
            continue
        names = [
            one
            for one, case in scenario.cases.items()
            if wanted(case.contestant, options) and any(text in one for text in options.cases or [""])
        ]
        if names:
            plan.append((scenario, names))
    return plan


def wanted(contestant: str, options: argparse.Namespace) -> bool:
    if contestant not in PEERS:
        return not options.without_bbio
    if options.peers is not None:
        return contestant in options.peers
    return not options.quick or contestant in QUICK_PEERS


def run(options: argparse.Namespace) -> dict:
    plan = chosen(options)
    result = report.empty_result(options)
    toolchain.build_loadgen()
    for name in dict.fromkeys(scenario.cases[case].contestant for scenario, cases in plan for case in cases):
        contestant = CONTESTANTS[name]
        if contestant.install is not None:
            print(f"preparing {contestant.label}", file=sys.stderr, flush=True)
            contestant.install()
    total = sum(min(options.rounds, scenario.rounds or options.rounds) * len(cases) for scenario, cases in plan)
    done = 0
    for number in range(options.rounds):
        for scenario, cases in plan:
            if scenario.rounds is not None and number >= scenario.rounds:
                continue
            # What runs first finds the machine in another state than what runs last: all take turns.
            turned = cases[number % len(cases) :] + cases[: number % len(cases)]
            for case in turned:
                done += 1
                values = attempt(scenario, case, options)
                report.add(result, scenario, case, values)
                shown = "failed" if values is None else f"{next(iter(values.values())):.2f} {scenario.unit}"
                print(f"[{done}/{total}] {scenario.name:14} {case:22} {shown}", file=sys.stderr, flush=True)
    return result


def attempt(scenario: Scenario, case: str, options: argparse.Namespace) -> dict[str, float] | None:
    try:
        cores = (options.server_core, options.load_core)
        raw = measure_in_quiet(scenario, case, options.seconds, cores, options.patience)
    except Failed as error:
        print(f"{scenario.name}, {case}: {error}", file=sys.stderr)
        return None
    return {name: metric(raw) for name, metric in scenario.metrics.items()} | {"foreign": raw["foreign"]}


def check_machine(options: argparse.Namespace) -> None:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if not {options.server_core, options.load_core} <= cores or options.server_core == options.load_core:
        sys.exit(
            f"the benchmark needs Linux and two cores; here are {sorted(cores) or 'none to pin to'}. "
            "Choose with --server-core and --load-core."
        )
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): expect noise, latencies most of all", file=sys.stderr)


def main() -> int:
    options = arguments()
    if options.against:
        against.add_twins(options.against)
    if options.show:
        result = report.load(options.show)
        target = options.show
    else:
        check_machine(options)
        try:
            result = run(options)
        except toolchain.Missing as error:
            sys.exit(str(error))
        target = report.save(result, options.output)
    report.print_tables(result)
    missed = report.print_bar(result, [*BAR, *against.lines()])
    picture = report.plot(target)
    print(f"\nresult: {target}\npicture: {picture}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
