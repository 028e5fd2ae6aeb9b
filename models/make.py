"""Makes test networks by name: `python -m models.make NAME -o PATH [--seed N] [--batch N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from models import convnets, detector, inception, light, segformer, tiny, transformers
from models.network import Network
from models.network_file import write_network


class Architecture(Protocol):
    """A function that describes a network for a batch size."""

    def __call__(self, *, batch: int = 1) -> Network:
        """The network."""
        ...


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "tiny_cnn": tiny.tiny_cnn,
        "tiny_branchy": tiny.tiny_branchy,
        "mobilenet_v2": convnets.mobilenet_v2,
        "resnet50": convnets.resnet50,
        "resnet152": convnets.resnet152,
        "vgg19": convnets.vgg19,
        "densenet201": convnets.densenet201,
        "inception_v3": inception.inception_v3,
        "retinanet": detector.retinanet,
        "vit_b_16": transformers.vit_b_16,
        "bert_base": transformers.bert_base,
        "distilbert": transformers.distilbert,
        "segformer_b0": segformer.segformer_b0,
        **{
            f"{light.PREFIX}{topology}": partial(light.light, topology)
            for topology in light.TOPOLOGIES
        },
    }
)
NAMES: tuple[str, ...] = tuple(ARCHITECTURES)


def describe(name: str, *, batch: int = 1) -> Network:
    """The network called `name`, its weights not drawn yet.

    Raises:
        ValueError: there is no such name, or it has no such batch size.
    """
    if batch < 1:
        raise ValueError(f"{name}: batch {batch}, must be 1 or more")
    if name not in ARCHITECTURES:
        raise ValueError(f"no network {name!r}; --list prints those there are")
    return ARCHITECTURES[name](batch=batch)


def make(
    name: str,
    path: str | Path,
    seed: int = 0,
    batch: int = 1,
    *,
    external_data: bool | None = None,
) -> Path:
    """`path`, where the network is now; the same name and seed give the same bytes.

    Args:
        name: One of `NAMES`.
        path: Of the ONNX file. Large weights go beside it, to `<path>.data`.
        seed: Chooses the weights, 0 or more.
        batch: First dimension of every input.
        external_data: Whether there is a `.data` file; None: if the weights exceed 64 MiB.

    Raises:
        ValueError: as `describe`, or the seed is negative.
    """
    network = describe(name, batch=batch)
    return write_network(network, Path(path), seed=seed, external_data=external_data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 the network cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m models.make", description=__doc__)
    parser.add_argument("name", nargs="?", help="network to make")
    parser.add_argument("-o", "--output", type=Path, help="ONNX file to write")
    parser.add_argument("--seed", type=int, default=0, help="chooses the weights (default 0)")
    parser.add_argument("--batch", type=int, default=1, help="batch size (default 1)")
    parser.add_argument("--list", action="store_true", help="print the names and exit")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(NAMES))
        return 0
    if options.name is None or options.output is None:
        parser.error("NAME and -o PATH are needed (or --list)")
    try:
        make(options.name, options.output, options.seed, options.batch)
    except ValueError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
