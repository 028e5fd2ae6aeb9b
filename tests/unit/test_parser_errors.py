"""Which node and operator TensorRT's parser stopped at, as 8.6 and as newer ones tell it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from preemptc.backends.tensorrt.parser_errors import parser_refusal
from tests.unit import onnx_models


@dataclass(frozen=True)
class Error:
    """What 8.6 tells: the node's place in the graph."""

    idx: int
    text: str = "Assertion failed:\n  Plugin not found"

    def node(self) -> int:
        return self.idx

    def desc(self) -> str:
        return self.text


@dataclass(frozen=True)
class NewError(Error):
    """What newer ones tell, too."""

    name: str = ""
    operator: str = ""

    def node_name(self) -> str:
        return self.name

    def node_operator(self) -> str:
        return self.operator


class Parser:
    def __init__(self, *errors: Error) -> None:
        self._errors = errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, idx: int) -> Any:
        return self._errors[idx]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.chain(2), tmp_path / "chain.onnx")


def refusal(path: Path, *errors: Error) -> str:
    return parser_refusal(Parser(*errors), path, "it gave no reason")


def test_the_node_is_found_by_its_place(path: Path) -> None:
    expected = "operator MatMul of node 'mm1': Assertion failed: Plugin not found"
    assert refusal(path, Error(2)) == expected


def test_newer_ones_name_it_themselves(path: Path) -> None:
    inside = NewError(0, "unsupported", name="inner", operator="Det")
    assert refusal(path, inside) == "operator Det of node 'inner': unsupported"
    assert refusal(path, NewError(3, "bad")) == "operator Relu of node 'relu1': bad"


@pytest.mark.parametrize("idx", [-1, 4, 1000])
def test_a_node_that_is_not_in_the_graph_is_not_named(path: Path, idx: int) -> None:
    assert refusal(path, Error(idx, "no graph")) == "it: no graph"


def test_some_of_many_are_told_once_each(path: Path) -> None:
    errors = [Error(0, "a"), Error(0, "a"), Error(1, "b"), Error(2, "c"), Error(3, "d")]
    assert refusal(path, *errors) == (
        "operator MatMul of node 'mm0': a; operator Relu of node 'relu0': b; and 2 more errors"
    )


def test_without_an_error_the_log_speaks(path: Path) -> None:
    assert refusal(path) == "it: it gave no reason"
