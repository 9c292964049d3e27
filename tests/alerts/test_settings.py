"""Who is told: the settings file, the configuration it makes, and how our messages read in each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from alerts.alertmanager import TEMPLATES, alertmanager_config
from alerts.settings import read_settings

WHOLE = """
service_url: http://vitals:8003/api/v1/alerts
service_token_file: /etc/alertmanager/secrets/trainvitals
slack_url_file: /etc/alertmanager/secrets/slack_url
page: [{pagerduty_key_file: /etc/alertmanager/secrets/pagerduty}, {slack: "#training"}]
hardware: [{webhook: "http://tickets.example/new"}]
ticket: [{slack: "#training"}, {slack: "#late"}]
digest: [{email: ml-team@example.org}]
smtp: {smarthost: "mail.example.org:587", from: a@example.org, username: a, password_file: /etc/smtp}
deadman_url: http://127.0.0.1:9/alive
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_amtool_accepts_what_the_settings_make_and_every_way_has_its_receivers(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, f"templates: {TEMPLATES}/*.tmpl\n{WHOLE}"))
    config = tmp_path / "alertmanager.yml"
    config.write_text(alertmanager_config(settings.routing()))

    checked = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    loaded = yaml.safe_load(config.read_text())
    kinds = {
        each["name"]: {kind: len(configs) for kind, configs in each.items() if kind != "name"}
        for each in loaded["receivers"]
    }
    assert kinds == {
        "page": {"pagerduty_configs": 1, "slack_configs": 1, "webhook_configs": 1},
        "hardware": {"webhook_configs": 2},
        "ticket": {"slack_configs": 2, "webhook_configs": 1},
        "digest": {"email_configs": 1, "webhook_configs": 1},
        "nobody": {},
        "deadman": {"webhook_configs": 1},
    }
    assert loaded["global"]["slack_api_url_file"] == "/etc/alertmanager/secrets/slack_url"
    assert loaded["global"]["smtp_auth_password_file"] == "/etc/smtp"
    assert "http://vitals:8003/api/v1/alerts" in config.read_text()


def test_without_settings_only_the_service_is_told(tmp_path: Path) -> None:
    routing = read_settings(written(tmp_path, "")).routing()
    assert (routing.receivers, routing.globals, routing.deadman_url) == ({}, {}, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "page: [{pagerduty_key: s3cret}]",
            "page.0.pagerduty_key is not known here .a secret is given as a file",
        ),
        ("pages: []", "pages is not known here"),
        ("page: [{slack: '#a', email: b@c}]", "page.0: give exactly one of pagerduty_key_file, slack"),
        ("page: [{slack: '#a'}]", "slack needs slack_url_file"),
        ("digest: [{email: b@c}]", "email needs smtp"),
        ("smtp: {smarthost: s3cret}", "smtp.from: Field required"),
        ("slack_url_file: a\npage: {s3cret", "is no YAML, line 2"),
        ("[]", "Input should be a valid dictionary"),
    ],
)
def test_what_will_not_do_is_said_without_quoting_what_may_be_a_secret(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        read_settings(written(tmp_path, text))
    assert "s3cret" not in str(raised.value)


KILLED = {
    "status": "firing",
    "labels": {"alertname": "TrainingRunKilled", "severity": "critical", "run": "r1"},
    "annotations": {
        "summary": "Run r1 was killed.",
        "description": "It died 5s ago.",
        "runbook_url": "https://example.org/TrainingRunKilled.md",
        "page_url": "https://vitals.example/#/runs/r1",
    },
    "generatorURL": "http://prometheus/graph",
}
LOST = {
    "status": "resolved",
    "labels": {"alertname": "GPULost", "severity": "critical"},
    "annotations": {
        "summary": "GPU 0 on n1 does <not> answer.",
        "description": "It is lost.",
        "runbook_url": "https://example.org/GPULost.md",
    },
    "generatorURL": "http://prometheus/graph",
}


def rendered(name: str, folder: Path, *alerts: Mapping[str, object], as_html: bool = False) -> str:
    data = folder / "data.json"
    status = "firing" if any(each["status"] == "firing" for each in alerts) else "resolved"
    data.write_text(json.dumps({"status": status, "alerts": alerts, "receiver": "page"}))
    command = [
        "amtool",
        "template",
        "render",
        f"--template.glob={TEMPLATES}/*.tmpl",
        f"--template.data={data}",
    ]
    command += ["--template.type=html"] * as_html + [f'--template.text={{{{ template "{name}" . }}}}']
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_title_says_what_happened_and_how_much(tmp_path: Path) -> None:
    assert rendered("trainvitals.title", tmp_path, KILLED) == "Run r1 was killed."
    assert rendered("trainvitals.title", tmp_path, KILLED, LOST) == "Run r1 was killed. (2 alerts)"
    assert rendered("trainvitals.title", tmp_path, LOST) == "Over: GPU 0 on n1 does <not> answer."


def test_a_link_leads_to_the_runs_page_else_to_the_runbook(tmp_path: Path) -> None:
    assert rendered("trainvitals.link", tmp_path, KILLED) == "https://vitals.example/#/runs/r1"
    assert rendered("trainvitals.link", tmp_path, LOST) == "https://example.org/GPULost.md"


def test_a_text_has_all_alerts_with_their_links(tmp_path: Path) -> None:
    assert rendered("trainvitals.text", tmp_path, KILLED, LOST) == (
        "Run r1 was killed. It died 5s ago.\n"
        "Page: https://vitals.example/#/runs/r1\n"
        "Runbook: https://example.org/TrainingRunKilled.md\n"
        "\n"
        "Over: GPU 0 on n1 does <not> answer. It is lost.\n"
        "Runbook: https://example.org/GPULost.md"
    )


def test_slack_gets_its_own_marks(tmp_path: Path) -> None:
    assert rendered("trainvitals.slack", tmp_path, KILLED, LOST) == (
        "*critical:* Run r1 was killed.\n"
        "It died 5s ago.\n"
        "<https://vitals.example/#/runs/r1|Page of the run>  <https://example.org/TrainingRunKilled.md|Runbook>\n"
        ":white_check_mark: *Over:* GPU 0 on n1 does <not> answer.\n"
        "It is lost.\n"
        "<https://example.org/GPULost.md|Runbook>"
    )


def test_a_mail_escapes_what_an_alert_says(tmp_path: Path) -> None:
    mail = rendered("trainvitals.html", tmp_path, KILLED, LOST, as_html=True)
    assert "<b>Run r1 was killed.</b>" in mail
    assert "does &lt;not&gt; answer" in mail
    assert mail.count('<a href="https://example.org/') == 2
