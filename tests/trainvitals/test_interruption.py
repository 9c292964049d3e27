"""Each in a process of its own, which is sent the signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREAMBLE = """
import os, signal
from trainvitals import interruption

def interrupt():
    os.kill(os.getpid(), signal.SIGHUP)

interruption.listen()
"""


def run(script: str) -> str:
    """What the script prints before it ends."""
    command = [sys.executable, "-c", PREAMBLE + script]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60).stdout


def test_a_signal_is_a_keyboard_interrupt_and_later_ones_are_ignored() -> None:
    script = """
try:
    interrupt()
except KeyboardInterrupt:
    interrupt()
    print("once")
"""
    assert run(script) == "once\n"


def test_one_that_comes_while_it_is_held_is_raised_afterwards() -> None:
    script = """
try:
    with interruption.held():
        with interruption.held():
            interrupt()
        print("whole")
    print("never")
except KeyboardInterrupt:
    print("then")
    with interruption.held():
        print("cleaning up is not interrupted by what is known")
"""
    assert run(script).splitlines() == ["whole", "then", "cleaning up is not interrupted by what is known"]


def test_one_that_is_lost_in_a_finalizer_is_raised_by_the_next_check() -> None:
    script = """
class Finalized:
    def __del__(self):
        interrupt()

Finalized()
print("lost")
try:
    interruption.check()
except KeyboardInterrupt:
    print("found")
"""
    assert run(script) == "lost\nfound\n"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_all_three_are_heard(number: str) -> None:
    script = f"""
try:
    os.kill(os.getpid(), signal.{number})
except KeyboardInterrupt:
    print("heard")
"""
    assert run(script) == "heard\n"
