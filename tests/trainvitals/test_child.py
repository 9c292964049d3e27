from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from trainvitals import child as child_module
from trainvitals.child import Child, ChildError, start_server

SERVER = """
import http.server, sys
host, _, port = sys.argv[1].rpartition(":")
http.server.HTTPServer((host, int(port)), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def test_a_server_is_ready_when_it_is_returned_and_gone_when_it_is_stopped(tmp_path: Path) -> None:
    child, url = start_server(
        "server",
        lambda address: [sys.executable, "-c", SERVER, address],
        tmp_path / "log",
        ready_path="/",
    )
    assert httpx.get(url).status_code == 200

    child.stop()

    assert not child.running
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"server did not become ready.*\n.*no such luck"):
        start_server(
            "server",
            lambda address: [sys.executable, "-c", "raise SystemExit('no such luck')"],
            tmp_path / "log",
        )


def test_another_port_is_tried_when_somebody_took_the_first(tmp_path: Path) -> None:
    addresses: list[str] = []

    def command(address: str) -> list[str]:
        addresses.append(address)
        if len(addresses) == 1:
            return [sys.executable, "-c", "raise SystemExit('bind: Address already in use')"]
        return [sys.executable, "-c", SERVER, address]

    child, url = start_server("server", command, tmp_path / "log", ready_path="/")

    child.stop()
    assert url == f"http://{addresses[1]}"


def test_a_child_that_will_not_go_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainvitals.child.STOP_SECONDS", 0.2)
    child = Child("deaf", [sys.executable, "-c", DEAF], tmp_path / "log")
    wait_for_log(child, "deaf")

    child.stop()

    assert child.process.returncode == -signal.SIGKILL


def test_a_frozen_child_is_stopped_too(tmp_path: Path) -> None:
    child = Child(
        "frozen",
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        tmp_path / "log",
    )
    wait_for_log(child, "up")
    os.kill(child.process.pid, signal.SIGSTOP)

    child.stop()

    assert child.process.returncode == -signal.SIGTERM


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux's setpriv is not installed")
def test_a_frozen_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from trainvitals import child as child_module
from trainvitals.child import Child
child = Child("sleep", ["sleep", "60"], Path(sys.argv[1]))
while Path(f"/proc/{child.process.pid}/comm").read_text() != "sleep\\n":
    pass
os.kill(child.process.pid, signal.SIGSTOP)
print(child.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "log"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 10
    while is_alive(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("setpriv", [None, "#!/bin/sh\nexit 1\n"])
def test_without_a_setpriv_that_knows_the_option_a_child_starts_all_the_same(
    tmp_path: Path, setpriv: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setpriv:
        (tmp_path / "setpriv").write_text(setpriv)
        (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    child_module._bound_to_parent.cache_clear()
    try:
        child = Child("plain", [sys.executable, "-c", "print('up')"], tmp_path / "log")
    finally:
        child_module._bound_to_parent.cache_clear()
    assert child.process.wait(30) == 0
    assert child.last_lines() == "up"


def is_alive(pid: int) -> bool:
    """Not one that has ended and that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_log(child: Child, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in child.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
