"""A bundle written as ONNX graphs, for engines that run without torch."""
