// A single row, where a tile would leave most lanes empty: dot products along the inputs of a block,
// whose weights are contiguous.
#pragma once

#include "tile.h"

namespace sparsify {
namespace SPARSIFY_ISA {

template <class T>
inline T dot(const T *w, const T *x, int64_t count) {
  constexpr int N = LANES<T>;
  Vector<T> sum = {};
  int64_t k = 0;
  for (; k + N <= count; k += N) sum += load(w + k) * load(x + k);
  T total = 0;
  for (; k < count; k++) total += w[k] * x[k];
  for (int i = 0; i < N; i++) total += sum[i];
  return total;
}

// N outputs at once: N sums, then one vector of their lanes' sums.
template <class T>
INLINE void dots(const T *w, const T *x, int64_t count, T *to) {
  constexpr int N = LANES<T>;
  Vector<T> sum[N] = {};
  int64_t k = 0;
  for (; k + N <= count; k += N) {
    const Vector<T> value = load(x + k);
    UNROLL for (int i = 0; i < N; i++) sum[i] += load(w + i * count + k) * value;
  }
  Vector<T> total = sum_runs<T, N>(sum);
  for (; k < count; k++)
    for (int i = 0; i < N; i++) total[i] += w[i * count + k] * x[k];
  store(to, total);
}

// Blocks of C inputs, a power of two below the lanes: runs of C lanes belong to one output.
template <class T, int C>
inline void small_dots(const Stage &stage, const T *w, const T *x, T *out) {
  constexpr int N = LANES<T>;
  const int64_t total = stage.out;  // a whole number of vectors of outputs, see `has_small_dots`
  for (int64_t o = 0; o < total; o += N) {
    Vector<T> products[C];
    UNROLL for (int v = 0; v < C; v++) {
      T inputs[N];
      UNROLL for (int run = 0; run < N / C; run++) {
        const int64_t block = (o + v * (N / C) + run) / stage.outputs;
        memcpy(inputs + run * C, x + block * C, C * sizeof(T));
      }
      products[v] = load(w + o * C + v * N) * load(inputs);
    }
    store(out + o, sum_runs<T, C>(products));
  }
}

template <class T>
inline bool has_small_dots(const Stage &stage) {
  const int64_t c = stage.inputs;
  return (c == 2 || c == 4 || c == 8) && c < LANES<T> && stage.out % LANES<T> == 0;
}

// One stage for one row; `out` has room for its outputs by slots.
template <class T>
inline void row_stage(const Stage &stage, const T *w, const T *x, T *out) {
  constexpr int N = LANES<T>;
  if (stage.is_graph) {
    for (int64_t o = 0; o < stage.out; o++) {
      T total = 0;
      for (int64_t k = 0; k < stage.inputs; k++)
        total += w[o * stage.inputs + k] * x[stage.neighbours[o * stage.inputs + k]];
      out[o] = total;
    }
    return;
  }
  if (has_small_dots<T>(stage)) {
    if (stage.inputs == 2) return small_dots<T, 2>(stage, w, x, out);
    if constexpr (N > 4)
      if (stage.inputs == 4) return small_dots<T, 4>(stage, w, x, out);
    if constexpr (N > 8)
      if (stage.inputs == 8) return small_dots<T, 8>(stage, w, x, out);
  }
  const int64_t c = stage.inputs;
  for (int64_t block = 0; block < stage.blocks; block++, x += c) {
    int64_t i = 0;
    if (c >= N)
      for (; i + N <= stage.outputs; i += N, w += N * c, out += N) dots(w, x, c, out);
    for (; i < stage.outputs; i++, w += c, out++) *out = dot(w, x, c);
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
