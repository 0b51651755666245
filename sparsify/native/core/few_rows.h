// A single row, where a tile would leave most lanes empty: dot products along the inputs of a block,
// whose weights are contiguous.
#pragma once

#include "product.h"

namespace sparsify {
namespace SPARSIFY_ISA {

template <class T, class W>
inline T dot(const W *w, const T *x, int64_t count) {
  constexpr int N = LANES<T>;
  Vector<T> sum = {};
  int64_t k = 0;
  for (; k + N <= count; k += N) sum += load_as<T>(w + k) * load(x + k);
  if (k < count) sum += load_as<T>(w + k, count - k) * load(x + k, count - k);
  T total = 0;
  UNROLL for (int i = 0; i < N; i++) total += sum[i];
  return total;
}

// N outputs at once: N sums, then one vector of their lanes' sums.
template <class T, class W>
INLINE void dots(const W *w, const T *x, int64_t count, T *to) {
  constexpr int N = LANES<T>;
  Vector<T> sum[N] = {};
  int64_t k = 0;
  for (; k + N <= count; k += N) {
    const Vector<T> value = load(x + k);
    UNROLL for (int i = 0; i < N; i++) sum[i] += load_as<T>(w + i * count + k) * value;
  }
  if (k < count) {
    const Vector<T> value = load(x + k, count - k);
    UNROLL for (int i = 0; i < N; i++) sum[i] += load_as<T>(w + i * count + k, count - k) * value;
  }
  store(to, sum_runs<T, N>(sum));
}

// Square blocks of C features: N outputs read N inputs. Lane l of vector V of their weights belongs
// to this input:
template <int N, int C, int V>
constexpr int input_of(int lane) {
  return (V * N + lane % N) / (C * C) * C + lane % C;
}

template <class T, int C, class W, int... V>
INLINE void square_dots(const Stage &stage, const W *w, const T *x, T *out,
                        std::integer_sequence<int, V...>) {
  constexpr int N = LANES<T>;
  for (int64_t o = 0; o < stage.out; o += N, w += C * N) {
    const Vector<T> value = load(x + o);
    Vector<T> products[C] = {load_as<T>(w + V * N) * pick<T, input_of<N, C, V>>(value, value)...};
    store(out + o, sum_runs<T, C>(products));
  }
}

// Blocks with fewer inputs than lanes: runs of C lanes belong to one output.
template <class T, int C, class W>
inline void square_dots(const Stage &stage, const W *w, const T *x, T *out) {
  square_dots<T, C>(stage, w, x, out, std::make_integer_sequence<int, C>());
}

template <class T, int C>
inline bool has_square_dots(const Stage &stage) {
  return stage.inputs == C && stage.outputs == C && C < LANES<T> && stage.out % LANES<T> == 0;
}

// A graph's outputs for one row.
template <class T, class W>
inline void row_gather(const Stage &stage, const W *w, const T *x, T *out) {
  constexpr int EDGES = 4;  // at once, so that sums do not wait for each other
  for (int64_t o = 0; o < stage.out; o++) {
    const W *weight = w + o * stage.inputs;
    const int32_t *from = stage.neighbours + o * stage.inputs;
    T total = 0;
    for (int64_t k = 0; k < stage.inputs;) {
      const int64_t end = stage.inputs - k < CHAIN ? stage.inputs : k + CHAIN;
      T sum[EDGES] = {};
      for (; k + EDGES <= end; k += EDGES)
        UNROLL for (int e = 0; e < EDGES; e++) sum[e] += widen(weight[k + e]) * x[from[k + e]];
      for (; k < end; k++) sum[0] += widen(weight[k]) * x[from[k]];
      total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    out[o] = total;
  }
}

// One stage for one row; `out` has room for its outputs by slots.
template <class T, class W>
inline void row_stage(const Stage &stage, const W *w, const T *x, T *out) {
  constexpr int N = LANES<T>;
  if (stage.is_graph) return row_gather(stage, w, x, out);
  if (has_square_dots<T, 2>(stage)) return square_dots<T, 2>(stage, w, x, out);
  if constexpr (N > 4)
    if (has_square_dots<T, 4>(stage)) return square_dots<T, 4>(stage, w, x, out);
  if constexpr (N > 8)
    if (has_square_dots<T, 8>(stage)) return square_dots<T, 8>(stage, w, x, out);
  const int64_t c = stage.inputs;
  for (int64_t block = 0; block < stage.blocks; block++, x += c) {
    int64_t i = 0;
    if (2 * c > N)
      for (; i + N <= stage.outputs; i += N, w += N * c, out += N) dots<T>(w, x, c, out);
    for (; i < stage.outputs; i++, w += c, out++) *out = dot<T>(w, x, c);
  }
}

// A tile costs as much as this many single rows, measured: dot products of few inputs and of graphs
// waste their lanes.
template <class T>
inline int64_t rows_of_tile(const Fabric &fabric) {
  constexpr int N = LANES<T>;
  int64_t rows = N / 3;
  for (int64_t s = 0; s < fabric.stages.size(); s++) {
    const Stage &stage = fabric.stages[s];
    const bool is_square = stage.inputs == stage.outputs && stage.out % N == 0;
    if (stage.is_graph || (!is_square && 2 * stage.inputs <= N)) return 1;
    if (4 * stage.inputs <= N) rows = N / 6;
  }
  return rows;
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
