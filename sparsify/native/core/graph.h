// Graph stages on a tile: each output reads `degree` features, wherever they are.
#pragma once

#include "product.h"

namespace sparsify {
namespace SPARSIFY_ISA {

template <class T, int V, class W>
inline void gather(const Stage &stage, const W *w, const T *x, T *y) {
  constexpr int64_t PITCH = ROWS<T, V>;
  constexpr int EDGES = 4;  // at once, so that sums do not wait for each other
  for (int64_t o = 0; o < stage.out; o++) {
    const int32_t *from = stage.neighbours + o * stage.inputs;
    const W *weight = w + o * stage.inputs;
    Vector<T> total[V] = {};
    for (int64_t k = 0; k < stage.inputs;) {
      const int64_t end = stage.inputs - k < CHAIN ? stage.inputs : k + CHAIN;
      Vector<T> sum[EDGES][V] = {};
      for (; k + EDGES <= end; k += EDGES)
        UNROLL for (int e = 0; e < EDGES; e++)
          UNROLL for (int v = 0; v < V; v++)
            sum[e][v] += broadcast(widen(weight[k + e])) * load(x + from[k + e] * PITCH + v * LANES<T>);
      for (; k < end; k++)
        UNROLL for (int v = 0; v < V; v++)
          sum[0][v] += broadcast(widen(weight[k])) * load(x + from[k] * PITCH + v * LANES<T>);
      UNROLL for (int v = 0; v < V; v++)
        total[v] += (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]);
    }
    T *to = y + stage.target[o] * PITCH;
    UNROLL for (int v = 0; v < V; v++) store(to + v * LANES<T>, total[v]);
  }
}

// The transpose: spreads gradients of outputs over the inputs.
template <class T, int V>
inline void scatter(const Stage &stage, const T *w, const T *grad, T *grad_x) {
  constexpr int64_t PITCH = ROWS<T, V>;
  memset(grad_x, 0, stage.in * PITCH * sizeof(T));
  for (int64_t o = 0; o < stage.out; o++) {
    Vector<T> value[V];
    UNROLL for (int v = 0; v < V; v++) value[v] = load(grad + o * PITCH + v * LANES<T>);
    for (int64_t k = 0; k < stage.inputs; k++) {
      T *to = grad_x + stage.source[stage.neighbours[o * stage.inputs + k]] * PITCH;
      const Vector<T> weight = broadcast(w[o * stage.inputs + k]);
      UNROLL for (int v = 0; v < V; v++)
        store(to + v * LANES<T>, load(to + v * LANES<T>) + weight * value[v]);
    }
  }
}

// grad_w[o, k] += grad[o] . x[neighbour k of o]
template <class T, int V>
inline void edge_gradients(const Stage &stage, const T *grad, const T *x, T *grad_w) {
  constexpr int64_t PITCH = ROWS<T, V>;
  constexpr int N = LANES<T>;
  for (int64_t o = 0; o < stage.out; o++) {
    const int32_t *from = stage.neighbours + o * stage.inputs;
    T *to = grad_w + o * stage.inputs;
    Vector<T> value[V];
    UNROLL for (int v = 0; v < V; v++) value[v] = load(grad + o * PITCH + v * N);
    for (int64_t k = 0; k < stage.inputs; k += N) {
      const int64_t count = stage.inputs - k < N ? stage.inputs - k : N;
      Vector<T> products[N] = {};
      for (int64_t i = 0; i < count; i++)
        UNROLL for (int v = 0; v < V; v++)
          products[i] += value[v] * load(x + from[k + i] * PITCH + v * N);
      const Vector<T> sums = sum_runs<T, N>(products);
      if (count == N)
        store(to + k, load(to + k) + sums);
      else
        store(to + k, load(to + k, count) + sums, count);
    }
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
