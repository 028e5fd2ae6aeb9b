"""ONNX Runtime, the backend of CPU bundles."""

from preempt_runtime.doctor.findings import Finding, Level, Subject


def check_wheels(subject: Subject) -> list[Finding]:
    """Exactly one ONNX Runtime, unless every bundle is for GPUs."""
    plans = subject.named_plans()
    if plans and len(plans) == len(subject.named_plans("tensorrt")):
        return []
    wheels = subject.view.interpreter.wheels
    found = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "not installed"
    level: Level = "ok"
    advice = ""
    if len(wheels) > 1:
        level, advice = "fail", "the two overwrite each other; uninstall both, install one"
    elif not wheels and subject.named_plans("ort"):
        level, advice = "fail", "pip install 'preempt-runtime[cpu]'"
    elif not wheels:
        level, advice = "warn", "pip install 'preempt-runtime[cpu]'"
    elif "onnxruntime-gpu" in wheels:
        found += ", used on the CPU; GPUs run by TensorRT"
    return [Finding(level=level, what="ONNX Runtime", found=found, advice=advice)]
