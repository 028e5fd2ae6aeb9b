"""`preempt-rt`: run and simulate task sets, and examine the machine that they run on.

Exit codes: 0 done; 1 an error, told in one line, or a `fail` finding of the doctor; 2 wrong usage;
130 or 143 a run that Ctrl-C or SIGTERM ended early, after its results were printed.
"""

import argparse
import contextlib
import logging
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from preempt_runtime import __version__
from preempt_runtime.bundle import open_bundle
from preempt_runtime.cli_results import put_results, trace_writer
from preempt_runtime.cli_simulate import add_simulate, run_simulate
from preempt_runtime.cli_values import duration, integer, path, policy
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.doctor import AskedPlan, Finding, check_together, doctor
from preempt_runtime.errors import InputError, PreemptError
from preempt_runtime.input_file import lost_working_directory
from preempt_runtime.load_taskset import bundle_path, check_taskset_output
from preempt_runtime.loading import FindBackend, open_backend
from preempt_runtime.policies import POLICIES
from preempt_runtime.process import OptionReport, ProcessOptions
from preempt_runtime.run_options import RunOptions
from preempt_runtime.run_report import document_from_report, print_report
from preempt_runtime.run_taskset import run_taskset
from preempt_runtime.stdout import check_stdout, stdout_refusal
from preempt_runtime.system_view import view_this_machine
from preempt_runtime.tables import print_table
from preempt_runtime.task_table import MAX_SEED
from preempt_runtime.taskset import GATE_MODES, MECHANISMS, read_taskset
from preempt_runtime.trace import TraceRecorder
from preempt_runtime.units import fmt_ns, printable

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def main(argv: Sequence[str] | None = None, find_backend: FindBackend = open_backend) -> int:
    """Exit code of one command line; `find_backend` lets a test bring its own device."""
    try:
        check_stdout()
        arguments = _parser().parse_args(argv)
    except PreemptError as err:
        return _refuse(err)
    except SystemExit:  # a help text, the version, or wrong usage
        if (reason := stdout_refusal()) is not None:
            return _refuse(reason)
        raise
    with _logging(logging.INFO if arguments.verbose else logging.WARNING):
        try:
            return _command(arguments, find_backend)
        except PreemptError as err:
            return _refuse(err)
        except FileNotFoundError:
            if (reason := lost_working_directory()) is None:
                raise
            return _refuse(reason)
        except BrokenPipeError:  # whoever read stdout has gone: nobody is left to tell
            return 1
        except KeyboardInterrupt:
            print("preempt-rt: interrupted", file=sys.stderr)
            return 130


def _command(arguments: argparse.Namespace, find_backend: FindBackend) -> int:
    if arguments.command == "run":
        return _run(arguments, find_backend)
    if arguments.command == "simulate":
        return run_simulate(arguments)
    return _doctor(arguments, find_backend)


def _refuse(reason: PreemptError | str) -> int:
    print(f"preempt-rt: error: {printable(' '.join(str(reason).split()))}", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace, find_backend: FindBackend) -> int:
    taskset = read_taskset(arguments.taskset, seed=arguments.seed)
    if arguments.trace is not None:
        check_taskset_output(arguments.trace, taskset, "the trace")
    recorder = TraceRecorder()
    report = run_taskset(
        taskset,
        _run_options(arguments),
        find_backend=find_backend,
        clock=MonotonicClock(spin_ns=arguments.spin),
        instruments=(recorder,) if arguments.trace is not None else (),
    )
    report = replace(report, options=(*report.options, *_spin_option(arguments.spin)))
    put_results(
        lambda: document_from_report(report),
        lambda out: print_report(report, out),
        as_json=arguments.json,
        write_file=trace_writer(arguments.trace, recorder, taskset),
    )
    return 0 if report.ended_by is None else 128 + report.ended_by


def _spin_option(spin_ns: int) -> tuple[OptionReport, ...]:
    """The clock is this command's, so nothing can refuse it."""
    if not spin_ns:
        return ()
    return (OptionReport(name="spin", requested=fmt_ns(spin_ns), applied=True, reason=""),)


def _run_options(arguments: argparse.Namespace) -> RunOptions:
    return RunOptions(
        duration_ns=arguments.duration,
        policy=arguments.policy,
        mechanism=arguments.mechanism,
        gate_mode=arguments.gate_mode,
        num_warmup_runs=arguments.warmup,
        pins=dict(arguments.manifest_sha256),
        process=ProcessOptions(
            sched_fifo=arguments.sched_fifo,
            affinity=arguments.affinity,
            mlock=arguments.mlock,
        ),
    )


