"""Whether what the stack's services find where they look is what they were promised."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from alerts import build
from alerts.thresholds import Thresholds, duration
from dashboards.build import render
from tests.compose.stack import LOOPBACK, Config, in_tree, in_volume, names, port

DATASOURCES = "/etc/grafana/provisioning/datasources/trainvitals.yaml"
DASHBOARDS = "/etc/grafana/provisioning/dashboards/trainvitals.yaml"
SETTINGS = "/etc/trainvitals/settings.yaml"
PROMETHEUS = "/etc/trainvitals/prometheus.yml"
SCRAPED = {"trainvitals", "node-exporter", "alertmanager", "grafana", LOOPBACK}

Services = dict[str, Config]


@functools.cache
def _rule_files() -> frozenset[str]:
    return frozenset(build.rule_files(Thresholds()))


@functools.cache
def _rendered() -> Mapping[str, Any]:
    """Every dashboard by the name of its file."""
    return {name: json.loads(text) for name, text in render(Thresholds()).items()}


def provisioning_faults(services: Services) -> list[str]:
    """A sentence for each promise that is not kept."""
    looks: tuple[Callable[[Services], list[str]], ...] = (
        *(_rules, _intervals, _links, _scrapes, _credentials, _instances, _addresses),
        *(_datasource, _dashboards, _home, _who_comes_in),
    )
    found = []
    for look in looks:
        try:
            found += look(services)
        except (KeyError, OSError) as error:
            found.append(f"{look.__name__.strip('_')}: nothing is mounted where it is looked for: {error}")
    return found


def option(service: Config, name: str) -> str:
    """What a service's command gives an option."""
    prefix = f"{name}="
    [value] = [word.removeprefix(prefix) for word in service["command"] if word.startswith(prefix)]
    return str(value)


def prometheus_file(services: Services) -> Path:
    """What the setup makes Prometheus' configuration of."""
    return in_tree(services["setup"], PROMETHEUS)


def _prometheus(services: Services) -> Any:
    return _yaml(prometheus_file(services))


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _rules(services: Services) -> list[str]:
    found = set()
    for pattern in _prometheus(services)["rule_files"]:
        here = in_tree(services["prometheus"], pattern)
        found |= {path.name for path in here.parent.glob(here.name)}
    if found != _rule_files():
        return [f"Prometheus loads {sorted(found)}, not the rules"]
    return []


def _intervals(services: Services) -> list[str]:
    config = _prometheus(services)["global"]
    [source] = _yaml(in_tree(services["grafana"], DATASOURCES))["datasources"]
    found = []
    if config["evaluation_interval"] != duration(Thresholds().evaluation_interval_seconds):
        found.append(f"rules are evaluated every {config['evaluation_interval']}")
    if config["scrape_interval"] != source["jsonData"]["timeInterval"]:
        found.append("Grafana takes another interval of scrapes than Prometheus has")
    return found


def _links(services: Services) -> list[str]:
    thresholds = Thresholds()
    found = []
    for name, base in (("trainvitals", thresholds.page_base), ("grafana", thresholds.grafana_base)):
        published = [f"http://{each['host_ip']}:{each['published']}" for each in services[name]["ports"]]
        if published != [base]:
            found.append(f"alerts link to {base}, and {name} is at {published}")
    if services["grafana"]["environment"]["GF_SERVER_ROOT_URL"] != f"{thresholds.grafana_base}/":
        found.append("Grafana takes itself to be elsewhere")
    return found


def _scrapes(services: Services) -> list[str]:
    jobs = _prometheus(services)["scrape_configs"]
    targets = {
        target.partition(":")[0]
        for job in jobs
        for group in job["static_configs"]
        for target in group["targets"]
    }
    found = [f"{name} is not scraped" for name in sorted(SCRAPED - targets)]
    if Thresholds().job not in {job["job_name"] for job in jobs}:
        found.append(f"no job is {Thresholds().job}, which the rules ask for")
    return found


