"""What holds for every dashboard, looked up in the committed JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dashboards
from tests.dashboards import proofs, proofs_of_queries
from tests.dashboards.generated import DASHBOARDS
from tests.dashboards.proofs import Proof

PROOFS = {**proofs.PROOFS, **proofs_of_queries.PROOFS}


@pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS.keys())
def test_no_proof_finds_anything(proof: Proof) -> None:
    assert [f"{place} {message}" for place, message in proof(DASHBOARDS)] == []


def test_no_dashboard_says_anything_past_the_layer() -> None:
    folder = Path(dashboards.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert [name for name, text in texts.items() if says_it_past_the_layer(name, text)] == []


def test_what_is_said_past_the_layer_is_found() -> None:
    assert says_it_past_the_layer("fleet.py", 'TimeSeries(extraJson={"span": 6})')
    assert says_it_past_the_layer("fleet.py", "from grafanalib import core")
    assert not says_it_past_the_layer("panels.py", "from grafanalib import core")


def says_it_past_the_layer(name: str, text: str) -> bool:
    """Whether a module hands raw JSON to grafanalib, or goes to grafanalib itself and is not the layer."""
    of_layer = name in ("panels.py", "dashboard.py")
    return not of_layer and re.search(r"extraJson|(from|import) grafanalib", text) is not None
