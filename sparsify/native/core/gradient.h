// Gradients of a stage's blocks: the product of a tile of gradients and a tile of inputs over rows.
//
// A block's inputs are transposed once into rows; then a vector holds inputs k, the weights
// (i, k) are in their natural order, and the sum runs over rows. Blocks with few inputs would leave
// most lanes empty; there the rows stay the lanes, and lanes are summed at the end.
#pragma once

#include "product.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Vectors of inputs beside I outputs.
constexpr int WIDE = 2;
constexpr int MOST_GRADIENTS = (REGISTERS - WIDE - 1) / WIDE < 12 ? (REGISTERS - WIDE - 1) / WIDE
                                                                  : 12;
constexpr int64_t PANEL = 256;  // inputs that are transposed at once

// grad_w[i, k] += sum over rows of grad[i, row] * x[row, k], I outputs and K vectors of inputs, the
// last of them with `last` lanes.
template <class T, int I, int K, int V>
INLINE void outer(const T *grad, const T *x, int64_t x_stride, T *grad_w, int64_t inputs,
                  int64_t last) {
  constexpr int N = LANES<T>;
  UNROLL for (int i = 0; i < I; i++)  // here by the time that the sums are
    UNROLL for (int k = 0; k < K; k++) __builtin_prefetch(grad_w + i * inputs + k * N, 1);
  Vector<T> sum[I][K] = {};
  for (int64_t row = 0; row < ROWS<T, V>; row++) {
    Vector<T> value[K];
    UNROLL for (int k = 0; k < K; k++) {
      value[k] = load(x + row * x_stride + k * N);
      pin(value[k]);
    }
    UNROLL for (int i = 0; i < I; i++) {
      const Vector<T> weight = broadcast(grad[i * ROWS<T, V> + row]);
      UNROLL for (int k = 0; k < K; k++) sum[i][k] += weight * value[k];
    }
  }
  UNROLL for (int i = 0; i < I; i++)
    UNROLL for (int k = 0; k < K; k++) {
      T *to = grad_w + i * inputs + k * N;
      if (k < K - 1 || last == N)
        store(to, load(to) + sum[i][k]);
      else
        store(to, load(to, last) + sum[i][k], last);
    }
}

template <class T, int I, int V>
inline void outers(const T *grad, const T *x, int64_t x_stride, int64_t width, T *grad_w,
                   int64_t inputs) {
  constexpr int N = LANES<T>;
  int64_t k = 0;
  for (; k + N < width; k += WIDE * N) {
    const int64_t left = width - k - N;
    outer<T, I, WIDE, V>(grad, x + k, x_stride, grad_w + k, inputs, left < N ? left : N);
  }
  if (k < width) outer<T, I, 1, V>(grad, x + k, x_stride, grad_w + k, inputs, width - k);
}

template <class T, int V, int I = MOST_GRADIENTS>
inline void outer_rows(int64_t outputs, const T *grad, const T *x, int64_t x_stride, int64_t width,
                       T *grad_w, int64_t inputs) {
  if constexpr (I > 1) {
    if (outputs < I)
      return outer_rows<T, V, I - 1>(outputs, grad, x, x_stride, width, grad_w, inputs);
  }
  for (; outputs >= I; outputs -= I) {
    outers<T, I, V>(grad, x, x_stride, width, grad_w, inputs);
    grad += I * ROWS<T, V>;
    grad_w += I * inputs;
  }
  if constexpr (I > 1) {
    if (outputs) outer_rows<T, V, I - 1>(outputs, grad, x, x_stride, width, grad_w, inputs);
  }
}

// Transposes `width` features of a tile into rows, x_stride apart; the lanes up to it are zero.
template <class T, int V>
inline void to_rows(const T *tile, int64_t width, T *rows, int64_t stride) {
  constexpr int N = LANES<T>;
  for (int64_t f = 0; f < width; f += N)
    UNROLL for (int v = 0; v < V; v++) {
      Vector<T> square[N];
      UNROLL for (int i = 0; i < N; i++)
        square[i] = f + i < width ? load(tile + (f + i) * ROWS<T, V> + v * N) : Vector<T>{};
      transpose<T>(square);
      UNROLL for (int r = 0; r < N; r++) store(rows + (v * N + r) * stride + f, square[r]);
    }
}

