"""What the hook costs a training step: `python -m tests.benchmarks.hook_overhead [--quick] [--only NAME …]`.

Beside it what others cost in the same run, and whether the hook keeps its contract: exit status 1 where not.
Each part (torch, lightning, transformers) is a process of its own in which ways of training take turns: see
measuring. `--cpu-time` counts the processor time of the training thread, for a machine that others use.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks import footprint, measuring, report
from tests.benchmarks.measuring import Cost
from tests.benchmarks.report import Promise, Report

PARTS = ("torch", "lightning", "transformers", "footprint")
QUICK = 0.1


# Microseconds a step above what the cost is compared with; see in_torch, in_lightning, in_transformers.
BARS_US = (
    ("Monitor, a full record, tight loop", "nothing", 10),
    ("Monitor, the README's calls", "nothing", 30),
    ("Monitor, every call of an adapter", "nothing", 30),
    ("Monitor, the README's calls (cuda)", "nothing", 40),
    ("Monitor, every call of an adapter (cuda)", "nothing", 40),
    ("Lightning, TelemetryCallback", "Lightning, an empty callback of the same hooks", 25),
    ("transformers, TelemetryCallback", "transformers, an empty callback of the same hooks", 25),
)
# At most this part of what TraceML costs in the same turns.
SHARES = (
    ("Monitor, the README's calls, beside TraceML", "TraceML, init and trace_step", 1 / 5),
    ("Monitor, every call of an adapter, beside TraceML", "TraceML, init and trace_step", 1 / 5),
)
# What the README shows of it.
IN_README = (
    ("Monitor, a full record, tight loop", "nothing"),
    ("one SummaryWriter.add_scalar, tight loop", "nothing"),
    ("Monitor, the README's calls (cuda)", "nothing"),
    ("Monitor, every call of an adapter (cuda)", "nothing"),
    ("Monitor, the README's calls, beside TraceML", "nothing"),
    ("Monitor, every call of an adapter, beside TraceML", "nothing"),
    ("TraceML, init and trace_step", "nothing"),
    ("Monitor.watch", "nothing"),
    ("trainvitals run", "nothing"),
    ("one SummaryWriter.add_scalar", "nothing"),
    ("Lightning, TelemetryCallback", "Lightning, an empty callback of the same hooks"),
    ("Lightning, TensorBoardLogger, log_every_n_steps=1", "nothing"),
    ("transformers, TelemetryCallback", "transformers, an empty callback of the same hooks"),
    ("transformers, TensorBoardCallback, logging_steps=1", "nothing"),
)
IMPORT_BAR_MS = 50
MEMORY_BAR_BYTES = 1 << 20  # less than two bytes a step: nothing is kept of any


def promises(costs: Iterable[Cost]) -> list[Promise]:
    """The contract's lines about these costs; of what was not measured there are none."""
    medians = {(cost.way, cost.other): cost.median for cost in costs}
    lines = []
    for way, other, bar in BARS_US:
        if (way, other) in medians:
            cost = medians[way, other]
            lines.append(Promise(f"{way} - {other}", f"{cost:.1f} µs", f"{bar} µs", cost <= bar))
    for way, peer, share in SHARES:
        if (way, "nothing") in medians:
            ratio = medians[way, "nothing"] / medians[peer, "nothing"]
            lines.append(Promise(f"{way} / {peer}", f"{ratio:.3f}", f"{share:.3f}", ratio <= share))
    return lines


def measure(part: str, folder: Path, share: float, cpu_time: bool) -> list[Cost]:
    """Run a part in a process of its own. Raises subprocess.CalledProcessError where it fails."""
    output = folder / f"{part}.json"
    command = [
        sys.executable,
        "-m",
        f"tests.benchmarks.in_{part}",
        str(output),
        str(folder),
        "--share",
        str(share),
    ]
    subprocess.run(
        [*command, *["--cpu-time"] * cpu_time],
        env=measuring.environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return measuring.read(output)


def measure_footprint(folder: Path, runs: int) -> list[Promise]:
    """The lines about memory and import."""
    command = [sys.executable, "-m", "tests.benchmarks.footprint", str(folder)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines = []
    for module in ("trainer_hooks", "trainer_hooks.monitor"):
        spent = statistics.median(footprint.import_milliseconds(module, folder / "compiled", runs))
        lines.append(
            Promise(f"import {module}", f"{spent:.1f} ms", f"{IMPORT_BAR_MS} ms", spent < IMPORT_BAR_MS)
        )
    return [
        *lines,
        Promise(
            f"memory grown over {footprint.STEPS:,} steps",
            f"{grown / 1024:.0f} KiB",
            f"{MEMORY_BAR_BYTES // 1024} KiB",
            grown < MEMORY_BAR_BYTES,
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the blocks")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument(
        "--record", action="store_true", help="write a file into results, and the figures into the README"
    )
    arguments = parser.parse_args()
    if arguments.record and (arguments.quick or tuple(arguments.only) != PARTS):
        parser.error("only a whole run is recorded: leave out --quick and --only")
    conditions = report.conditions(arguments.cpu_time)
    print(f"{conditions}\n", flush=True)
    shared_memory = Path("/dev/shm")
    costs: list[Cost] = []
    lines: list[Promise] = []
    failed = False
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        for part in arguments.only:
            if part == "footprint":
                lines += measure_footprint(Path(folder), runs=3 if arguments.quick else 9)
                continue
            try:
                costs += measure(part, Path(folder), QUICK if arguments.quick else 1.0, arguments.cpu_time)
            except subprocess.CalledProcessError as error:
                failed = True
                print(f"{part} could not be measured:\n{error.stderr[-2000:]}", file=sys.stderr)
    run = Report(conditions, costs, promises(costs) + lines, IN_README)
    print(run.measured())
    if arguments.record and not failed:
        print(f"\nwritten: {run.record()}")
    return 0 if all(each.kept for each in run.promises) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
