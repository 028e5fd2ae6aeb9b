"""The networks of a pair, on every device that the ways of sharing need."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cut_graph import CutNetwork
from bench.gpu_modes import Way, on_device
from bench.modes import Workload
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.manifest import GATES_PLAN_ID, SEGMENTS_PLAN_ID, WHOLE_PLAN_ID

Inputs = Mapping[str, Any]


class PairNetworks:
    """Loads what a way needs when it is first asked for; one device with gates at a time.

    Args:
        bundles: `urgent`, `long` with the plans `whole` and `segments`; where ways need gates also
            `gates`, the long network with the plans `whole` and `gates`.
        times: what of a workload is the same for all ways.

    Raises:
        PreemptError: a bundle is not of this machine, or the GPU refused.
    """

    def __init__(self, bundles: Mapping[str, Path], **times: int) -> None:
        self._bundles = {role: open_bundle(path) for role, path in bundles.items()}
        self._gates = ExitStack()
        self._mode: Mode | None = None
        self._gated: dict[str, Any] = {}
        self._cut: CutNetwork | None = None
        with ExitStack() as stack:
            device = TrtDevice()
            stack.callback(device.close)
            urgent, whole, segments = (
                device.load(self._bundles[role], plan)
                for role, plan in (
                    ("urgent", WHOLE_PLAN_ID),
                    ("long", WHOLE_PLAN_ID),
                    ("long", SEGMENTS_PLAN_ID),
                )
            )
            for network in (urgent, whole, segments):
                stack.callback(network.close)
            self.inputs: Sequence[Inputs] = [
                stack.enter_context(on_device(network, 0)) for network in (urgent, whole)
            ]
            self._plain = Workload(
                device=device,
                urgent=urgent,
                whole=whole,
                segments=segments,
                urgent_samples=[self.inputs[0]],
                long_samples=[self.inputs[1]],
                **times,
            )
            self.segments_plan = segments.plan
            self._device = device
            self._stack = stack.pop_all()

    @property
    def period_ns(self) -> int:
        """Of the urgent jobs, on average."""
        return self._plain.period_ns

    def workload(self, way: Way) -> Workload:
        """What the way runs, loaded.

        Raises:
            PreemptError: the device cannot have its networks, or not with gates.
        """
        load = replace(self._plain, long_buffers=way.buffers, announce_ns=way.announce_ns)
        if way.gates is not None:
            self._open_gates(way.gates)
            return replace(
                load,
                device=self._gated["device"],
                urgent=self._urgent(way.urgent_plan),
                segments=self._gated["long"],
            )
        return replace(load, segments=self._cut_network()) if way.long == "cut" else load

    def close(self) -> None:
        """Release everything; nothing may run."""
        self._gates.close()
        if self._cut is not None:
            self._cut.close()
        self._stack.close()

    def __enter__(self) -> "PairNetworks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_gates(self, mode: Mode) -> None:
        if mode == self._mode:
            return
        self._gates.close()
        self._mode, self._gated = None, {}
        with ExitStack() as stack:
            device = GatedTrtDevice(mode=mode)
            stack.callback(device.close)
            long = device.load(self._bundles["gates"], GATES_PLAN_ID)
            stack.callback(long.close)
            self._gated = {"device": device, "long": long}
            self._gates = stack.pop_all()
        self._mode = mode

    def _urgent(self, plan_id: str) -> Any:
        if plan_id not in self._gated:
            network = self._gated["device"].load(self._bundles["urgent"], plan_id)
            self._gates.callback(network.close)
            self._gated[plan_id] = network
        return self._gated[plan_id]

    def _cut_network(self) -> CutNetwork:
        if self._cut is None:
            self._cut = CutNetwork(self._device, self._bundles["gates"])
        return self._cut
