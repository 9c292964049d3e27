from __future__ import annotations

import math
import re
import shutil
import time
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from exporters.api.times import iso
from tests.exporters.api.service import Service
from tests.exporters.history.written import recorder, steps, write
from tests.exporters.trainers import set_slot, small_recording
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED


def test_runs_are_listed_the_newest_start_first(service: Service) -> None:
    assert service.client.get("/api/v1/runs").json() == {"runs": [], "next_cursor": None}
    for run in ("first", "second"):
        small_recording(service.directory, run)
        time.sleep(0.002)
    service.look()

    assert [run["run"] for run in service.client.get("/api/v1/runs").json()["runs"]] == ["second", "first"]


def test_a_run_tells_its_state_its_progress_and_its_last_losses(service: Service) -> None:
    monitor = Monitor(
        run="a-run", rank=0, world_size=1, directory=service.directory, loss_kind="cross_entropy"
    )
    monitor.expect(steps=4, epochs=1)
    for _ in range(2):
        with monitor.step():
            monitor.batch(loss=2.0, tokens=10, trained_tokens=10)
    monitor.log(epoch=0.5)
    monitor.evaluated(loss=1.0, tokens=10)
    service.look()

    run = service.client.get("/api/v1/runs/a-run").json()
    monitor.finish()

    expected = {
        "run": "a-run",
        "state": "running",
        "reason": None,
        "attempt": 1,
        "ended_at": None,
        "step": 2,
        "steps_expected": 4,
        "resumed_from_step": None,
        "epoch": 0.5,
        "epochs_expected": 1.0,
        "progress_ratio": 0.5,
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "validation_loss": 1.0,
        "validation_loss_best": 1.0,
        "validation_perplexity": pytest.approx(math.e),
        "world_size": 1,
        "info": {"loss_kind": "cross_entropy"},
    }
    assert {key: run[key] for key in expected} == expected
    assert run["eta_seconds"] >= 0
    assert run["tokens_per_second"] > 0
    assert run["started_at"] == pytest.approx(time.time(), abs=20)
    (rank,) = run["ranks"]
    assert (rank["rank"], rank["state"], rank["phase"]) == (0, "running", "other")


def test_an_unknown_run_is_404_and_the_known_ones_are_named(service: Service) -> None:
    for run in ("one", "two"):
        small_recording(service.directory, run)
        time.sleep(0.002)
    service.look()

    answer = service.client.get("/api/v1/runs/three")

    assert answer.status_code == 404
    assert answer.json()["detail"] == {
        "message": "no run 'three'; known are: two, one",
        "known_runs": ["two", "one"],
    }


def test_an_unknown_run_is_404_where_no_run_is_known(service: Service) -> None:
    answer = service.client.get("/api/v1/runs/any")

    assert answer.status_code == 404
    assert answer.json()["detail"]["message"] == "no run 'any'; known are: none"


def test_a_number_that_json_cannot_hold_is_null(service: Service) -> None:
    recorder = small_recording(service.directory, "a-run", info={"loss_kind": "cross_entropy"})
    set_slot(recorder, validation_loss=1e4, validation_loss_tokens=10, loss=math.inf, epoch=-math.inf)
    service.look()

    run = service.client.get("/api/v1/runs/a-run").json()
    metrics = service.client.get("/metrics").text

    assert (run["validation_loss"], run["validation_perplexity"]) == (1e4, None)
    assert (run["loss"], run["epoch"]) == (None, None)
    assert 'validation_perplexity{run="a-run"} +Inf' in metrics
    assert service.client.get("/api/v1/runs").status_code == 200


def test_names_of_files_in_any_bytes_spoil_neither_page(service: Service) -> None:
    small_recording(service.directory, "a-run", info={"model path": "weights-\udcff"})
    service.look()

    assert service.client.get("/api/v1/runs/a-run").json()["info"] == {"model_path": "weights-?"}
    assert 'model_path="weights-?"' in service.client.get("/metrics").text


def trained(service: Service, run: str = "a-run", *, losses: int = 50) -> None:
    """A run of so many steps of a second, which began a minute ago."""
    made = recorder(service.directory, run, age_seconds=60)
    write(made, steps(made, [float(number) for number in range(losses)]))
    service.look()


def test_runs_are_found_by_state_name_and_time(service: Service) -> None:
    small_recording(service.directory, "Chat-1").close(FINISHED, time.monotonic_ns())
    time.sleep(0.002)
    between = time.time()
    time.sleep(0.002)
    small_recording(service.directory, "chat-2")
    small_recording(service.directory, "probe")
    service.look()

    def found(**wanted: object) -> set[str]:
        answer = service.client.get("/api/v1/runs", params=wanted)  # type: ignore[arg-type]
        assert answer.status_code == 200
        return {run["run"] for run in answer.json()["runs"]}

    assert found(state="finished") == {"Chat-1"}
    assert found(state=["finished", "running"]) == {"Chat-1", "chat-2", "probe"}
    assert found(name="CHAT") == {"Chat-1", "chat-2"}
    assert found(started_after=between) == {"chat-2", "probe"}
    iso = datetime.fromtimestamp(between, UTC).isoformat()
    assert found(started_before=iso) == {"Chat-1"}
    assert found(name="_") == set()


