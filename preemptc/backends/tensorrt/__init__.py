"""TensorRT: fusion groups from a built engine, segments as engines, times from CUDA events."""
