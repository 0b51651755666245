// Two stages of small square blocks at once: what lies between them never leaves the registers. With
// two or four features in a block, loading and storing takes longer than multiplying.
#pragma once

#include "product.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// R blocks of one stage and the R blocks of the next that read them and nothing else.
template <class T, int R, int V>
inline void multiply_pairs(const Stage &first, const Stage &second, const T *w1, const T *w2,
                           const T *x, T *y) {
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t group = 0; group < first.blocks / R; group++) {
    const int32_t *readers = first.pairs + group * 2 * R, *written = readers + R;
    for (int v = 0; v < V; v++) {
      Vector<T> between[R][R];  // of block i of the second stage, its input k
      UNROLL for (int k = 0; k < R; k++) {
        const T *w = w1 + int64_t(readers[k]) * R * R;
        const T *from = x + readers[k] * R * PITCH + v * LANES<T>;
        Vector<T> value[R];
        UNROLL for (int m = 0; m < R; m++) value[m] = load(from + m * PITCH);
        UNROLL for (int i = 0; i < R; i++) {
          between[i][k] = broadcast(w[i * R]) * value[0];
          UNROLL for (int m = 1; m < R; m++) between[i][k] += broadcast(w[i * R + m]) * value[m];
        }
      }
      UNROLL for (int i = 0; i < R; i++) {
        const T *w = w2 + int64_t(written[i]) * R * R;
        const int32_t *target = second.target + int64_t(written[i]) * R;
        UNROLL for (int o = 0; o < R; o++) {
          Vector<T> sum = broadcast(w[o * R]) * between[i][0];
          UNROLL for (int k = 1; k < R; k++) sum += broadcast(w[o * R + k]) * between[i][k];
          store(y + target[o] * PITCH + v * LANES<T>, sum);
        }
      }
    }
  }
}

// Whether a stage and the next run together: they can, and what lies between fits into registers.
inline bool has_pair(const Stage &stage) {
  return stage.pairs && stage.inputs * stage.inputs + stage.inputs < REGISTERS;
}

template <class T, int V>
inline void run_pair(const Stage *stage, const T *w1, const T *w2, const T *x, T *y) {
  if (stage->inputs == 2)
    multiply_pairs<T, 2, V>(stage[0], stage[1], w1, w2, x, y);
  else
    multiply_pairs<T, 4, V>(stage[0], stage[1], w1, w2, x, y);
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
