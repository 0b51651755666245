// The products of blocks: I outputs of a block for V vectors of rows in registers at a time.
#pragma once

#include "tile.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Outputs that fit into registers beside V vectors of inputs and one broadcast weight.
template <int V>
constexpr int MOST_OUTPUTS = (REGISTERS - V - 1) / V < 14 ? (REGISTERS - V - 1) / V : 14;

// y[target[i]] = sum over k of w[i * out_step + k * in_step] * x[k], for i below I.
template <class T, int I, int V>
INLINE void product(const T *w, int64_t out_step, int64_t in_step, const T *x, int64_t inputs,
                    T *y, const int32_t *target) {
  constexpr int64_t PITCH = ROWS<T, V>;
  Vector<T> sum[I][V] = {};
  for (int64_t k = 0; k < inputs; k++) {
    Vector<T> value[V];
    UNROLL for (int v = 0; v < V; v++) {
      value[v] = load(x + k * PITCH + v * LANES<T>);
      pin(value[v]);
    }
    UNROLL for (int i = 0; i < I; i++) {
      const Vector<T> weight = broadcast(w[i * out_step]);
      UNROLL for (int v = 0; v < V; v++) sum[i][v] += weight * value[v];
    }
    w += in_step;
  }
  UNROLL for (int i = 0; i < I; i++)
    UNROLL for (int v = 0; v < V; v++) store(y + target[i] * PITCH + v * LANES<T>, sum[i][v]);
}

// A matrix per block: element (output i, input k) at i * out_step + k * in_step.
struct Blocks {
  int64_t count, outputs, inputs, out_step, in_step;
};

// All blocks, in pieces of I outputs and then of I - 1.
template <class T, int I, int V>
inline void products(const Blocks &blocks, const T *w, const T *x, T *y, const int32_t *target) {
  const int64_t pieces = (blocks.outputs + I - 1) / I;
  const int64_t smaller = pieces * I - blocks.outputs;
  for (int64_t block = 0; block < blocks.count; block++) {
    const T *row = w;
    for (int64_t piece = 0; piece < pieces - smaller; piece++) {
      product<T, I, V>(row, blocks.out_step, blocks.in_step, x, blocks.inputs, y, target);
      row += I * blocks.out_step;
      target += I;
    }
    if constexpr (I > 1)
      for (int64_t piece = 0; piece < smaller; piece++) {
        product<T, I - 1, V>(row, blocks.out_step, blocks.in_step, x, blocks.inputs, y, target);
        row += (I - 1) * blocks.out_step;
        target += I - 1;
      }
    w += blocks.outputs * blocks.inputs;
    x += blocks.inputs * ROWS<T, V>;
  }
}

// Chooses the largest I that divides the outputs of a block evenly enough.
template <class T, int V, int I = MOST_OUTPUTS<V>>
inline void multiply(const Blocks &blocks, const T *w, const T *x, T *y, const int32_t *target) {
  const int64_t most = MOST_OUTPUTS<V>;
  const int64_t pieces = (blocks.outputs + most - 1) / most;
  const int64_t size = (blocks.outputs + pieces - 1) / pieces;
  if constexpr (I > 1) {
    if (size < I) return multiply<T, V, I - 1>(blocks, w, x, y, target);
  }
  products<T, I, V>(blocks, w, x, y, target);
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
