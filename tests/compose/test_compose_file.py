from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import trainer_hooks
from tests.compose.stack import (
    EXAMPLE,
    FILE,
    FILE_NAME,
    OPEN,
    PROFILES,
    ComposeError,
    changed_copy,
    compose,
    configuration,
    faults,
    names,
)

_ALERTMANAGER_CHECK = 'test: [CMD, wget, -q, -O, /dev/null, "http://127.0.0.1:9093/-/healthy"]'
# What is written in the place of what, and the fault that must be told.
PLANTED = (
    ('"127.0.0.1:${GRAFANA_PORT', '"${GRAFANA_PORT', "grafana publishes port 3000 beyond loopback"),
    ('"127.0.0.1:${TRAINVITALS', '"0.0.0.0:${TRAINVITALS', "trainvitals publishes port 8003 beyond loopback"),
    ("network_mode: none", "network_mode: host", "setup is in the network namespace of the host"),
    ('user: "472:0"', 'user: "0:472"', "grafana runs as root"),
    ('    user: "472:0"\n', "", "grafana runs as root"),
    ("grafana:13.2.3", "grafana:latest", "not pinned to one version: grafana/grafana:latest"),
    ("node-exporter:v1.12.1", "node-exporter", "not pinned to one version: prom/node-exporter"),
    ("  read_only: true\n  cap_drop", "  cap_drop", "prometheus can write its root file system"),
    ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "prometheus has capabilities"),
    ("pid: host", "privileged: true", "trainvitals has capabilities"),
    ("no-new-privileges:true", "no-new-privileges:false", "prometheus can gain privileges"),
    ("restart: unless-stopped", "restart: on-failure", "prometheus has the restart policy on-failure"),
    (_ALERTMANAGER_CHECK, "disable: true", "alertmanager has no health check"),
    ("memory: 128m, ", "", "node-exporter has no limits"),
    ('options: {max-size: 10m, max-file: "3"}', "options: {}", "prometheus keeps its log for ever"),
    ("    depends_on: {}\n", "    depends_on: {}\n    pid: host\n", "node-exporter is in the pid namespace"),
    ('    user: "472:0"\n', '    user: "472:0"\n    cgroup: host\n', "grafana is in the cgroup namespace"),
    ('    user: "472:0"\n', '    user: "472:0"\n    userns_mode: host\n', "grafana is in the user namespace"),
    ("pid: host", "ipc: host", "trainvitals is in the ipc namespace"),
    ("./alertmanager/secrets:", "/etc/ssl/private:", "alertmanager mounts /etc/ssl/private of the host"),
    ("./setup.sh:", "/usr/bin/env:", "setup mounts /usr/bin/env of the host"),
    ("target: /run/trainvitals", "target: /mnt", "trainvitals mounts /run/trainvitals of the host"),
    (":/run/secrets:ro", ":/run/secrets", "alertmanager can write"),
    ("./grafana/datasources.yaml", "./grafana/datasource.yaml", "datasource.yaml, which does not exist"),
)


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_every_profile_without_a_warning(profile: str) -> None:
    assert faults(configuration(profile)) == []


def test_in_each_profile_one_service_answers_as_trainvitals() -> None:
    answering = {}
    for profile in PROFILES:
        services = configuration(profile)["services"]
        answering[profile] = [
            name for name, service in services.items() if "trainvitals" in names(name, service)
        ]
    assert answering == {"cpu": ["trainvitals"], "gpu": ["trainvitals-gpu"]}


def test_the_gpu_profile_reserves_all_gpus_and_differs_in_nothing_else() -> None:
    plain = configuration("cpu")["services"]["trainvitals"]
    gpu = configuration("gpu")["services"]["trainvitals-gpu"]
    assert gpu["deploy"]["resources"].pop("reservations") == {
        "devices": [{"capabilities": ["gpu", "utility"], "driver": "nvidia", "count": -1}]
    }
    assert (gpu.pop("profiles"), plain.pop("profiles")) == (["gpu"], ["cpu"])
    assert gpu == plain


def test_the_example_holds_every_variable_with_its_default() -> None:
    used = re.findall(r"\$\{(\w+):([-?])(.*?)\}", FILE.read_text())
    defaults = {name: default if kind == "-" else "" for name, kind, default in used}
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert example.pop("COMPOSE_PROFILES") == "cpu"
    assert example == defaults
    assert {name for name, value in example.items() if not value} == OPEN.keys()
    assert not re.search(r"\$\{?\w+\}?(?<!:)", re.sub(r"\$\{\w+:[-?].*?\}", "", FILE.read_text()))


@pytest.mark.parametrize("missing", OPEN)
def test_what_has_no_default_is_asked_for(missing: str) -> None:
    given = {name: value for name, value in OPEN.items() if name != missing}
    done = compose("config", variables=given)
    assert done.returncode != 0
    assert re.search(rf"{missing} is missing a value: set it in compose/.env", done.stderr)


def test_the_image_has_the_version_of_the_code() -> None:
    images = {
        service["image"]
        for profile in PROFILES
        for service in configuration(profile)["services"].values()
        if "build" in service
    }
    assert images == {f"trainvitals:{trainer_hooks.__version__}"}


def test_the_volumes_that_carry_tokens_are_written_by_the_setup_alone() -> None:
    writers = {
        (mount["source"], name)
        for profile in PROFILES
        for name, service in configuration(profile)["services"].items()
        for mount in service["volumes"]
        if mount["type"] == "volume" and not mount.get("read_only")
    }
    shared = {"prometheus-config", "alertmanager-config"}
    assert {pair for pair in writers if pair[0] in shared} == {(volume, "setup") for volume in shared}


@pytest.mark.parametrize(("old", "new", "fault"), PLANTED, ids=[fault for _, _, fault in PLANTED])
def test_a_planted_fault_is_told(old: str, new: str, fault: str, tmp_path: Path) -> None:
    config = configuration(folder=changed_copy(tmp_path, FILE_NAME, old, new))
    assert any(fault in each for each in faults(config, tmp_path)), faults(config, tmp_path)


def test_a_copy_without_a_fault_has_none(tmp_path: Path) -> None:
    config = configuration(folder=changed_copy(tmp_path, FILE_NAME, "services:", "services:"))
    assert faults(config, tmp_path) == []


def test_what_holds_a_secret_is_kept_out_of_the_repository() -> None:
    ignored = FILE.with_name(".gitignore").read_text().splitlines()
    for name in (".env", "scrape-token", "service-token"):
        assert any(fnmatch(name, line) for line in ignored)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("start_period: 15s", "start_periods: 15s", "start_periods"),
        ("stop_grace_period", "stop_grace_periode", "stop_grace_periode"),
        ("prometheus-data:/prometheus", "prometheus-dat:/prometheus", "prometheus-dat"),
        ("${RULES:-../alerts/generated}", "${RULE}", "RULE"),
    ],
    ids=["an unknown key", "an unknown key of a service", "an unknown volume", "a variable without a value"],
)
def test_compose_refuses_what_it_does_not_know(old: str, new: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match=words):
        configuration(folder=changed_copy(tmp_path, FILE_NAME, old, new))
