from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from exporters.host_memory import resident_bytes

MEBIBYTE = 1 << 20
_HOLDER = """
import sys
held = bytearray(b"x" * (int(sys.argv[1]) << 20))
print("held", flush=True)
sys.stdin.read()
"""
_PARENT = """
import sys
from subprocess import PIPE, Popen
child = Popen([sys.executable, "-c", sys.argv[1], "60"], stdin=PIPE, stdout=PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""


@pytest.fixture
def parent_and_child() -> Iterator[tuple[int, int]]:
    """A process whose child holds 60 MiB."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        yield parent.pid, int(parent.stdout.readline())
        parent.communicate()


def test_the_memory_of_child_processes_belongs_to_the_rank(parent_and_child: tuple[int, int]) -> None:
    parent, _ = parent_and_child

    resident = resident_bytes([parent])

    assert resident.keys() == {parent}
    assert 60 * MEBIBYTE < resident[parent] < 200 * MEBIBYTE


def test_a_rank_that_another_rank_started_counts_for_itself_alone(parent_and_child: tuple[int, int]) -> None:
    parent, child = parent_and_child

    resident = resident_bytes([parent, child])

    assert resident[child] > 60 * MEBIBYTE
    assert resident[parent] < 60 * MEBIBYTE


def test_a_process_that_is_gone_is_left_out() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert resident_bytes([gone.pid, os.getpid()]).keys() == {os.getpid()}
