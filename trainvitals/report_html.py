"""A report as one HTML file that needs nothing else: words and tables, and charts that its script draws."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import trainer_hooks
from exporters.api.models import Curve
from exporters.api.page import PLOTLY, asset, style_of_maps
from exporters.kubeflow_status import INFO
from trainvitals import report_findings as findings
from trainvitals.report_data import MOST_ALERTS, MOST_EVENTS, MOST_GPUS, MOST_RANKS, RunData
from trainvitals.report_findings import Figure, Incident, moment
from trainvitals.wording import UNKNOWN, duration, percent

TITLE = "Training report"
_IMPORT = re.compile(r"^import .*$", re.MULTILINE)
_AXES = {"time": "Time", "step": "Steps", "tokens": "Tokens"}
_DIGITS = 7


class Chart(NamedTuple):
    """What one set of charts is drawn of: the element's id, the data of `drawRun`, and along what."""

    id: str
    data: dict[str, Any]
    axis: str


def page(
    runs: Sequence[RunData],
    compared: Sequence[tuple[str, list[Curve]]],
    source: str,
    *,
    made_at: float,
) -> str:
    """The whole file. `compared` are curves of the same runs along their steps, where there are several."""
    charts = [Chart(f"charts-{index}", _data_of(data), "time") for index, data in enumerate(runs)]
    body = []
    if len(runs) > 1:
        body.append(_comparison(runs))
        charts.insert(0, Chart("charts-compared", _data_of_all(runs[0], compared), "step"))
    body += [_section(data, f"run-{index}", f"charts-{index}") for index, data in enumerate(runs)]
    made = time.strftime("%d %B %Y, %H:%M %Z", time.localtime(made_at))
    main = (
        '<header class="masthead">'
        f"<h1>{TITLE}</h1><p>{escape(made)}</p></header>"
        + "".join(body)
        + f"<footer>Made by trainvitals {trainer_hooks.__version__} from {escape(source)}. "
        "Times are those of the machine it was made on.</footer>"
    )
    return _document(", ".join(data.run.run for data in runs), main, charts)


def _document(title: str, main: str, charts: Sequence[Chart]) -> str:
    plotly_js = _script(asset(PLOTLY).content.decode())
    drawing = _script("\n".join([_ours("format.js"), _ours("charts.js"), _own("report.js")]))
    style = "\n".join([_ours("page.css"), _own("report.css")])
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(plotly_js)} {_hash(drawing)}",
            f"style-src {_hash(style)}",
            *("img-src data:", "base-uri 'none'", "form-action 'none'"),
        )
    )
    data = json.dumps([chart._asdict() for chart in charts], separators=(",", ":")).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark" id="{style_of_maps()}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)} · {TITLE.lower()}</title>\n"
        f'<style id="plotly.js-style-global" class="no-inline-styles">{style}</style>\n'
        f"</head>\n<body>\n<main>{main}</main>\n"
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>{plotly_js}</script>\n"
        f'<script type="module">{drawing}</script>\n'
        "</body>\n</html>\n"
    )


def _section(data: RunData, id: str, charts: str) -> str:
    run = data.run
    trouble = findings.trouble(run)
    reason = panel = ""
    if trouble is not None:
        panel = f'<div class="panel is-{run.state}"><span class="strong">{escape(trouble)}</span></div>'
    elif run.reason:
        reason = f'<span class="reason">{escape(run.reason)}</span>'
    if data.is_past:
        reason += f'<span class="reason">as last seen at {moment(data.now)}</span>'
    parts = [
        f'<div class="head is-{run.state}"><div class="name"><h2><bdi>{escape(run.run)}</bdi></h2>'
        f'<span class="badge is-{run.state}">{run.state}</span>{reason}</div>{panel}'
        f"{_progress(data)}{_figures(findings.figures(data))}</div>",
        _card("What went wrong", _incidents(findings.incidents(data)) + _cut_incidents(data)),
        _tools(charts, _AXES, "time"),
        f'<div class="charts" id="{charts}"></div>',
        _cut(MOST_RANKS, len(run.ranks), "ranks' step times"),
        f'<div class="pair">{_phases(data)}{_cost(data)}</div>',
        _environment(data),
        _ranks(data),
        _gpus(data),
    ]
    return f'<section class="run" id="{id}" aria-label="{escape(run.run)}">{"".join(parts)}</section>'


