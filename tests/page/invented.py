"""Runs that were never trained: what real ones show only after hours, by accident, or by ill will."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Shape = Callable[[float], float]  # of a curve, from 0 to 1

HOSTILE = '"><img src=x onerror="window.hacked=1"><script>hacked=1</script>'
LINK = "<a href='javascript:hacked=1'>x</a>"
PATH = "../../x"
RIGHT_TO_LEFT = "abc\u202egpj.exe-\u05d0\u05d1\u05d2"
LONG = "a" * 30 + "-" + "b" * 33
NOW = time.time()
GIB = 2.0**30
OVER = ("finished", "failed", "killed", "aborted")


def run(name: str, state: str = "running", **more: Any) -> Json:
    """A run of two hours, 62 % done, as the API tells it."""
    ranks = more.get("world_size", 1)
    started = more.pop("started_at", NOW - 7200)
    silent = more.pop("silent_seconds", 0.4)
    step, steps = more.setdefault("step", 1240), more.setdefault("steps_expected", 2000)
    status = {
        "run": name,
        "state": state,
        "reason": None,
        "attempt": 1,
        "started_at": started,
        "ended_at": started + 7000 if state in OVER else None,
        "resumed_from_step": None,
        "epoch": 1.86,
        "epochs_expected": 3.0,
        "progress_ratio": step / steps if steps else None,
        "eta_seconds": (steps - step) * 4.3 if state == "running" else None,
        "tokens_per_second": 41_234.0 * ranks if state == "running" else None,
        "loss": 2.3147,
        "perplexity": 10.12,
        "validation_loss": 2.41,
        "validation_loss_best": 2.39,
        "validation_perplexity": 11.13,
        "world_size": ranks,
        "ranks_known": ranks,
        "phase": "backward",
        "silent_seconds": silent,
        "first_silent_rank": None,
        "failure": None,
        "deadline_at": None,
        "acknowledged": None,
        "info": {"model": "gpt2-medium", "dataset": "chitchat", "framework": "transformers", "note": LINK},
        "sparkline": [2 + 3 * math.exp(-i / 15) + random.Random(i).gauss(0, 0.08) for i in range(60)],
    } | more
    return status | {"ranks": [rank(status, number) for number in range(ranks)]}


def rank(status: Json, number: int) -> Json:
    silent = status["silent_seconds"] + (5 if number == status["first_silent_rank"] else 0)
    return {
        key: status[key] for key in ("state", "attempt", "started_at", "ended_at", "reason", "failure")
    } | {
        "rank": number,
        "node": "gpu-node-3",
        "pid": 4000 + number,
        "phase": "backward",
        "phase_since": NOW - silent,
        "last_step_at": NOW - silent - 0.3,
        "last_progress_at": NOW - silent,
        "silent_seconds": silent,
    }


def invented_runs() -> list[Json]:
    failure = {"type": "OutOfMemoryError", "place": "train.py:81 in step", "message": None}
    day = 86_400.0
    return [
        run("gpt2-medium-chitchat", world_size=8, deadline_at=NOW + 3000),
        run("therapy-moe-stage2", "stalled", world_size=8, silent_seconds=2400.0, first_silent_rank=3),
        run("tiny-gpt2", "killed", world_size=8, reason="SIGKILL"),
        run("safety-tuning-3", "failed", started_at=NOW - day, reason="OutOfMemoryError", failure=failure),
        run("ablation-no-warmup", "finished", started_at=NOW - 2 * day, reason="completed", step=2000),
        run("ablation-cosine", "finished", started_at=NOW - 3 * day, reason="early_stopping", step=1500),
        run("probe", "aborted", started_at=NOW - 4 * day, steps_expected=None, reason="aborted"),
        *(
            run(name, "finished", started_at=NOW - 9 * day)
            for name in (HOSTILE, LINK, PATH, RIGHT_TO_LEFT, LONG)
        ),
    ]


def curves(one: Json, names: list[str], most: int, rank: int | None = None, seed: int = 1) -> list[Json]:
    """Series of a run, or of its GPUs."""

    def noisy(shape: Shape, noise: float, more: int = 0) -> Shape:
        source = random.Random(seed + more)
        return lambda x: shape(x) * (1 + source.gauss(0, noise))

    def loss(x: float) -> float:
        return 2 + 3 * math.exp(-6 * x)

    slow = 0.25 if rank == 3 else 0.0
    of_steps: dict[str, Shape] = {
        "loss": noisy(loss, 0.03),
        "perplexity": noisy(lambda x: math.exp(loss(x)), 0.05),
        "tokens_per_second": noisy(lambda x: 330_000.0, 0.04),
        "learning_rate": lambda x: 3e-4 * min(1.0, x * 10) * (1 + math.cos(3 * x)) / 2,
        "gradient_norm": noisy(lambda x: 1 + 2 * math.exp(-9 * x), 0.2),
        "step_seconds": noisy(lambda x: 0.42 + slow, 0.05, rank or 0),
        "phase_data_ratio": noisy(lambda x: 0.06, 0.3),
        "phase_forward_ratio": lambda x: 0.3,
        "phase_backward_ratio": lambda x: 0.5,
        "phase_optimizer_ratio": lambda x: 0.1,
    }
    gauges = {
        "training_cuda_memory_allocated_bytes": 52 * GIB,
        "training_cuda_memory_reserved_bytes": 61 * GIB,
        "training_host_memory_bytes": 9 * GIB,
        "nvidia_gpu_utilization_percent": 94.0,
        "nvidia_gpu_memory_used_bytes": 66 * GIB,
        "nvidia_gpu_power_watts": 612.0,
    }
    found = []
    for name in names:
        if name in of_steps:
            labels = {} if rank is None else {"rank": str(rank)}
            found.append(series(one, name, labels, of_steps[name], most, steps=one["step"]))
        elif name == "validation_loss":
            found.append(series(one, name, {}, lambda x: 0.1 + loss(x), 12, steps=one["step"]))
        elif name in gauges:
            ranks = 1 if name.startswith("nvidia") else one["world_size"]
            for each in range(ranks):
                shape = noisy(lambda x, level=gauges[name]: level, 0.02, each)  # type: ignore[misc]
                found.append(series(one, name, {"rank": str(each)}, shape, 300))
    return found


def series(one: Json, name: str, labels: dict[str, str], shape: Shape, count: int, *, steps: int = 0) -> Json:
    began, ended = one["started_at"], one["ended_at"] or NOW
    places = [(index + 1) / count for index in range(count)]
    mean = [shape(x) for x in places]
    of_steps = [int(x * steps) for x in places] if steps else []
    points = {
        "time": [began + (ended - began) * x for x in places],
        "step": of_steps,
        "tokens": [step * 40_000 for step in of_steps],
        "attempt": [1] * len(of_steps),
        "mean": mean,
        "min": [value * 0.95 if name == "loss" else value for value in mean],
        "max": [value * 1.05 if name == "loss" else value for value in mean],
    }
    return {"name": name, "unit": "", "labels": labels, "resolution_seconds": 0, "points": points}


def events(one: Json) -> list[Json]:
    """The newest first."""
    began, ended = one["started_at"], one["ended_at"] or NOW
    told: list[tuple[float, str, Json]] = [(0.0, "start", {"pid": 4000})]
    told += [(k / 12, "evaluation", {"loss": 2.5, "seconds": 12.4}) for k in range(1, 12)]
    told += [(k / 3, "checkpoint", {"seconds": 8.25, "bytes": 3_200_000_000}) for k in (1, 2)]
    if one["state"] != "running":
        told.append((1.0, "state", {"state": one["state"], "before": "running", "reason": one["reason"]}))
    return [
        {
            "id": number,
            "run": one["run"],
            "at": began + (ended - began) * place,
            "kind": kind,
            "rank": 0,
            "attempt": 1,
            "step": int(one["step"] * place),
            "fields": fields,
        }
        for number, (place, kind, fields) in enumerate(sorted(told, key=lambda each: each[0]))
    ][::-1]


def alert(one: Json) -> Json:
    return {
        "fingerprint": "abc",
        "status": "firing",
        "labels": {"alertname": "TrainingStalled", "run": one["run"]},
        "annotations": {"summary": f"No progress for 30 minutes {LINK}"},
        "starts_at": NOW - 600,
        "ends_at": None,
        "received_at": NOW - 590,
        "notifications": 2,
        "generator_url": "",
    }