// Inputs of a block in whole vectors, and some more so that rows do not fall on the same sets of a
// cache.
template <class T>
constexpr int64_t PANEL_STRIDE = PANEL + LANES<T>;

// The weights of a block with few inputs: pairs (i, k) in their natural order, as many at a time as
// there are lanes. K inputs, a power of two below them.
template <class T, int K, int V>
inline void few_inputs(int64_t outputs, const T *grad, const T *x, T *grad_w) {
  constexpr int N = LANES<T>, I = N / K;
  for (int64_t i = 0; i < outputs; i += I, grad += I * ROWS<T, V>, grad_w += N) {
    Vector<T> products[N] = {};
    UNROLL for (int v = 0; v < V; v++) {
      Vector<T> value[K];
      UNROLL for (int k = 0; k < K; k++) value[k] = load(x + k * ROWS<T, V> + v * N);
      UNROLL for (int o = 0; o < I; o++) {
        const Vector<T> flow = load(grad + o * ROWS<T, V> + v * N);
        UNROLL for (int k = 0; k < K; k++) products[o * K + k] += flow * value[k];
      }
    }
    store(grad_w, load(grad_w) + sum_runs<T, N>(products));
  }
}

// Any number of inputs and outputs, one pair after the other.
template <class T, int V>
inline void few_pairs(int64_t outputs, int64_t inputs, const T *grad, const T *x, T *grad_w) {
  constexpr int N = LANES<T>;
  for (int64_t i = 0; i < outputs; i++)
    for (int64_t k = 0; k < inputs; k++) {
      Vector<T> products = {};
      UNROLL for (int v = 0; v < V; v++)
        products += load(grad + i * ROWS<T, V> + v * N) * load(x + k * ROWS<T, V> + v * N);
      T sum = 0;
      UNROLL for (int lane = 0; lane < N; lane++) sum += products[lane];
      grad_w[i * inputs + k] += sum;
    }
}

template <class T, int V>
inline void few_weights(int64_t outputs, int64_t inputs, const T *grad, const T *x, T *grad_w) {
  constexpr int N = LANES<T>;
  const bool is_whole = outputs * inputs % N == 0;
  if (is_whole && inputs == 2) return few_inputs<T, 2, V>(outputs, grad, x, grad_w);
  if constexpr (N > 4)
    if (is_whole && inputs == 4) return few_inputs<T, 4, V>(outputs, grad, x, grad_w);
  if constexpr (N > 8)
    if (is_whole && inputs == 8) return few_inputs<T, 8, V>(outputs, grad, x, grad_w);
  few_pairs<T, V>(outputs, inputs, grad, x, grad_w);
}

// grad_w += the gradient of all blocks; `panel` has room for ROWS * PANEL_STRIDE numbers.
template <class T, int V>
inline void block_gradients(const Stage &stage, const T *grad, const T *x, T *grad_w, T *panel) {
  for (int64_t block = 0; block < stage.blocks; block++) {
    if (2 * stage.inputs <= LANES<T>) {
      few_weights<T, V>(stage.outputs, stage.inputs, grad, x, grad_w);
    } else {
      for (int64_t k = 0; k < stage.inputs; k += PANEL) {
        const int64_t width = stage.inputs - k < PANEL ? stage.inputs - k : PANEL;
        const int64_t stride = (width + LANES<T> - 1) / LANES<T> * LANES<T> + LANES<T>;
        to_rows<T, V>(x + k * ROWS<T, V>, width, panel, stride);
        outer_rows<T, V>(stage.outputs, grad, panel, stride, width, grad_w + k, stage.inputs);
      }
    }
    grad += stage.outputs * ROWS<T, V>;
    x += stage.inputs * ROWS<T, V>;
    grad_w += stage.outputs * stage.inputs;
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
