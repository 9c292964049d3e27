from __future__ import annotations

import importlib.metadata
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from trainvitals import doctor
from trainvitals.finding import Finding
from trainvitals.listen import Address, parse_listen

REPOSITORY = Path(__file__).parents[2]


def run_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainvitals", "doctor", *arguments],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def line_about(report: str, subject: str) -> str:
    (line,) = (line for line in report.splitlines() if subject in line[8:].split("  ")[0])
    return line


@pytest.fixture
def free_port(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def web_server(pages: dict[str, str]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_the_report_is_plain_text_when_piped_and_the_exit_is_clean(tmp_path: Path, free_port: int) -> None:
    finished = run_doctor("--listen", f"127.0.0.1:{free_port}", TRAINVITALS_DIR=str(tmp_path))

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "\x1b" not in finished.stdout
    assert line_about(finished.stdout, "recordings").startswith("ok ")
    assert str(tmp_path) in line_about(finished.stdout, "recordings")
    assert line_about(finished.stdout, f"port {free_port}").startswith("ok ")


def test_an_unwritable_directory_fails_and_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "file").touch()

    finished = run_doctor(
        "--listen", f"127.0.0.1:{free_port}", TRAINVITALS_DIR=str(tmp_path / "file" / "sub")
    )

    assert finished.returncode == 1
    assert line_about(finished.stdout, "recordings").startswith("failed ")
    assert "cannot be written" in line_about(finished.stdout, "recordings")
    assert "→ make it or choose another" in finished.stdout


@pytest.mark.parametrize(("listen", "problem"), [("8003", "HOST:PORT"), ("0.0.0.0:8003", "loopback")])
def test_an_address_the_service_would_refuse_is_refused(listen: str, problem: str) -> None:
    finished = run_doctor("--listen", listen)

    assert finished.returncode == 2
    assert problem in finished.stderr


def test_an_ipv6_address_is_asked_about_as_the_service_is_told_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen()
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        port = listener.getsockname()[1]
        taken = doctor.port_finding(parse_listen(f"[::1]:{port}"))
    free = doctor.port_finding(parse_listen(f"[::1]:{port}"))

    assert taken.detail == "taken by a program that does not answer GET /health"
    assert f"--listen [::1]:{port + 1 if port < 65535 else port - 1}" in taken.remedy
    assert free == Finding(f"port {port}", "ok", "free on ::1")


@pytest.mark.parametrize(
    ("system", "status"), [("Linux", "ok"), ("Darwin", "limited"), ("Windows", "failed")]
)
def test_recordings_need_linux(system: str, status: str) -> None:
    assert doctor.platform_finding(system, "3.12.1").status == status


def test_a_port_in_use_by_a_program_that_speaks_no_http_fails() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        port = listener.getsockname()[1]

        finding = doctor.port_finding(Address("127.0.0.1", port))

    assert finding.status == "failed"
    assert finding.detail == "taken by a program that does not answer GET /health"
    assert f"trainvitals serve --listen 127.0.0.1:{port + 1}" in finding.remedy


def test_a_port_in_use_by_another_web_server_fails() -> None:
    with web_server({}) as port:
        finding = doctor.port_finding(Address("127.0.0.1", port))

    assert finding.status == "failed"
    assert finding.detail == "taken by another program; GET /health gives 404"


def test_a_port_where_the_service_answers_is_fine() -> None:
    with web_server({"/health": "{}", "/metrics": "trainvitals_wallclock_seconds 1.7e9\n"}) as port:
        finding = doctor.port_finding(Address("127.0.0.1", port))

    assert finding == Finding(f"port {port}", "ok", "the service runs here")


def test_a_healthy_server_that_is_not_ours_is_told_apart() -> None:
    with web_server({"/health": "ok", "/metrics": "go_goroutines 7\n"}) as port:
        assert doctor.port_finding(Address("127.0.0.1", port)).status == "failed"


def test_an_address_this_machine_does_not_have_fails_with_its_reason(free_port: int) -> None:
    finding = doctor.port_finding(Address("192.0.2.1", free_port))

    assert finding.status == "failed"
    assert "192.0.2.1" in finding.detail


def torch_folder(folder: Path, cuda: str | None) -> Path:
    (folder / "version.py").write_text(f"__version__ = '2.9.0'\ncuda = {cuda!r}\nhip = None\n")
    return folder


def test_the_build_of_torch_is_told_without_importing_it(tmp_path: Path) -> None:
    assert doctor.torch_finding(torch_folder(tmp_path, "12.8")).detail == "2.9.0, built for CUDA 12.8"
    assert doctor.torch_finding(torch_folder(tmp_path, None)).detail == "2.9.0, built for CPU"


def test_torch_that_sees_no_gpu_though_built_for_cuda_is_limited(tmp_path: Path) -> None:
    finding = doctor.torch_finding(torch_folder(tmp_path, "12.8"), lambda: 0)

    assert finding.status == "limited"
    assert finding.detail == "2.9.0, built for CUDA 12.8, sees no GPU"
    assert doctor.torch_finding(tmp_path, lambda: 2).detail == "2.9.0, built for CUDA 12.8, sees 2 GPUs"


def test_a_machine_without_torch_is_limited_to_serving() -> None:
    finding = doctor.torch_finding(None)

    assert (finding.status, finding.remedy) == ("limited", "pip install ./trainer_hooks '.[workload]'")


def test_a_program_is_found_under_any_of_its_names_and_a_missing_one_is_named() -> None:
    here = {"alertmanager": "/opt/alertmanager"}
    names = ("prometheus-alertmanager", "alertmanager")

    found = doctor.program_finding("Alertmanager", names, which=here.get)
    missing = doctor.program_finding("Alertmanager", names, ("amtool",), which=here.get)

    assert found == Finding("Alertmanager", "ok", "/opt/alertmanager")
    assert missing.status == "limited"
    assert missing.detail.startswith("amtool not found")
    assert missing.remedy == "apt install prometheus-alertmanager"


def test_an_extra_is_installed_when_all_it_requires_is(tmp_path: Path) -> None:
    folder = tmp_path / "trainvitals-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: trainvitals\nVersion: 1.0\n"
        "Provides-Extra: service\nProvides-Extra: drawing\nProvides-Extra: dev\n"
        'Requires-Dist: rich>=13.7; extra == "service"\n'
        'Requires-Dist: typer<1,>=0.12 ; extra == "service"\n'
        'Requires-Dist: rich>=13.7; extra == "drawing"\n'
        'Requires-Dist: no-such-brush>=2; extra == "drawing"\n'
    )

    findings = doctor.extras_findings(importlib.metadata.PathDistribution(folder))

    assert findings == [
        Finding("[service]", "ok", "installed"),
        Finding(
            "[drawing]",
            "limited",
            "not installed: no-such-brush",
            "pip install ./trainer_hooks '.[drawing]'",
        ),
    ]


def test_a_remedy_stands_under_the_line_it_belongs_to() -> None:
    page = io.StringIO()

    doctor.print_findings(
        [Finding("GPUs", "limited", "none [at all]", "buy one"), Finding("port 8003", "ok", "free")],
        Console(file=page, width=40),
    )

    assert page.getvalue() == (
        "limited GPUs       none [at all]\n"
        "                   → buy one\n"
        "ok      port 8003  free\n"
    )  # fmt: skip
