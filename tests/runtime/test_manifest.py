"""Manifests: the round trip, each thing a reader refuses, and the schema that cannot drift."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

import preempt_runtime
from preempt_runtime import manifest as contract
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import Manifest, hash_key
from preempt_runtime.manifest_check import check_manifest
from preempt_runtime.manifest_json import json_from_manifest, json_name, manifest_from_json
from tests.runtime.bundle_fixture import KEY, KEY_FIELDS, make_test_manifest

TEXT = json_from_manifest(make_test_manifest())
SCHEMA = json.loads(
    Path(preempt_runtime.__file__).with_name("manifest.schema.json").read_text(encoding="utf-8")
)
DOCS = Path(__file__).parents[2] / "docs" / "bundle-format.md"
Edit = Callable[[dict[str, Any]], object]


def refusal(text: str | bytes) -> str:
    with pytest.raises(BundleError) as caught:
        manifest_from_json(text, "M")
    message = str(caught.value)
    assert message.startswith("M: ")
    assert "\n" not in message
    assert len(message) < 600
    return message


def edited(*edits: Edit) -> str:
    document = json.loads(TEXT)
    for edit in edits:
        edit(document)
    return json.dumps(document)


def put(path: str, value: object) -> Edit:
    """Set the value at a path such as `plans.0.segments.2.path`."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        target: Any = document
        for parent in parents:
            target = target[parent]
        target[last] = value

    return edit


