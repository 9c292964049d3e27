"""What queries come to in a scenario of promtool.

promtool can only be told what to expect. The scenarios written here expect nothing of any query, and what it
complains of are the answers.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Sample(NamedTuple):
    """One series of an answer: its labels, the metric's name left out, and its value."""

    labels: dict[str, str]
    value: float


def ask(
    file: Path, test: Mapping[str, Any], scenario: Mapping[str, Any], queries: Iterable[str], at: str
) -> dict[str, list[Sample]]:
    """What each query comes to at a time of the scenario, under the rules of the test file `test`.

    What promtool reads is written to `file`. Raises RuntimeError with its words when it could not evaluate
    one of the rules or queries.
    """
    expectations = [{"expr": query, "eval_time": at} for query in queries]
    asked = {**scenario, "alert_rule_test": [], "promql_expr_test": expectations}
    document = yaml.dump({**test, "tests": [asked]}, Dumper=yaml.CSafeDumper, width=10**9)
    file.write_text(document, encoding="utf-8")
    tested = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    complaint = tested.stdout + tested.stderr
    got = re.findall(r'expr: (".+"), time: .*\n\s*exp: nil\n\s*got: (.*)', complaint)
    if " err: " in complaint or (tested.returncode != 0 and not got):
        raise RuntimeError(complaint.strip())
    answers: dict[str, list[Sample]] = {query: [] for query in queries}
    return answers | {json.loads(query): list(map(_sample, _SAMPLES.findall(got))) for query, got in got}


_SAMPLES = re.compile(r"\{([^}]*)\} ([^,\s]+)")


def _sample(written: tuple[str, str]) -> Sample:
    labels, value = written
    told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    told.pop("__name__", None)
    return Sample(told, float(value))
