"""The settings file of `trainvitals alerts config`: who is told, on which way, and where their secrets lie.

    slack_url_file: /etc/alertmanager/secrets/slack_url
    page:     [{pagerduty_key_file: /etc/alertmanager/secrets/pagerduty_key}, {slack: "#training"}]
    hardware: [{slack: "#gpu-hardware"}]
    ticket:   [{slack: "#training"}]
    digest:   [{email: ml-team@example.org}]
    smtp:     {smarthost: "mail.example.org:587", from: alerts@example.org}

A secret stands in a file that Alertmanager reads, never here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alerts.alertmanager import WAYS, Routing

_TITLE = '{{ template "trainvitals.title" . }}'
_LINK = '{{ template "trainvitals.link" . }}'


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Smtp(_Settings):
    """The mail server, HOST:PORT, and who sends; a password only as a file."""

    smarthost: str
    sender: str = Field(alias="from")
    username: str | None = None
    password_file: str | None = None


class Told(_Settings):
    """One who is told: exactly one of these."""

    pagerduty_key_file: str | None = None
    slack: str | None = None
    email: str | None = None
    webhook: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Told:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"give exactly one of {', '.join(Told.model_fields)}")
        return self

    def config(self) -> tuple[str, dict[str, Any]]:
        """Under which of Alertmanager's keys it stands, and how."""
        if self.pagerduty_key_file:
            return "pagerduty_configs", {
                "routing_key_file": self.pagerduty_key_file,
                "severity": "{{ .CommonLabels.severity }}",
                "description": _TITLE,
                "client": "trainvitals",
                "client_url": _LINK,
                "details": {"alerts": '{{ template "trainvitals.text" . }}'},
            }
        if self.slack:
            return "slack_configs", {
                "channel": self.slack,
                "send_resolved": True,
                "title": _TITLE,
                "title_link": _LINK,
                "text": '{{ template "trainvitals.slack" . }}',
                "fallback": _TITLE,
            }
        if self.email:
            return "email_configs", {
                "to": self.email,
                "send_resolved": True,
                "headers": {"Subject": _TITLE},
                "html": '{{ template "trainvitals.html" . }}',
                "text": '{{ template "trainvitals.text" . }}',
            }
        return "webhook_configs", {"url": self.webhook, "send_resolved": True}


class Settings(_Settings):
    """The whole file; what is left out is as in the configuration that is shipped."""

    service_url: str = Routing().webhook_url
    service_token_file: str = Routing().token_file
    templates: str = "/etc/alertmanager/trainvitals.tmpl"
    slack_url_file: str | None = None
    smtp: Smtp | None = None
    page: list[Told] = []
    hardware: list[Told] = []
    ticket: list[Told] = []
    digest: list[Told] = []
    deadman_url: str | None = None

    @model_validator(mode="after")
    def _can_be_reached(self) -> Settings:
        told = [each for way in WAYS for each in getattr(self, way)]
        if any(each.slack for each in told) and not self.slack_url_file:
            raise ValueError("slack needs slack_url_file, the file with the URL of Slack's incoming webhook")
        if any(each.email for each in told) and not self.smtp:
            raise ValueError("email needs smtp, with smarthost and from")
        return self

    def routing(self) -> Routing:
        receivers: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for way in WAYS:
            for told in getattr(self, way):
                kind, config = told.config()
                receivers.setdefault(way, {}).setdefault(kind, []).append(config)
        return Routing(
            webhook_url=self.service_url,
            token_file=self.service_token_file,
            receivers=receivers,
            globals=self._globals(),
            deadman_url=self.deadman_url,
            templates=self.templates,
        )

    def _globals(self) -> dict[str, Any]:
        smtp = self.smtp
        known = {
            "slack_api_url_file": self.slack_url_file,
            "smtp_smarthost": smtp and smtp.smarthost,
            "smtp_from": smtp and smtp.sender,
            "smtp_auth_username": smtp and smtp.username,
            "smtp_auth_password_file": smtp and smtp.password_file,
        }
        return {name: value for name, value in known.items() if value}


def read_settings(path: Path) -> Settings:
    """Raises OSError, or ValueError with a sentence that says what is wrong and where."""
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Settings.model_validate({} if read is None else read)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # its own text quotes the line
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is no YAML{line}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_sentences(error))}") from None


def _sentences(error: ValidationError) -> list[str]:
    """One for each fault; an input is not quoted, since it may be a secret that was put here."""
    told = []
    for fault in error.errors(include_input=False, include_url=False):
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            told.append(f"{where} is not known here (a secret is given as a file, NAME_file)")
        else:
            said = fault["msg"].removeprefix("Value error, ")
            told.append(f"{where}: {said}" if where else said)
    return told
