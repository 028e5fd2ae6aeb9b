"""The one place that knows ONNX files: read, check, simplify, describe, cut and write them.

Weights never travel through memory as a whole: a graph is held without them, each large one
refers to a byte range of a data file, and a cut piece refers to the same file.
"""
