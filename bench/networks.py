"""Splits every test network at a tenth of its time and measures the bundles: `make bench`.

A network that has its row already is left alone, so an interrupted run goes on where it stopped;
`--again` measures it once more. One network's files are deleted before the next one is made.
"""

import argparse
import gc
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compiling import compile_under, measured_bound
from bench.machine import MachineWatch
from bench.paired import measure_bundle
from bench.result_files import write_result
from bench.rows import failed_row, markdown, row_of
from models.make import NAMES, make
from preempt_runtime.errors import PreemptError
from preempt_runtime.units import fmt_ns
from preemptc.cache import BuildCache, write_atomically

BENCHED = tuple(name for name in NAMES if not name.startswith("tiny_"))
_WORK = Path("build_cache/bench")
_OUT = Path("docs/results")
_NAME = "cpu-networks"
_COMMAND = "make bench"


def measure_network(name: str, work: Path, *, num_pairs: int, threads: int | None) -> Any:
    """The row of one network, made, compiled and measured below `work`, which is deleted after."""
    watch = MachineWatch()
    shutil.rmtree(work, ignore_errors=True)
    try:
        cache = BuildCache(work / "cache")
        model = make(name, work / "model.onnx")
        bound = measured_bound(model, cache, threads=threads)
        report = compile_under(model, work / "it.bundle", bound["bound_ns"], cache, threads=threads)
        gc.collect()
        pairs = measure_bundle(work / "it.bundle", num_pairs=num_pairs)
        return row_of(name, report, pairs, bound, watch.describe())
    except PreemptError as err:
        return failed_row(name, str(err), watch.describe())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def merge(rows: Sequence[Any], out: Path) -> list[Any]:
    """The rows already in `out`, replaced by `rows` where these are of the same network.

    Writes them, in the order of `models.make`, as JSON and as a table.
    """
    path = out / f"{_NAME}.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    by_name = {row["network"]: row for row in (*known, *rows)}
    merged = sorted(by_name.values(), key=lambda row: NAMES.index(row["network"]))
    document = {"command": _COMMAND, "rows": merged}
    write_result(out, _NAME, document, markdown(merged, _COMMAND))
    return merged


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 every row has its figures, 1 a network could not be compiled or run."""
    options = _parser().parse_args(arguments)
    rows = []
    for name in options.only or BENCHED:
        path = options.work / "rows" / f"{name.replace('/', '-')}.json"
        if path.is_file() and not options.again:
            print(f"{name}: measured before, {path}")
        else:
            row = measure_network(
                name, options.work / "now", num_pairs=options.pairs, threads=options.threads
            )
            write_atomically(path, (json.dumps(row, indent=1) + "\n").encode())
        rows.append(json.loads(path.read_text()))
        merge(rows, options.out)
        print(_summary(rows[-1]), flush=True)
    return 1 if any("error" in row for row in rows) else 0


def _summary(row: Any) -> str:
    if "error" in row:
        return f"{row['network']}: {row['error']}"
    ratio = row["chained_over_whole"]
    head = (
        f"{row['network']}: whole {fmt_ns(row['whole_p50_ns'])}, {row['segments']} segments,"
        f" longest {fmt_ns(row['longest_segment']['p50_ns'])} (bound {fmt_ns(row['bound_ns'])}),"
        f" chained/whole {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    )
    return "\n  not reached: ".join([head, *row["not_reached"]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.networks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="these networks")
    parser.add_argument("--again", action="store_true", help="measure what has a row already")
    parser.add_argument("--pairs", type=int, default=100, help="runs of chain and whole each")
    parser.add_argument("--threads", type=int, help="of every session (default: usable cores)")
    parser.add_argument("--out", type=Path, default=_OUT, help=f"folder of {_NAME}.json and .md")
    parser.add_argument("--work", type=Path, default=_WORK, help="folder for models and rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
