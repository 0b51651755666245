// The C interface: which instruction set runs, which rows go to which thread.
#include "sparsify.h"

#include <string.h>

#include "kernels.h"
#include "scratch.h"

struct sparsify_fabric {
  sparsify::Fabric fabric;
};

namespace sparsify {
namespace {

const char *const NO_MEMORY = "There is not enough memory for this call.";

bool always() { return true; }

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_bfloat_products() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool has_bfloat_products() { return false; }
#endif

struct Choice {
  const Kernels *kernels;
  bool (*runs_here)();
};

const Choice CHOICES[] = {  // the best first
#if defined(__x86_64__)
    {&avx512::KERNELS, has_avx512},
    {&avx2::KERNELS, has_avx2},
    {&baseline::KERNELS, always},
#elif defined(__aarch64__)
    {&neon::KERNELS, always},
#else
    {&baseline::KERNELS, always},
#endif
};

const Kernels *chosen = nullptr;

const Kernels &kernels() {
  const Kernels *now = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  for (const Choice &choice : CHOICES) {
    if (now) break;
    if (choice.runs_here()) now = choice.kernels;
  }
  __atomic_store_n(&chosen, now, __ATOMIC_RELEASE);
  return *now;
}

const TypeKernels *kernels_for(int32_t type) {
  switch (type) {
    case SPARSIFY_FLOAT32: return &kernels().float32;
    case SPARSIFY_FLOAT16: return &kernels().float16;
    case SPARSIFY_FLOAT64: return &kernels().float64;
    case SPARSIFY_BFLOAT16: return &kernels().bfloat16;
    default: return nullptr;
  }
}

// Tasks of whole tiles, as even as can be.
struct Partition {
  int64_t rows, tile, tasks;

  Partition(int64_t rows, int64_t tile, const sparsify_threads *threads) : rows(rows), tile(tile) {
    const int64_t tiles = (rows + tile - 1) / tile;
    tasks = threads && threads->parallel && threads->threads > 1 ? threads->threads : 1;
    if (tasks > tiles) tasks = tiles;
  }

  int64_t start(int64_t task) const {
    const int64_t tiles = (rows + tile - 1) / tile;
    const int64_t row = tiles * task / tasks * tile;
    return row < rows ? row : rows;
  }
};

void run(const Partition &partition, const sparsify_threads *threads, sparsify_task task,
         void *context) {
  if (partition.tasks > 1)
    threads->parallel(threads->pool, task, context, partition.tasks);
  else
    task(context, 0);
}

// Factors and bias in the type that is computed in: those of half precision in a copy.
class Operands {
 public:
  // keeps_factors: leave the factors as they are.
  bool read(const Fabric &fabric, int32_t type, const void *const *factors, const void *bias,
            bool keeps_factors) {
    factors_ = factors;
    bias_ = bias;
    if (type != SPARSIFY_FLOAT16 && type != SPARSIFY_BFLOAT16) return true;
    const int64_t weights = keeps_factors ? 0 : fabric.weights;
    if (!copies_.resize(weights + (bias ? fabric.out : 0)) ||
        !pointers_.resize(fabric.stages.size()))
      return false;
    float *next = copies_.data();
    if (bias) {
      widen(type, bias, fabric.out, next);
      bias_ = next;
      next += fabric.out;
    }
    if (keeps_factors) return true;
    for (int64_t i = 0; i < fabric.stages.size(); i++) {
      const int64_t count = fabric.stages[i].weights();
      if (!count) continue;
      widen(type, factors[i], count, next);
      pointers_[i] = next;
      next += count;
    }
    factors_ = pointers_.data();
    return true;
  }

  const void *const *factors() const { return factors_; }
  const void *bias() const { return bias_; }

 private:
  Array<float> copies_;
  Array<const void *> pointers_;
  const void *const *factors_;
  const void *bias_;

  static void widen(int32_t type, const void *from, int64_t count, float *to) {
    (type == SPARSIFY_FLOAT16 ? kernels().widen_half : kernels().widen_bfloat)(from, count, to);
  }
};

// Whether products of bfloat16 are there and faster than those of float32: not with few inputs, which
// hardly pay for being paired, unless rows are so few that they are not.
bool pays_paired(const Fabric &fabric, int32_t type, int64_t rows) {
  return type == SPARSIFY_BFLOAT16 && kernels().forward_paired && has_bfloat_products() &&
         (fabric.narrowest >= 16 || rows < 8);
}

struct ForwardTask {
  const Forward *call;
  bool (*kernel)(const Forward &call, int64_t first, int64_t last);
  const Partition *partition;
  int32_t failed;
};

void forward_task(void *context, int64_t index) {
  ForwardTask *task = static_cast<ForwardTask *>(context);
  const Partition &partition = *task->partition;
  if (!task->kernel(*task->call, partition.start(index), partition.start(index + 1)))
    __atomic_store_n(&task->failed, 1, __ATOMIC_RELAXED);
}

struct BackwardTask {
  const Backward *call;
  const TypeKernels *kernels;
  const Partition *partition;
  void **gradients;  // one per stage for each task
  int32_t failed;
};

void backward_task(void *context, int64_t index) {
  BackwardTask *task = static_cast<BackwardTask *>(context);
  const Partition &partition = *task->partition;
  void **gradients = task->gradients + index * task->call->fabric->stages.size();
  if (!task->kernels->backward(*task->call, partition.start(index), partition.start(index + 1),
                               gradients))
    __atomic_store_n(&task->failed, 1, __ATOMIC_RELAXED);
}

template <class T>
void add(T *sum, const T *values, int64_t count) {
  for (int64_t i = 0; i < count; i++) sum[i] += values[i];
}

// Gradients of factors: each task adds to memory of its own, summed in the order of the tasks.
class Gradients {
 public:
  bool make(const Fabric &fabric, int32_t type, void *const *factors, int64_t tasks) {
    const bool is_double = type == SPARSIFY_FLOAT64;
    const bool is_half = type == SPARSIFY_FLOAT16 || type == SPARSIFY_BFLOAT16;
    const int64_t size = is_double ? 8 : 4, stages = fabric.stages.size();
    const int64_t copies = is_half ? tasks : tasks - 1;
    if (!pointers_.resize(tasks * stages) || !memory_.resize(copies * fabric.weights * size))
      return false;
    char *next = memory_.data();
    for (int64_t task = 0; task < tasks; task++)
      for (int64_t i = 0; i < stages; i++) {
        const int64_t bytes = fabric.stages[i].weights() * size;
        if (!factors[i]) continue;
        if (task == 0 && !is_half) {
          pointers_[i] = memset(factors[i], 0, bytes);
        } else {
          pointers_[task * stages + i] = next;
          next += bytes;
        }
      }
    return true;
  }

