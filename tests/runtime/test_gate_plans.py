"""Plans of gates in a manifest: read strictly, and what older and newer versions make of them."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from preempt_runtime.bundle import choose_plan, open_bundle
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import Manifest
from preempt_runtime.manifest_json import json_from_manifest, manifest_from_json
from tests.runtime.bundle_fixture import (
    LOCAL_FIELDS,
    make_test_bundle,
    make_test_manifest,
    manifest_with_gates,
)
from tests.runtime.test_manifest import SCHEMA, Edit, cut, put

AT = "plans.2"


def read(*edits: Edit) -> Manifest:
    document = json.loads(json_from_manifest(manifest_with_gates()))
    for edit in edits:
        edit(document)
    return manifest_from_json(json.dumps(document), "M")


def test_a_plan_of_gates_passes_through_a_manifest_and_its_schema() -> None:
    text = json_from_manifest(manifest_with_gates())
    assert manifest_from_json(text, "M") == manifest_with_gates()
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(f"{AT}.gates", None), r"plans\[2\]\.gates: found null in a plan of gates"),
        (put(f"{AT}.gates.fingerprint", "0123456789ABCDEF"), r"fingerprint: .*16 hexadecimal"),
        (put(f"{AT}.gates.fingerprint", 7), r"fingerprint: found 7, expected a string"),
        (put(f"{AT}.gates.num_nodes", 104), r"num_nodes: found 104, the segments end at 105"),
        (put(f"{AT}.gates.num_nodes", 0), r"num_nodes: found 0, at least 1"),
        (put(f"{AT}.gates.gate_ns", -1), r"gate_ns: found -1, at least 0"),
        (put(f"{AT}.gates.gate_ns", 0.5), r"gate_ns: found 0.5, expected an integer"),
        (put(f"{AT}.gates.more", 1), r"gates\.more: no such field"),
        (cut(f"{AT}.gates"), r"plans\[2\]\.gates: this field is missing"),
        (put(f"{AT}.key", None), r"is not an artefact of key None"),
        (put(f"{AT}.boundaries", [{"name": "a", "dtype": "int8", "shape": [1]}]), "boundaries"),
        (put(f"{AT}.segments.1.range", [50, 3]), r"segments\[1\]\.range"),
        (put(f"{AT}.segments.0.range", [1, 3]), r"segments\[0\]\.range"),
        (put(f"{AT}.segments.1.source_range", [1, 9]), r"segments\[1\]\.source_range"),
        (put(f"{AT}.segments.1.inputs", ["x"]), r"segments\[1\]\.inputs"),
        (put(f"{AT}.segments.0.outputs", ["y"]), r"segments\[0\]\.outputs"),
        (put(f"{AT}.segments.2.outputs", ["y"]), r"segments\[2\]\.outputs"),
        (put(f"{AT}.segments.2.outputs", ["early", "y", "y"]), r"outputs\[2\]: 'y' stands here"),
        (put(f"{AT}.segments.1.latency", None), r"segments\[1\]\.latency"),
        (put("plans.0.gates", {"fingerprint": "0" * 16, "gate_ns": 1, "num_nodes": 7}),
         r"plans\[0\]\.gates: found in a plan of segments"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(edit: Edit, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read(edit)


def test_stretches_of_two_engines_are_refused() -> None:
    other = make_test_manifest().plans[0].segments[1].path
    with pytest.raises(BundleError, match="all are of one engine"):
        read(put(f"{AT}.segments.1.path", other))


def test_nodes_of_the_source_that_end_before_they_begin_are_refused() -> None:
    edits = [put(f"{AT}.segments.{idx}.source_range", [9, 2]) for idx in range(3)]
    with pytest.raises(BundleError, match=r"source_range: found \[9, 2\]"):
        read(*edits)


def test_a_manifest_of_version_1_0_that_speaks_of_gates_is_none() -> None:
    with pytest.raises(BundleError, match=r"plans\[0\]\.gates: no such field in schema 1\.0"):
        read(put("schema_version.minor", 0))


def test_a_manifest_of_version_1_0_has_no_gates() -> None:
    document = json.loads(json_from_manifest(make_test_manifest()))
    document["schema_version"]["minor"] = 0
    for plan in document["plans"]:
        del plan["gates"]
    assert manifest_from_json(json.dumps(document), "M") == make_test_manifest()


def test_plans_that_only_a_newer_version_can_run_are_left_out_of_a_newer_file() -> None:
    unknown = put("plans.0.mechanism", "teleport")
    with pytest.raises(BundleError, match="mechanism: found 'teleport', one of gates, segments"):
        read(unknown)
    newer = read(unknown, put("schema_version.minor", 2))
    assert newer.plans == manifest_with_gates().plans[1:]


def test_gates_are_chosen_by_who_asks_for_them(tmp_path: Path) -> None:
    folder = make_test_bundle(tmp_path / "net.bundle")
    (folder / "manifest.json").write_text(json_from_manifest(manifest_with_gates()))
    bundle = open_bundle(folder)
    assert choose_plan(bundle, LOCAL_FIELDS).id == "cpu"
    assert choose_plan(bundle, LOCAL_FIELDS, mechanisms=("gates", "segments")).id == "gates"
    assert choose_plan(bundle, LOCAL_FIELDS, mechanisms=("segments", "gates")).id == "cpu"
    asked = "'gates' is a plan of gates, asked for: segments; run with --mechanism gates"
    with pytest.raises(BundleError, match=asked):
        choose_plan(bundle, LOCAL_FIELDS, plan_id="gates")
    with pytest.raises(BundleError, match="'cpu' is a plan of segments, asked for: gates"):
        choose_plan(bundle, LOCAL_FIELDS, plan_id="cpu", mechanisms=("gates",))
