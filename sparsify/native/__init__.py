"""The native CPU core: C++ behind the plain C interface `sparsify.h`; `library` loads it.

One shared library serves PyTorch and ONNX Runtime alike; it is built when the package is installed.
Without it everything works on portable kernels, and `sparsify doctor` says why it is missing.
"""
