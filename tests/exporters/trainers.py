"""Trainers for tests: real processes with a real Monitor that are told line by line what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.trainer_hooks.processes import environment
from trainer_hooks.recording import SLOT, Recorder, this_process

_SCRIPT = """
import sys
from trainer_hooks.monitor import Monitor

run, rank, world_size, directory = sys.argv[1:]
monitor = Monitor(
    run=run,
    rank=int(rank),
    world_size=int(world_size),
    directory=directory,
    loss_kind="cross_entropy",
    info={"model": "tiny"},
)

def steps(count, loss=2.0, tokens=10):
    for _ in range(count):
        with monitor.step():
            monitor.batch(loss=loss, samples=2, tokens=tokens + 2, trained_tokens=tokens)

def say():
    print("done", flush=True)

say()
for line in sys.stdin:
    exec(line)
    say()
"""


class Trainer:
    """One rank of a training in a process of its own; killed at the end of the `with` block if it lives.

    The lines it is given know `monitor` and `steps(count, loss=2.0, tokens=10)`.
    """

    def __init__(self, directory: Path, run: str = "a-run", *, rank: int = 0, world_size: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, run, str(rank), str(world_size), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        self.pid = self._process.pid
        self._hear()

    def do(self, line: str) -> None:
        """Run one line of Python in it, to its end."""
        self._tell(line)
        self._hear()

    def begin(self, line: str) -> None:
        """Run one line of Python in it that never ends."""
        self._tell(line)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def end(self, line: str = "sys.exit()") -> None:
        """Run a last line that ends the process."""
        self._tell(line)
        self._process.wait(20)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n", "the trainer ended without a word"

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()


def small_recording(
    directory: Path,
    run: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    info: Mapping[str, str] | None = None,
    start_ns: int | None = None,
) -> Recorder:
    """A recording of this process with a ring of four steps: hundreds of them take no time."""
    static = this_process(
        run=run,
        node="here",
        rank=rank,
        local_rank=rank,
        world_size=world_size,
        info=info or {},
        start_ns=start_ns,
    )
    return Recorder(directory, static, ring_capacity=4)


def set_slot(recorder: Recorder, **values: float) -> None:
    """Put values into the live block as they are."""
    for name, value in values.items():
        view = recorder.doubles if isinstance(value, float) else recorder.unsigned
        view[SLOT[name]] = value
