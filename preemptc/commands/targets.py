"""`preemptc targets`: what networks can be compiled for."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from preemptc.commands.options import json_option
from preemptc.report import Table, facts
from preemptc.targets import TARGETS, LocalDevice, local_device
from preemptc.terminal import show


@click.command("targets")
@json_option
def command(as_json: bool) -> None:
    """Show what networks can be compiled for."""
    devices = [local_device(target) for target in TARGETS.values()]
    show(document_of(devices), tables_of(devices), as_json=as_json)


def document_of(devices: Sequence[LocalDevice]) -> Mapping[str, Any]:
    """What `targets` tells programs."""
    return {
        "targets": [
            {
                "name": device.target.name,
                "description": device.target.description,
                "available": device.is_available,
                "reason": device.unavailable,
                "cores": device.num_cores,
                "machine": dict(device.fields),
            }
            for device in devices
        ],
        "this_machine": [device.target.name for device in devices if device.is_available],
    }


def tables_of(devices: Sequence[LocalDevice]) -> tuple[Table, ...]:
    """What `targets` tells people."""
    return tuple(
        facts(
            f"{device.target.name}: {device.target.description}",
            {
                "here": "this machine" if device.is_available else f"no: {device.unavailable}",
                "cores": f"{device.num_cores} that this process may use",
                **{name: str(value) for name, value in device.fields.items()},
            },
        )
        for device in devices
    )
