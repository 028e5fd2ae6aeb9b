"""A portable bundle, compiled without its GPU, built on the one that is here.

    python -m bench.gpu_portable compile net.bundle --target orin     # anywhere
    python -m bench.gpu_portable build net.bundle                     # where the GPU is
    make bench-gpu-portable                                           # both, there

`build` works on a copy, compares what was planned from estimates with what was measured, runs the
new bundle through the runtime, and writes docs/results/gpu-portable.json and .md.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.compiling import NODE_FACTOR
from bench.gpu import QUICK, QUICK_LEVEL
from bench.gpu_bundle import compared_outputs, loaded, paired_times
from bench.result_files import write_result
from models.make import make
from preempt_runtime.backends.tensorrt import local_fields
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.errors import PreemptError
from preempt_runtime.units import fmt_ns, rounded_down_ns
from preemptc.backends import BackendOptions
from preemptc.backends.reference import SourceReference
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.pipeline import compile_model
from preemptc.prepare import prepare
from preemptc.profiling import costs_without_device
from preemptc.rebuild import rebuild

NAME = "gpu-portable"
_OUT = Path("docs/results")
_WORK = Path("build_cache/bench-gpu-portable")


def compile_portable(
    network: str, target: str, output: Path, cache: BuildCache, *, parts: int, level: int
) -> int:
    """Compile without a GPU, under a share of the estimated time; the bound, in ns.

    The bound is one of `parts` of the estimate, or 1.2 times its longest node if that is more.
    """
    work = output.parent
    work.mkdir(parents=True, exist_ok=True)
    model = make(network, work / f"{network.replace('/', '-')}.onnx")
    backend = BackendOptions(precision="fp16", level=level, engines="skip")
    options = CompileOptions(target=target, goal=Goal(num_segments=1), backend=backend)
    profile = costs_without_device(prepare(model, options, cache), options)
    asked_ns = max(profile.total_ns / parts, NODE_FACTOR * max(profile.node_ns))
    bound_ns = rounded_down_ns(round(asked_ns))
    options = CompileOptions(target=target, goal=Goal(max_segment_ns=bound_ns), backend=backend)
    compile_model(model, output, options, cache)
    return bound_ns


def build_here(path: Path, work: Path, cache: BuildCache) -> dict[str, Any]:
    """Build a copy of the bundle for the GPU that is here; what it was, what it is, how it runs.

    Raises:
        PreemptError: what the build raises.
    """
    copy = work / "built.bundle"
    shutil.rmtree(copy, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, copy)
    before = _plan_of(open_bundle(copy))
    report = rebuild(copy, "native", None, cache, lambda what, frac: None)
    bundle = open_bundle(copy)
    with loaded(copy) as it:
        times = paired_times(it)
        outputs = compared_outputs(it, SourceReference(path / "graph" / MODEL_FILE).outputs)
    assert bundle.manifest.check is not None
    return {
        "before": before,
        "after": {
            **_plan_of(bundle),
            "overhead_ratio": report["measured"]["overhead_ratio"],
            "whole_p50_ns": report["measured"]["whole_p50_ns"],
            "wall_s": report["wall_s"],
            "built": report["built"],
            "kept": report["kept"],
        },
        "again": times,
        "outputs": outputs,
        "machine": dict(local_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _plan_of(bundle: Bundle) -> dict[str, Any]:
    """What the manifest says of the plan, before or after."""
    plan = bundle.manifest.plans[0]
    return {
        "manifest_sha256": bundle.manifest_sha256,
        "target": plan.target,
        "source": plan.source,
        "has_engines": plan.key is not None,
        "bound_ns": plan.bound_ns,
        "toolchain": dict(bundle.manifest.toolchain),
        "segments": [
            {
                "source_range": list(segment.source_range),
                "predicted_ns": segment.predicted_ns,
                "p50_ns": segment.latency.p50_ns if segment.latency else None,
            }
            for segment in plan.segments
        ],
    }


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: a table of all bundles, and each one's segments before and after."""
    lines = [
        "# Portable bundles: planned from estimates, built and planned again on a GPU",
        "",
        "`make bench-gpu-portable`: `compile --target NAME` without that GPU, then `build` of that"
        " bundle as target `native`. *Source* is what the manifest says of the plan's costs. fp16;"
        " the bound is an eighth of the estimated time, or 1.2 times its longest layer.",
        "",
        "| bundle | bound | source before > after | segments | longest before > after |"
        " sum estimated > measured whole | chained/whole | build | date |",
        "|---|---:|---|---|---|---|---:|---:|---|",
    ]
    for name, result in results.items():
        before, after = result["before"], result["after"]
        longest = max(segment["predicted_ns"] for segment in before["segments"])
        total = sum(segment["predicted_ns"] for segment in before["segments"])
        measured = max(segment["p50_ns"] for segment in after["segments"])
        lines.append(
            f"| {name} | {fmt_ns(before['bound_ns'])} | {before['source']} > {after['source']} |"
            f" {len(before['segments'])} > {len(after['segments'])} |"
            f" {fmt_ns(longest)} > {fmt_ns(measured)} |"
            f" {fmt_ns(total)} > {fmt_ns(after['whole_p50_ns'])} | {after['overhead_ratio']:.3f} |"
            f" {after['wall_s']:.0f} s | {result['date'][:10]} |"
        )
    for name, result in results.items():
        lines += ["", f"## {name}", "", *_section(result)]
    return "\n".join([*lines, "", f"Every figure: [{NAME}.json]({NAME}.json).", ""])