def cut(path: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = document
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        del target[last]

    return edit


def test_the_text_of_a_manifest_is_golden(golden: Callable[[str, str], None]) -> None:
    golden("manifest.json", TEXT)


def test_round_trip_is_identical() -> None:
    manifest = make_test_manifest()
    assert manifest_from_json(TEXT, "M") == manifest
    assert manifest_from_json(TEXT.encode(), "M") == manifest
    assert json_from_manifest(manifest_from_json(TEXT, "M")) == TEXT
    assert TEXT.endswith("}\n")
    assert json.dumps(json.loads(TEXT), sort_keys=True, indent=1) + "\n" == TEXT


def test_whole_number_is_read_as_a_float_where_the_type_is_one() -> None:
    manifest = manifest_from_json(edited(put("plans.0.margin_frac", 0)), "M")
    assert type(manifest.plans[0].margin_frac) is float


def test_writer_refuses_what_the_reader_would() -> None:
    manifest = make_test_manifest()
    assert manifest.check is not None
    bad = replace(manifest, check=replace(manifest.check, max_abs_diff=float("nan")))
    with pytest.raises(BundleError, match="to be written: NaN"):
        json_from_manifest(bad)
    with pytest.raises(BundleError, match=r"plans\[0\].graph: found 'main'"):
        json_from_manifest(replace(manifest, graphs=()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (TEXT[:-40], "not JSON"),
        (TEXT + "x", "not JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (TEXT.encode("utf-16"), "not JSON in UTF-8"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "not JSON"),
        ("[]", 'no "schema"'),
        ("null", 'no "schema"'),
        ("{}", 'no "schema"'),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": NaN}', "NaN is not"),
        ('{"a": -Infinity}', "-Infinity is not"),
        ('{"a": 1e999}', "beyond 64-bit"),
        ('{"a": 9223372036854775808}', "integer of 64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"\\ud800": 1}', "surrogate"),
        ("[" * 64 + "0" + "]" * 64, 'no "schema"'),
        ("[" * 65 + "0" + "]" * 65, "deeper than 64"),
        ("[" * 200_000 + "]" * 200_000, "deeper than 64"),
        ('{"a":' * 100_000 + "0" + "}" * 100_000, "deeper than 64"),
        (" " * ((64 << 20) + 1), "at most 64 MiB"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_ambiguous_or_unbounded_json_is_refused(text: str | bytes, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (put("schema", "other/manifest"), 'no "schema"'),
        (cut("schema_version"), "schema_version: found None"),
        (put("schema_version", 1), "schema_version: found 1"),
        (put("schema_version", {"major": True, "minor": 0}), "expected major and minor"),
        (put("schema_version", {"major": 2, "minor": 0}), "found schema 2.0, this runtime reads 1"),
        (put("schema_version", {"major": 0, "minor": 9}), "found schema 0.9"),
        (put("schema_version.patch", 1), "schema_version.patch: no such field"),
        (put("requires", ["segments", "gates"]), "requires[1]: found 'gates'"),
        (put("requires", None), "requires: found None"),
        (put("requires", [["segments"]]), "requires[0]"),
        (put("requires", ["segments", "segments"]), "stands here twice"),
        (cut("plans"), "plans: this field is missing"),
        (cut("plans.0.segments.2.latency"), "plans[0].segments[2].latency: this field is missing"),
        (put("plans.0.segments.2.rnage", 1), "plans[0].segments[2].rnage: no such field"),
        (put("a\nb", 1), "['a\\nb']: no such field"),
        (put("plans", {}), "plans: found {}, expected an array"),
        (put("keys", []), "keys: found [], expected an object"),
        (put("graphs.0", []), "graphs[0]: found [], expected an object"),
        (put("graphs.0.id", 3), "graphs[0].id: found 3, expected a string"),
        (put("check.bitwise", 1), "check.bitwise: found 1, expected true or false"),
        (put("check.seed", True), "check.seed: found True, expected an integer"),
        (put("check.tolerance_frac", True), "check.tolerance_frac: found True, expected a number"),
        (put("plans.0.bound_ns", 2000.0), "plans[0].bound_ns: found 2000.0, expected an integer"),
        (put("plans.0.segments.0.range", [0, 2, 3]), "range: found 3 elements, expected 2"),
        (put(f"keys.{KEY}.threads", 2.5), "found 2.5, expected a string or an integer"),
        (put(f"keys.{KEY}.threads", None), "found None, expected a string or an integer"),
        (put("toolchain.preemptc", None), "toolchain.preemptc: found None"),
    ],
)
def test_wrong_structure_is_refused_with_its_path(edit: Edit, expected: str) -> None:
    assert expected in refusal(edited(edit))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (put("graphs.1.id", "main"), "graphs[1]: 'main' stands here twice"),
        (put("graphs.0.id", ""), "graphs[0]: an empty name"),
        (put("plans.1.id", "cpu"), "plans[1]: 'cpu' stands here twice"),
        (put("plans.0.graph", "none"), "plans[0].graph: found 'none'"),
        (put("plans.0.key", "0" * 16), "plans[0].key: found '0000000000000000'"),
        (put(f"keys.{KEY}.threads", 3), "is not the hash of its fields"),
        (put("graphs.1.exit_of", "exit"), "graphs[1].exit_of"),
        (put("graphs.1.exit_of", "none"), "graphs[1].exit_of"),
        (put("graphs.1.outputs", []), "graphs[1].outputs: found none"),
        (put("graphs.0.outputs.1.name", "early"), "graphs[0].outputs[1]: 'early' stands"),
        (put("graphs.0.inputs.0.dtype", "float8"), "inputs[0].dtype: found 'float8', one of"),
        (put("graphs.0.inputs.0.shape.3", -1), "shape[3]: found -1, at least 0"),
        (put("graphs.0.inputs.0.shape", [1 << 62, 1 << 62]), "at most 64 GiB"),
        (put("graphs.0.inputs.0.shape", [0, 1 << 40]), "at most 64 GiB"),
        (put("graphs.0.inputs.0.shape", [(16 << 30) + 1]), "at most 64 GiB"),
        (put("graphs.0.inputs.0.shape", [1] * 33), "found 33 dimensions, at most 32"),
        (put("plans.0.mechanism", "x"), "mechanism: found 'x', one of gates, segments"),
        (put("plans.0.bound_quantile", "p95"), "bound_quantile: found 'p95'"),
        (put("plans.0.source", "guessed"), "source: found 'guessed'"),
        (put("plans.0.bound_ns", 0), "bound_ns: found 0, at least 1"),
        (put("plans.0.margin_frac", 1), "margin_frac: found 1.0, in [0, 1)"),
        (put("plans.0.margin_frac", -0.1), "margin_frac: found -0.1"),
        (put("plans.0.segments", []), "plans[0].segments: found none"),
        (put("plans.0.segments.0.range", [1, 2]), "segments[0].range: found [1, 2]"),
        (put("plans.0.segments.1.range", [3, 3]), "segments[1].range: found [3, 3]"),
        (put("plans.0.segments.1.range", [2, 2]), "segments[1].range: found [2, 2]"),
        (put("plans.0.segments.0.source_range", [-1, 5]), "source_range: found -1, at least 0"),
        (put("plans.0.segments.1.source_range", [6, 7]), "source_range: found [6, 7]"),
        (put("plans.0.segments.1.source_range", [5, 4]), "source_range: found [5, 4]"),
        (put("plans.0.segments.1.live_bytes", -1), "live_bytes: found -1"),
        (put("plans.0.segments.1.predicted_ns", -1), "predicted_ns: found -1"),
        (put("plans.0.segments.1.latency", None), "latency: found null in a plan whose source"),
        (put("plans.0.segments.1.latency.p50_ns", 1300), "expected 0 <= p50 <= p99 <= max"),
        (put("plans.0.segments.1.latency.max_ns", 1199), "expected 0 <= p50 <= p99 <= max"),
        (put("plans.0.chained.p50_ns", -1), "chained: found -1, 3500, 3600 ns"),
        (put("plans.0.chained.num_samples", 0), "num_samples: found 0, at least 1"),
        (put("plans.0.segments.1.inputs", ["b"]), "segments[1].inputs: 'b' is no input"),
        (put("plans.0.segments.0.inputs", ["x", "a"]), "segments[0].inputs: 'a' is no input"),
        (put("plans.0.segments.1.inputs", ["a", "a"]), "inputs[1]: 'a' stands here twice"),
        (put("plans.0.segments.1.outputs", ["early", "a"]), "segments[1].outputs: 'a' is"),
        (put("plans.0.segments.1.outputs", ["early", "x"]), "segments[1].outputs: 'x' is"),
        (put("plans.0.segments.1.outputs", ["early", "b"]), "'b' is produced, but nothing reads"),
        (put("plans.0.segments.2.outputs", []), "segments[2].outputs: found none"),
        (put("plans.0.segments.2.outputs", ["z"]), "'y' is output of the graph, but no segment"),
        (put("plans.0.boundaries", []), "boundaries: 'a' is handed over, but not declared"),
        (put("plans.0.boundaries.0.name", "early"), "boundaries: 'skip' is handed over"),
        (put("plans.0.segments.2.inputs", ["x"]), "'skip' is produced, but nothing reads"),
        (put("plans.0.segments.0.path", "graph/segment-000.onnx"), "is not an artefact of key"),
        (put("plans.0.segments.0.path", "nowhere.onnx"), "segments[0].path: 'nowhere.onnx'"),
        (put("plans.1.segments.0.path", "../up"), "segments[0].path: path '../up' is not one"),
        (put("artefacts.0.bytes", -1), "artefacts[0].bytes: found -1"),
        (put("artefacts.0.sha256", "AB" * 32), "artefacts[0].sha256"),
        (put("artefacts.0.sha256", "ab" * 32 + "\n"), "artefacts[0].sha256"),
        (put("artefacts.0.key", "0" * 16), "artefacts[0].key"),
        (put("artefacts.0.path", "profile.json"), "'profile.json' stands here twice"),
        (put("artefacts.0.path", "manifest.json"), "the manifest lists itself"),
        (put("check.num_inputs", 0), "check.num_inputs: found 0, at least 1"),
        (put("check.seed", -1), "check.seed: found -1"),
        (put("check.max_abs_diff", -1.0), "check.max_abs_diff: found -1.0"),
    ],
)
def test_wrong_meaning_is_refused_with_its_path(edit: Edit, expected: str) -> None:
    assert expected in refusal(edited(edit))


def test_boundary_that_is_a_graph_output_must_not_be_declared_again() -> None:
    early = {"name": "early", "dtype": "float32", "shape": [1, 4]}

    def declare(document: dict[str, Any]) -> None:
        document["plans"][0]["boundaries"].append(early)

    assert "'early' is declared, but not handed over" in refusal(edited(declare))


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../x", "a/..", "./a", "a/.", "a//b", "a/", "a\\b", "a\nb", ".."],
)
def test_paths_that_leave_the_bundle_or_have_two_spellings_are_refused(path: str) -> None:
    assert "artefacts[0]" in refusal(edited(put("artefacts.0.path", path)))
    pattern = SCHEMA["$defs"]["path"]["pattern"]
    assert re.search(pattern, path) is None
    assert re.search(pattern, "..a/b../.c") is not None


def test_newer_minor_may_add_fields_anywhere_but_not_features() -> None:
    newer = [
        put("schema_version", {"major": 1, "minor": 2, "note": "x"}),
        put("added", {"a": [1]}),
        put("plans.0.segments.1.added", None),
        put("graphs.0.inputs.0.layout", "nchw"),
    ]
    assert manifest_from_json(edited(*newer), "M") == make_test_manifest()
    assert "plans[0].id: this field is missing" in refusal(edited(*newer, cut("plans.0.id")))
    assert "requires[0]" in refusal(edited(*newer, put("requires", ["tomorrow"])))


def test_extensions_hold_anything() -> None:
    extensions = {"any": [1, 2.5, None, {"rnage": True}]}
    assert manifest_from_json(edited(put("extensions", extensions)), "M").extensions == extensions


def test_every_string_of_the_file_may_be_long_without_flooding_the_message() -> None:
    assert "one of" in refusal(edited(put("plans.0.source", "x" * 10_000)))
    assert "no such field" in refusal(edited(put("x" * 10_000, 1)))


def test_key_is_a_hash_of_canonical_json() -> None:
    assert hash_key(KEY_FIELDS) == hash_key(dict(reversed(KEY_FIELDS.items())))
    assert hash_key({"threads": 1}) != hash_key({"threads": "1"})
    assert hash_key({"cpu_model": "Prüfstand", "threads": 2}) == "4ae41f38561b7e4c"


def records() -> dict[str, type]:
    return {
        name: kind
        for name, kind in vars(contract).items()
        if isinstance(kind, type) and is_dataclass(kind)
    }


def test_schema_accepts_what_the_writer_writes() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(TEXT), SCHEMA)


@pytest.mark.parametrize(
    "edit",
    [
        cut("plans"),
        put("added", 1),
        put("schema", "other"),
        put("schema_version.major", 2),
        put("requires", ["gates"]),
        put("plans.0.segments.1.rnage", 1),
        put("plans.0.segments.1.live_bytes", -1),
        put("plans.0.segments.1.range", [1, 2, 3]),
        put("plans.0.bound_ns", 1.5),
        put("plans.0.source", "guessed"),
        put("graphs.0.inputs.0.dtype", "float8"),
        put("artefacts.0.path", "../x"),
        put("artefacts.0.sha256", "x"),
        put("check.bitwise", 1),
    ],
)
def test_schema_refuses_what_the_reader_refuses(edit: Edit) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(edited(edit)), SCHEMA)
    refusal(edited(edit))


