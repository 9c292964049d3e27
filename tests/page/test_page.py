"""The page of a real service, while real trainings run, die and are ended."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.exporters.trainers import Trainer, small_recording
from tests.page.browser import wait_for
from tests.page.conftest import NewTab
from tests.trainer_hooks.processes import wait_until
from tests.trainvitals.test_serve import Service
from tests.trainvitals.test_tls import made_pair
from trainer_hooks.recording import FINISHED

TRAIN = "exec('import time\\nfor i in range(10**6): steps(1, loss=2.0 + 1 / (i + 1)); time.sleep(0.05)')"


def headed(page: Page, name: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def step_of(page: Page) -> int:
    text = page.locator(".head .progress .sub").inner_text()
    return int(re.sub(r"\D", "", text.partition(" of ")[0]))


def wait_for_steps(page: Page) -> None:
    """Until it tells of more than now."""
    before = step_of(page)
    wait_until(lambda: step_of(page) > before)


@pytest.mark.long
def test_without_runs_it_says_how_to_record_one(service: Service, new_tab: NewTab, tmp_path: Path) -> None:
    tab = new_tab(service.url)
    page = tab.open()

    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    expect(page.locator("pre")).to_contain_text("with monitor.step():")
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.do("steps(3)")
        expect(page.get_by_role("link", name="a-run")).to_be_visible()
    assert tab.errors == []


def test_a_run_is_followed_while_it_trains_and_its_kill_is_told_within_ten_seconds(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    with Trainer(tmp_path / "recordings") as trainer, Trainer(tmp_path / "recordings", "other") as other:
        trainer.do("monitor.expect(steps=1000)")
        other.do("steps(3)")
        trainer.begin(TRAIN)
        overview = new_tab(service.url)
        expect(overview.open().get_by_role("link", name="a-run")).to_be_visible()
        tab = new_tab(service.url)
        page = tab.open_run("a-run")
        headed(page, "a-run")
        expect(page.locator("#live")).to_have_text("Live")
        points = "document.querySelector('[data-chart=loss] .plot').data[0].x.length"
        wait_for(page, f"{points} > {page.evaluate(points)} + 10")
        wait_for_steps(page)
        expect(overview.page.locator("tbody tr").filter(has_text="a-run")).to_contain_text("running")
        assert "trouble" not in overview.page.title()

        killed_at = time.monotonic()
        trainer.kill()
        alarm = overview.page.get_by_label("Runs in trouble").get_by_role("link", name="a-run")
        expect(alarm).to_contain_text("was killed")
        expect(page.locator(".panel.is-killed")).to_contain_text("Killed (SIGKILL)")
        seconds = time.monotonic() - killed_at

        expect(overview.page.locator("tbody tr.is-killed")).to_contain_text("SIGKILL")
        assert overview.page.title().startswith("(1!) ")
        expect(page.locator("link[rel=icon]")).to_have_attribute("href", "assets/icon-alarm.svg")
        expect(page.get_by_label("Events")).to_contain_text("running → killed")
    print(f"a kill is on the page after {seconds:.1f} s")
    assert seconds < 10
    assert tab.errors == overview.errors == []


@pytest.mark.long
def test_a_run_whose_page_is_open_before_it_begins_appears_by_itself(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    page = new_tab(service.url).open("#/runs/a-run")
    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()
    with page.expect_response(lambda answer: answer.status == 503):
        page.route("**/api/v1/runs/a-run", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    page.unroute("**/api/v1/runs/a-run")
    expect(page.get_by_role("heading", name="There is no such run")).to_be_visible()

    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        headed(page, "a-run")
        expect(page.locator("#live")).to_have_text("Live")
        wait_for_steps(page)


@pytest.mark.long
def test_a_run_beside_one_that_was_deleted_is_shown_alone(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        tab = new_tab(service.url)
        expect(tab.open().get_by_role("link", name="a-run")).to_be_visible()
        page = tab.open_run("a-run?with=deleted")
        expect(page.locator("#live")).to_have_text("Live")
        wait_for_steps(page)


@pytest.mark.long
def test_what_the_mouse_rests_on_stays_readable_while_the_run_goes_on(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        page = new_tab(service.url).open_run("a-run")
        points = "document.querySelector('[data-chart=loss] .plot').data[0].x.length"
        wait_for(page, f"{points} > 20")
        page.locator("[data-chart=loss] .nsewdrag").first.hover()
        told = page.locator("[data-chart=loss] .hoverlayer .legend")
        told.wait_for()
        drawn, step = page.evaluate(points), step_of(page)

        wait_until(lambda: step_of(page) > step + 40)
        assert told.is_visible()
        assert page.evaluate(points) == drawn

        page.mouse.move(0, 0)
        wait_for(page, f"{points} > {drawn} + 40")


@pytest.mark.long
def test_it_comes_back_by_itself_when_the_service_does(
    services: list[Service], new_tab: NewTab, tmp_path: Path, address: str
) -> None:
    options = ("--dir", str(tmp_path / "recordings"))
    services.append(first := Service(tmp_path, *options, listen=address).wait_until_ready())
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        page = new_tab(first.url).open_run("a-run")
        expect(page.locator("#live")).to_have_text("Live")
        first.terminate()

        expect(page.locator("#connection")).to_contain_text("Disconnected. Trying again")
        expect(page.locator("body")).to_have_class(re.compile("is-stale"))
        before = step_of(page)
        services.append(Service(tmp_path, *options, listen=address))
        expect(page.locator("#live")).to_have_text("Live", timeout=30_000)

        expect(page.locator("#connection")).to_be_hidden()
        expect(page.locator("body")).not_to_have_class(re.compile("is-stale"))
        wait_until(lambda: step_of(page) > before + 5)


@pytest.mark.long
def test_a_service_that_does_not_answer_is_told_and_asked_again(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    tab = new_tab(service.url)
    tab.page.route("**/api/v1/**", lambda route: route.abort())
    page = tab.open()

    expect(page.get_by_role("heading", name="The service cannot be reached")).to_be_visible()
    page.unroute("**/api/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()


@pytest.mark.long
def test_older_runs_are_loaded_when_they_are_asked_for(
    services: list[Service], new_tab: NewTab, tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    with Trainer(recordings, "the-oldest") as living:
        living.do("steps(3)")
        # All at one time: the stream adds none that comes behind the last one shown.
        start_ns = time.monotonic_ns()
        for number in range(60):
            recorder = small_recording(recordings, f"run-{number:02}", start_ns=start_ns)
            recorder.close(FINISHED, time.monotonic_ns())
        services.append(service := Service(tmp_path, "--dir", str(recordings)).wait_until_ready())
        wait_until(lambda: len(service.client.get("/api/v1/runs").json()["runs"]) == 61)
        page = new_tab(service.url).open()
        rows = page.locator("tbody tr")

        expect(page.locator("#live")).to_have_text("Live")
        expect(rows).to_have_count(51)
        expect(rows.first).to_contain_text("the-oldest")
        expect(page.get_by_text("51+ shown, 1 running")).to_be_visible()
        page.get_by_role("button", name="Load more").click()

        expect(rows).to_have_count(61)
        expect(page.get_by_role("button", name="Load more")).to_be_hidden()


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token", exact=True).fill(token)
    page.get_by_role("dialog").get_by_role("button", name="Log in").click()


@pytest.mark.long
def test_a_run_is_aborted_by_who_has_the_local_token(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        page = new_tab(service.url).open_run("a-run")

        page.get_by_role("button", name="Abort …").click()
        expect(page.get_by_role("dialog")).to_contain_text("SIGTERM is sent")
        page.get_by_role("button", name="Abort", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text("local-token")
        log_in(page, "tvl_" + "x" * 20)
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("not known")
        log_in(page, (tmp_path / "local-token").read_text().strip())
        expect(page.get_by_role("dialog")).to_contain_text("Abort this run?")
        page.get_by_role("button", name="Abort", exact=True).click()

        expect(page.locator(".head .badge")).to_have_text("aborted")
        expect(page.get_by_role("button", name="local · admin")).to_be_visible()


@pytest.mark.long
def test_a_dead_run_is_acknowledged_and_is_no_alarm_from_then_on(
    service: Service, new_tab: NewTab, tmp_path: Path
) -> None:
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.do("steps(3)")
        trainer.kill()
    page = new_tab(service.url).open()
    page.get_by_role("button", name="Log in").click()
    log_in(page, (tmp_path / "local-token").read_text().strip())
    page.get_by_label("Runs in trouble").get_by_role("link", name="a-run").click()

    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_role("dialog").get_by_role("button", name="Acknowledge").click()

    expect(page.locator(".panel")).to_have_count(0)
    page.get_by_role("link", name="All runs").click()
    expect(page.get_by_label("Runs in trouble").get_by_role("link")).to_have_count(0)


@pytest.mark.long
def test_a_stranger_has_to_log_in_where_tokens_are_needed_and_follows_the_run_over_tls(
    services: list[Service], new_tab: NewTab, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.json"
    create = ["token", "create", "a-viewer", "--role", "viewer", "--token-file", str(tokens)]
    create += ["--state", str(tmp_path / "history.db")]
    made = subprocess.run(
        [sys.executable, "-m", "trainvitals", *create], capture_output=True, text=True, check=True, timeout=60
    )
    token = next(word for word in made.stdout.split() if len(word) > 20)
    certificate, key = made_pair(tmp_path)
    options = ["--dir", str(tmp_path / "recordings"), "--token-file", str(tokens)]
    options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    services.append(service := Service(tmp_path, *options).wait_until_ready())
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        page = new_tab(service.url).open()
        expect(page.get_by_role("heading", name="You are not permitted to see this")).to_be_visible()

        page.get_by_role("main").get_by_role("button", name="Log in").click()
        log_in(page, token)

        page.get_by_role("link", name="a-run").click()
        headed(page, "a-run")
        (cookie,) = page.context.cookies()
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        expect(page.locator("#live")).to_have_text("Live")
        wait_for_steps(page)
        page.get_by_role("button", name="a-viewer · viewer").click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="You are not permitted to see this")).to_be_visible()


@pytest.mark.long
def test_a_full_disk_is_told_and_made_up_for(service: Service, new_tab: NewTab, tmp_path: Path) -> None:
    pid, whole = service.process.pid, resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    with Trainer(tmp_path / "recordings") as trainer:
        trainer.begin(TRAIN)
        page = new_tab(service.url).open_run("a-run")
        headed(page, "a-run")
        expect(page.locator("#problems")).to_be_hidden()

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, whole[1]))
        expect(page.locator("#problems")).to_contain_text("history")
        wait_for_steps(page)
        assert service.value("trainvitals_collector_success", collector="history") == 0

        resource.prlimit(pid, resource.RLIMIT_FSIZE, whole)
        expect(page.locator("#problems")).to_be_hidden()
        trainer.kill()
    wait_until(lambda: service.run("a-run")["state"] == "killed")
    recorded = service.run("a-run")["step"]

    def kept() -> int:
        curves = service.client.get("/api/v1/runs/a-run/series?name=loss&max_points=5000").json()
        curve = curves["series"][0]
        return len(curve["points"]["step"])

    wait_until(lambda: kept() == recorded)
    assert service.value("trainvitals_history_lost_steps_total") == 0