def test_pages_of_runs_follow_one_another_without_gap_or_double(service: Service) -> None:
    for number in range(7):
        small_recording(service.directory, f"run-{number}")
        time.sleep(0.002)
    service.look()

    pages, cursor = [], None
    while True:
        params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        answer = service.client.get("/api/v1/runs", params=params).json()
        pages.append([run["run"] for run in answer["runs"]])
        cursor = answer["next_cursor"]
        if cursor is None:
            break

    assert pages == [["run-6", "run-5", "run-4"], ["run-3", "run-2", "run-1"], ["run-0"]]


@pytest.mark.parametrize("cursor", ["x", "=", "WzFd", "é", "W251bGwsIDFd", "WyJhIiwgMV0"])
def test_what_is_no_cursor_is_422(service: Service, cursor: str) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    for path in ("runs", "runs/a-run/events"):
        answer = service.client.get(f"/api/v1/{path}", params={"cursor": cursor})
        assert answer.status_code == 422
        assert "leave it out for the first page" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-02T03:04:05", "-1", "1e300", "nan", ""])
def test_what_is_no_time_is_422(service: Service, moment: str) -> None:
    assert service.client.get("/api/v1/runs", params={"started_after": moment}).status_code == 422


def test_a_run_whose_recording_is_gone_is_told_as_it_was(service: Service) -> None:
    small_recording(service.directory, "a-run").close(FINISHED, time.monotonic_ns())
    service.look()
    shutil.rmtree(service.directory)
    service.look()

    (run,) = service.client.get("/api/v1/runs").json()["runs"]

    assert (run["run"], run["state"]) == ("a-run", "finished")
    assert service.client.get("/api/v1/runs/a-run").json()["ranks"][0]["state"] == "finished"


def test_times_are_told_twice(service: Service) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    run = service.client.get("/api/v1/runs/a-run").json()

    for place in (run, run["ranks"][0]):
        moments = {key: value for key, value in place.items() if key.endswith("_at_iso")}
        for key, text in moments.items():
            seconds = place[key.removesuffix("_iso")]
            assert text == (None if seconds is None else iso(seconds))
            if text is not None:
                assert datetime.fromisoformat(text).timestamp() == pytest.approx(seconds, abs=0.001)
    assert run["started_at_iso"].endswith("Z")


def test_a_list_has_the_loss_in_a_few_numbers(service: Service) -> None:
    trained(service)

    (plain,) = service.client.get("/api/v1/runs").json()["runs"]
    (drawn,) = service.client.get("/api/v1/runs", params={"sparkline_points": 10}).json()["runs"]

    assert plain["sparkline"] == []
    assert 5 <= len(drawn["sparkline"]) <= 11
    assert drawn["sparkline"] == sorted(drawn["sparkline"])


def test_the_stage_of_a_run_is_that_of_rank_0_here_and_in_the_metrics(service: Service) -> None:
    first = recorder(service.directory)
    other = recorder(service.directory, rank=1)
    for rank, name in ((first, "alignment"), (other, "warm-up")):
        rank.event({"event": "stage", "time_ns": time.monotonic_ns(), "step": 0, "name": name})
        write(rank, steps(rank, [1.0]))
    service.look()

    assert service.client.get("/api/v1/runs/a-run/progress").json()["stage"] == "alignment"
    metrics = service.client.get("/metrics").text
    assert re.findall(r'training_stage_start_timestamp_seconds{run="a-run",stage="([^"]+)"}', metrics) == [
        "alignment"
    ]


def test_progress_tells_when_the_run_ends_and_whether_that_is_in_time(service: Service) -> None:
    deadline = time.time() + 1000
    made = recorder(service.directory, age_seconds=60, info={"deadline": str(deadline)})
    made.event({"event": "stage", "time_ns": time.monotonic_ns(), "step": 0, "name": "alignment"})
    write(made, steps(made, [1.0] * 60))
    set_slot(made, step=60, steps_expected=1000)
    service.look()

    before = time.time()
    progress = service.client.get("/api/v1/runs/a-run/progress").json()
    after = time.time()

    assert (progress["state"], progress["step"], progress["stage"]) == ("running", 60, "alignment")
    assert progress["progress_ratio"] == pytest.approx(0.06)
    assert progress["eta_least_seconds"] <= progress["eta_seconds"] <= progress["eta_most_seconds"]
    assert before - 0.01 < progress["ends_at"] - progress["eta_seconds"] < after + 0.01
    assert progress["deadline_at"] == pytest.approx(deadline, abs=1)
    assert progress["on_track"] is True
    assert progress["elapsed_seconds"] > 0


def test_a_run_that_ends_after_its_deadline_is_not_on_track(service: Service) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=service.directory)
    monitor.expect(steps=10**9, deadline=time.time() + 1)
    for _ in range(20):
        with monitor.step():
            time.sleep(0.001)
    service.look()

    progress = service.client.get("/api/v1/runs/a-run/progress").json()
    monitor.finish()

    assert progress["on_track"] is False


