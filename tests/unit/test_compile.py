"""Compiling for the CPU: the chain computes the network's bits, and nothing is half-made."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.make import make
from preempt_runtime.backends.ort import OrtDevice, session_options
from preempt_runtime.bundle import PARTIAL_PREFIX, open_bundle
from preempt_runtime.errors import BuildError, BundleError, InfeasibleError, InputError
from preempt_runtime.inputs import random_inputs
from preemptc import deliver, trials
from preemptc.backends import BackendOptions, silent
from preemptc.backends.ort import lower, profiler
from preemptc.backends.ort.lower import source_names
from preemptc.cache import BuildCache, guard, sha256_of
from preemptc.compile_options import CompileOptions
from preemptc.costs_now import costs_now
from preemptc.goal import Goal
from preemptc.interface import graph_spec
from preemptc.pipeline import candidates_of, compile_model
from preemptc.prepare import prepare
from preemptc.profile import BoundaryCost, LatencyProfile, json_from_profile, profile_from_json
from preemptc.profiling import profile_model
from preemptc.search import smallest_bound
from preemptc.segment_costs import SegmentCosts
from preemptc.swap import swap_in
from tests.unit import onnx_models as models
from tests.unit.fake_bench import FakeBench

_MEASURE_BOUNDARY = profiler.measure_boundary
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs: these tests are about what is built, not about how long it takes."""
    monkeypatch.setattr(trials, "_TRIAL_RUNS", 3)
    monkeypatch.setattr(trials, "_TRIAL_BUDGET_NS", 0)
    monkeypatch.setattr(trials, "_FINAL_RUNS", 3)
    monkeypatch.setattr(trials, "_FINAL_BUDGET_NS", 0)
    monkeypatch.setattr(profiler, "_BUDGET_NS", 20_000_000)
    monkeypatch.setattr(profiler, "measure_boundary", _cheap_boundary)


def _cheap_boundary(*given: object) -> BoundaryCost:
    """What a cut costs, so that one is worth it on a machine that is busy, too."""
    return BoundaryCost(fixed_ns=100, ns_per_byte=0.0)


def options(**goal: int | float) -> CompileOptions:
    return CompileOptions(target="cpu", goal=Goal(**goal), backend=BackendOptions(threads=2))  # type: ignore[arg-type]


MAKERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "chain": models.chain,
    "constants": models.constants_everywhere,
    "if": models.with_if,
    "loop": models.with_loop,
    "function": models.with_function,
    "many_ports": models.many_ports,
    "data_dependent": models.data_dependent,
    "scalar_output": models.scalar_output,
    "quantized_weight": models.quantized_weight,
}


def _finest(path: Path, cache: BuildCache) -> int:
    """As many segments as there are candidates, so that every candidate is cut at."""
    wanted = options(num_segments=1)
    prepared = prepare(path, wanted, cache)
    profile = prepared.backend.estimate(prepared.lowered)
    return len(candidates_of(prepared, profile, wanted).candidates) + 1


