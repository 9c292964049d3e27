"""`trainvitals dashboards`: the dashboards with figures of your own, as files, in Grafana, or as pictures."""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import trainer_hooks
from alerts.thresholds import Thresholds
from dashboards import build as made
from dashboards.grafana.panels import Json
from dashboards.grafana.push import Grafana, GrafanaError, push
from exporters import generated
from trainvitals import options
from trainvitals.alerts import with_figures
from trainvitals.child import ChildError
from trainvitals.cli import install_command

FOLDER = "trainvitals"

# A crash must not show the token, which is among the variables there.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_show_locals=False
)

Figures = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="A figure of your own, as the alerts have it; several times."
    ),
]


class Theme(enum.StrEnum):
    """Grafana's two."""

    dark = "dark"
    light = "light"


class Shown(NamedTuple):
    """A Prometheus, and the time of it that is drawn, in unix seconds."""

    url: str
    start: float
    end: float


@app.callback()
def _of_several_commands() -> None:
    """The dashboards with figures of your own, as files, in Grafana, or as pictures."""


@app.command("build")
def build_files(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")],
    figures: Figures = None,
) -> None:
    """Write the dashboards, a JSON file each, for Grafana's import or its provisioning from files.

    Limits on panels are the figures of alerts/thresholds.py: give those you gave `trainvitals alerts build`.
    Other files that lie there are left alone.
    """
    try:
        texts = made.render(with_figures(Thresholds(), figures or []))
        generated.write(output, texts, pattern=None)
    except ValueError as error:
        options.stop("dashboards build", str(error))
    except OSError as error:
        options.stop("dashboards build", f"{error.filename}: {error.strerror}")
    for name in texts:
        print(output / name)


@app.command("push")
def push_to_grafana(
    url: Annotated[str, typer.Option(metavar="URL", help="Where Grafana is, its sub-path included.")],
    token: Annotated[
        str,
        typer.Option(
            envvar="GRAFANA_TOKEN",
            metavar="TOKEN",
            help="Of a service account with the role Editor. In the variable others on this machine "
            "cannot read it.",
        ),
    ],
    folder: Annotated[
        str, typer.Option(metavar="NAME", help="Grafana's folder; made if there is none.")
    ] = FOLDER,
    figures: Figures = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Write the dashboards into a Grafana; those that are the same already are not touched.

    What was changed in Grafana is overwritten. Where its certificate is of an authority of your own,
    SSL_CERT_FILE names that one's.
    """
    try:
        documents = made.documents(with_figures(Thresholds(), figures or []))
        with Grafana(url, token) as grafana:
            message = f"trainvitals {trainer_hooks.__version__} dashboards push"
            for outcome, where, title in push(grafana, documents, folder, message, dry_run=dry_run):
                will = "would be " if dry_run and outcome != "unchanged" else ""
                print(f"{will + outcome:<{len('would be ') * dry_run + len('unchanged')}} {where} {title}")
    except (ValueError, GrafanaError) as error:
        options.stop("dashboards push", str(error))


@app.command()
def preview(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")
    ] = Path("dashboard-pictures"),
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The Prometheus to ask. Default: one with recorded scenarios."),
    ] = None,
    theme: Annotated[list[Theme] | None, typer.Option(help="One of the two; default: both.")] = None,
    width: Annotated[
        list[int] | None,
        typer.Option(
            min=400, max=8000, metavar="PIXELS", help="Of the page; several times. Default: 1600 and 1000."
        ),
    ] = None,
    dashboard: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="Only this one; several times. Default: all.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The run to choose; several times.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="How much of the past.")] = 6.0,
    open_rows: Annotated[bool, typer.Option("--open-rows", help="Draw rows that are closed too.")] = False,
    figures: Figures = None,
) -> None:
    """Draw the dashboards as Grafana would, a PNG each, theme and width, over data of a Prometheus.

    It takes Node.js, npm and Chromium, and the first time a minute for Grafana's components; without
    --prometheus also Prometheus, and the first time one to three minutes for the scenarios. Exit status 1
    where a panel has an error.
    """
    if importlib.util.find_spec("playwright") is None:
        options.stop(
            "dashboards preview", f"playwright is not installed: in a checkout, {install_command('dev')}"
        )
    from dashboards.preview.bundle import bundle
    from dashboards.preview.picture import PreviewError
    from dashboards.preview.render import THEMES, WIDTHS, render
    from trainvitals.scenarios.making import MakingError

    try:
        chosen = _chosen(made.documents(with_figures(Thresholds(), figures or [])), dashboard or [])
        output.mkdir(parents=True, exist_ok=True)
        bundle()  # before the scenarios, which take longer
        with _shown(prometheus, hours) as (url, start, end):
            choices = {"run": run} if run else {}
            pictures = render(
                *(chosen, url, start, end, output),
                themes=theme or THEMES,
                widths=width or WIDTHS,
                choices=choices,
                open_rows=open_rows,
            )
    except (ValueError, ChildError, MakingError, PreviewError) as error:
        options.stop("dashboards preview", str(error))
    except OSError as error:
        options.stop("dashboards preview", f"{error.filename}: {error.strerror}")
    for picture in pictures:
        empty = [panel.title for panel in picture.panels if panel.empty]
        print(picture.path, *([f"(no data: {', '.join(empty)})"] if empty else []))
        for line in picture.all_errors():
            print(f"{picture.path}: {line}", file=sys.stderr)
    if any(picture.all_errors() for picture in pictures):
        raise typer.Exit(1)


def _chosen(documents: Sequence[Json], uids: Sequence[str]) -> list[Json]:
    """Those with these uids, or all; raises ValueError for one that is not there."""
    known = {document["uid"]: document for document in documents}
    for uid in uids:
        if uid not in known:
            raise ValueError(f"--dashboard {uid}: there is none of that uid; there are {', '.join(known)}")
    return [known[uid] for uid in uids or known]


@contextlib.contextmanager
def _shown(prometheus: str | None, hours: float) -> Iterator[Shown]:
    """The last hours of this Prometheus, or of one with the scenarios, which are kept for the next time.

    Raises ChildError and MakingError where that cannot be made.
    """
    if prometheus is not None:
        now = time.time()
        yield Shown(prometheus, now - hours * 3600, now)
        return
    from dashboards.preview.bundle import cache
    from trainvitals.scenarios.served import serve_scenarios

    with serve_scenarios(cache() / "scenarios") as scenarios:
        yield Shown(scenarios.url, max(scenarios.start, scenarios.end - hours * 3600), scenarios.end)
