"""What TensorRT's ONNX parser does not take: the node, its operator, the parser's own words."""

from pathlib import Path
from typing import Any

from preempt_runtime.units import fmt_count
from preemptc.onnx_io.files import one_line, read_graph

_MAX_ERRORS = 3


def parser_refusal(parser: Any, path: Path, otherwise: str) -> str:
    """Which nodes of the file the parser stopped at, and why.

    Args:
        parser: an `OnnxParser` whose `parse_from_file` returned False.
        path: the file that it parsed.
        otherwise: the reason to give where the parser lists no error.
    """
    errors = [parser.get_error(idx) for idx in range(parser.num_errors)]
    if not errors:
        return f"it: {otherwise}"
    nodes = [(node.name, node.op_type) for node in read_graph(path).graph.node]
    texts = [_refusal(error, nodes) for error in errors[:_MAX_ERRORS]]
    left_out = len(errors) - len(texts)
    return "; ".join(dict.fromkeys(texts)) + (
        f"; and {fmt_count(left_out, 'more error')}" if left_out else ""
    )


def _refusal(error: Any, nodes: list[tuple[str, str]]) -> str:
    name, operator = _place(error, nodes)
    where = f"operator {operator} of node {name!r}" if operator else "it"
    return f"{where}: {one_line(RuntimeError(error.desc()))}"


def _place(error: Any, nodes: list[tuple[str, str]]) -> tuple[str, str]:
    """Name and operator; 8.6 has the node's place in the graph alone, newer ones both."""
    if hasattr(error, "node_operator") and error.node_operator():
        return str(error.node_name()), str(error.node_operator())
    idx = int(error.node())
    return nodes[idx] if 0 <= idx < len(nodes) else ("", "")
