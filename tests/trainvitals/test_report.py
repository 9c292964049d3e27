"""`trainvitals report`: a file that draws itself in a browser without a network."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from playwright.sync_api import Browser, BrowserContext, Page

from exporters.api.models import GpuOfRun
from exporters.history.database import Database
from tests.exporters.api.service import Service, called
from tests.exporters.kubeflow import served
from tests.exporters.trainers import Trainer
from tests.trainvitals.test_report_findings import an_event, data
from tests.trainvitals.test_run_table import NOW
from trainvitals.report import app
from trainvitals.report_data import GpuCurves
from trainvitals.report_findings import moment
from trainvitals.report_html import page

A_GPU = {"gpu_uuid": "GPU-1", "rank": 0, "first_seen_at": NOW, "last_seen_at": NOW}
EVIL = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def report(*arguments: object) -> int:
    """The command in this process; its exit status."""
    try:
        return int(app(args=[*map(str, arguments)], standalone_mode=False) or 0)
    except typer.Exit as end:
        return end.exit_code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the database, in `history.db`, of a service that has ended: runs `good`, `killed` and `broken`."""
    folder = tmp_path_factory.mktemp("report")
    service = Service(folder)
    trainers = {name: Trainer(service.directory, name) for name in ("good", "killed", "broken")}
    try:
        for name, trainer in trainers.items():
            trainer.do("monitor.expect(steps=40)")
            for loss in range(20):
                trainer.do(f"steps(1, loss={3.5 - loss / 10}); monitor.learning_rates([0.1 / {loss + 1}])")
            trainer.do("monitor.evaluated(loss=1.75, tokens=100, accuracy=0.5)")
            if name == "good":
                trainer.do("monitor.finish()")
        service.look()
        trainers["killed"].kill()
        trainers["broken"].do("monitor.fail(RuntimeError('a secret of a patient'))")
        service.look()
    finally:
        for trainer in trainers.values():
            trainer.kill()
    service.close()
    return folder


class Opened:
    """A report in a browser that has no network. `errors` are what its console complains of."""

    def __init__(self, browser: Browser, path: Path, *, scheme: str = "light", width: int = 1200) -> None:
        self.context: BrowserContext = browser.new_context(
            offline=True,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": width, "height": 900},
        )
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda line: self.errors.append(line.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]")
        self.page.locator(".js-plotly-plot").first.wait_for()

    @property
    def charts(self) -> set[str]:
        titles = self.page.locator(".chart .title").all_inner_texts()
        return set(titles)


@pytest.fixture
def opened(browser: Browser) -> Iterator[list[Opened]]:
    """Those that are put in here are closed with the test."""
    found: list[Opened] = []
    yield found
    for each in found:
        each.context.close()


