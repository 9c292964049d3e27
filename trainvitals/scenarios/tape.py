"""Samples with their moments, as the OpenMetrics text of which promtool makes blocks of a database."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

# Blocks begin at multiples of two hours; promtool reads a text once for each of its blocks.
_BLOCK_SECONDS = 7200
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class TapeError(Exception):
    """Blocks could not be made; the message is promtool's."""


def series(name: str, labels: Mapping[str, str]) -> str:
    """A series as its samples name it."""
    text = ",".join(f'{key}="{value.translate(_ESCAPED)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{text}}}"


class Tape:
    """Takes samples, of each series in order of time, and makes blocks of them when its `with` block ends."""

    def __init__(self, directory: Path, name: str, blocks: Path) -> None:
        """`directory` takes the text for as long as it is needed."""
        self._directory, self._name, self._blocks = directory, name, blocks
        self._texts: dict[int, IO[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        for text in self._texts.values():
            text.write("# EOF\n")
            text.close()
        paths = [Path(text.name) for text in self._texts.values()]
        try:
            if error is None:
                _make_blocks(paths, self._blocks)
        finally:
            for path in paths:
                path.unlink()

    def add(self, at: float, samples: Iterable[str]) -> None:
        """Samples of one moment: each a series, a space and the value."""
        moment = f" {at:.3f}\n"
        self._text(at).write("".join([sample + moment for sample in samples]))

    def add_series(self, series: str, points: Iterable[tuple[float, str]]) -> None:
        """The points of one series: unix seconds and the value."""
        for at, value in points:
            self._text(at).write(f"{series} {value} {at:.3f}\n")

    def _text(self, at: float) -> IO[str]:
        block = int(at // _BLOCK_SECONDS)
        if block not in self._texts:
            path = self._directory / f"{self._name}.{block}.txt"
            self._texts[block] = path.open("w", encoding="utf-8", buffering=1 << 20)
        return self._texts[block]


def _make_blocks(texts: Iterable[Path], blocks: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        raise TapeError("promtool is not installed: sudo apt-get install prometheus")
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    processes = [
        subprocess.Popen(
            [*command, text, blocks], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for text in texts
    ]
    said = [process.communicate()[0] for process in processes]
    failed = [words for process, words in zip(processes, said, strict=True) if process.returncode != 0]
    if failed:
        raise TapeError(f"promtool could not make blocks: {failed[0].strip()}")
