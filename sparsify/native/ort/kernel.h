// One node of ours in a session of ONNX Runtime.
#pragma once

#include "cache.h"
#include "tensor.h"

namespace sparsify {

struct Shape {
  int64_t rank;
  int64_t dims[4];
};

class Kernel {
 public:
  Kernel(const OrtApi *ort, int type, bool is_indexed)
      : ort_(ort), type_(type), is_indexed_(is_indexed) {}
  ~Kernel() { sparsify_destroy(fabric_); }

  // Reads the attributes, and compiles the fabric where its indices are known.
  OrtStatus *create(const OrtKernelInfo *info);

  // Runs the node. Any number of threads may be in here at once.
  OrtStatus *compute(OrtKernelContext *context);

 private:
  const OrtApi *ort_;
  const int type_;
  const bool is_indexed_;
  int64_t in_ = 0, out_ = 0, has_bias_ = 0;
  Array<int64_t> description_;
  Array<Shape> shapes_;  // of one factor for each stage, then of a bias
  int64_t weights_ = 0;  // how many of them are inputs
  double products_ = 0;  // for each row
  sparsify_fabric *fabric_ = nullptr;  // null where the indices change from run to run
  FabricCache cache_;

  OrtStatus *describe(const OrtKernelInfo *info);
  OrtStatus *shape_weights(const int64_t *steps, int64_t count);
  OrtStatus *read_indices(const OrtValue *value, Tensor *indices) const;
  OrtStatus *read_weight(const OrtKernelContext *context, int64_t number, const void **data) const;
  OrtStatus *run(OrtKernelContext *context, const sparsify_fabric *fabric) const;
};

}  // namespace sparsify
