// What each instruction set offers: the work of a call on some of its rows.
#pragma once

#include "fabric.h"

namespace sparsify {

// y = activation(fabric(x) + bias); the pointers are of the types that chose the function.
struct Forward {
  const Fabric *fabric;
  int64_t rows;
  const void *x;
  int64_t x_stride;
  const void *const *factors;  // of the type that is computed in, but for forward_paired
  const void *bias;            // of the type that is computed in, or null
  int32_t activation;
  void *y;
};

struct Backward {
  const Fabric *fabric;
  int64_t rows;
  const void *grad;
  int64_t grad_stride;
  const void *x;
  int64_t x_stride;
  const void *const *factors;  // of the type that is computed in
  void *grad_x;                // or null
};

// The kernels for one type of element: rows from `first` up to `last`. False: no memory.
struct TypeKernels {
  bool (*forward)(const Forward &call, int64_t first, int64_t last);
  // Adds to grad_factors, of the type that is computed in; null for what is not wanted.
  bool (*backward)(const Backward &call, int64_t first, int64_t last, void *const *grad_factors);
  int64_t tile;  // rows that are worked on together
};

struct Kernels {
  const char *name;
  TypeKernels float32, float16, float64, bfloat16;
  // For bfloat16, with factors of that type, on processors that multiply it; null where none does.
  bool (*forward_paired)(const Forward &call, int64_t first, int64_t last);
  void (*widen_half)(const void *from, int64_t count, float *to);
  void (*widen_bfloat)(const void *from, int64_t count, float *to);
  void (*narrow_half)(const float *from, int64_t count, void *to);
  void (*narrow_bfloat)(const float *from, int64_t count, void *to);
};

namespace baseline { extern const Kernels KERNELS; }
namespace avx2 { extern const Kernels KERNELS; }
namespace avx512 { extern const Kernels KERNELS; }
namespace neon { extern const Kernels KERNELS; }

}  // namespace sparsify
