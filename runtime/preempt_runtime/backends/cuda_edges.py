"""The edges of a CUDA graph, read from the driver past its Python bindings.

`cuGraphGetEdges` of cuda-bindings gives the right nodes, but as each edge's data an object on
memory that it has freed (12.8.0 to 12.9.4, 13.0.0 to 13.1.1; right in 12.9.10). So the driver's
library, which the bindings have loaded already, is asked by ctypes.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

from preempt_runtime.backends import cuda_driver
from preempt_runtime.errors import DeviceError


class EdgeData(ctypes.Structure):
    """The driver's `CUgraphEdgeData`."""

    _fields_ = (
        ("from_port", ctypes.c_ubyte),
        ("to_port", ctypes.c_ubyte),
        ("type", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte * 5),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverEdge:
    """Handles of both nodes; `from_port`, `to_port` and `kind` are 0 of an ordinary edge."""

    start: int
    end: int
    from_port: int = 0
    to_port: int = 0
    kind: int = 0

    @property
    def is_ordinary(self) -> bool:
        """Whether its second node waits for the end of its first."""
        return (self.from_port, self.to_port, self.kind) == (0, 0, 0)


def read_edges(graph: Any) -> list[DriverEdge]:
    """All edges of a graph, in the driver's order.

    Drivers before 12.3 know ordinary edges only.

    Raises:
        DeviceError: the driver is missing or refused.
    """
    has_data = getattr(cuda_driver.library(), "cuGraphGetEdges_v2", None) is not None
    number = _ask(graph, has_data, 0, None, None, None)
    starts, ends = (ctypes.c_void_p * number)(), (ctypes.c_void_p * number)()
    data = (EdgeData * number)()
    found = _ask(graph, has_data, number, starts, ends, data) if number else 0
    return [
        DriverEdge(
            start=starts[idx] or 0,
            end=ends[idx] or 0,
            from_port=data[idx].from_port,
            to_port=data[idx].to_port,
            kind=data[idx].type,
        )
        for idx in range(found)
    ]


def _ask(graph: Any, has_data: bool, number: int, starts: Any, ends: Any, data: Any) -> int:
    count = ctypes.c_size_t(number)
    handle = ctypes.c_void_p(int(graph))
    if has_data:
        code = cuda_driver.library().cuGraphGetEdges_v2(
            handle, starts, ends, data, ctypes.byref(count)
        )
    else:
        code = cuda_driver.library().cuGraphGetEdges(handle, starts, ends, ctypes.byref(count))
    if code != 0:
        raise DeviceError(f"cuGraphGetEdges failed: error {code} of the CUDA driver")
    return count.value
