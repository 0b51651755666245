"""ONNX files as models: read, their dense products found, layers put in their places."""
