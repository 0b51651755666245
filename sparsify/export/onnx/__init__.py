"""Writing ONNX: models of torch through its exporter, and files that came from ONNX rewritten."""
