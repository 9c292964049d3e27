"""`trainvitals doctor`: what works on this machine, what does not, and the one thing to do about it."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import platform
import re
import runpy
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.text import Text

from exporters import catalog
from exporters.gpu.node import NvmlGpus
from trainer_hooks.directory import choose_directory
from trainvitals.cli import install_command
from trainvitals.doctor_gpus import gpu_findings, questions
from trainvitals.finding import Finding
from trainvitals.listen import DEFAULT_LISTEN, Address, parse_listen

STYLES = {"ok": "green", "limited": "yellow", "failed": "bold red"}
NOT_FOR_USERS = ("all", "dev")

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    listen: Annotated[str, typer.Option(help="HOST:PORT the service would listen on.")] = DEFAULT_LISTEN,
    import_torch: Annotated[
        bool, typer.Option("--import-torch", help="Ask torch itself which GPUs it sees; takes seconds.")
    ] = False,
) -> None:
    """Say what works on this machine and what does not; exits 1 when an essential part fails."""
    try:
        address = parse_listen(listen)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    findings = [
        platform_finding(platform.system(), platform.python_version()),
        directory_finding(),
        *gpu_findings(questions(NvmlGpus().collectors)),
        torch_finding(_folder_of("torch"), _gpus_torch_sees if import_torch else None),
        program_finding("Prometheus", ("prometheus",), ("promtool",)),
        program_finding("Alertmanager", ("prometheus-alertmanager", "alertmanager"), ("amtool",)),
        port_finding(address),
        *extras_findings(),
    ]
    print_findings(findings, Console())
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    findings = list(findings)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        line = Text.assemble(
            (f"{finding.status:<8}", STYLES[finding.status]), f"{finding.subject:<{width}}  {finding.detail}"
        )
        if finding.remedy:
            line.append(f"\n{'':<{8 + width}}  → {finding.remedy}", "dim")
        console.print(line, soft_wrap=True)


def platform_finding(system: str, python_version: str) -> Finding:
    detail = f"{system}, Python {python_version}"
    if system == "Linux":
        return Finding("platform", "ok", detail)
    if system == "Darwin":
        return Finding("platform", "limited", f"{detail}: for development only", "train and serve on Linux")
    return Finding("platform", "failed", f"{detail}: recordings cannot be made here", "use Linux")


def directory_finding(choose: Callable[[], Path] = choose_directory) -> Finding:
    """Where a trainer started now would record; `choose` raises OSError("problem; remedy") when nowhere."""
    try:
        directory = choose()
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding("recordings", "failed", problem, remedy or "set TRAINVITALS_DIR to another directory")
    return Finding("recordings", "ok", f"{directory}, {free_bytes / 2**20:,.0f} MiB free")


def torch_finding(folder: Path | None, gpus_torch_sees: Callable[[], int] | None = None) -> Finding:
    """What torch in `folder` was built for, read from its version file; asked itself only when told how."""
    if folder is None:
        return Finding(
            "torch",
            "limited",
            "not installed here; only a trainer needs it",
            install_command("workload"),
        )
    version = runpy.run_path(str(folder / "version.py"))
    cuda, rocm = version.get("cuda"), version.get("hip")
    build = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"
    detail = f"{version['__version__']}, built for {build}"
    if gpus_torch_sees is None:
        return Finding("torch", "ok", detail)
    seen = gpus_torch_sees()
    if cuda and not seen:
        return Finding(
            "torch",
            "limited",
            f"{detail}, sees no GPU",
            "compare the driver's CUDA version in `nvidia-smi`, and look at CUDA_VISIBLE_DEVICES",
        )
    return Finding("torch", "ok", f"{detail}, sees {seen} GPUs")


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def _gpus_torch_sees() -> int:
    import torch

    return torch.cuda.device_count()


def program_finding(
    subject: str, *programs: tuple[str, ...], which: Callable[[str], str | None] = shutil.which
) -> Finding:
    """Whether each of `programs` is there, under any of its names, the Debian package's first."""
    found = [next(filter(None, map(which, names)), None) for names in programs]
    missing = [names[0] for names, path in zip(programs, found, strict=True) if path is None]
    if missing:
        return Finding(
            subject,
            "limited",
            f"{' and '.join(missing)} not found; `trainvitals demo` needs it",
            f"apt install {programs[0][0]}",
        )
    return Finding(subject, "ok", ", ".join(filter(None, found)))


def port_finding(address: Address) -> Finding:
    """Whether the service could listen there, or does already."""
    subject = f"port {address.port}"
    try:
        with socket.socket(address.family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Finding(
                subject,
                "failed",
                f"cannot listen on {address}: {error.strerror}",
                "choose another address: trainvitals serve --listen HOST:PORT",
            )
        return _finding_of_taken_port(subject, address)
    return Finding(subject, "ok", f"free on {address.host}")


def _finding_of_taken_port(subject: str, address: Address) -> Finding:
    another = address._replace(port=address.port + (1 if address.port < 65535 else -1))
    remedy = f"choose another port: trainvitals serve --listen {another}"
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=2.0, trust_env=False) as client:
            health = client.get("/health")
            ours = health.is_success and catalog.WALLCLOCK_SECONDS.name in client.get("/metrics").text
    except httpx.HTTPError:
        return Finding(subject, "failed", "taken by a program that does not answer GET /health", remedy)
    if ours:
        return Finding(subject, "ok", "the service runs here")
    return Finding(
        subject, "failed", f"taken by another program; GET /health gives {health.status_code}", remedy
    )


def extras_findings(distribution: importlib.metadata.Distribution | None = None) -> list[Finding]:
    """Which extras are installed, by the distribution's own list of requirements."""
    try:
        distribution = distribution or importlib.metadata.distribution("trainvitals")
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding(
                "extras",
                "limited",
                "trainvitals runs from a source tree that is not installed",
                install_command("all"),
            )
        ]
    extras = distribution.metadata.get_all("Provides-Extra") or []
    return [
        _extra_finding(extra, distribution.requires or []) for extra in extras if extra not in NOT_FOR_USERS
    ]


def _extra_finding(extra: str, requirements: Iterable[str]) -> Finding:
    names = [
        match[0]
        for requirement in requirements
        if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", requirement)
        and (match := re.match(r"[A-Za-z0-9._-]+", requirement))
    ]
    missing = [name for name in names if not _installed(name)]
    if missing:
        return Finding(
            f"[{extra}]",
            "limited",
            f"not installed: {', '.join(missing)}",
            install_command(extra),
        )
    return Finding(f"[{extra}]", "ok", "installed")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