@pytest.mark.parametrize("name", [*MAKERS, "tiny_branchy", "tiny_cnn", "light/squeezenet"])
def test_chain_equals_whole_and_portable_pieces_equal_source(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    if name in MAKERS:
        models.save(MAKERS[name](), path)
    else:
        make(name, path)
    cache = BuildCache(tmp_path / "cache")
    prepared = prepare(path, options(num_segments=1), cache)
    estimated = tmp_path / "estimated.json"
    estimated.write_text(json_from_profile(prepared.backend.estimate(prepared.lowered)))
    wanted = replace(options(num_segments=_finest(path, cache)), profile=estimated)
    report = compile_model(path, tmp_path / "net.bundle", wanted, cache)
    assert report["check"]["bitwise"]
    assert report["segments"] == report["kept"] == wanted.goal.num_segments
    bundle = open_bundle(tmp_path / "net.bundle")
    bundle.verify_files()
    _compare_plans(tmp_path / "net.bundle")
    if name != "data_dependent":
        _compare_portable_pieces(tmp_path / "net.bundle" / "graph", path)


def test_integer_and_boolean_outputs_are_compared(tmp_path: Path) -> None:
    path = models.save(models.integer_outputs(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    report = compile_model(path, tmp_path / "b", options(num_segments=1), cache)
    assert report["check"]["bitwise"]
    _compare_plans(tmp_path / "b")


def _compare_plans(folder: Path) -> None:
    bundle, device = open_bundle(folder), OrtDevice()
    results = []
    for plan_id in ("segments", "whole"):
        network = device.load(bundle, plan_id)
        buffers = network.new_buffers()
        buffers.write_inputs(random_inputs(network.graph, seed=5, task="t"))
        for idx in range(len(network.segments)):
            device.launch(buffers, idx, is_urgent=True)
            device.wait()
        results.append(buffers.read_outputs())
    for name, value in results[0].items():
        assert value.tobytes() == results[1][name].tobytes()


def _compare_portable_pieces(folder: Path, source: Path) -> None:
    """`graph/segment-*.onnx`, run in order without optimisation, are `graph/model.onnx`."""
    so = ort.SessionOptions()
    so.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    so.log_severity_level = 3
    whole = ort.InferenceSession(str(folder / "model.onnx"), so)
    rng = np.random.default_rng(3)
    values = {
        port.name: rng.standard_normal(port.shape, dtype=np.float32) for port in whole.get_inputs()
    }
    expected = whole.run(None, dict(values))
    for piece in sorted(folder.glob("segment-*.onnx")):
        onnx.checker.check_model(str(piece))
        session = ort.InferenceSession(str(piece), so)
        feeds = {port.name: values[port.name] for port in session.get_inputs()}
        names = [port.name for port in session.get_outputs()]
        values.update(zip(names, session.run(names, feeds), strict=True))
    for port, value in zip(whole.get_outputs(), expected, strict=True):
        assert np.array_equal(values[port.name], value), port.name


def test_weights_stand_once_on_either_side(tmp_path: Path) -> None:
    path = models.save(models.chain(8, 64), tmp_path / "net.onnx")
    compile_model(path, tmp_path / "b", options(num_segments=4), BuildCache(tmp_path / "cache"))
    weights = 8 * 64 * 64 * 4
    files = [file for file in (tmp_path / "b").rglob("*") if file.is_file()]
    large = [file for file in files if file.stat().st_size >= weights]
    assert sorted(file.name for file in large) == ["weights.data", "weights.data"]
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in files)


def test_second_identical_compile_does_no_work(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    first = compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    second = compile_model(path, tmp_path / "b", options(num_segments=3), BuildCache(cache.root))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert second["cache_hits"] == 3
    assert {**first, "wall_s": 0, "cache_hits": 0} == {**second, "wall_s": 0, "cache_hits": 0}


def test_the_cache_may_be_deleted_and_the_output_is_repaired(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    manifest = (tmp_path / "b" / "manifest.json").read_bytes()
    (tmp_path / "b" / "profile.json").unlink()
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    open_bundle(tmp_path / "b").verify_files()
    assert (tmp_path / "b" / "manifest.json").read_bytes() == manifest


@pytest.mark.parametrize("name", ["profile.json", "graph/weights.data"])
def test_a_damaged_output_is_repaired(name: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache, output = BuildCache(tmp_path / "cache"), tmp_path / "b"
    compile_model(path, output, options(num_segments=3), cache)
    content = (output / name).read_bytes()
    (output / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError):
        open_bundle(output).verify_files()
    compile_model(path, output, options(num_segments=3), cache)
    open_bundle(output).verify_files()


@pytest.mark.parametrize(
    "name",
    [
        *("load/*/model.onnx", "load/*/digest.txt", "load/*/weights.data"),
        *("lower/*/tensors.json", "lower/*/weights.data", "profile/*/profile.json"),
        *("bundle/*/report.json", "bundle/*/bundle/manifest.json"),
        "bundle/*/bundle/engines/*/whole.onnx",
    ],
)
def test_a_damaged_cache_is_filled_again(name: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    (damaged,) = cache.root.glob(name)
    damage = random.Random(0).randbytes(damaged.stat().st_size)
    damaged.write_bytes(damage)
    if name.startswith("profile"):  # where only another compile looks at it
        shutil.rmtree(cache.root / "bundle")
    compile_model(path, tmp_path / "c", options(num_segments=3), cache)
    assert next(cache.root.glob(name)).read_bytes() != damage
    open_bundle(tmp_path / "c").verify_files()
    _compare_plans(tmp_path / "c")


def test_a_cache_damaged_while_it_is_read_is_not_delivered(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")

    def damage(what: str, frac: float) -> None:
        if what == "deliver":
            (profile,) = cache.root.glob("bundle/*/bundle/profile.json")
            profile.write_bytes(b" " * profile.stat().st_size)

    with pytest.raises(BuildError, match=r"profile\.json: sha256 .* the cache is damaged"):
        compile_model(path, tmp_path / "c", options(num_segments=3), cache, damage)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["elsewhere.json", "report.json", "bundle/profile.json"])
def test_a_partial_entry_is_made_again(name: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    (lost,) = cache.root.glob(f"bundle/*/{name}")
    lost.unlink()
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    assert lost.is_file()
    open_bundle(tmp_path / "b").verify_files()


def test_a_moved_cache_still_holds_its_bundles(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    compile_model(path, tmp_path / "b", options(num_segments=3), BuildCache(tmp_path / "cache"))
    (tmp_path / "cache").rename(tmp_path / "moved")
    moved = BuildCache(tmp_path / "moved")
    assert compile_model(path, tmp_path / "c", options(num_segments=3), moved)["cache_hits"] == 3
    assert (tmp_path / "c" / "manifest.json").read_bytes() == (
        tmp_path / "b" / "manifest.json"
    ).read_bytes()


class _OtherSpeed(FakeBench):
    """The network of `profile` at another speed."""

    def __init__(self, profile: LatencyProfile, factor: float) -> None:
        num_nodes = len(profile.node_ns)
        super().__init__(num_nodes, lambda start, end: round(factor * profile.total_ns))


@pytest.mark.parametrize(("factor", "is_again"), [(1.0, False), (3.0, True), (0.3, True)])
def test_a_stale_cached_profile_is_measured_again(
    factor: float, is_again: bool, tmp_path: Path
) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    wanted, cache = options(num_segments=1), BuildCache(tmp_path / "cache")
    prepared = prepare(path, wanted, cache)
    first = profile_model(prepared, wanted, cache)
    shown: list[str] = []
    bench = _OtherSpeed(first, factor)
    second = profile_model(prepared, wanted, cache, lambda what, frac: shown.append(what), bench)
    assert (second != first) == is_again
    assert ("profile: the machine has another speed now, again" in shown) == is_again
    assert profile_model(prepared, wanted, cache) == second


@pytest.mark.parametrize(("factor", "is_again"), [(1.0, False), (3.0, True), (0.3, True)])
def test_costs_now_are_those_of_the_cache_at_the_speed_of_now(
    factor: float, is_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    wanted, cache = options(num_segments=1), BuildCache(tmp_path / "cache")
    prepared = prepare(path, wanted, cache)
    first = costs_now(prepared, wanted, cache, silent)
    assert (first.is_cached, first.notes) == (False, ())
    bench = _OtherSpeed(first.profile, factor)
    monkeypatch.setattr(type(prepared.backend), "bench", lambda *_: bench)
    second = costs_now(prepared, wanted, cache, silent)
    assert (second.profile == first.profile) == second.is_cached == (not is_again)


def test_a_compile_that_renews_a_faster_profile_keeps_a_note_of_it(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    wanted, cache = options(num_segments=1), BuildCache(tmp_path / "cache")
    profile_model(prepare(path, wanted, cache), wanted, cache)
    (file,) = cache.root.glob("profile/*/profile.json")
    document = json.loads(file.read_text())
    document["node_ns"] = [1] * len(document["node_ns"])
    document["whole"] = {"p50_ns": 1, "p99_ns": 1, "max_ns": 1, "num_samples": 9}
    file.write_text(json.dumps(document))
    (file.parent / "files.json").write_text(
        json.dumps({file.name: [file.stat().st_size, sha256_of(file)]})
    )
    for output in ("b", "c"):
        report = compile_model(path, tmp_path / output, wanted, BuildCache(cache.root))
        assert report["notes"][0].startswith("the profile was measured again: the machine ran at")


def test_two_that_find_a_profile_stale_both_succeed(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    wanted, cache = options(num_segments=1), BuildCache(tmp_path / "cache")
    prepared = prepare(path, wanted, cache)
    bench = _OtherSpeed(profile_model(prepared, wanted, cache), 100.0)
    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(profile_model, prepared, wanted, BuildCache(cache.root), silent, bench)
            for _ in range(2)
        ]
        assert all(future.result(timeout=60).source == "measured" for future in work)


def test_a_cache_that_lost_a_stage_is_filled_again(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    shutil.rmtree(tmp_path / "b")
    shutil.rmtree(cache.root / "lower")
    compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    open_bundle(tmp_path / "b").verify_files()


def test_another_model_of_the_same_name_is_another_bundle(tmp_path: Path) -> None:
    path = models.save(models.chain(4), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    models.save(models.chain(6), path)
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    assert open_bundle(tmp_path / "b").manifest.plans[0].segments[-1].source_range[1] == 12


def test_output_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(BuildError, match=r"precious: exists and is no bundle.*-o"):
        compile_model(
            path, tmp_path / "precious", options(num_segments=2), BuildCache(tmp_path / "cache")
        )
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_pipes_where_a_bundle_should_go_keep_nobody_waiting(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    os.mkfifo(left := tmp_path / f"{PARTIAL_PREFIX}b-abcdefgh")
    (tmp_path / "b" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "b" / "manifest.json")
    refused: list[str] = []

    def compile_again() -> None:
        with pytest.raises(BuildError) as caught:
            compile_model(path, tmp_path / "b", options(num_segments=2), cache)
        refused.append(str(caught.value))

    thread = threading.Thread(target=compile_again, daemon=True)
    thread.start()
    thread.join(30.0)
    assert refused, "it waits for somebody to write into the pipe"
    assert "b: exists and is no bundle" in refused[0]
    assert left.is_fifo()


def test_places_with_no_or_too_long_a_name_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", "..", "../here/.."):
        with pytest.raises(BuildError, match=r"names no directory of its own|the cache"):
            compile_model(path, Path(output), options(num_segments=2), cache)
    with pytest.raises(
        BuildError, match=r"^\.: names no directory of its own.* net\.bundle with -o"
    ):
        compile_model(path, Path("."), options(num_segments=2), cache)
    with pytest.raises(BuildError, match="a name of 250 bytes, at most 237; choose a shorter one"):
        compile_model(path, Path("x" * 250), options(num_segments=2), cache)
    assert not cache.root.exists()


def test_a_folder_that_only_looks_like_a_bundle_is_left_alone(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(BuildError, match="site: exists and is no bundle"):
        compile_model(path, tmp_path / "site", options(num_segments=2), cache)
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"holds 'notes\.txt', which is not part of the bundle"):
        compile_model(path, tmp_path / "b", options(num_segments=3), cache)
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "link to a folder", "empty folder"])
def test_a_bundle_that_holds_something_of_mine_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache, output = BuildCache(tmp_path / "cache"), tmp_path / "b"
    compile_model(path, output, options(num_segments=2), cache)
    mine = output / "graph" / "mine"
    if kind == "empty folder":
        mine.mkdir()
    else:
        mine.symlink_to(path if kind == "link" else cache.root)
    with pytest.raises(BuildError, match="holds 'graph/mine', which is not part of the bundle"):
        compile_model(path, output, options(num_segments=3), cache)
    assert os.path.lexists(mine)


def test_a_bundle_that_another_cache_replaces_at_once_was_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap_in_and_lose(new: Path, place: Path) -> None:
        swap_in(new, place)
        shutil.rmtree(place / "graph")  # as where the other bundle has other files

    path = models.save(models.chain(), tmp_path / "net.onnx")
    monkeypatch.setattr(deliver, "swap_in", swap_in_and_lose)
    compile_model(path, tmp_path / "b", options(num_segments=2), BuildCache(tmp_path / "cache"))
    assert (tmp_path / "b" / "manifest.json").is_file()


@pytest.mark.parametrize("place", ["b", "b/cache", "link/cache"])
def test_a_cache_inside_the_bundle_is_refused(place: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    (tmp_path / "link").symlink_to("b")
    with pytest.raises(BuildError, match=r"b: the cache .* lies in it"):
        compile_model(path, tmp_path / "b", options(num_segments=2), BuildCache(tmp_path / place))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["load/*/model.onnx", "load/*/digest.txt", "lower/*/tensors.json"])
def test_a_cache_entry_that_lost_a_file_is_made_again(name: str, tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    (found,) = cache.root.glob(name)
    found.write_bytes(found.read_bytes()[:-1])
    compile_model(path, tmp_path / "c", options(num_segments=2), cache)
    found = next(cache.root.glob(name))
    found.unlink()
    compile_model(path, tmp_path / "d", options(num_segments=3), cache)
    open_bundle(tmp_path / "d").verify_files()


def test_a_network_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("RandomNormalLike", ["x"], ["noise"], "noise"),
        onnx.helper.make_node("Add", ["x", "noise"], ["y"], "add"),
    ]
    ports = [models.f32("x", [4, 8])], [models.f32("y", [4, 8])]
    path = models.save(models.model_of(nodes, *ports), tmp_path / "net.onnx")
    with pytest.raises(BuildError, match="it draws random numbers"):
        compile_model(path, tmp_path / "b", options(num_segments=1), BuildCache(tmp_path / "cache"))


def test_unwritable_output_is_one_line(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be written"):
        compile_model(
            path, tmp_path / "file" / "b", options(num_segments=2), BuildCache(tmp_path / "cache")
        )
    with pytest.raises(BuildError, match="cannot be written"):
        compile_model(
            path, tmp_path / "b", options(num_segments=2), BuildCache(tmp_path / "file" / "cache")
        )


def test_impossible_bound_names_node_and_smallest_bound(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    with pytest.raises(InfeasibleError, match=r"alone takes .* limit 1 ns.*raise --max-segment to"):
        compile_model(
            path, tmp_path / "b", options(max_segment_ns=1), BuildCache(tmp_path / "cache")
        )
    assert not (tmp_path / "b").exists()


def test_profile_round_trip_and_foreign_profiles(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path / "cache")
    path = models.save(models.chain(), tmp_path / "net.onnx")
    prepared = prepare(path, options(num_segments=1), cache)
    profile = profile_model(prepared, options(num_segments=1), cache)
    assert profile.source == "measured"
    assert profile.whole is not None
    assert abs(profile.total_ns - profile.whole.p50_ns) <= len(profile.node_ns)
    assert profile_from_json(json_from_profile(profile), "here") == profile
    file = tmp_path / "profile.json"
    file.write_text(json_from_profile(profile))
    other = models.save(models.chain(2), tmp_path / "other.onnx")
    with pytest.raises(InputError, match="a profile of another network"):
        compile_model(other, tmp_path / "b", replace(options(num_segments=2), profile=file), cache)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"profile\.json: not a latency profile \(no "):
        compile_model(path, tmp_path / "b", replace(options(num_segments=2), profile=file), cache)


def test_compiling_from_a_given_profile_is_deterministic(tmp_path: Path) -> None:
    path = make("tiny_branchy", tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    prepared = prepare(path, options(num_segments=1), cache)
    estimate = prepared.backend.estimate(prepared.lowered)
    assert estimate.source == "estimated"
    splits = []
    for _ in range(2):
        candidates = candidates_of(prepared, estimate, options(num_segments=1))
        splits.append([candidate.position for candidate in candidates.candidates])
    assert splits[0] == splits[1]
    assert smallest_bound(_costs(estimate.node_ns)) == max(estimate.node_ns)


def _costs(node_ns: tuple[int, ...]) -> SegmentCosts:
    return SegmentCosts(
        positions=tuple(range(len(node_ns) + 1)),
        work_ns=node_ns,
        boundary_ns=(0,) * len(node_ns),
    )


def test_a_boundary_costs_more_than_nothing_and_less_than_a_millisecond() -> None:
    cost = _MEASURE_BOUNDARY(2)
    assert 0 < cost.at(4096) < 1_000_000
    assert cost.at(4 << 20) >= cost.at(4096)


_PRINT_LOWERED = """
import sys
from pathlib import Path
from preemptc.cache import BuildCache, sha256_of
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.prepare import prepare
options = CompileOptions(target="cpu", goal=Goal(num_segments=1))
print(sha256_of(prepare(Path(sys.argv[1]), options, BuildCache(Path(sys.argv[2]))).lowered.path))
"""


def test_two_processes_lower_a_network_to_the_same_bytes(tmp_path: Path) -> None:
    """ONNX Runtime numbers the nodes that it makes otherwise in each process."""
    path = make("tiny_branchy", tmp_path / "net.onnx")
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_LOWERED, path, tmp_path / f"cache{number}"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for number in range(3)
    }
    assert len(digests) == 1


def test_source_positions_are_complete_prefixes(tmp_path: Path) -> None:
    for name in ("tiny_branchy", "light/squeezenet"):
        path = make(name, tmp_path / f"{name.replace('/', '-')}.onnx")
        prepared = prepare(path, options(num_segments=1), BuildCache(tmp_path / "cache"))
        source, lowered = prepared.model.graph, prepared.lowered
        positions = lowered.source_positions
        assert positions[0] == 0
        assert positions[-1] == source.num_nodes
        kept = {name for node in lowered.graph.nodes for name in node.outputs}
        for split_point in range(1, lowered.graph.num_nodes):
            written = {
                n
                for node in lowered.graph.nodes[:split_point]
                for n in source_names(node.name, node.outputs)
            }
            prefix = {n for node in source.nodes[: positions[split_point]] for n in node.outputs}
            assert prefix & kept <= written


_KILLED = """
import signal
import sys
from pathlib import Path
from preemptc import check, deliver, pipeline
from preemptc.backends.ort.lower import source_names
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
def stop(*args, **kwargs):
    print("reached", flush=True)
    while True:
        signal.pause()
{where} = stop
pipeline.compile_model(Path(sys.argv[1]), Path(sys.argv[2]),
    CompileOptions(target="cpu", goal=Goal(num_segments=1)), BuildCache(Path(sys.argv[3])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    "where",
    ["pipeline.check_segments", "pipeline.pack", "pipeline.deliver", "deliver.swap_in"],
)
def test_a_killed_compile_leaves_nothing_half_made(
    where: str, how: signal.Signals, tmp_path: Path
) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    output, cache = tmp_path / "b", tmp_path / "cache"
    code = _KILLED.format(where=where)
    command = [sys.executable, "-c", code, str(path), str(output), str(cache)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reached\n"
        process.send_signal(how)
        process.wait(timeout=30)
    assert not output.exists()
    was_copying = where == "deliver.swap_in" and how == signal.SIGKILL
    assert bool(list(tmp_path.glob(".tmp-b-*"))) == was_copying
    compile_model(path, output, options(num_segments=1), BuildCache(cache))
    open_bundle(output).verify_files()
    assert not [p for p in cache.rglob(".tmp-*") if p.parent.name == "bundle"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_compile_sweeps_what_one_of_another_network_left(tmp_path: Path) -> None:
    cache, key = BuildCache(tmp_path / "cache"), "0123456789abcdef0123"
    first = models.save(models.chain(), tmp_path / "first.onnx")
    prepared = prepare(first, options(num_segments=1), cache)
    lefts = (
        *(cache.folder(stage) / f".tmp-{key}-abcd1234" for stage in ("bundle", "lower")),
        prepared.lowered.path.with_name(".tmp-profiler"),
    )
    for left in lefts:
        left.mkdir(parents=True)
        (left / "file").write_text("half")
    second = models.save(models.chain(5), tmp_path / "second.onnx")
    compile_model(second, tmp_path / "b", options(num_segments=1), cache)
    assert not [left for left in lefts if left.exists()]


def test_what_is_measured_beside_a_graph_is_not_swept_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BuildCache(tmp_path / "cache")
    was_kept: dict[Path, bool] = {}

    def sweep_meanwhile(threads: int) -> ort.SessionOptions:
        lefts = list(cache.folder("lower").glob("*/.tmp-*"))
        BuildCache(cache.root).sweep()
        was_kept.update({path: path.exists() for path in lefts})
        return session_options(threads)

    monkeypatch.setattr(profiler, "session_options", sweep_meanwhile)
    path = models.save(models.chain(), tmp_path / "net.onnx")
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    assert list(was_kept.values()) == [True]


def _compile_in_child(
    path: str, output: str, cache: str, results: "multiprocessing.Queue[str]"
) -> None:
    profiler.measure_boundary = _cheap_boundary  # type: ignore[assignment]
    report = compile_model(
        Path(path), Path(output), options(num_segments=3), BuildCache(Path(cache))
    )
    results.put(json.dumps(report))


def test_parallel_compiles_share_one_piece_of_work(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    children = [
        context.Process(
            target=_compile_in_child,
            args=(str(path), str(tmp_path / f"b{idx}"), str(tmp_path / "cache"), results),
        )
        for idx in range(3)
    ]
    for child in children:
        child.start()
    reports = [json.loads(results.get(timeout=120)) for _ in children]
    for child in children:
        child.join()
    manifests = {(tmp_path / f"b{idx}" / "manifest.json").read_bytes() for idx in range(3)}
    assert len(manifests) == 1
    assert len({json.dumps(report["measured"]) for report in reports}) == 1


def test_parallel_compiles_to_one_output(tmp_path: Path) -> None:
    paths = [models.save(models.chain(n), tmp_path / f"net{n}.onnx") for n in (4, 6)]
    cache, output = BuildCache(tmp_path / "cache"), tmp_path / "b"
    for idx, path in enumerate(paths):
        compile_model(path, tmp_path / f"warm{idx}", options(num_segments=3), cache)
    manifests = [(tmp_path / f"warm{idx}" / "manifest.json").read_bytes() for idx in range(2)]
    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(compile_model, path, output, options(num_segments=3), cache)
            for path in paths * 6
        ]
        assert all(future.result(timeout=60)["segments"] == 3 for future in work)
    assert (output / "manifest.json").read_bytes() in manifests
    open_bundle(output).verify_files()
    assert not list(tmp_path.glob(".tmp-*"))


def test_what_belongs_to_others_is_not_swept(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    names = (".tmp-b-x-12345678", ".tmp-b-notes", ".tmp-b-12345678", ".tmp-b-abcdefgh.old")
    for name in names:
        (tmp_path / name).mkdir()
    busy = os.open(tmp_path / ".tmp-b-12345678", os.O_RDONLY)
    try:
        fcntl.flock(busy, fcntl.LOCK_EX)
        cache = BuildCache(tmp_path / "cache")
        compile_model(path, tmp_path / "b", options(num_segments=2), cache)
        assert {path.name for path in tmp_path.glob(".tmp-*")} == set(names[:3])
    finally:
        os.close(busy)
    compile_model(path, tmp_path / "b", options(num_segments=2), cache)
    assert {path.name for path in tmp_path.glob(".tmp-*")} == set(names[:2])


def test_a_bundle_moved_aside_by_a_killed_compile_goes_back_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache, output = BuildCache(tmp_path / "cache"), tmp_path / "b"
    compile_model(path, output, options(num_segments=2), cache)
    output.rename(tmp_path / ".tmp-b-abcdefgh.old")

    def full(source: Path, target: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(deliver, "_copy", full)
    with pytest.raises(BuildError, match="No space left"):
        compile_model(path, output, options(num_segments=3), cache)
    open_bundle(output).verify_files()
    assert not list(tmp_path.glob(".tmp-*"))


@contextmanager
def disk(place: Path, how: str) -> Iterator[Path]:
    """A file system of its own at `place`, mounted with these options."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    path = models.save(models.chain(8, 128), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    with disk(tmp_path / "small", "size=200k") as small:
        with pytest.raises(BuildError, match=r"cannot be written: No space left on device"):
            compile_model(path, small / "b", options(num_segments=2), cache)
        assert list(small.iterdir()) == []
        with pytest.raises(BuildError, match="No space left on device"):
            compile_model(path, tmp_path / "b", options(num_segments=2), BuildCache(small / "c"))
        assert not [file for file in small.rglob("*") if file.name.startswith(".tmp-")]


def test_a_read_only_disk_is_called_so_and_nobody_is_told_to_free_space(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    refused = r"{}: cannot be written: Read-only file system; choose another place \(-o, --cache"
    with disk(tmp_path / "fixed", "ro") as fixed:
        with pytest.raises(BuildError, match=refused.format("fixed")):
            compile_model(path, fixed / "b", options(num_segments=2), BuildCache(tmp_path / "c"))
        with pytest.raises(BuildError, match=refused.format("c")):
            compile_model(path, tmp_path / "b", options(num_segments=2), BuildCache(fixed / "c"))


@pytest.mark.parametrize("where", [lower, profiler])
def test_a_disk_that_fills_up_in_onnx_runtime_is_one_line(
    where: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text tells of an assertion, or of JSON that ends early."""

    def refuse(*arguments: object, **options: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL")

    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    prepared = None if where is lower else prepare(path, options(num_segments=1), cache)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    full = pytest.raises(BuildError, match=r"cannot be written: No space left on device; free spa")
    with full, guard(cache.root):  # as a cache's entry has it
        if prepared is None:
            prepare(path, options(num_segments=1), cache)
        else:
            profiler._node_samples(prepared.lowered, threads=1, num_runs=1, progress=silent)
    assert not list(cache.root.rglob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.disk_usage("/tmp").free < 10 << 30, reason="needs 10 GiB of disk")
def test_a_model_over_two_gigabytes_is_loaded_and_cut(tmp_path: Path) -> None:
    width, num_layers = 10_000, 6
    proto = models.chain(1, 4)
    del proto.graph.node[:], proto.graph.initializer[:]
    for idx in range(num_layers):
        tensor = onnx.TensorProto(
            name=f"w{idx}",
            data_type=1,
            dims=[width, width],
            data_location=onnx.TensorProto.EXTERNAL,
        )
        length = width * width * 4
        for key, value in (("location", "w.bin"), ("offset", idx * length), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        proto.graph.initializer.append(tensor)
        source = f"m{idx - 1}" if idx else "x"
        proto.graph.node.append(onnx.helper.make_node("MatMul", [source, f"w{idx}"], [f"m{idx}"]))
    proto.graph.input[0].CopyFrom(models.f32("x", [1, width]))
    proto.graph.output[0].CopyFrom(models.f32(f"m{num_layers - 1}", [1, width]))
    path = tmp_path / "large.onnx"
    path.write_bytes(proto.SerializeToString())
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(num_layers * width * width * 4)
    prepared = prepare(path, options(num_segments=2), BuildCache(tmp_path / "cache"))
    assert prepared.model.path.with_name("weights.data").stat().st_size > 2 << 30
    with prepared.backend.bench(prepared.model, prepared.lowered) as bench:
        inputs = random_inputs(graph_spec(prepared.lowered), seed=0, task="t")
        for outputs in (bench.outputs(None, inputs), bench.outputs((3,), inputs)):
            assert not outputs[f"m{num_layers - 1}"].any()


def test_every_candidate_is_a_position_between_two_nodes(tmp_path: Path) -> None:
    path = make("tiny_cnn", tmp_path / "net.onnx")
    prepared = prepare(path, options(num_segments=1), BuildCache(tmp_path / "cache"))
    profile = prepared.backend.estimate(prepared.lowered)
    found = candidates_of(prepared, profile, options(num_segments=1))
    positions = [candidate.position for candidate in found.candidates]
    assert all(low < high for low, high in pairwise(positions))
    assert found.counts.positions == prepared.model.graph.num_nodes - 1
