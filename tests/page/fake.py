"""A stand-in for the service that tells of invented runs; what it answers has the types of the real one.

`python -m tests.page.fake PORT` serves it to look at.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, WebSocket, WebSocketDisconnect

from exporters.api import models
from exporters.api.page import page_routes
from tests.page import invented
from tests.page.invented import Json

Names = Annotated[list[str], Query(alias="name")]


def fake_service(known: list[Json]) -> FastAPI:

    app = FastAPI()
    app.include_router(page_routes())
    by_name = {each["run"]: each for each in known}

    def one(name: str) -> Json:
        if name not in by_name:
            raise HTTPException(404, {"message": f"no run {name!r}", "known_runs": list(by_name)[:5]})
        return by_name[name]

    @app.get("/api/v1/session")
    def session() -> Json:
        return {"name": "nobody", "role": "viewer", "authenticated": False, "may_log_in": True}

    @app.get("/api/v1/runs", response_model=models.RunList)
    def runs(state: Annotated[list[str], Query()] = [], name: str = "") -> Any:  # noqa: B006
        found = [each for each in known if (not state or each["state"] in state) and name in each["run"]]
        return {"runs": found, "next_cursor": None}

    @app.get("/api/v1/runs/{run:path}/series", response_model=models.CurvesOfRun)
    def series(run: str, names: Names, max_points: int = 1000, rank: int | None = None) -> Any:
        return {"run": run, "series": invented.curves(one(run), names, max_points, rank)}

    @app.get("/api/v1/runs/{run:path}/events", response_model=models.EventList)
    def events(run: str) -> Any:
        return {"events": invented.events(one(run)), "next_cursor": None}

    @app.get("/api/v1/runs/{run:path}/progress")
    def progress(run: str) -> Json:
        eta = one(run)["eta_seconds"]
        return {"stage": None, "eta_least_seconds": eta and eta * 0.9, "eta_most_seconds": eta and eta * 1.2}

    @app.get("/api/v1/runs/{run:path}/gpus")
    def gpus(run: str) -> Json:
        ranks = range(one(run)["world_size"])
        return {"gpus": [{"gpu_uuid": f"GPU-{rank:08x}", "rank": rank} for rank in ranks if len(ranks) > 1]}

    @app.get("/api/v1/gpus/{uuid}/series", response_model=models.CurveList)
    def of_gpu(uuid: str, names: Names) -> Any:
        return {"series": invented.curves(known[0], names, 300, seed=int(uuid[-1]))}

    @app.get("/api/v1/runs/{run:path}", response_model=models.Run)
    def run(run: str) -> Any:
        return one(run)

    @app.get("/api/v1/compare", response_model=models.Comparison)
    def compare(run: Annotated[list[str], Query()], name: Annotated[list[str], Query()], by: str) -> Any:
        found = []
        for each in map(one, run):
            curves = invented.curves(each, name, 1000, seed=5)
            for curve in curves if by == "time" else ():
                curve["points"]["time"] = [at - each["started_at"] for at in curve["points"]["time"]]
            found.append({"run": each["run"], "series": curves})
        return {"by": by, "runs": found}

    @app.get("/api/v1/alerts", response_model=models.AlertList)
    def alerts(run: str) -> Any:
        return {"alerts": [invented.alert(one(run))] if one(run)["state"] == "stalled" else []}

    @app.websocket("/api/v1/stream")
    async def stream(websocket: WebSocket, run: Annotated[list[str], Query()] = []) -> None:  # noqa: B006
        await websocket.accept()
        told = [one(each) for each in run] or known
        try:
            await websocket.send_json({"type": "snapshot", "at": time.time(), "runs": told})
            while True:
                await asyncio.sleep(5)
                await websocket.send_json({"type": "update", "at": time.time()})
        except WebSocketDisconnect:
            return

    return app


if __name__ == "__main__":
    served = fake_service([] if "empty" in sys.argv else invented.invented_runs())
    uvicorn.run(served, port=int(sys.argv[1]), log_level="warning")
