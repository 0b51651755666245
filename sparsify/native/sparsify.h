/* The C interface of the native core: fabrics applied to rows of numbers.
 *
 * A fabric is compiled once from its description and is then immutable: any number of threads may
 * use it at once. Weights are read where they lie, in their natural order, at every call; nothing
 * is kept between calls, so there is nothing that could be out of date.
 *
 * Functions that can fail return NULL, or one sentence that says what is wrong, in static memory.
 */
#ifndef SPARSIFY_H
#define SPARSIFY_H

#include <stdint.h>

#if defined(_WIN32)
#define SPARSIFY_API __declspec(dllexport)
#else
#define SPARSIFY_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a function below changes its meaning. */
#define SPARSIFY_ABI 1
SPARSIFY_API int32_t sparsify_abi(void);

/* Element types, with the numbers of onnx.TensorProto. Half precisions are computed in float32. */
enum {
  SPARSIFY_FLOAT32 = 1,
  SPARSIFY_FLOAT16 = 10,
  SPARSIFY_FLOAT64 = 11,
  SPARSIFY_BFLOAT16 = 16,
};

/* What is applied to each output after the bias. */
enum {
  SPARSIFY_IDENTITY = 0,
  SPARSIFY_RELU = 1,
  SPARSIFY_GELU = 2,
  SPARSIFY_GELU_TANH = 3,
  SPARSIFY_SILU = 4,
};

/* Kinds of a step, the first of its five numbers; the other four: */
enum {
  SPARSIFY_BLOCKS = 0,      /* a, b, c, d; weight (a, d, b, c) */
  SPARSIFY_TRANSPOSE = 1,   /* size, stride, 0, 0: features (size / stride, stride) change places */
  SPARSIFY_PERMUTATION = 2, /* size, start, 0, 0: output i reads feature indices[start + i] */
  SPARSIFY_GRAPH = 3,       /* in, out, degree, start; weight (out, degree), for the features
                               indices[start + output * degree + k] */
};

/* The instruction set in use: "avx512", "avx2", "neon" or "baseline", the best that the machine has.
 * Choosing another is for tests; it returns an error where it is not available. */
SPARSIFY_API const char *sparsify_isa(void);
SPARSIFY_API const char *sparsify_use_isa(const char *name);

/* Compiles a fabric.
 *
 * description: in_features, out_features, number of branches, steps of each branch, then five
 * numbers for each step. A first step wider than in_features wraps, a last step wider than
 * out_features folds. indices: what permutations and graphs read; checked, and copied. */
typedef struct sparsify_fabric sparsify_fabric;
SPARSIFY_API const char *sparsify_create(const int64_t *description, int64_t count,
                                         const int64_t *indices, int64_t index_count,
                                         sparsify_fabric **fabric);
SPARSIFY_API void sparsify_destroy(sparsify_fabric *fabric);

/* Runs task(context, i) for each i below tasks, on any threads, and returns when all are done. */
typedef void (*sparsify_task)(void *context, int64_t index);
typedef void (*sparsify_parallel)(void *pool, sparsify_task task, void *context, int64_t tasks);

/* The threads of a call: at most `threads` tasks go to `parallel`; all on the calling thread where
 * threads is 1. The same number of threads gives the same bits. */
typedef struct {
  int64_t threads;
  sparsify_parallel parallel;
  void *pool;
} sparsify_threads;

/* A pool for sparsify_threads: the address of GOMP_parallel of the OpenMP runtime in the process. */
SPARSIFY_API void sparsify_openmp(void *pool, sparsify_task task, void *context, int64_t tasks);

/* y = activation(fabric(x) + bias).
 *
 * x: (rows, in_features), rows x_stride elements apart, features contiguous. factors: one pointer
 * for each step with weights, contiguous. bias: (out_features) or NULL. y: (rows, out_features),
 * contiguous. All of one type; aligned to their elements. threads: NULL for the calling thread. */
SPARSIFY_API const char *sparsify_forward(const sparsify_fabric *fabric, int32_t type, int64_t rows,
                                          const void *x, int64_t x_stride,
                                          const void *const *factors, const void *bias,
                                          int32_t activation, void *y,
                                          const sparsify_threads *threads);

/* Gradients of fabric(x), for the gradient of its outputs.
 *
 * grad: (rows, out_features), rows grad_stride elements apart. grad_x: (rows, in_features),
 * contiguous, or NULL. grad_factors: like factors; NULL for what is not wanted. What is wanted is
 * overwritten. */
SPARSIFY_API const char *sparsify_backward(const sparsify_fabric *fabric, int32_t type,
                                           int64_t rows, const void *grad, int64_t grad_stride,
                                           const void *x, int64_t x_stride,
                                           const void *const *factors, void *grad_x,
                                           void *const *grad_factors,
                                           const sparsify_threads *threads);

/* Calls of our operators by ONNX Runtime since the library was loaded. */
SPARSIFY_API int64_t sparsify_ort_calls(void);

#ifdef __cplusplus
}
#endif
#endif
