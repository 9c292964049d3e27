"""What a run of a benchmark says: tables for the terminal, a file of its own, and the README."""

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


class Place(NamedTuple):
    """Where a benchmark's figures go: between which lines of the README, and into files of which name."""

    begin: str
    end: str
    name: str


PLACE = Place(BEGIN, END, "hook-overhead")


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
        return "\n\n".join([_costs_table(self.costs), HOW, promises_table(self.promises)])

    def record(self, root: Path = ROOT) -> Path:
        """Write it below `tests/benchmarks/results`, and what matters most into the README; the file written.

        Raises ValueError where the README has no place for it.
        """
        rows = [["µs a step", "above", "median", "quartiles"]]
        for cost in self.costs:
            if (cost.way, cost.other) in self.in_readme:
                rows.append([cost.way, cost.other, f"{cost.median:.0f}", _quartiles(cost)])
        whole = Whole("The hook's cost", self.conditions, self.measured())
        return write(PLACE, whole, table(rows), self.promises, root)


class Whole(NamedTuple):
    """What the file of a run says: its heading, the conditions, and all that was measured, as Markdown."""

    heading: str
    conditions: str
    measured: str


def write(place: Place, whole: Whole, in_readme: str, promises: Sequence[Promise], root: Path = ROOT) -> Path:
    """Write a run below `tests/benchmarks/results`, and `in_readme` of it into the README; the file written.

    Raises ValueError where the README has no place for it.
    """
    file = root / "tests" / "benchmarks" / "results" / f"{datetime.date.today()}-{place.name}.md"
    readme = root / "README.md"
    text = readme.read_text()
    if text.count(place.begin) != 1 or text.count(place.end) != 1:
        raise ValueError(
            f"{readme} has no place for the figures: one line {place.begin!r}, one {place.end!r}"
        )
    before, _, rest = text.partition(place.begin)
    after = rest.partition(place.end)[2]
    where = file.relative_to(root)
    section = (
        f"\n{whole.conditions}\n\n{in_readme}\n\n{_verdict(promises)}\nAll rows: [`{where}`]({where}).\n\n"
    )
    readme.write_text(f"{before}{place.begin}{section}{place.end}{after}")
    file.write_text(f"# {whole.heading}, {datetime.date.today()}\n\n{whole.conditions}\n\n{whole.measured}\n")
    return file


def _verdict(promises: Sequence[Promise]) -> str:
    missed = [each for each in promises if not each.kept]
    kept = f"Bars of the contract kept there: {len(promises) - len(missed)} of {len(promises)}"
    told = "".join(f"- {each.what}: {each.figure}, at most {each.bar}\n" for each in missed)
    return f"{kept}. Missed:\n\n{told}" if missed else f"{kept}.\n"


def conditions(cpu_time: bool) -> str:
    """When, where, with what versions and by which clock the hook is measured."""
    clock = "processor time of the training thread" if cpu_time else "wall time"
    return conditions_with(PACKAGES, clock, _device())


def conditions_with(packages: Iterable[str], clock: str, *also: str) -> str:
    """When, where, with what versions of these packages and by which clock; and what else is to be known."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    machine = [str(datetime.date.today()), _processor(), f"{os.cpu_count()} cores", *also]
    return (
        f"{', '.join(machine)}, load {os.getloadavg()[0]:.1f} at the start, {clock}\n"
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def _costs_table(costs: Iterable[Cost]) -> str:
    rows = [["µs a step", "above", "which takes", "median", "quartiles", "blocks", "longest delay"]]
    for cost in costs:
        longest = "" if cost.longest is None else f"{cost.longest:.0f}"
        compared = [cost.way, cost.other, f"{cost.other_us:.0f}", f"{cost.median:.1f}"]
        rows.append([*compared, _quartiles(cost), str(cost.blocks), longest])
    return table(rows)


def promises_table(promises: Iterable[Promise]) -> str:
    """The contract's lines, kept or not, as Markdown."""
    rows = [["contract", "measured", "at most", ""]]
    rows += [[each.what, each.figure, each.bar, "kept" if each.kept else "**NOT kept**"] for each in promises]
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
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