def _progress(data: RunData) -> str:
    ratio = data.run.progress_ratio
    if ratio is None:
        return ""
    eta = f", {duration(data.run.eta_seconds)} left" if data.run.eta_seconds is not None else ""
    return (
        f'<div class="progress"><progress max="1" value="{ratio:.4f}" aria-label="Progress"></progress>'
        f'<div class="numbers"><span>{percent(ratio)}{eta}</span></div></div>'
    )


def _figures(figures: Iterable[Figure]) -> str:
    return f'<dl class="figures">{"".join(map(_figure, figures))}</dl>'


def _figure(figure: Figure) -> str:
    more = f"<dd>{escape(figure.more)}</dd>" if figure.more else ""
    return f"<div><dt>{escape(figure.name)}</dt><dd>{escape(figure.value)}</dd>{more}</div>"


def _incidents(incidents: Sequence[Incident]) -> str:
    if not any(each.is_bad for each in incidents):
        well = '<p class="well">Nothing that is known of.</p>'
        if not incidents:
            return well
        return well + _list(incidents)
    return _list(incidents)


def _list(incidents: Sequence[Incident]) -> str:
    items = "".join(
        f"<li{' class=is-bad' if each.is_bad else ''}><time>{moment(each.at)}</time>"
        f"<span>{escape(each.text)}</span></li>"
        for each in incidents
    )
    return f'<ol class="happened">{items}</ol>'


def _phases(data: RunData) -> str:
    shares = findings.phase_shares(data)
    if not shares:
        return ""
    bars, place = [], 0.0
    for phase, share in shares:
        bars.append(f'<rect x="{place:.3f}" width="{100 * share:.3f}" height="1" data-phase="{phase}"/>')
        place += 100 * share
    legend = "".join(
        f'<li><svg viewBox="0 0 1 1"><rect width="1" height="1" data-phase="{phase}"/></svg>'
        f"{phase} {_share(share)}</li>"
        for phase, share in shares
    )
    bar = f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'
    return _card("Where its time went", f'<div class="shares">{bar}</div><ul class="legend">{legend}</ul>')


def _share(ratio: float) -> str:
    return percent(ratio) if ratio >= 0.01 else f"{100 * ratio:.1g} %"


def _cost(data: RunData) -> str:
    if data.run.info.get("told_by") == INFO["told_by"]:
        return ""  # there is no hook in it
    cost = findings.cost(data)
    words = (
        "" if cost else '<p class="hint">Not known any more: a service tells it while it knows the run.</p>'
    )
    return _card("Cost of telemetry", words or _figures(cost))


def _environment(data: RunData) -> str:
    run = data.run
    facts = {"world size": str(run.world_size), "started": moment(run.started_at), **run.info}
    if run.ended_at is not None:
        facts["ended"] = moment(run.ended_at)
    items = "".join(
        f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd><bdi>{escape(value)}</bdi></dd></div>"
        for name, value in facts.items()
        if value
    )
    return _card("Environment", f'<dl class="facts">{items}</dl>')


def _ranks(data: RunData) -> str:
    rows = [
        [
            *(str(rank.rank), rank.node or UNKNOWN, rank.state, rank.phase),
            *(moment(rank.last_progress_at), str(rank.attempt), rank.reason or ""),
        ]
        for rank in sorted(data.run.ranks, key=lambda rank: rank.rank)
    ]
    header = ["Rank", "Node", "State", "Phase", "Last progress", "Attempt", "Reason"]
    return _card("Ranks", _table(header, rows)) if rows else ""


def _gpus(data: RunData) -> str:
    header = ["Rank", "GPU", "Mean utilization", "Most memory", "Mean power", "Highest temperature"]
    rows = findings.gpu_figures(data)
    return _card("GPUs", _table(header, rows) + _cut(MOST_GPUS, data.gpus_known, "GPUs")) if rows else ""