  void **pointers() { return pointers_.data(); }

  void sum(const Fabric &fabric, int32_t type, void *const *factors, int64_t tasks) {
    const int64_t stages = fabric.stages.size();
    for (int64_t i = 0; i < stages; i++) {
      if (!factors[i]) continue;
      const int64_t count = fabric.stages[i].weights();
      for (int64_t task = 1; task < tasks; task++) {
        void *first = pointers_[i], *other = pointers_[task * stages + i];
        if (type == SPARSIFY_FLOAT64)
          add(static_cast<double *>(first), static_cast<const double *>(other), count);
        else
          add(static_cast<float *>(first), static_cast<const float *>(other), count);
      }
      const float *sums = static_cast<const float *>(pointers_[i]);
      if (type == SPARSIFY_FLOAT16) kernels().narrow_half(sums, count, factors[i]);
      if (type == SPARSIFY_BFLOAT16) kernels().narrow_bfloat(sums, count, factors[i]);
    }
  }

 private:
  Array<void *> pointers_;
  Array<char> memory_;
};

}  // namespace
}  // namespace sparsify

using namespace sparsify;

int32_t sparsify_abi(void) { return SPARSIFY_ABI; }

const char *sparsify_isa(void) { return kernels().name; }

const char *sparsify_use_isa(const char *name) {
  for (const Choice &choice : CHOICES) {
    if (strcmp(choice.kernels->name, name)) continue;
    if (!choice.runs_here()) return "This processor does not have that instruction set.";
    __atomic_store_n(&chosen, choice.kernels, __ATOMIC_RELEASE);
    return nullptr;
  }
  return "This library has no kernels for that instruction set.";
}

const char *sparsify_create(const int64_t *description, int64_t count, const int64_t *indices,
                            int64_t index_count, sparsify_fabric **fabric) {
  Array<sparsify_fabric> made;
  if (!made.resize(1)) return NO_MEMORY;
  const char *wrong = compile(description, count, indices, index_count, &made[0].fabric);
  if (wrong) {
    made[0].~sparsify_fabric();
    return wrong;
  }
  *fabric = made.release();
  return nullptr;
}

void sparsify_destroy(sparsify_fabric *fabric) {
  if (!fabric) return;
  fabric->~sparsify_fabric();
  free(fabric);
}

const char *sparsify_forward(const sparsify_fabric *fabric, int32_t type, int64_t rows,
                             const void *x, int64_t x_stride, const void *const *factors,
                             const void *bias, int32_t activation, void *y,
                             const sparsify_threads *threads) {
  const TypeKernels *typed = kernels_for(type);
  if (!typed) return "The element type is not supported.";
  if (activation < SPARSIFY_IDENTITY || activation > SPARSIFY_SILU)
    return "The activation is not known.";
  if (rows <= 0) return nullptr;
  const bool is_paired = pays_paired(fabric->fabric, type, rows);
  Operands operands;
  if (!operands.read(fabric->fabric, type, factors, bias, is_paired)) return NO_MEMORY;
  const Forward call = {&fabric->fabric,    rows,            x,          x_stride,
                        operands.factors(), operands.bias(), activation, y};
  const Partition partition(rows, typed->tile, threads);
  ForwardTask task = {&call, is_paired ? kernels().forward_paired : typed->forward, &partition,
                      0};
  run(partition, threads, forward_task, &task);
  return task.failed ? NO_MEMORY : nullptr;
}

const char *sparsify_backward(const sparsify_fabric *fabric, int32_t type, int64_t rows,
                              const void *grad, int64_t grad_stride, const void *x,
                              int64_t x_stride, const void *const *factors, void *grad_x,
                              void *const *grad_factors, const sparsify_threads *threads) {
  const TypeKernels *typed = kernels_for(type);
  if (!typed) return "The element type is not supported.";
  const Partition partition(rows > 0 ? rows : 1, typed->tile, threads);
  Operands operands;
  Gradients gradients;
  if (!operands.read(fabric->fabric, type, factors, nullptr, false) ||
      !gradients.make(fabric->fabric, type, grad_factors, partition.tasks))
    return NO_MEMORY;
  if (rows > 0) {
    const Backward call = {&fabric->fabric, rows,     grad,   grad_stride,
                           x,               x_stride, operands.factors(), grad_x};
    BackwardTask task = {&call, typed, &partition, gradients.pointers(), 0};
    run(partition, threads, backward_task, &task);
    if (task.failed) return NO_MEMORY;
  }
  gradients.sum(fabric->fabric, type, grad_factors, partition.tasks);
  return nullptr;
}
