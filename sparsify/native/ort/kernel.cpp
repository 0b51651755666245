#include "kernel.h"

#include <stdio.h>

namespace sparsify {
namespace {

constexpr int64_t STEP = 5;          // numbers of a step
constexpr double TASK = 2e6;         // products worth a task: some 100 us on one core
constexpr int64_t MOST_TASKS = 128;  // more than these, and all of them are short
constexpr int64_t POINTERS = 16;     // weights for which no memory is asked

OrtStatus *integer(const OrtApi *ort, const OrtKernelInfo *info, const char *name, int64_t *value) {
  return ort->KernelInfoGetAttribute_int64(info, name, value);
}

OrtStatus *integers(const OrtApi *ort, const OrtKernelInfo *info, const char *name,
                    Array<int64_t> *values) {
  size_t count = 0;
  ORT_TRY(ort->KernelInfoGetAttributeArray_int64(info, name, nullptr, &count));
  if (!values->resize(int64_t(count))) return ort->CreateStatus(ORT_FAIL, "Out of memory.");
  return ort->KernelInfoGetAttributeArray_int64(info, name, values->data(), &count);
}

// Rows of x: the product of all axes but the last. False where rows of this many elements are more
// than an address can hold.
bool count_rows(const Tensor &x, int64_t widest, int64_t *rows) {
  *rows = 1;
  int64_t bytes = 0;
  for (int64_t axis = 0; axis < x.rank - 1; axis++) {
    if (x.dims[axis] < 0) return false;
    if (x.dims[axis] == 0) {
      *rows = 0;
      return true;
    }
  }
  for (int64_t axis = 0; axis < x.rank - 1; axis++)
    if (__builtin_mul_overflow(*rows, x.dims[axis], rows)) return false;
  return !__builtin_mul_overflow(*rows, widest * int64_t(sizeof(double)), &bytes);
}

// The runtime's own threads as a pool for sparsify_threads.
struct Pool {
  const OrtApi *ort;
  const OrtKernelContext *context;
  OrtStatus *failed;
};

struct Loop {
  sparsify_task task;
  void *context;
};

void run_task(void *data, size_t index) {
  const Loop *loop = static_cast<const Loop *>(data);
  loop->task(loop->context, int64_t(index));
}

void run_tasks(void *data, sparsify_task task, void *context, int64_t tasks) {
  Pool *pool = static_cast<Pool *>(data);
  Loop loop = {task, context};
  pool->failed = pool->ort->KernelContext_ParallelFor(pool->context, run_task, size_t(tasks), 0,
                                                      &loop);
}

// From the amount of work alone: the same bits on any number of threads.
int64_t count_tasks(double products) {
  return products < MOST_TASKS * TASK ? int64_t(products / TASK) : MOST_TASKS;
}

}  // namespace

OrtStatus *Kernel::create(const OrtKernelInfo *info) {
  ORT_TRY(describe(info));
  const OrtValue *value = nullptr;
  Tensor indices = {};
  if (is_indexed_) {
    int is_constant = 0;
    ORT_TRY(ort_->KernelInfoGetConstantInput_tensor(info, 1, &is_constant, &value));
    if (!is_constant) return nullptr;
    ORT_TRY(read_indices(value, &indices));
  }
  const char *wrong =
      sparsify_create(description_.data(), description_.size(),
                      static_cast<const int64_t *>(indices.data), indices.dims[0], &fabric_);
  return wrong ? invalid(ort_, wrong) : nullptr;
}

// The attributes in the order of sparsify_create's description.
OrtStatus *Kernel::describe(const OrtKernelInfo *info) {
  Array<int64_t> branches, steps;
  ORT_TRY(integer(ort_, info, "in_features", &in_));
  ORT_TRY(integer(ort_, info, "out_features", &out_));
  ORT_TRY(integer(ort_, info, "has_bias", &has_bias_));
  ORT_TRY(integers(ort_, info, "branches", &branches));
  ORT_TRY(integers(ort_, info, "steps", &steps));
  if (!description_.resize(3 + branches.size() + steps.size()))
    return ort_->CreateStatus(ORT_FAIL, "Out of memory.");
  int64_t *next = description_.data();
  *next++ = in_;
  *next++ = out_;
  *next++ = branches.size();
  for (int64_t i = 0; i < branches.size(); i++) *next++ = branches[i];
  for (int64_t i = 0; i < steps.size(); i++) *next++ = steps[i];
  return shape_weights(steps.data(), steps.size() / STEP);
}

// The shapes that the weights must have, and how many they are.
OrtStatus *Kernel::shape_weights(const int64_t *steps, int64_t count) {
  int64_t stages = 0;
  if (!shapes_.resize(count + 1)) return ort_->CreateStatus(ORT_FAIL, "Out of memory.");
  for (int64_t i = 0; i < count; i++) {
    const int64_t *step = steps + i * STEP;
    Shape &shape = shapes_[stages];
    if (step[0] == SPARSIFY_BLOCKS)
      shape = {4, {step[1], step[4], step[2], step[3]}};
    else if (step[0] == SPARSIFY_GRAPH)
      shape = {2, {step[2], step[3]}};
    else
      continue;
    double weights = 1;
    for (int64_t axis = 0; axis < shape.rank; axis++) weights *= double(shape.dims[axis]);
    products_ += weights;
    stages++;
  }
  shapes_[stages] = {1, {out_}};
  weights_ = stages + (has_bias_ ? 1 : 0);
  return nullptr;
}

OrtStatus *Kernel::read_indices(const OrtValue *value, Tensor *indices) const {
  ORT_TRY(read_tensor(ort_, value, indices));
  if (indices->type != ORT_INT64 || indices->rank != 1)
    return invalid(ort_, "The indices of a fabric are one vector of int64.");
  return nullptr;
}

OrtStatus *Kernel::compute(OrtKernelContext *context) {
  if (fabric_) return run(context, fabric_);
  const OrtValue *value = nullptr;
  Tensor indices;
  Compiled *compiled = nullptr;
  ORT_TRY(ort_->KernelContext_GetInput(context, 1, &value));
  ORT_TRY(read_indices(value, &indices));
  const char *wrong = cache_.get(description_, static_cast<const int64_t *>(indices.data),
                                 indices.dims[0], &compiled);
  if (wrong) return invalid(ort_, wrong);
  OrtStatus *status = run(context, compiled->fabric);
  release(compiled);
  return status;
}

OrtStatus *Kernel::read_weight(const OrtKernelContext *context, int64_t number,
                               const void **data) const {
  const OrtValue *value = nullptr;
  Tensor weight;
  ORT_TRY(ort_->KernelContext_GetInput(context, size_t(1 + is_indexed_ + number), &value));
  ORT_TRY(read_tensor(ort_, value, &weight));
  const Shape &shape = shapes_[number];
  bool fits = weight.type == type_ && weight.rank == shape.rank;
  for (int64_t axis = 0; fits && axis < shape.rank; axis++)
    fits = weight.dims[axis] == shape.dims[axis];
  *data = weight.data;
  if (fits) return nullptr;
  char message[200];
  snprintf(message, sizeof message,
           "Weight %lld has another shape or type than the attributes of the node ask for.",
           static_cast<long long>(number));
  return invalid(ort_, message);
}

OrtStatus *Kernel::run(OrtKernelContext *context, const sparsify_fabric *fabric) const {
  size_t inputs = 0;
  ORT_TRY(ort_->KernelContext_GetInputCount(context, &inputs));
  if (int64_t(inputs) != 1 + is_indexed_ + weights_)
    return invalid(ort_, "The node has not one weight for each stage, and a bias as it says.");

  const OrtValue *value = nullptr;
  Tensor x;
  ORT_TRY(ort_->KernelContext_GetInput(context, 0, &value));
  ORT_TRY(read_tensor(ort_, value, &x));
  if (x.type != type_ || !x.rank || x.dims[x.rank - 1] != in_)
    return invalid(ort_, "The last axis of x has not in_features elements of the node's type.");
  int64_t rows = 0;
  if (!count_rows(x, in_ > out_ ? in_ : out_, &rows))
    return invalid(ort_, "The input has more rows than memory can hold.");

  const void *few[POINTERS];
  Array<const void *> many;
  if (weights_ > POINTERS && !many.resize(weights_))
    return ort_->CreateStatus(ORT_FAIL, "Out of memory.");
  const void **weights = weights_ > POINTERS ? many.data() : few;
  for (int64_t i = 0; i < weights_; i++) ORT_TRY(read_weight(context, i, &weights[i]));

  OrtValue *output = nullptr;
  void *y = nullptr;
  x.dims[x.rank - 1] = out_;
  ORT_TRY(ort_->KernelContext_GetOutput(context, 0, x.dims, size_t(x.rank), &output));
  ORT_TRY(ort_->GetTensorMutableData(output, &y));
  Pool pool = {ort_, context, nullptr};
  const sparsify_threads threads = {count_tasks(double(rows) * products_), run_tasks, &pool};
  const char *wrong =
      sparsify_forward(fabric, type_, rows, x.data, in_, weights,
                       has_bias_ ? weights[weights_ - 1] : nullptr, SPARSIFY_IDENTITY, y, &threads);
  if (pool.failed) return pool.failed;
  return wrong ? ort_->CreateStatus(ORT_FAIL, wrong) : nullptr;
}

}  // namespace sparsify
