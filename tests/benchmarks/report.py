"""What a run of the benchmark says: tables for the terminal, a file of its own, and the README."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import measuring
from tests.benchmarks.measuring import Cost

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "lightning", "transformers", "traceml-ai", "tensorboard", "wandb")
BEGIN = "<!-- written by `python -m tests.benchmarks.hook_overhead --record` -->\n"
END = "<!-- up to here -->\n"
HOW = (
    f"Differences of the median steps of neighbouring blocks of {measuring.STEPS} steps, or of the\n"
    "means of 50 where marked; of 500 in the tight loop, 50 of add_scalar. Longest delay: of\n"
    "one call of ours, preemption included; in the tight loop of all calls of a step."
)


class Promise(NamedTuple):
    """One line of the contract: a cost and its bar, both as they are printed."""

    what: str
    figure: str
    bar: str
    kept: bool


class Report(NamedTuple):
    """A run: its conditions, what it measured, and which promises that keeps."""

    conditions: str
    costs: Sequence[Cost]
    promises: Sequence[Promise]
    in_readme: Collection[tuple[str, str]]  # of which costs: way and other

    def measured(self) -> str:
        """All that was measured, as Markdown."""
        return "\n\n".join([_costs_table(self.costs), HOW, _promises_table(self.promises)])

    def record(self, root: Path = ROOT) -> Path:
        """Write it below `tests/benchmarks/results`, and what matters most into the README; the file written.

        Raises ValueError where the README has no place for it.
        """
        results = root / "tests" / "benchmarks" / "results"
        file = results / f"{datetime.date.today()}-hook-overhead.md"
        readme = root / "README.md"
        text = readme.read_text()
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            raise ValueError(f"{readme} has no place for the figures: one line {BEGIN!r}, one {END!r}")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        readme.write_text(f"{before}{BEGIN}{self._for_readme(file.relative_to(root))}{END}{after}")
        file.write_text(
            f"# The hook's cost, {datetime.date.today()}\n\n{self.conditions}\n\n{self.measured()}\n"
        )
        return file

    def _for_readme(self, file: Path) -> str:
        rows = [["µs a step", "above", "median", "quartiles"]]
        for cost in self.costs:
            if (cost.way, cost.other) in self.in_readme:
                rows.append([cost.way, cost.other, f"{cost.median:.0f}", _quartiles(cost)])
        missed = [each for each in self.promises if not each.kept]
        kept = f"Bars of the contract kept there: {len(self.promises) - len(missed)} of {len(self.promises)}"
        told = "".join(f"- {each.what}: {each.figure}, at most {each.bar}\n" for each in missed)
        verdict = f"{kept}. Missed:\n\n{told}" if missed else f"{kept}.\n"
        return f"\n{self.conditions}\n\n{_table(rows)}\n\n{verdict}\nAll rows: [`{file}`]({file}).\n\n"


def conditions(cpu_time: bool) -> str:
    """When, where, with what versions and by which clock."""
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


def _costs_table(costs: Iterable[Cost]) -> str:
    rows = [["µs a step", "above", "which takes", "median", "quartiles", "blocks", "longest delay"]]
    for cost in costs:
        longest = "" if cost.longest is None else f"{cost.longest:.0f}"
        compared = [cost.way, cost.other, f"{cost.other_us:.0f}", f"{cost.median:.1f}"]
        rows.append([*compared, _quartiles(cost), str(cost.blocks), longest])
    return _table(rows)


def _promises_table(promises: Iterable[Promise]) -> str:
    rows = [["contract", "measured", "at most", ""]]
    rows += [[each.what, each.figure, each.bar, "kept" if each.kept else "**NOT kept**"] for each in promises]
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as Markdown, the first as its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _quartiles(cost: Cost) -> str:
    return f"{cost.lower:.1f} to {cost.upper:.1f}"


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