def _doctor(arguments: argparse.Namespace, find_backend: FindBackend) -> int:
    plans: dict[tuple[Path, str | None], AskedPlan] = {}
    of_targets: list[Finding] = []
    threads = None
    for target in arguments.targets:
        try:
            if target.is_dir():
                alone = AskedPlan(bundle=open_bundle(target))
                plans.setdefault((alone.bundle.root, None), alone)
                found = []
            else:
                _check_taskset(target)
                taskset = read_taskset(target)
                threads = max(threads or 0, taskset.threads or 0) or None
                bundles = {task.name: open_bundle(bundle_path(task)) for task in taskset.tasks}
                of_targets += check_together(taskset, bundles)
                found = [
                    AskedPlan(
                        bundle=bundles[task.name],
                        plan_id=task.plan,
                        buffers=task.buffers,
                        mechanisms=taskset.plan_mechanisms,
                    )
                    for task in taskset.tasks
                ]
        except PreemptError as err:
            of_targets.append(Finding(level="fail", what=target.name, found=str(err)))
            continue
        for plan in found:  # tasks share what is loaded, not the buffers of their jobs
            key = plan.bundle.root, plan.plan_id
            others = plans[key].buffers if key in plans else 0
            plans[key] = replace(plan, buffers=others + plan.buffers)
    findings = [
        *of_targets,
        *doctor(
            list(plans.values()),
            view=view_this_machine(),
            find_backend=find_backend,
            threads=threads,
        ),
    ]
    is_well = all(finding.level != "fail" for finding in findings)
    rows = [(f.level, f.what, f.found, f.advice) for f in findings]
    put_results(
        lambda: {"ok": is_well, "findings": list(map(asdict, findings))},
        lambda out: print_table(("level", "what", "found", "advice"), rows, out),
        as_json=arguments.json,
    )
    return 0 if is_well else 1


def _check_taskset(target: Path) -> None:
    """Return if the doctor's target, which is no directory, may be a task set.

    Raises:
        InputError: it is not there, or it is a network.
    """
    with contextlib.suppress(OSError):  # reading it will tell why
        if not target.exists():
            raise InputError(f"{target}: no such bundle or task set; check the path")
    if target.suffix.lower() == ".onnx":
        raise InputError(
            f"{target}: an ONNX network; compile it first"
            f" (`preemptc compile {shlex.quote(str(target))}`), and name the bundle"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preempt-rt", description="Run bundles so that the most urgent job gets the device."
    )
    parser.add_argument("--version", action="version", version=f"preempt-rt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")
    common.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    _add_run(commands.add_parser("run", parents=[common], help="run a task set and measure it"))
    add_simulate(
        commands.add_parser(
            "simulate", parents=[common], help="run a task set on a virtual clock, on no device"
        )
    )
    examine = commands.add_parser(
        "doctor", parents=[common], help="look for what would make bounds false"
    )
    examine.add_argument(
        "targets",
        nargs="*",
        type=path("TASKSET|BUNDLE"),
        metavar="TASKSET|BUNDLE",
        help="what would be loaded",
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("taskset", type=path("TASKSET.toml"), metavar="TASKSET.toml", help="see docs/taskset.md")
    add("--duration", type=duration, default="10s", metavar="TIME", help="default: 10s")
    policies = ", ".join(POLICIES)
    add("--policy", type=policy, metavar="NAME", help=f"instead of its own: {policies}")
    add("--mechanism", choices=MECHANISMS, help="by what jobs are preempted; gates: experimental")
    add("--gate-mode", choices=GATE_MODES, help="one stretch at a time, or an urgent one beside it")
    add("--trace", type=path("--trace"), metavar="FILE", help="write a trace that Perfetto opens")
    add("--seed", type=integer(0, MAX_SEED), metavar="N", help="instead of the task set's own")
    add(
        "--warmup",
        type=integer(0, 10_000),
        default=3,
        metavar="N",
        help="runs of each network before the first job; default: 3",
    )
    add(
        "--manifest-sha256",
        type=_pin,
        action="append",
        default=[],
        metavar="TASK=HEX",
        help="refuse any other bundle for this task; may be repeated",
    )
    add(
        "--spin",
        type=duration,
        default=0,
        metavar="TIME",
        help="poll instead of sleeping for so long before a release; takes a core",
    )
    add("--sched-fifo", type=integer(1, 99), metavar="N", help="real-time priority, 1 to 99")
    add("--affinity", type=_cores, metavar="0,1", help="stay on these cores")
    add("--mlock", action="store_true", help="keep memory resident")


def _cores(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}, allowed core numbers such as 0,1")
    return tuple(map(int, words))


def _pin(text: str) -> tuple[str, str]:
    task, _, sha256 = text.rpartition("=")
    if not task or _SHA256.fullmatch(sha256) is None:
        raise argparse.ArgumentTypeError(f"{text!r}, allowed TASK= and 64 hexadecimal digits")
    return task, sha256.lower()


@contextlib.contextmanager
def _logging(level: int) -> Iterator[None]:
    """Log to stderr as it is now, and leave no handler behind: `main` may be called in a test."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("preempt-rt: %(levelname)s: %(message)s"))
    logger = logging.getLogger("preempt_runtime")
    level_before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)