def test_a_curve_keeps_its_least_and_greatest_values_in_few_points(service: Service) -> None:
    made = recorder(service.directory, age_seconds=600)
    losses = [1.0] * 500
    losses[123], losses[321] = 9.0, -9.0
    write(made, steps(made, losses))
    service.look()

    answer = service.client.get("/api/v1/runs/a-run/series", params={"name": "loss", "max_points": 20})

    (curve,) = answer.json()["series"]
    points = curve["points"]
    assert len({len(column) for column in points.values()}) == 1
    assert len(points["mean"]) <= 21
    assert (max(points["max"]), min(points["min"])) == (9.0, -9.0)
    assert points["time"] == sorted(points["time"])
    assert points["step"][-1] == 500


def test_curves_of_steps_evaluations_and_gauges_come_in_one_answer(service: Service) -> None:
    monitor = Monitor(run="a-run", rank=0, world_size=1, directory=service.directory)
    for loss in (3.0, 2.0):
        with monitor.step():
            monitor.batch(loss=loss, tokens=10)
    monitor.evaluated(loss=1.5, tokens=10)
    monitor.log(accuracy=0.5)
    service.look()

    names = ["loss", "validation_loss", "training_accuracy", "phase_data_ratio"]
    answer = service.client.get("/api/v1/runs/a-run/series", params={"name": names}).json()
    monitor.finish()

    by_name = {curve["name"]: curve["points"]["mean"] for curve in answer["series"]}
    assert by_name["loss"] == [3.0, 2.0]
    assert by_name["validation_loss"] == [1.5]
    assert by_name["training_accuracy"] == [0.5]
    assert answer["run"] == "a-run"


@pytest.mark.parametrize(
    "params", [{}, {"name": "nothing"}, {"name": "loss", "max_points": "9"}, {"name": "loss", "by": "epoch"}]
)
def test_curves_that_there_are_not_are_422(service: Service, params: dict[str, str]) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    assert service.client.get("/api/v1/runs/a-run/series", params=params).status_code == 422


def test_runs_are_compared_along_their_steps(service: Service) -> None:
    trained(service, "one", losses=20)
    trained(service, "two", losses=30)

    answer = service.client.get("/api/v1/compare", params={"run": ["one", "two"], "name": "loss"}).json()

    assert answer["by"] == "step"
    assert [each["run"] for each in answer["runs"]] == ["one", "two"]
    lengths = [len(each["series"][0]["points"]["step"]) for each in answer["runs"]]
    assert lengths == [20, 30]
    assert answer["runs"][0]["series"][0]["points"]["step"][:3] == [1, 2, 3]


def test_runs_are_compared_along_the_time_since_each_began(service: Service) -> None:
    trained(service, losses=5)

    answer = service.client.get("/api/v1/compare", params={"run": "a-run", "by": "time"}).json()

    assert answer["runs"][0]["series"][0]["points"]["time"] == pytest.approx([1, 2, 3, 4, 5], abs=0.01)


def test_a_comparison_with_a_run_that_is_not_there_is_404(service: Service) -> None:
    trained(service)

    assert service.client.get("/api/v1/compare", params={"run": ["a-run", "none"]}).status_code == 404


def test_events_are_told_the_newest_first_and_by_kind(service: Service) -> None:
    with Monitor(run="a-run", rank=0, world_size=1, directory=service.directory) as monitor:
        monitor.stage("one")
        monitor.stage("two")
        service.look()

        stages = service.client.get("/api/v1/runs/a-run/events", params={"kind": "stage"}).json()
        everything = service.client.get("/api/v1/runs/a-run/events").json()

    assert [event["fields"] for event in stages["events"]] == [{"name": "two"}, {"name": "one"}]
    assert {"state", "start"} <= {event["kind"] for event in everything["events"]}
    assert everything["next_cursor"] is None


def test_a_run_tells_on_which_gpus_it_was_seen(service: Service) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    (gpu,) = service.client.get("/api/v1/runs/a-run/gpus").json()["gpus"]
    curves = service.client.get(
        f"/api/v1/gpus/{gpu['gpu_uuid']}/series", params={"name": "nvidia_gpu_power_watts"}
    ).json()

    assert (gpu["gpu_uuid"], gpu["rank"]) == ("SIMULATED-0", 0)
    assert curves["series"][0]["points"]["mean"][0] > 0
    assert service.client.get(
        "/api/v1/gpus/none/series", params={"name": "nvidia_gpu_power_watts"}
    ).json() == {"series": []}


@pytest.mark.parametrize("run", ["../../etc/passwd", "<img src=x>", 'a"b', "a\nb", "%00", "a" * 129, "é"])
@pytest.mark.parametrize("path", ["", "/progress", "/ranks", "/events", "/gpus", "/series?name=loss"])
def test_a_name_that_no_run_has_is_an_error_and_no_path(service: Service, run: str, path: str) -> None:
    answer = service.client.get(f"/api/v1/runs/{quote(run, safe='')}{path}")

    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/json"
