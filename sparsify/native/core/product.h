// The products of blocks: I outputs of a block for V vectors of rows in registers at a time.
#pragma once

#include "tile.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Outputs that fit into registers beside V vectors of inputs and one broadcast weight. More than
// eight gain nothing: each has a pointer to its weights too.
template <int V>
constexpr int MOST_OUTPUTS = (REGISTERS - V - 1) / V < 8 ? (REGISTERS - V - 1) / V : 8;

// A matrix per block: element (output i, input k) at i * out_step + k * in_step.
struct Blocks {
  int64_t count, outputs, inputs, out_step, in_step;
};

// Inputs that are summed in one chain: rounding errors grow with its length.
constexpr int64_t CHAIN = 512;

// y[target[i]] = sum over k of w[i * out_step + k * in_step] * x[k], for i below I, or added to it.
// C inputs, or `inputs` where C is 0.
template <class T, int I, int V, int C>
INLINE void product(const Blocks &blocks, int64_t inputs, const T *w, const T *x, T *y,
                    const int32_t *target, bool adds = false) {
  constexpr int64_t PITCH = ROWS<T, V>;
  Vector<T> sum[I][V] = {};
  const auto add_input = [&](int64_t k) __attribute__((always_inline)) {
    Vector<T> value[V];
    UNROLL for (int v = 0; v < V; v++) {
      value[v] = load(x + k * PITCH + v * LANES<T>);
      pin(value[v]);
    }
    UNROLL for (int i = 0; i < I; i++) {
      const Vector<T> weight = broadcast(w[i * blocks.out_step + k * blocks.in_step]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] += weight * value[v];
    }
  };
  if constexpr (C > 0) {
    UNROLL for (int k = 0; k < C; k++) add_input(k);
  } else {
    for (int64_t k = 0; k < inputs; k++) add_input(k);
  }
  if (adds)
    UNROLL for (int i = 0; i < I; i++)
      UNROLL for (int v = 0; v < V; v++)
        sum[i][v] += load(y + target[i] * PITCH + v * LANES<T>);
  UNROLL for (int i = 0; i < I; i++)
    UNROLL for (int v = 0; v < V; v++) store(y + target[i] * PITCH + v * LANES<T>, sum[i][v]);
}

template <class T, int I, int V>
inline void long_product(const Blocks &blocks, const T *w, const T *x, T *y,
                         const int32_t *target) {
  for (int64_t k = 0; k < blocks.inputs; k += CHAIN) {
    const int64_t left = blocks.inputs - k;
    product<T, I, V, 0>(blocks, left < CHAIN ? left : CHAIN, w + k * blocks.in_step,
                        x + k * ROWS<T, V>, y, target, k > 0);
  }
}

// All blocks, in pieces of I outputs and then of I - 1.
template <class T, int I, int V, int C = 0>
inline void products(const Blocks &blocks, const T *w, const T *x, T *y, const int32_t *target) {
  const int64_t pieces = (blocks.outputs + I - 1) / I;
  const int64_t smaller = pieces * I - blocks.outputs;
  for (int64_t block = 0; block < blocks.count; block++) {
    const T *row = w;
    for (int64_t piece = 0; piece < pieces - smaller; piece++) {
      if constexpr (C > 0)
        product<T, I, V, C>(blocks, C, row, x, y, target);
      else
        long_product<T, I, V>(blocks, row, x, y, target);
      row += I * blocks.out_step;
      target += I;
    }
    if constexpr (I > 1 && C == 0)
      for (int64_t piece = 0; piece < smaller; piece++) {
        long_product<T, I - 1, V>(blocks, row, x, y, target);
        row += (I - 1) * blocks.out_step;
        target += I - 1;
      }
    w += blocks.outputs * blocks.inputs;
    x += blocks.inputs * ROWS<T, V>;
  }
}

// Square blocks of C features, small enough to unroll.
template <class T, int V, int C>
inline bool multiply_small(const Blocks &blocks, const T *w, const T *x, T *y,
                           const int32_t *target) {
  constexpr int I = C < MOST_OUTPUTS<V> ? C : MOST_OUTPUTS<V> / 2 * 2;
  if (blocks.inputs != C || blocks.outputs != C || C % I) return false;
  Blocks fixed = blocks;
  fixed.outputs = fixed.inputs = C;
  if (blocks.out_step == C)
    fixed.out_step = C, fixed.in_step = 1;
  else
    fixed.out_step = 1, fixed.in_step = C;
  products<T, I, V, C>(fixed, w, x, y, target);
  return true;
}

// In pieces of I outputs, as large and as even as can be.
template <class T, int V, int I = MOST_OUTPUTS<V>>
inline void multiply_any(const Blocks &blocks, const T *w, const T *x, T *y,
                         const int32_t *target) {
  const int64_t most = MOST_OUTPUTS<V>;
  const int64_t pieces = (blocks.outputs + most - 1) / most;
  const int64_t size = (blocks.outputs + pieces - 1) / pieces;
  if constexpr (I > 1) {
    if (size < I) return multiply_any<T, V, I - 1>(blocks, w, x, y, target);
  }
  products<T, I, V>(blocks, w, x, y, target);
}

template <class T, int V>
inline void multiply(const Blocks &blocks, const T *w, const T *x, T *y, const int32_t *target) {
  const bool is_done = multiply_small<T, V, 2>(blocks, w, x, y, target) ||
                       multiply_small<T, V, 4>(blocks, w, x, y, target) ||
                       multiply_small<T, V, 8>(blocks, w, x, y, target) ||
                       multiply_small<T, V, 16>(blocks, w, x, y, target);
  if (!is_done) multiply_any<T, V>(blocks, w, x, y, target);
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