@pytest.mark.parametrize("name", sorted(records()))
def test_schema_and_docs_name_the_fields_of_the_dataclasses(name: str) -> None:
    kind = records()[name]
    expected = {json_name(kind, f.name) for f in fields(kind)}
    definition = SCHEMA if kind is Manifest else SCHEMA["$defs"][name]
    if kind is Manifest:
        expected |= {"schema", "schema_version"}
    assert set(definition["properties"]) == expected
    assert set(definition["required"]) == expected
    assert definition["additionalProperties"] is False
    text = DOCS.read_text(encoding="utf-8")
    section = text.split(f"### {name}\n")[1].split("\n#")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == expected


def test_schema_and_contract_allow_the_same_words() -> None:
    definitions = SCHEMA["$defs"]
    plan = definitions["PlanSpec"]["properties"]
    assert SCHEMA["properties"]["schema"]["const"] == contract.SCHEMA
    version = SCHEMA["properties"]["schema_version"]["properties"]
    assert version["major"]["const"] == contract.SCHEMA_MAJOR
    assert version["minor"]["const"] == contract.SCHEMA_MINOR
    assert set(SCHEMA["properties"]["requires"]["items"]["enum"]) == contract.KNOWN_FEATURES
    assert set(plan["mechanism"]["enum"]) == contract.MECHANISMS
    assert tuple(plan["bound_quantile"]["enum"]) == contract.QUANTILES
    assert tuple(plan["source"]["enum"]) == contract.SOURCES
    tensor = definitions["TensorSpec"]["properties"]
    assert set(tensor["dtype"]["enum"]) == set(contract.ITEM_BYTES)
    assert tensor["shape"]["maxItems"] == contract.MAX_RANK
    assert definitions["path"]["not"]["const"] == contract.MANIFEST_NAME


def test_docs_give_a_key_that_can_be_recomputed() -> None:
    found = re.search(r'^ *(\{"cpu_model".*\}) *-> *([0-9a-f]{16})$', DOCS.read_text("utf-8"), re.M)
    assert found is not None
    assert hash_key(json.loads(found[1])) == found[2]


def test_what_plans_refer_to_is_read_once_however_many_plans_there_are() -> None:
    class Counted(tuple[Any, ...]):
        num_reads = 0

        def __iter__(self) -> Iterator[Any]:
            Counted.num_reads += 1
            return super().__iter__()

    manifest = make_test_manifest()
    reads = []
    for num_plans in (1, 50):
        copies = [replace(manifest.plans[0], id=f"plan-{idx}") for idx in range(num_plans)]
        graphs = [
            replace(graph, inputs=Counted(graph.inputs), outputs=Counted(graph.outputs))
            for graph in manifest.graphs
        ]
        artefacts = Counted(manifest.artefacts)
        Counted.num_reads = 0
        check_manifest(
            replace(manifest, plans=tuple(copies), graphs=Counted(graphs), artefacts=artefacts), "M"
        )
        reads.append(Counted.num_reads)
    assert reads[0] == reads[1] > 0
