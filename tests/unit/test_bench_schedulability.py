"""The bench of response-time bounds, in small: what it writes, and that it would notice."""

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import schedulability
from bench.acceptance import METHODS, accepted_shares, fronts_of, random_networks
from bench.random_sets import uunifast
from preempt_runtime.schedulability import Assumptions, choose_bounds
from preempt_runtime.schedulability.loads import load_from_task, utilisation


def test_it_writes_a_report_a_page_and_two_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulability, "_SHARES", (0.1, 0.6))
    options = ["--sets", "3", "--simulated", "20", "--out", str(tmp_path)]
    assert schedulability.main(options) == 0
    report = json.loads((tmp_path / "schedulability.json").read_text())
    assert report["theory"]["edf"]["different"] == 0
    assert set(report["acceptance"]["edf"]["accepted"]) == set(METHODS)
    page = (tmp_path / "schedulability.md").read_text()
    assert "| bounds of preemptc plan |" in page
    for policy in schedulability.POLICIES:
        picture = (tmp_path / f"schedulability-{policy}.svg").read_text()
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert f"schedulability-{policy}.svg" in page


def test_a_bound_that_is_exceeded_or_differs_fails_the_bench() -> None:
    row = {"exceeded": 0}
    report = {"schedules": {"edf": {"rows": [row]}}, "theory": {"edf": {"different": 0}}}
    assert schedulability.is_sound(report)
    assert not schedulability.is_sound({**report, "theory": {"edf": {"different": 1}}})
    row["exceeded"] = 1
    assert not schedulability.is_sound(report)


def test_random_networks_have_the_utilisation_that_was_asked() -> None:
    rng = random.Random(1)
    for share in (0.05, 0.5, 1.0):
        tasks = random_networks(rng, share)
        loads = [load_from_task(task, Assumptions(), rank=0) for task in tasks]
        assert float(utilisation(loads)) == pytest.approx(share, abs=1e-3)
        assert sum(uunifast(rng, 7, share)) == pytest.approx(share)


@pytest.mark.parametrize("policy", schedulability.POLICIES)
def test_planned_bounds_accept_what_one_bound_accepts_and_what_they_accept_is_kept(
    policy: str,
) -> None:
    shares = accepted_shares(policy, 0.8, num_sets=12, seed=4)
    assert shares["bounds of preemptc plan"] >= shares["one bound for all networks"]
    assert shares["bounds of preemptc plan"] > shares["no preemption"]
    tasks = random_networks(random.Random(2), 0.6)
    assert choose_bounds(tasks, fronts_of(tasks), policy, Assumptions()).is_schedulable
