"""`preemptc targets`: what networks can be compiled for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import click

from preemptc.backends import unused_providers
from preemptc.commands.options import json_option
from preemptc.gpu_specs import GpuSpec, PeakRate
from preemptc.report import Table, facts
from preemptc.targets import CPU, TARGETS, LocalDevice, local_devices
from preemptc.terminal import show

_RATES = ("fp32", "fp16", "int8")
_NUMBERS = ("SMs", "GB", "GB/s", *_RATES)


@click.command("targets")
@json_option
def command(as_json: bool) -> None:
    """Show what networks can be compiled for."""
    devices = local_devices(TARGETS.values())
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
                "machine": dict(device.fields) if device.is_available else {},
                "gpu": _gpu_document(device.target.gpu),
                "notes": _notes(device),
            }
            for device in devices
        ],
        "this_machine": [device.target.name for device in devices if device.is_available],
    }


def tables_of(devices: Sequence[LocalDevice]) -> tuple[Table, ...]:
    """What `targets` tells people."""
    unnamed = [device for device in devices if device.target.gpu is None]
    return (
        *(
            facts(
                f"{device.target.name}: {device.target.description}",
                {
                    "here": "this machine" if device.is_available else f"no: {device.unavailable}",
                    "cores": f"{device.num_cores} that this process may use",
                    **{name: str(value) for name, value in device.fields.items()},
                },
                _notes(device),
            )
            for device in unnamed
        ),
        *_gpu_tables(devices),
    )


def _notes(device: LocalDevice) -> tuple[str, ...]:
    if device.target is not CPU or not device.is_available:
        return ()
    providers = unused_providers()
    if not providers:
        return ()
    return (f"not used of this ONNX Runtime: {', '.join(providers)}; see native",)


def _gpu_document(spec: GpuSpec | None) -> Mapping[str, Any] | None:
    if spec is None:
        return None
    document = {**dataclasses.asdict(spec), "sources": dict(spec.sources)}
    return {**document, "unconfirmed": sorted(spec.unconfirmed)}


def _gpu_tables(devices: Sequence[LocalDevice]) -> Sequence[Table]:
    named = [(device.target.gpu, device) for device in devices if device.target.gpu is not None]
    if not named:
        return ()
    columns = ("name", "GPU", "cap.", *_NUMBERS, "TensorRT", "DLA", "here")
    table = Table(
        title="GPUs by name, by TensorRT; figures as published, at the highest clocks",
        columns=columns,
        numbers=frozenset(_NUMBERS),
        rows=tuple(_gpu_row(spec, device) for spec, device in named),
        notes=(
            "rates in tera-operations per second, dense; ~ not found in print, see docs/targets.md",
            "a GPU that is not here can be planned for, from estimated costs",
            "DLA: with some TensorRT versions only, see docs/targets.md",
        ),
    )
    return (table,)


def _gpu_row(spec: GpuSpec, device: LocalDevice) -> tuple[str, ...]:
    rates = {"fp32": spec.fp32, "fp16": spec.fp16, "int8": spec.int8}
    return (
        spec.name,
        spec.title,
        spec.compute_capability,
        str(spec.num_sms),
        f"{spec.memory_bytes / 1e9:g}",
        f"{spec.bandwidth_bytes_per_s / 1e9:g}",
        *(_rate(rate, name in spec.unconfirmed) for name, rate in rates.items()),
        str(spec.tensorrt),
        "yes" if spec.dla else "-",
        "yes" if device.is_available else "no",
    )


def _rate(rate: PeakRate | None, is_unconfirmed: bool) -> str:
    if rate is None:
        return "-"
    return f"{'~' if is_unconfirmed else ''}{rate.ops_per_s / 1e12:.4g}"
