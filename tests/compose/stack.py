"""The stack of compose/: read by Compose itself, judged, and run on this machine without containers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose"
FILE_NAME = "docker-compose.yml"
FILE = FOLDER / FILE_NAME
EXAMPLE = FOLDER / ".env.example"
DOCKERFILE = FOLDER / "Dockerfile"
CONSTRAINTS = FOLDER / "constraints.txt"

PROFILES = ("cpu", "gpu")
# What .env.example leaves open.
OPEN = {"TRAINVITALS_GID": "998", "HOST_NAME": "a-machine", "GRAFANA_ADMIN_PASSWORD": "of-the-test"}
LOOPBACK = "127.0.0.1"

# Who may be in which namespaces of the host, and mount which of its folders outside the repository, as what.
_OF_HOST = {
    "trainvitals": {"pid", "cgroup"},
    "trainvitals-gpu": {"pid", "cgroup"},
}
_MOUNTED = {
    "trainvitals": "/run/trainvitals",
    "trainvitals-gpu": "/run/trainvitals",
    "node-exporter": "/host",
}

Config = dict[str, Any]


class ComposeError(Exception):
    """Compose refuses the file; the message is its own."""


def compose(
    *arguments: str, folder: Path = FOLDER, profile: str = "cpu", variables: Mapping[str, str] = OPEN
) -> subprocess.CompletedProcess[str]:
    """Compose's own program over the file of a folder, with the variables of .env.example and these."""
    spec = importlib.util.find_spec("compose")  # the wheel's: our folder of that name has no code
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).with_name("docker-compose")
    files = ("--file", str(folder / FILE_NAME), "--env-file", str(EXAMPLE))
    return subprocess.run(
        [str(program), *files, "--profile", profile, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def configuration(
    profile: str = "cpu", *, folder: Path = FOLDER, variables: Mapping[str, str] = OPEN
) -> Config:
    """What Compose makes of the file. Raises ComposeError, also for what it only warns of."""
    done = compose("config", "--format", "json", folder=folder, profile=profile, variables=variables)
    if done.returncode != 0 or done.stderr:
        raise ComposeError(done.stderr)
    return dict(json.loads(done.stdout))


def faults(config: Config, root: Path = ROOT) -> list[str]:
    """A sentence for each thing that no service of ours may have, or must have and lacks.

    `root` is the repository, files of which any service may mount.
    """
    services: dict[str, Config] = config["services"]
    ends = {
        name
        for service in services.values()
        for name, condition in service.get("depends_on", {}).items()
        if condition["condition"] == "service_completed_successfully"
    }
    return [
        f"{name} {fault}"
        for name, service in services.items()
        for fault in (
            *_identity_faults(service),
            *_confinement_faults(service),
            *_namespace_faults(name, service),
            *_operation_faults(service, ends=name in ends),
            *_mount_faults(name, service, root),
        )
    ]


def _identity_faults(service: Config) -> list[str]:
    found = []
    if not re.fullmatch(r"[a-z0-9./_-]+:v?\d+\.\d+\.\d+", service["image"]):
        found.append(f"has an image that is not pinned to one version: {service['image']}")
    if service.get("user", "0").partition(":")[0] in ("0", "root"):
        found.append("runs as root")
    return found


def _confinement_faults(service: Config) -> list[str]:
    found = []
    if not service.get("read_only"):
        found.append("can write its root file system")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
        found.append("has capabilities")
    if service.get("security_opt") != ["no-new-privileges:true"]:
        found.append("can gain privileges")
    found += [
        f"publishes port {port['published']} beyond loopback"
        for port in service.get("ports", ())
        if port.get("host_ip") != LOOPBACK
    ]
    return found


def _namespace_faults(name: str, service: Config) -> list[str]:
    namespaces = {
        "network": service.get("network_mode"),
        **{key: service.get(key) for key in ("pid", "cgroup", "ipc", "uts")},
        "user": service.get("userns_mode"),
    }
    return [
        f"is in the {kind} namespace of the host"
        for kind, value in namespaces.items()
        if value == "host" and kind not in _OF_HOST.get(name, ())
    ]


def _operation_faults(service: Config, *, ends: bool) -> list[str]:
    found = []
    if service.get("restart") != ("no" if ends else "unless-stopped"):
        found.append(f"has the restart policy {service.get('restart')}")
    check = service.get("healthcheck", {})
    has_check = "test" in check and not check.get("disable")
    of_image = "build" in service and not check and "HEALTHCHECK" in instructions()
    if not (ends or has_check or of_image):
        found.append("has no health check")
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if not limits.keys() >= {"cpus", "memory", "pids"}:
        found.append("has no limits of processor, memory and processes")
    if "max-size" not in service.get("logging", {}).get("options", {}):
        found.append("keeps its log for ever")
    return found


def _mount_faults(name: str, service: Config, root: Path) -> list[str]:
    found = []
    for mount in service.get("volumes", ()):
        if mount["type"] != "bind":
            continue
        if not mount.get("read_only"):
            found.append(f"can write {mount['source']} of the host")
        source = Path(mount["source"])
        of_machine = mount["target"] == _MOUNTED.get(name)
        if not of_machine and not source.is_relative_to(root):
            found.append(f"mounts {source} of the host")
        elif not of_machine and not source.exists():
            found.append(f"mounts {source}, which does not exist")
    return found


def changed_copy(folder: Path, file: str, old: str, new: str) -> Path:
    """The folder compose with a fault in one of its files: `new` in the place of the first `old`.

    Its copy is made below `folder`, beside links to what else the stack mounts.
    """
    for name in ("alerts", "dashboards"):
        (folder / name).symlink_to(ROOT / name)
    copy = folder / FOLDER.name
    shutil.copytree(FOLDER, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new, 1))
    return copy


def instructions() -> list[str]:
    """The instructions of the Dockerfile, by name, in order."""
    return [instruction.partition(" ")[0] for instruction in dockerfile()]


def dockerfile() -> list[str]:
    """The lines of the Dockerfile, those that are continued in one, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [line for line in joined.splitlines() if line]


def image_environment() -> dict[str, str]:
    """What the image sets by ENV."""
    pairs = (shlex.split(line.removeprefix("ENV ")) for line in dockerfile() if line.startswith("ENV "))
    return dict(pair.split("=", 1) for each in pairs for pair in each)


def names(name: str, service: Config) -> set[str]:
    """Under which names the other services reach this one."""
    attached = (service.get("networks") or {}).values()
    return {name, *(alias for network in attached for alias in (network or {}).get("aliases", ()))}


def port(name: str, service: Config) -> int:
    """Where a service listens, as its own health check knows it."""
    check = " ".join(service["healthcheck"]["test"]) if "healthcheck" in service else "\n".join(dockerfile())
    [found] = set(re.findall(r"http://127\.0\.0\.1:(\d+)/", check))
    return int(found)


def in_tree(service: Config, path: str) -> Path:
    """What a service finds at a path: the file of this machine that is mounted there.

    Raises KeyError where nothing of this machine is.
    """
    return Path(_mounted(service, path, "bind"))


def in_volume(service: Config, path: str) -> PurePosixPath:
    """In which volume a service finds a path, and where in it. Raises KeyError where no volume is."""
    return _mounted(service, path, "volume")


def _mounted(service: Config, path: str, kind: str) -> PurePosixPath:
    for mount in sorted(service["volumes"], key=lambda mount: -len(mount["target"])):
        if PurePosixPath(path).is_relative_to(mount["target"]) and mount["type"] == kind:
            return PurePosixPath(mount["source"]) / PurePosixPath(path).relative_to(mount["target"])
    raise KeyError(path)


class Machine:
    """The stack on this machine: a folder below `root` for each volume, a loopback address for each name.

    `addresses` are those of the services that were started, by the name and port under which the files know
    them.
    """

    def __init__(self, root: Path, *, variables: Mapping[str, str] | None = None) -> None:
        """`variables` stand in .env beside those of `OPEN`."""
        self.root = root
        self.recordings = root / "recordings"
        self.recordings.mkdir()
        own = {"TRAINVITALS_DIR": str(self.recordings), **(variables or {})}
        self.config = configuration(variables={**OPEN, **own})
        self.addresses: dict[str, str] = {}
        for volume in self.config["volumes"]:
            self.volume(volume).mkdir(parents=True)

    def service(self, name: str) -> Config:
        return dict(self.config["services"][name])

    def volume(self, name: str) -> Path:
        # XDG_STATE_HOME of the image is the folder above it.
        return self.root / "lib" / "trainvitals" if name == "state" else self.root / "volumes" / name

    def text(self, service: str, text: str) -> str:
        """A text as the service would read it here: what is mounted by its place here, addresses likewise."""
        mounts = self.service(service).get("volumes", ())
        for mount in sorted(mounts, key=lambda mount: -len(mount["target"])):
            is_bind = mount["type"] == "bind"
            here = mount["source"] if is_bind else str(self.volume(mount["source"]))
            text = re.sub(rf"(?<![\w./]){re.escape(mount['target'])}(?![\w-])", here, text)
        for name, address in self.addresses.items():
            text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\d)", address, text)
        return text

    def command(self, service: str) -> list[str]:
        """The arguments that compose gives the service, as they are here."""
        return [self.text(service, argument) for argument in self.service(service)["command"]]

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment here, that of our image included; programs are this environment's."""
        own = image_environment() if "build" in self.service(service) else {}
        own = {name: value.replace("/var/lib", str(self.root / "lib")) for name, value in own.items()}
        given = self.service(service).get("environment") or {}
        return {name: self.text(service, value) for name, value in {**own, **given}.items()}

    def set_up(self) -> None:
        """Run the script of the service `setup`. Raises CalledProcessError."""
        service = self.service("setup")
        shell, script = service["entrypoint"]
        here = self.root / "setup.sh"
        here.write_text(self.text("setup", in_tree(service, script).read_text()))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, **self.environment("setup"), "PATH": path}
        subprocess.run([shell, here], env=environment, check=True, capture_output=True, text=True)