def _cut(most: int, known: int, what: str) -> str:
    return f'<p class="hint">Shown are {most} of {known} {what}.</p>' if known > most else ""


def _cut_incidents(data: RunData) -> str:
    return "".join(
        f'<p class="hint">The newest {most:,} {what} were looked at; there may be more.</p>'
        for what, most, count in (
            ("events", MOST_EVENTS, len(data.events)),
            ("alerts", MOST_ALERTS, len(data.alerts)),
        )
        if count >= most
    )


def _comparison(runs: Sequence[RunData]) -> str:
    names = [data.run.run for data in runs]
    links = "".join(
        f'<a href="#run-{index}"><bdi>{escape(name)}</bdi></a>' for index, name in enumerate(names)
    )
    rows = findings.comparison(runs)
    axes = {name: _AXES[name] for name in ("step", "tokens")}
    return (
        '<section class="comparison" aria-label="Comparison">'
        f'<nav class="card" aria-label="Runs">{links}</nav>'
        + _card("Side by side", _table(["", *names], rows, head=True))
        + _tools("charts-compared", axes, "step")
        + '<div class="charts" id="charts-compared"></div></section>'
    )


def _tools(charts: str, axes: dict[str, str], chosen: str) -> str:
    """The switches of charts; the script shows them."""
    radios = "".join(
        f'<label><input type="radio" name="{charts}" value="{value}"{" checked" if value == chosen else ""}>'
        f"<span>{name}</span></label>"
        for value, name in axes.items()
    )
    return (
        f'<div class="tools" data-of="{charts}" hidden>'
        f'<fieldset class="segments"><legend class="away">Axis</legend>{radios}</fieldset>'
        '<label><input type="checkbox">Log scale</label>'
        '<label>Smoothing <input type="range" min="0" max="0.98" step="0.02" value="0"></label>'
        '<button type="button" class="quiet">Show all</button></div>'
    )


def _card(title: str, content: str) -> str:
    return f'<section class="card"><h2>{title}</h2>{content}</section>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, head: bool = False) -> str:
    """With `head` the first cell of each row is its name."""
    columns = "".join(f'<th scope="col"><bdi>{escape(each)}</bdi></th>' for each in header)
    lines = []
    for row in rows:
        cells = [f"<td><bdi>{escape(each)}</bdi></td>" for each in row]
        if head:
            cells[0] = f'<th scope="row">{escape(row[0])}</th>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table class="plain"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _data_of(data: RunData) -> dict[str, Any]:
    return {
        "run": data.run.model_dump(),
        "series": _curves(data.series),
        "events": [event.model_dump() for event in reversed(data.events)],
        "alerts": [alert.model_dump() for alert in data.alerts],
        "gpus": [
            {"gpu_uuid": each.gpu.gpu_uuid, "rank": each.gpu.rank, "series": _curves(each.series)}
            for each in data.gpus
        ],
    }


def _data_of_all(first: RunData, compared: Sequence[tuple[str, list[Curve]]]) -> dict[str, Any]:
    """The curves of the first run, and beside them those of the others."""
    (_, own), *others = compared
    return {
        "run": first.run.model_dump(),
        "series": _curves(own),
        "others": [{"run": name, "series": _curves(series)} for name, series in others],
    }


def _curves(series: Iterable[Curve]) -> list[dict[str, Any]]:
    """With as many digits as anybody sees."""
    found = []
    for each in series:
        told = each.model_dump()
        for column in ("mean", "min", "max"):
            values = told["points"][column]
            told["points"][column] = [None if v is None else float(f"{v:.{_DIGITS}g}") for v in values]
        found.append(told)
    return found


def _ours(name: str) -> str:
    """A file of the page, as part of one module."""
    text = asset(name).content.decode()
    return _IMPORT.sub("", text) if name.endswith(".js") else text


def _own(name: str) -> str:
    return files("trainvitals").joinpath(name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """The same program, in which nothing ends the element it stands in."""
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", text, flags=re.IGNORECASE)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
