"""Trained actors as files that other programs run: ONNX graphs and torch programs."""
