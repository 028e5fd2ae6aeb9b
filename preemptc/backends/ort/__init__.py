"""ONNX Runtime on the CPU, the compiler's side: optimise once, profile, build pieces, measure."""
