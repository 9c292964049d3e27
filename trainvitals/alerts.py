"""`trainvitals alerts`: alert rules with figures of your own, who is told of them, and a drill of both."""

from __future__ import annotations

import enum
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from alerts import build as rules
from alerts.alertmanager import TEMPLATES
from alerts.settings import read_settings
from alerts.thresholds import Thresholds
from exporters import generated
from trainvitals import options

_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Format(enum.StrEnum):
    """Who loads the rules: Prometheus itself, or its operator on Kubernetes."""

    prometheus = "prometheus"
    prometheusrule = "prometheusrule"


@app.callback()
def _of_several_commands() -> None:
    """Alert rules with figures of your own, and the configuration of who is told."""


@app.command()
def build(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")],
    set: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A figure of your own; may be given several times."),
    ] = None,
    format: Annotated[Format, typer.Option(help="Who loads them.")] = Format.prometheus,
) -> None:
    """Write the rules, a file a group; other YAML files that lie there are left alone.

    Figures are those of alerts/thresholds.py, a time in seconds, minutes, hours or days: stall_minutes=20.
    """
    try:
        thresholds = with_figures(Thresholds(), set or ())
        texts = (
            rules.manifests(thresholds) if format is Format.prometheusrule else rules.rule_files(thresholds)
        )
        generated.write(output, texts, pattern=None)
    except ValueError as error:
        options.stop("alerts build", str(error))
    except OSError as error:
        options.stop("alerts build", f"{error.filename}: {error.strerror}")
    for name in texts:
        print(output / name)


@app.command()
def config(
    settings: Annotated[Path, typer.Argument(help="Who is told: YAML, as alerts/settings.py shows it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")],
) -> None:
    """Write alertmanager.yml and the templates of its messages.

    Put both where Alertmanager reads them; `amtool check-config` says whether it would load them.
    """
    try:
        routing = read_settings(settings).routing()
        texts = {rules.ALERTMANAGER_FILE: rules.alertmanager_file(routing)}
        texts |= {path.name: path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.tmpl")}
        generated.write(output, texts, pattern=None)
    except ValueError as error:
        options.stop("alerts config", str(error))
    except OSError as error:
        options.stop("alerts config", f"{error.filename}: {error.strerror}")
    for name in texts:
        print(output / name)


@app.command()
def drill(
    alert: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An alert; may be given several times.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every alert.")] = False,
    alertmanager: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send a marked test alert through this Alertmanager instead; of several replicas, one.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A further label of the test alert, such as the external labels of your Prometheus: "
            "cluster=a. May be given several times.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Send it even where it could hold back real alerts.")
    ] = False,
) -> None:
    """Make the condition of an alert real, on a stack of its own, and wait until somebody would be told.

    With --alertmanager nothing is provoked: the alert is sent as a test through the routes of that
    Alertmanager, which tell the receivers it has, and is taken back at the end.
    """
    from trainvitals.drill import command  # most of the time of a start, and of no use to the other commands

    command.run(alert or (), all, alertmanager, label or (), anyway)


def with_figures(thresholds: Thresholds, figures: list[str] | tuple[str, ...]) -> Thresholds:
    """These thresholds with figures like stall_minutes=20; raises ValueError with a sentence."""
    known: dict[str, type] = {name: type(value) for name, value in asdict(thresholds).items()}
    changes: dict[str, Any] = {}
    for figure in figures:
        name, separator, text = figure.partition("=")
        start, _, unit = name.rpartition("_")
        field = f"{start}_seconds" if unit in _SECONDS else name
        if not separator or field not in known:
            raise ValueError(f"--set {figure} is no NAME=VALUE of a figure; there are {', '.join(known)}")
        if known[field] is str:
            changes[field] = text
            continue
        try:
            changes[field] = known[field](float(text) * _SECONDS.get(unit, 1))
        except (ValueError, OverflowError):
            raise ValueError(f"--set {figure}: {text!r} is no number") from None
    return replace(thresholds, **changes)
