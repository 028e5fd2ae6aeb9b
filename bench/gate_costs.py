"""What one gate costs in a chain of kernels, by mode, timed or not."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

from bench.gate_parts import Parts
from bench.gate_workshop import Sizes, Workshop, finish, open_board
from preempt_runtime.backends.cuda import Event, Stream, open_cuda
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.gates import GatedGraph
from preemptc.backends.tensorrt.timing import Launched

MODES: tuple[Mode, ...] = ("exclusive", "overlap")
SIZES = Sizes(duration_ns=20_000, num_long=64)
"""64 steps of 20 us, which leave most of the GPU free."""


def cost(options: argparse.Namespace, parts: Parts) -> None:
    """A chain without gates, and with 8 to 64 of them, in turn."""
    if (part := parts.open("cost")) is None:
        return
    rows: list[dict[str, Any]] = []
    with (
        part.keeping(),
        open_cuda(),
        closing(Workshop(SIZES)) as shop,
        Stream(priority="low") as stream,
        shop.chain(range(1, SIZES.num_long + 1), SIZES.duration_ns) as chain,
    ):
        steps = shop.timer_steps_ns()
        cuts = chain.captured.shape().cuts()
        head = {"steps": SIZES.num_long, "step_ns": SIZES.duration_ns, "rounds": options.rounds,
                "timer_steps_ns": [steps[0], median(steps), steps[-1]]}  # fmt: skip
        for mode in MODES:
            for is_timed in (False, True):
                with open_board(mode) as board, ExitStack() as stack:
                    slot = board.take_slot()
                    graphs: list[Launched] = [stack.enter_context(chain.captured.instantiate())]
                    numbers = []
                    for every in (8, 4, 2, 1):
                        gated = GatedGraph(
                            chain.captured, cuts[every - 1 :: every], board, slot, stream,
                            is_timed=is_timed,
                        )  # fmt: skip
                        graphs.append(stack.enter_context(gated).graph)
                        numbers.append(gated.num_gates)
                    times = paired_ns(graphs, stream, options.rounds)
                    alone_ns = median(times[0])
                    per_gate = {
                        str(number): round((median(taken) - alone_ns) / number)
                        for number, taken in zip(numbers, times[1:], strict=True)
                    }
                rows.append({"mode": mode, "timed": is_timed, "ns_per_gate": per_gate})
                part.write({**head, "rows": rows}, is_complete=len(rows) == 2 * len(MODES))
                print(rows[-1], flush=True)


def paired_ns(graphs: Sequence[Launched], stream: Stream, num_rounds: int) -> list[list[int]]:
    """Device time of each graph, launched in turn, alone on the device."""
    times: list[list[int]] = [[] for _ in graphs]
    with Event(timing=True) as start, Event(timing=True) as end:
        for number in range(num_rounds + 3):
            for idx, graph in enumerate(graphs):
                graphs[0].launch(stream)  # the device is busy while the host enqueues the other
                start.record(stream)
                graph.launch(stream)
                end.record(stream)
                finish(stream)
                if number >= 3:
                    times[idx].append(end.elapsed_ns(start))
    return times
