from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from alerts.settings import read_settings
from tests.compose.provisioning import SETTINGS, option, prometheus_file, provisioning_faults
from tests.compose.stack import FILE_NAME, FOLDER, Machine, changed_copy, configuration, in_tree
from tests.prometheus import binary

_PROMETHEUS, _DATASOURCES, _DASHBOARDS, _SETTINGS = (
    *("prometheus/prometheus.yml", "grafana/datasources.yaml"),
    *("grafana/dashboards.yaml", "alertmanager/settings.yaml"),
)
# In which file, what in the place of what, and the fault that must be told.
PLANTED = (
    (_PROMETHEUS, "rules/*.yaml", "rules/*.yml", "not the rules"),
    (_PROMETHEUS, "evaluation_interval: 15s", "evaluation_interval: 1m", "evaluated every 1m"),
    (_PROMETHEUS, "scrape_interval: 15s", "scrape_interval: 30s", "another interval"),
    (_PROMETHEUS, "job_name: training-service", "job_name: training", "no job is training-service"),
    (_PROMETHEUS, "targets: [grafana:3000]", "targets: []", "grafana is not scraped"),
    (_PROMETHEUS, "alertmanager:9093", "alertmanager:9094", "no service is alertmanager:9094"),
    (_SETTINGS, "http://trainvitals:8003", "http://service:8003", "no service is service:8003"),
    (_DATASOURCES, "http://prometheus:9090", "http://localhost:9090", "no service is localhost:9090"),
    (_DATASOURCES, "uid: prometheus", "uid: main", "data source is another"),
    (_DATASOURCES, "isDefault: true", "isDefault: false", "does not ask Grafana's data source"),
    (_DASHBOARDS, "path: /etc/grafana/dashboards", "path: /var/lib/dashboards", "nothing is mounted"),
    (_DASHBOARDS, "disableDeletion: true", "disableDeletion: false", "changed or deleted"),
    (FILE_NAME, "../dashboards/generated:", "../dashboards:", "not the dashboards"),
    (FILE_NAME, "target: /etc/prometheus/rules", "target: /etc/rules", "nothing is mounted"),
    (FILE_NAME, "prometheus.yml:/etc/prometheus/prom", "prometheus.yml:/etc/prom", "nothing is mounted"),
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
    ("old", "new"), [("token/scrape-", "token/no-"), ("static_configs", "static_config"), ("15s", "often")]
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
    volumes = [machine.volume(name) for name in ("alertmanager-config", "prometheus-token")]
    made = [path for volume in volumes for path in volume.iterdir()]
    assert {path.name: f"{path.stat().st_mode & 0o777:o}" for path in made} == dict.fromkeys(
        ("alertmanager.yml", "trainvitals.tmpl", "service-token", "scrape-token"), "640"
    )
    group = machine.service("setup")["user"].partition(":")[2]
    for reader in ("prometheus", "alertmanager"):
        assert machine.service(reader)["group_add"] == [group]


@pytest.mark.long
def test_a_second_setup_keeps_the_tokens_and_one_after_a_loss_makes_new_ones(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.set_up()
    token = machine.volume("alertmanager-config") / "service-token"
    scrape_token = machine.volume("prometheus-token") / "scrape-token"
    made = (token.read_text(), scrape_token.read_text())
    machine.set_up()
    assert (token.read_text(), scrape_token.read_text()) == made
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
