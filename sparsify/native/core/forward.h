// The forward pass of a call, tile by tile: all stages of a branch while the tile is in cache.
#pragma once

#include "bfloat.h"
#include "few_rows.h"
#include "graph.h"
#include "kernels.h"
#include "pair.h"
#include "scratch.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Space between buffers, so that a feature of one does not fall on the cache sets of the other.
constexpr int64_t GAP = 320;

template <class T>
inline T *buffer(char *&memory, int64_t numbers) {
  T *start = reinterpret_cast<T *>(memory);
  memory += (numbers * int64_t(sizeof(T)) + BYTES - 1) / BYTES * BYTES + GAP / BYTES * BYTES;
  return start;
}

template <class T>
inline int64_t buffer_bytes(int64_t numbers) {
  return numbers * int64_t(sizeof(T)) + BYTES + GAP;
}

// W: the type of the weights, which is the computed one or, where the processor multiplies it,
// Bfloat.
template <class T, int V, class W>
inline void run_stage(const Stage &stage, const W *w, const T *x, T *y) {
  if (stage.is_graph) return gather<T, V>(stage, w, x, y);
  if constexpr (IS_SAME<T, W>) {
    const Blocks blocks = {stage.blocks, stage.outputs, stage.inputs, stage.inputs, 1};
    multiply<T, V>(blocks, w, x, y, stage.target);
  } else {
    multiply_paired(stage, w, x, y);
  }
}

// Runs a stage, or two where they go together, and tells how many.
template <class T, int V, class W>
inline int64_t run_next(const Stage *stage, const void *const *factors, const T *x, T *y) {
  const W *w = static_cast<const W *>(factors[0]);
  if constexpr (IS_SAME<T, W>) {
    if (has_pair(*stage)) {
      run_pair<T, V>(stage, w, static_cast<const W *>(factors[1]), x, y);
      return 2;
    }
  }
  run_stage<T, V>(*stage, w, x, y);
  return 1;
}

// Sends the outputs of a tile on their way, by slots or, where slots is null, in their own order.
template <class T, int V, class E>
inline void deliver(const Forward &call, T *tile, const int32_t *slots, E *y, int64_t rows) {
  const int64_t features = call.fabric->out;
  const T *bias = static_cast<const T *>(call.bias);
  if (call.activation) {
    finish<T, V>(tile, slots, features, bias, call.activation);
    bias = nullptr;
  }
  leave<T, V>(tile, slots, features, bias, y, features, rows);
}

template <class T, int V, class W, class E>
inline void forward_tile(const Forward &call, const E *x, int64_t rows, E *y, T *one, T *other,
                         T *sum) {
  const Fabric &fabric = *call.fabric;
  const int64_t count = fabric.branches.size();
  for (int64_t number = 0; number < count; number++) {
    const Branch &branch = fabric.branches[number];
    enter<T, V>(x, call.x_stride, rows, fabric.in, branch.enter, branch.in, one);
    for (int64_t s = branch.first; s < branch.first + branch.count;) {
      s += run_next<T, V, W>(&fabric.stages[s], call.factors + s, one, other);
      T *swap = one;
      one = other, other = swap;
    }
    fold<T, V>(one, branch.leave, branch.out, fabric.out);
    if (count == 1)
      deliver<T, V>(call, one, branch.leave, y, rows);
    else
      accumulate<T, V>(sum, one, branch.leave, fabric.out, number == 0);
  }
  if (count > 1) deliver<T, V>(call, sum, nullptr, y, rows);
}

template <class T, class W, class E>
inline void forward_row(const Forward &call, const E *x, E *y, T *one, T *other, T *sum) {
  const Fabric &fabric = *call.fabric;
  const T *bias = static_cast<const T *>(call.bias);
  for (int64_t number = 0; number < fabric.branches.size(); number++) {
    const Branch &branch = fabric.branches[number];
    for (int64_t f = 0; f < fabric.in; f++) one[branch.enter[f]] = widen(x[f]);
    for (int64_t f = fabric.in; f < branch.in; f++)
      one[branch.enter[f]] = one[branch.enter[f - fabric.in]];
    for (int64_t s = 0; s < branch.count; s++) {
      const Stage &stage = fabric.stages[branch.first + s];
      if (s)
        for (int64_t i = 0; i < stage.in; i++) one[i] = other[stage.source[i]];
      row_stage<T>(stage, static_cast<const W *>(call.factors[branch.first + s]), one, other);
    }
    const int32_t *from = branch.leave;
    if (number == 0) {
      for (int64_t f = 0; f < fabric.out; f++) sum[f] = other[from[f]];
    } else {
      for (int64_t f = 0; f < fabric.out; f++) sum[f] += other[from[f]];
    }
    for (int64_t f = fabric.out; f < branch.out; f++) sum[f - fabric.out] += other[from[f]];
  }
  constexpr int N = LANES<T>;
  for (int64_t f = 0; f < fabric.out; f += N) {
    const int64_t width = fabric.out - f < N ? fabric.out - f : N;
    Vector<T> value = load(sum + f);  // the lanes beyond the width are not stored
    if (bias) value += load(bias + f, width);
    if (call.activation) value = activate<T>(value, call.activation);
    if (width == N)
      store_as<T>(y + f, value);
    else
      store_as<T>(y + f, value, width);
  }
}

template <class T, class W, class E>
bool forward(const Forward &call, int64_t first, int64_t last) {
  constexpr int V = TILE, N = LANES<T>;
  const Fabric &fabric = *call.fabric;
  const int64_t wide = fabric.widest * V * N;
  char *memory = static_cast<char *>(scratch(3 * buffer_bytes<T>(wide)));
  if (!memory) return false;
  T *one = buffer<T>(memory, wide), *other = buffer<T>(memory, wide);
  T *sum = buffer<T>(memory, wide);
  const E *x = static_cast<const E *>(call.x);
  E *y = static_cast<E *>(call.y);
  const int64_t few = rows_of_tile<T>(fabric);
  for (int64_t row = first; row < last;) {
    const int64_t left = last - row;
    const E *from = x + row * call.x_stride;
    E *to = y + row * fabric.out;
    const int64_t rows = left < V * N ? left : V * N;
    if (V > 1 && rows > N) {
      forward_tile<T, V, W>(call, from, rows, to, one, other, sum);
      row += rows;
    } else if (rows > few || call.rows > N) {
      forward_tile<T, 1, W>(call, from, rows, to, one, other, sum);
      row += rows;
    } else {
      forward_row<T, W>(call, from, to, one, other, sum);
      row++;
    }
  }
  return true;
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