@pytest.mark.long
def test_of_a_service_that_has_ended_it_draws_the_charts_without_a_network(
    folder: Path, tmp_path: Path, browser: Browser, opened: list[Opened], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "good.html"
    assert report("good", "-o", path, "--database", folder / "history.db") == 0
    assert capsys.readouterr().out == f"trainvitals report: {path}\n"

    opened.append(shown := Opened(browser, path))
    assert {"Loss", "Perplexity", "Throughput", "Phases", "Learning rate", "Step time"} <= shown.charts
    assert shown.asked == [path.as_uri()]
    assert shown.page.title() == "good · training report"
    words = shown.page.locator("main").inner_text()
    assert "from 3.5, at best 1.6" in words
    assert "Nothing that is known of." in words
    assert "tiny" in words
    shown.page.get_by_role("radio", name="Steps").check()
    shown.page.get_by_label("Log scale").check()
    shown.page.evaluate("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'))")
    assert shown.errors == []


@pytest.mark.long
def test_of_several_runs_a_running_service_knows_it_lays_their_curves_over_each_other(
    folder: Path, tmp_path: Path, browser: Browser, opened: list[Opened]
) -> None:
    path = tmp_path / "all.html"
    service = Service(folder)
    service.look()
    with served(called(service.app)) as url:
        assert report("good", "killed", "broken", "-o", path, "--url", url) == 0
    service.close()

    opened.append(shown := Opened(browser, path, scheme="dark"))
    page = shown.page
    table = page.get_by_role("region", name="Comparison").get_by_role("table")
    assert table.get_by_role("row").first.inner_text().split() == ["good", "killed", "broken"]
    assert table.get_by_role("row", name="State").inner_text().split("\t")[1:] == [
        *("finished, completed", "killed, SIGKILL", "failed, RuntimeError"),
    ]
    first = page.locator("#charts-compared .plot").first
    assert first.evaluate("plot => plot.data.map(trace => trace.name)")[:3] == ["good", "killed", "broken"]
    assert "It was killed: SIGKILL." in page.locator("#run-1").inner_text()
    trouble = page.locator("#run-2").inner_text()
    assert re.search(r"RuntimeError on rank 0, at step 20\.", trouble)
    shares = page.locator("#run-2 .shares rect")
    assert shares.evaluate_all("all => all.every(each => each.getAttribute('fill').startsWith('#'))")
    assert "patient" not in path.read_text()
    assert "Time in the hook" in trouble
    assert shown.errors == []


@pytest.mark.long
def test_on_a_phone_nothing_is_wider_than_the_window(
    folder: Path, tmp_path: Path, browser: Browser, opened: list[Opened]
) -> None:
    path = tmp_path / "all.html"
    assert report("good", "killed", "-o", path, "--database", folder / "history.db") == 0

    opened.append(shown := Opened(browser, path, width=390))
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.long
def test_what_a_run_says_is_text(
    folder: Path, tmp_path: Path, browser: Browser, opened: list[Opened]
) -> None:
    database = Database(tmp_path / "history.db")
    with sqlite3.connect(folder / "history.db") as connection:
        status = connection.execute("SELECT status FROM runs WHERE run = 'killed'").fetchone()[0]
    connection.close()
    status = json.loads(status)
    name = EVIL.replace("/", "")
    status |= {"run": name, "reason": EVIL, "info": {"model": EVIL, "x": EVIL}}
    status |= {"failure": {"type": EVIL, "place": EVIL, "message": EVIL}, "state": "failed"}
    status["ranks"][0] |= {"node": EVIL, "reason": EVIL, "phase": EVIL}
    with database.write() as connection:
        connection.execute(
            "INSERT INTO runs VALUES (?, 'failed', 1e9, 1e9, 1e9, ?)", (name, json.dumps(status))
        )
        connection.execute(
            "INSERT INTO events (run, at, kind, rank, attempt, step, fields) VALUES (?, 1e9, ?, 0, 1, 5, ?)",
            (name, "exception", json.dumps({"type": EVIL, "place": EVIL})),
        )
    database.close()
    path = tmp_path / "evil.html"
    assert report(name, "-o", path, "--database", tmp_path / "history.db") == 0

    text = path.read_text()
    assert "<img" not in text.partition("<script")[0]
    assert text.count("</script>") == 3
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda line: errors.append(line.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn]")
    assert page.title().startswith("<script>")
    assert page.locator("img").count() == 0
    assert EVIL in page.locator("main").inner_text()
    assert errors == []
    context.close()


def test_a_file_is_written_where_a_link_leads_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (link := tmp_path / "link.html").symlink_to(target := tmp_path / "there" / "report.html")
    for _ in range(2):
        assert report("good", "-o", link, "--database", folder / "history.db") == 0
        assert link.is_symlink()
        assert target.read_text().startswith("<!doctype html>")
        target.write_text("an older one")


def test_what_is_no_file_is_written_and_not_replaced(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text)
        assert report("good", "-o", pipe, "--database", folder / "history.db") == 0
        assert read.result(60).endswith("</html>\n")

    assert pipe.is_fifo()
    assert capsys.readouterr().out == ""


def test_no_advice_is_given_that_does_not_help(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(folder)
    with served(called(service.app)) as url:
        assert report("none", "-o", tmp_path / "none.html", "--url", url) == 1
    service.close()

    assert "no run 'none'" in (said := capsys.readouterr().err)
    assert "--database" not in said


def test_a_run_that_lived_when_it_was_last_seen_is_told_as_of_then() -> None:
    known = replace(data(state="running", ended_at=None, progress_ratio=0.5), is_past=True)
    text = page([known], [], "x.db", made_at=NOW + 1e6)

    assert f"as last seen at {moment(NOW)}" in text
    assert "<dt>Time</dt><dd>1 h</dd>" in text
    assert "running, as last seen at" in page([known, known], [("a", []), ("b", [])], "x.db", made_at=NOW)


def test_what_is_left_out_is_said() -> None:
    event = an_event("checkpoint", NOW)
    gpu = GpuCurves(GpuOfRun.model_validate(A_GPU), [])
    known = replace(data(events=[event] * 5000), gpus=[gpu] * 16, gpus_known=24)
    text = page([known], [], "x.db", made_at=NOW)

    assert "The newest 5,000 events were looked at; there may be more." in text
    assert "Shown are 16 of 24 GPUs." in text
    assert "Shown are" not in page([data()], [], "x.db", made_at=NOW)


def test_of_a_run_without_a_hook_there_is_no_cost_of_it() -> None:
    assert "Cost of telemetry" in page([data()], [], "x.db", made_at=NOW)
    assert "Cost of telemetry" not in page([data(info={"told_by": "kubeflow"})], [], "x.db", made_at=NOW)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none", "--database", "{folder}/history.db"], "no run 'none'; known are: "),
        (["good", "--database", "{folder}/missing.db"], "there is no {folder}/missing.db"),
        (["good", "--url", "http://127.0.0.1:1"], "without a service, --database PATH reads what it kept"),
        (
            ["good", "--database", "{folder}/history.db", "-o", "{folder}/none/x.html"],
            "cannot be written: No such",
        ),
        ([f"run-{number}" for number in range(9)], "9 runs are too many for one report; give it 8 at most"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_sentence(
    folder: Path, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(*(each.format(folder=folder) for each in arguments)) == 1

    assert problem.format(folder=folder) in capsys.readouterr().err
    assert not Path("report.html").exists()
