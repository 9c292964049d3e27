"""Ending the ranks of a run: SIGTERM, by descriptors of exactly the processes that record it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from exporters.runs import RankProcess
from trainer_hooks.recording import pid_namespace, process_start_ticks


class NotOursError(Exception):
    """A process that must not be ended from here; the message says which, and why."""


@contextlib.contextmanager
def descriptors(processes: Sequence[RankProcess]) -> Iterator[list[int]]:
    """A pidfd of each of these living processes.

    Raises NotOursError unless every one is of the service's own user and started when its recording says:
    no other process is ever hit that has got the same pid since.
    """
    with contextlib.ExitStack() as stack:
        opened = []
        for each in processes:
            descriptor = _opened(each)
            stack.callback(os.close, descriptor)
            opened.append(descriptor)
        yield opened


def end(opened: Sequence[int]) -> None:
    """Ask the processes of these descriptors to end; one that has gone by itself is no error."""
    for descriptor in opened:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)


def _opened(process: RankProcess) -> int:
    who = f"rank {process.rank} (pid {process.pid})"
    if process.pid_namespace != pid_namespace():
        raise NotOursError(f"{who} runs in another container; end it there")
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError as error:
        raise NotOursError(f"{who} cannot be reached: {error.strerror}") from None
    try:
        # Of whoever has the pid now; the start time tells whether that is the one that records.
        if process_start_ticks(process.pid) != process.start_ticks:
            raise NotOursError(f"{who} is no longer the process that recorded")
        owner = Path(f"/proc/{process.pid}").stat().st_uid
        if owner != os.geteuid():
            raise NotOursError(
                f"{who} belongs to user {owner}, the service to user {os.geteuid()}; end it as that user"
            )
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise NotOursError(f"{who} is gone") from None
        raise
    return descriptor
