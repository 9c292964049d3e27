from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from alerts.settings import read_settings
from tests.compose.provisioning import SETTINGS, option, prometheus_file, provisioning_faults
from tests.compose.stack import FILE_NAME, FOLDER, OPEN, Machine, changed_copy, configuration, in_tree
from tests.prometheus import binary

_PROMETHEUS, _DATASOURCES, _DASHBOARDS, _SETTINGS = (
    *("prometheus/prometheus.yml", "grafana/datasources.yaml"),
    *("grafana/dashboards.yaml", "alertmanager/settings.yaml"),
)
_TOKEN = "credentials_file: /etc/prometheus/config/scrape-token"
_OF_METRICS = f"    authorization:\n      {_TOKEN}\n"
_OF_NODES = f"          {_TOKEN}\n"
# In which file, what in the place of what, and the fault that must be told.
PLANTED = (
    (_PROMETHEUS, "rules/*.yaml", "rules/*.yml", "not the rules"),
    (_PROMETHEUS, "evaluation_interval: 15s", "evaluation_interval: 1m", "evaluated every 1m"),
    (_PROMETHEUS, "scrape_interval: 15s", "scrape_interval: 30s", "another interval"),
    (_PROMETHEUS, "job_name: training-service", "job_name: training", "no job is training-service"),
    (_PROMETHEUS, "targets: [grafana:3000]", "targets: []", "grafana is not scraped"),
    (_PROMETHEUS, "alertmanager:9093", "alertmanager:9094", "no service is alertmanager:9094"),
    (_PROMETHEUS, _OF_METRICS, "", "asks for metrics without the scrape token"),
    (_PROMETHEUS, _OF_NODES, "", "asks for nodes without the scrape token"),
    (_PROMETHEUS, f"{_TOKEN}\n    static", f"{_TOKEN}s\n    static", "asks for metrics without"),
    (
        FILE_NAME,
        "--scrape-token-file=/etc/trainvitals/",
        "--scrape-token-file=/var/lib/",
        "nothing is mounted",
    ),
    (
        _PROMETHEUS,
        'instance: "${HOST_NAME}"',
        "instance: a",
        "training-service does not have the machine's name",
    ),
    (_SETTINGS, "http://trainvitals:8003", "http://service:8003", "no service is service:8003"),
    (_DATASOURCES, "http://prometheus:9090", "http://localhost:9090", "no service is localhost:9090"),
    (_DATASOURCES, "uid: prometheus", "uid: main", "data source is another"),
    (_DATASOURCES, "isDefault: true", "isDefault: false", "does not ask Grafana's data source"),
    (_DASHBOARDS, "path: /etc/grafana/dashboards", "path: /var/lib/dashboards", "nothing is mounted"),
    (_DASHBOARDS, "disableDeletion: true", "disableDeletion: false", "changed or deleted"),
    (FILE_NAME, "${DASHBOARDS:-../dashboards/generated}", "../dashboards", "not the dashboards"),
    (FILE_NAME, "target: /etc/prometheus/rules", "target: /etc/rules", "nothing is mounted"),
    (FILE_NAME, "prometheus.yml:/etc/trainvitals/prom", "prometheus.yml:/etc/prom", "nothing is mounted"),
    (FILE_NAME, "dashboards/trainvitals-", "dashboards/", "is none of the dashboards"),
    (FILE_NAME, "${GRAFANA_PORT:-3000}/", "${PROMETHEUS_PORT:-9090}/", "takes itself to be elsewhere"),
    (FILE_NAME, '"${GRAFANA_ANONYMOUS:-false}"', '"true"', "Grafana lets everybody in"),
    (FILE_NAME, "127.0.0.1:${TRAINVITALS_PORT:-8003}", "127.0.0.1:8004", "trainvitals is at"),
    (FILE_NAME, "--token-file=/var/lib/trainvitals/tokens.json", "--insecure", "lets everybody read"),
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Where the setup has run once."""
    made = Machine(tmp_path_factory.mktemp("stack"))
    made.set_up()
    return made


def test_every_service_finds_what_it_looks_for() -> None:
    assert provisioning_faults(configuration()["services"]) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"), PLANTED, ids=[f"{old} {new}" for _, old, new, _ in PLANTED]
)
def test_a_planted_fault_is_told(file: str, old: str, new: str, fault: str, tmp_path: Path) -> None:
    services = configuration(folder=changed_copy(tmp_path, file, old, new))["services"]
    assert any(fault in each for each in provisioning_faults(services)), provisioning_faults(services)


def test_promtool_takes_the_configuration(machine: Machine) -> None:
    assert promtool(machine) == ""


@pytest.mark.parametrize(
    ("old", "new"), [("config/scrape-", "config/no-"), ("static_configs", "static_config"), ("15s", "often")]
)
def test_promtool_refuses_a_planted_fault(old: str, new: str, machine: Machine) -> None:
    assert "FAILED" in promtool(machine, old, new)


def promtool(machine: Machine, old: str = "", new: str = "") -> str:
    """What it says against the file with `new` in the place of `old`; nothing where it takes it."""
    text = prometheus_file(machine.config["services"]).read_text()
    assert old in text
    here = machine.root / "prometheus.yml"
    here.write_text(machine.text("prometheus", text.replace(old, new) if old else text))
    done = subprocess.run(
        [binary("promtool"), "check", "config", here], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_setup_writes_the_names_of_machine_and_cluster_into_prometheus_configuration(
    machine: Machine,
) -> None:
    made = yaml.safe_load((machine.volume("prometheus-config") / "prometheus.yml").read_text())
    assert made["global"]["external_labels"] == {"cluster": "local"}
    groups = [group for job in made["scrape_configs"] for group in job["static_configs"]]
    assert [group["labels"] for group in groups] == [{"instance": "a-machine"}] * 5


@pytest.mark.parametrize("name", ["HOST_NAME", "CLUSTER"])
def test_a_name_that_would_break_the_configuration_ends_the_setup(name: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, variables={name: 'a", b: "/c'})
    with pytest.raises(subprocess.CalledProcessError) as failed:
        machine.set_up()
    assert 'and not: a", b: "/c' in failed.value.stderr


@pytest.mark.parametrize(
    ("variable", "service", "path"),
    [("RULES", "prometheus", "/etc/prometheus/rules"), ("DASHBOARDS", "grafana", "/etc/grafana/dashboards")],
)
def test_rules_and_dashboards_of_your_own_take_the_place_of_ours(
    variable: str, service: str, path: str, tmp_path: Path
) -> None:
    services = configuration(variables={**OPEN, variable: str(tmp_path)})["services"]
    assert in_tree(services[service], path) == tmp_path


def test_amtool_takes_what_the_setup_makes_of_the_settings(machine: Machine) -> None:
    service = machine.service("alertmanager")
    config = Path(machine.text("alertmanager", option(service, "--config.file")))
    here = machine.root / "alertmanager.yml"
    here.write_text(machine.text("alertmanager", config.read_text()))
    done = subprocess.run(["amtool", "check-config", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout
    receivers = yaml.safe_load(here.read_text())["receivers"]
    webhooks = [each for receiver in receivers for each in receiver.get("webhook_configs", ())]
    assert webhooks
    for webhook in webhooks:
        token = Path(webhook["http_config"]["authorization"]["credentials_file"])
        assert token.read_text().startswith("tvl_")


def test_the_tokens_are_for_the_group_of_the_image_and_nobody_else(machine: Machine) -> None:
    volumes = [machine.volume(name) for name in ("alertmanager-config", "prometheus-config")]
    made = [path for volume in volumes for path in volume.iterdir()]
    assert {path.name: f"{path.stat().st_mode & 0o777:o}" for path in made} == dict.fromkeys(
        ("alertmanager.yml", "trainvitals.tmpl", "service-token", "prometheus.yml", "scrape-token"), "640"
    )
    group = machine.service("setup")["user"].partition(":")[2]
    for reader in ("prometheus", "alertmanager"):
        assert machine.service(reader)["group_add"] == [group]


@pytest.mark.long
def test_a_second_setup_keeps_the_tokens_and_one_after_a_loss_makes_new_ones(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.set_up()
    token = machine.volume("alertmanager-config") / "service-token"
    scrape_token = machine.volume("prometheus-config") / "scrape-token"
    made = (token.read_text(), scrape_token.read_text())
    machine.set_up()
    assert (token.read_text(), scrape_token.read_text()) == made
    scrape_token.unlink()
    machine.set_up()
    assert scrape_token.read_text() not in ("", made[1])
    made = (token.read_text(), scrape_token.read_text())
    for lost in (token, machine.volume("state") / "tokens.json"):
        before = token.read_text()
        lost.unlink()
        machine.set_up()
        assert token.read_text() != before
    assert scrape_token.read_text() == made[1]


def test_a_secret_of_the_settings_lies_where_their_comment_says(tmp_path: Path) -> None:
    services = configuration()["services"]
    settings = in_tree(services["setup"], SETTINGS).read_text()
    [folder, called] = re.findall(r"in the folder (\w+) beside this one, here called (/\S+)/NAME", settings)[
        0
    ]
    assert in_tree(services["alertmanager"], called) == FOLDER / "alertmanager" / folder
    more = tmp_path / "settings.yaml"
    more.write_text(f"{settings}slack_url_file: {called}/slack\nticket: [{{slack: '#training'}}]\n")
    assert read_settings(more).slack_url_file == f"{called}/slack"
