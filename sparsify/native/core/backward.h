// The backward pass of a call, tile by tile: what lies between the stages is computed again.
#pragma once

#include "forward.h"
#include "gradient.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Memory of one task: the inputs of each stage, gradients on both sides of a stage, sums.
template <class T>
struct Workspace {
  T *inputs;  // of a branch's stages, `wide` numbers each
  T *grad, *next, *sum, *panel;
  int64_t wide;
};

template <class T>
constexpr const T *NO_BIAS = nullptr;

// Gradients by the inputs of a stage, stored where the previous stage has its outputs.
template <class T, int V>
inline void run_transposed(const Stage &stage, const T *w, const T *grad, T *grad_x) {
  if (stage.is_graph) return scatter<T, V>(stage, w, grad, grad_x);
  const Blocks blocks = {stage.blocks, stage.inputs, stage.outputs, 1, stage.inputs};
  multiply<T, V>(blocks, w, grad, grad_x, stage.source);
}

template <class T, int V, class E>
inline void backward_tile(const Backward &call, int64_t row, int64_t rows, void *const *gradients,
                          Workspace<T> space) {
  const Fabric &fabric = *call.fabric;
  const E *grad = static_cast<const E *>(call.grad) + row * call.grad_stride;
  const E *x = static_cast<const E *>(call.x) + row * call.x_stride;
  E *grad_x = call.grad_x ? static_cast<E *>(call.grad_x) + row * fabric.in : nullptr;
  const int64_t count = fabric.branches.size();
  for (int64_t number = 0; number < count; number++) {
    const Branch &branch = fabric.branches[number];
    int64_t lowest = branch.count;  // the first stage whose gradient is wanted
    for (int64_t s = branch.count; s-- > 0;)
      if (gradients[branch.first + s]) lowest = s;
    if (lowest < branch.count) {
      enter<T, V>(x, call.x_stride, rows, fabric.in, branch.enter, branch.in, space.inputs);
      for (int64_t s = 0; s + 1 < branch.count; s++)
        run_stage<T, V>(fabric.stages[branch.first + s],
                        static_cast<const T *>(call.factors[branch.first + s]),
                        space.inputs + s * space.wide, space.inputs + (s + 1) * space.wide);
    }
    T *now = space.grad, *next = space.next;
    enter<T, V>(grad, call.grad_stride, rows, fabric.out, branch.leave, branch.out, now);
    for (int64_t s = branch.count; s-- > 0;) {
      const Stage &stage = fabric.stages[branch.first + s];
      if (T *to = static_cast<T *>(gradients[branch.first + s])) {
        const T *inputs = space.inputs + s * space.wide;
        if (stage.is_graph)
          edge_gradients<T, V>(stage, now, inputs, to);
        else
          block_gradients<T, V>(stage, now, inputs, to, space.panel);
      }
      if (!grad_x && s <= lowest) break;
      run_transposed<T, V>(stage, static_cast<const T *>(call.factors[branch.first + s]), now,
                           next);
      T *swap = now;
      now = next, next = swap;
    }
    if (!grad_x) continue;
    fold<T, V>(now, branch.enter, branch.in, fabric.in);
    if (count == 1)
      leave<T, V>(now, branch.enter, fabric.in, NO_BIAS<T>, grad_x, fabric.in, rows);
    else
      accumulate<T, V>(space.sum, now, branch.enter, fabric.in, number == 0);
  }
  if (grad_x && count > 1)
    leave<T, V>(space.sum, nullptr, fabric.in, NO_BIAS<T>, grad_x, fabric.in, rows);
}

template <class T, class E>
bool backward(const Backward &call, int64_t first, int64_t last, void *const *gradients) {
  constexpr int V = TILE, N = LANES<T>;
  const Fabric &fabric = *call.fabric;
  Workspace<T> space;
  space.wide = fabric.widest * V * N;
  const int64_t inputs = fabric.most_stages * space.wide, panel = V * N * PANEL_STRIDE<T>;
  char *memory = static_cast<char *>(
      scratch(buffer_bytes<T>(inputs) + 3 * buffer_bytes<T>(space.wide) + buffer_bytes<T>(panel)));
  if (!memory) return false;
  space.inputs = buffer<T>(memory, inputs);
  space.grad = buffer<T>(memory, space.wide);
  space.next = buffer<T>(memory, space.wide);
  space.sum = buffer<T>(memory, space.wide);
  space.panel = buffer<T>(memory, panel);
  for (int64_t row = first; row < last;) {
    const int64_t left = last - row;
    const int64_t rows = left < V * N ? left : V * N;
    if (V > 1 && rows > N)
      backward_tile<T, V, E>(call, row, rows, gradients, space);
    else
      backward_tile<T, 1, E>(call, row, rows, gradients, space);
    row += rows;
  }
  return true;
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
