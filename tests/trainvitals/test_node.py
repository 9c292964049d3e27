from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from trainvitals.child import loopback
from trainvitals.node import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node("here", tmp_path / "here", ["--simulate-gpus", "0"], instance="here", cluster="lab")
    node.start()
    yield node
    node.stop()


def answers(node: Node) -> bool:
    try:
        return loopback.get(f"{node.url}/ready", timeout=0.5).is_success
    except httpx.HTTPError:
        return False


def wait_until_it_answers(node: Node) -> None:
    deadline = time.monotonic() + 60
    while not answers(node):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def test_a_node_is_scraped_under_its_name_and_comes_back_at_its_address(node: Node) -> None:
    address = node.url.removeprefix("http://")
    target = {"targets": [address], "labels": {"instance": "here", "cluster": "lab"}}
    assert node.target() == target

    node.restart()
    wait_until_it_answers(node)
    assert node.target() == target


def test_one_that_is_held_answers_nobody_until_it_is_let_go(node: Node) -> None:
    node.hold()
    assert not answers(node)
    node.let_go()
    wait_until_it_answers(node)


def test_one_that_was_told_to_go_has_not_failed_and_one_that_went_by_itself_has(node: Node) -> None:
    node.kill()
    assert node.failed is None
    assert not answers(node)

    node.restart()
    wait_until_it_answers(node)
    assert node.failed is None
    [process] = [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdecimal() and str(node.recordings) in command_line(each)
    ]
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while node.failed is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert node.failed.name == "here"


def test_what_stands_before_its_command_knows_its_recordings(tmp_path: Path) -> None:
    node = Node("here", tmp_path / "here", [], wrapper=lambda recordings: ("env", f"HOME={recordings}"))
    assert node._command("127.0.0.1:1")[:2] == ["env", f"HOME={tmp_path / 'here' / 'recordings'}"]