def _section(result: Mapping[str, Any]) -> list[str]:
    machine, tools, after = result["machine"], result["before"]["toolchain"], result["after"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(tools.items()))
    lines = [
        f"Compiled by {versions}; built on {machine['gpu']}, TensorRT {machine['tensorrt']}.",
        "",
        "| plan | segments: nodes of the source graph, time |",
        "|---|---|",
    ]
    for what, plan, key in (
        ("estimated", result["before"], "predicted_ns"),
        ("measured, p50", after, "p50_ns"),
    ):
        cells = [
            f"{each['source_range'][0]}-{each['source_range'][1] - 1}: {fmt_ns(each[key])}"
            for each in plan["segments"]
        ]
        lines.append(f"| {what} | {'; '.join(cells)} |")
    for name, found in result["outputs"].items():
        share = found["chained_to_source"] / max(found["largest"], 1e-30)
        lines += [
            "",
            f"Output {name} through the runtime, against ONNX Runtime in fp32 on the CPU: at most"
            f" {found['chained_to_source']:.2g} apart, {share:.2%} of the largest value.",
        ]
    return lines


def write(name: str, result: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The results in `out` with this one in place of its older self, as JSON and page."""
    path = out / f"{NAME}.json"
    known = json.loads(path.read_text())["bundles"] if path.is_file() else {}
    bundles = {**known, name: result}
    write_result(out, NAME, {"bundles": bundles}, markdown(bundles))
    return bundles


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, build, or both; 0, or 1 where something failed, such as that there is no GPU."""
    options = _options(arguments)
    cache = BuildCache(options.cache)
    try:
        bundle = options.bundle
        if options.step != "build":
            bound_ns = compile_portable(
                options.network, options.target, bundle, cache,
                parts=options.parts, level=options.opt_level,
            )  # fmt: skip
            print(f"{bundle}: compiled for {options.target}, bound {fmt_ns(bound_ns)}", flush=True)
        if options.step == "compile":
            return 0
        name = f"{bundle.stem}, compiled for {open_bundle(bundle).manifest.plans[0].target}"
        write(name, build_here(bundle, options.work, cache), options.out)
    except PreemptError as err:
        print(f"bench-gpu-portable: {err}", file=sys.stderr)
        return 1
    print((options.out / f"{NAME}.md").read_text())
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_portable", description=__doc__)
    parser.add_argument("step", choices=("compile", "build", "both"))
    parser.add_argument("bundle", nargs="?", type=Path, help="[default: in --work]")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--target", default="orin")
    parser.add_argument("--parts", type=int, default=8, help="bound of 1/N of the estimate")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--quick", action="store_true", help="a small network, level 1")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=_WORK)
    parser.add_argument("--cache", type=Path, default=Path("build_cache/bench-gpu/cache"))
    options = parser.parse_args(arguments)
    if options.quick:
        options.network, options.opt_level, options.parts = "light/squeezenet", QUICK_LEVEL, 4
        options.work, options.out, options.cache = QUICK, QUICK / "results", QUICK / "cache"
    if options.bundle is None:
        options.bundle = options.work / f"{options.network.replace('/', '-')}.bundle"
    return options


if __name__ == "__main__":
    sys.exit(main())
