// Tensors of ONNX Runtime, as our operators look at them.
#pragma once

#include "abi.h"

namespace sparsify {

// Returns the error of a call to the runtime, if there is one.
#define ORT_TRY(call)                              \
  do {                                             \
    if (OrtStatus *ort_try = (call)) return ort_try; \
  } while (0)

constexpr int64_t MOST_AXES = 32;

struct Tensor {
  int type;
  int64_t rank;
  int64_t dims[MOST_AXES];
  void *data;
};

inline OrtStatus *invalid(const OrtApi *ort, const char *message) {
  return ort->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

inline OrtStatus *read_shape(const OrtApi *ort, const OrtShape *shape, Tensor *tensor) {
  size_t rank = 0;
  ORT_TRY(ort->GetTensorElementType(shape, &tensor->type));
  ORT_TRY(ort->GetDimensionsCount(shape, &rank));
  if (rank > size_t(MOST_AXES)) return invalid(ort, "An input has more than 32 axes.");
  tensor->rank = int64_t(rank);
  return ort->GetDimensions(shape, tensor->dims, rank);
}

inline OrtStatus *read_tensor(const OrtApi *ort, const OrtValue *value, Tensor *tensor) {
  if (!value) return invalid(ort, "An input is missing.");
  OrtShape *shape = nullptr;
  ORT_TRY(ort->GetTensorTypeAndShape(value, &shape));
  OrtStatus *status = read_shape(ort, shape, tensor);
  ort->ReleaseShape(shape);
  ORT_TRY(status);
  return ort->GetTensorMutableData(const_cast<OrtValue *>(value), &tensor->data);
}

}  // namespace sparsify
