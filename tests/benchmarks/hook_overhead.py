"""What the hook costs a training step: `python -m tests.benchmarks.hook_overhead [--quick] [--only NAME …]`.

Beside it what others cost in the same run, and whether the hook keeps its contract: exit status 1 where not.
Each part (torch, lightning, transformers) is a process of its own in which ways of training take turns: see
measuring. `--cpu-time` counts the processor time of the training thread, for a machine that others use.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import footprint, measuring
from tests.benchmarks.measuring import Cost

PARTS = ("torch", "lightning", "transformers", "footprint")
PACKAGES = ("torch", "lightning", "transformers", "traceml-ai", "tensorboard", "wandb")
QUICK = 0.1


class Promise(NamedTuple):
    """One line of the contract: a cost and its bar, both as they are printed."""

    what: str
    figure: str
    bar: str
    kept: bool


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


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as Markdown, the first as its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _costs_table(costs: Sequence[Cost]) -> str:
    rows = [["µs a step", "above", "which takes", "median", "quartiles", "blocks", "longest delay"]]
    for cost in costs:
        longest = "" if cost.longest is None else f"{cost.longest:.0f}"
        quartiles = f"{cost.lower:.1f} to {cost.upper:.1f}"
        compared = [cost.way, cost.other, f"{cost.other_us:.0f}", f"{cost.median:.1f}"]
        rows.append([*compared, quartiles, str(cost.blocks), longest])
    return _table(rows)


def _promises_table(lines: Sequence[Promise]) -> str:
    rows = [["contract", "measured", "at most", ""]]
    rows += [[each.what, each.figure, each.bar, "kept" if each.kept else "**NOT kept**"] for each in lines]
    return _table(rows)


def _conditions(cpu_time: bool) -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    clock = "processor time of the training thread" if cpu_time else "wall time"
    return (
        f"{datetime.date.today()}, {_processor()}, {os.cpu_count()} cores, {_device()}, "
        f"load {os.getloadavg()[0]:.1f} at the start, {clock}\n"
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _device() -> str:
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the blocks")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS)
    )
    parser.add_argument("--cpu-time", action="store_true")
    arguments = parser.parse_args()
    print(_conditions(arguments.cpu_time) + "\n", flush=True)
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
    lines = promises(costs) + lines
    print(_costs_table(costs) + "\n")
    print(
        f"Differences of the median steps of neighbouring blocks of {measuring.STEPS} steps, or of the\n"
        "means of 50 where marked; of 500 in the tight loop, 50 of add_scalar. Longest delay: of\n"
        "one call of ours, preemption included; in the tight loop of all calls of a step.\n"
    )
    print(_promises_table(lines))
    return 0 if all(each.kept for each in lines) and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