def _credentials(services: Services) -> list[str]:
    """The scrape token opens the page of metrics, and the list of the nodes that registered."""
    service, prometheus = services["trainvitals"], services["prometheus"]
    token = in_volume(service, option(service, "--scrape-token-file"))
    jobs = [job for job in _prometheus(services)["scrape_configs"] if job["job_name"] == Thresholds().job]
    found = []
    for what, asked in (("metrics", jobs), ("nodes", [sd for job in jobs for sd in job["http_sd_configs"]])):
        for each in asked:
            file = each.get("authorization", {}).get("credentials_file")
            if file is None or in_volume(prometheus, file) != token:
                found.append(f"Prometheus asks for {what} without the scrape token")
    return found


def _instances(services: Services) -> list[str]:
    return [
        f"job {job['job_name']} does not have the machine's name as its instance"
        for job in _prometheus(services)["scrape_configs"]
        for group in job["static_configs"]
        if group.get("labels", {}).get("instance") != "${HOST_NAME}"
    ]


def _addresses(services: Services) -> list[str]:
    listening = {
        f"{known}:{port(name, service)}"
        for name, service in services.items()
        if name != "setup"
        for known in names(name, service)
    }
    listening.add(f"{LOOPBACK}:{port('prometheus', services['prometheus'])}")  # Prometheus scrapes itself
    files = (
        prometheus_file(services),
        in_tree(services["grafana"], DATASOURCES),
        in_tree(services["setup"], SETTINGS),
    )
    asked = {address for file in files for address in re.findall(r"[a-z0-9.-]+:\d{4}\b", file.read_text())}
    return [f"no service is {address}" for address in sorted(asked - listening)]


def _datasource(services: Services) -> list[str]:
    [source] = _yaml(in_tree(services["grafana"], DATASOURCES))["datasources"]
    found = []
    if (source["uid"], source["type"]) != ("prometheus", "prometheus"):
        found.append("Grafana's data source is another")
    for document in _rendered().values():
        # A dashboard asks the default of its type until somebody chooses another.
        asked = [each for each in document["templating"]["list"] if each["type"] == "datasource"]
        wanted = [(each["query"], each["current"]["value"]) for each in asked]
        if wanted != [(source["type"], "default")] or not source["isDefault"]:
            found.append(f"{document['uid']} does not ask Grafana's data source by itself")
    return found


def _dashboards(services: Services) -> list[str]:
    [provider] = _yaml(in_tree(services["grafana"], DASHBOARDS))["providers"]
    found = []
    if (provider["type"], provider["disableDeletion"], provider["allowUiUpdates"]) != ("file", True, False):
        found.append("the dashboards can be changed or deleted in Grafana")
    folder = in_tree(services["grafana"], provider["options"]["path"])
    loaded = {path.name for path in folder.glob("*.json") if json.loads(path.read_text())["uid"]}
    if loaded != _rendered().keys():
        found.append(f"Grafana loads {sorted(loaded)}, not the dashboards")
    return found


def _home(services: Services) -> list[str]:
    grafana = services["grafana"]
    [provider] = _yaml(in_tree(grafana, DASHBOARDS))["providers"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    there = str(home.parent) == provider["options"]["path"] and home.name in _rendered()
    return [] if there else [f"Grafana's first page {home} is none of the dashboards"]


def _who_comes_in(services: Services) -> list[str]:
    environment = services["grafana"]["environment"]
    found = []
    if environment["GF_AUTH_ANONYMOUS_ENABLED"] != "false":
        found.append("Grafana lets everybody in")
    if environment["GF_USERS_ALLOW_SIGN_UP"] != "false":
        found.append("Grafana lets everybody sign up")
    if not environment["GF_SECURITY_ADMIN_PASSWORD"]:
        found.append("Grafana's administrator has no password of yours")
    if services["trainvitals"]["command"].count("--insecure"):
        found.append("the service lets everybody read")
    return found
