"""The benchmark runs: what it measures is for people to read, not for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys

from .forms import ROOT, checkout_only
from .programs import DEADLINE_S, posix_only


@checkout_only
@posix_only
def test_the_benchmark_measures_and_reports(tmp_path):
    """A quick run of some figures prints a row of its table for each, and writes them as JSON."""
    report = tmp_path / "bench.json"
    names = ["start", "tasks"]
    table = subprocess.check_output(
        [sys.executable, "tests/bench.py", "--quick", "--rounds", "1", "--json", report, *names],
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        timeout=DEADLINE_S,
    ).decode()
    rows = {row["name"]: row for row in json.loads(report.read_text())["rows"]}
    assert [name for name in rows if not name.startswith("start-")] == names
    for name, row in rows.items():
        assert "\n| %s " % name in table
        assert row["ratios"][0] == row["measured"][0] / row["floor"][0] > 0
