// A tile: some rows, features major, so that the rows are the lanes of vectors. Rows come in and
// go out by transposing squares in registers.
#pragma once

#include "activation.h"
#include "fabric.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// Feature f of a tile lies at f * ROWS; V vectors of rows.
template <class T, int V>
constexpr int64_t ROWS = V * LANES<T>;

// Brings rows into a tile: feature f to slot slots[f] and, where slots has more than `features`
// entries, to slot slots[f + features] as well. Lanes beyond `rows` are zero.
template <class T, int V, class E>
inline void enter(const E *x, int64_t stride, int64_t rows, int64_t features, const int32_t *slots,
                  int64_t wide, T *tile) {
  constexpr int N = LANES<T>;
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t f = 0; f < features; f += N) {
    const int64_t width = features - f < N ? features - f : N;
    UNROLL for (int v = 0; v < V; v++) {
      Vector<T> square[N];
      if (width == N && rows >= (v + 1) * N) {
        UNROLL for (int r = 0; r < N; r++) {
          const E *from = x + (v * N + r) * stride + f;
          __builtin_prefetch(from + 2 * N);
          square[r] = load_as<T>(from);
        }
      } else {
        UNROLL for (int r = 0; r < N; r++) {
          const int64_t row = v * N + r;
          square[r] = row < rows ? load_as<T>(x + row * stride + f, width) : Vector<T>{};
        }
      }
      transpose<T>(square);
      if (width == N) {
        UNROLL for (int i = 0; i < N; i++) store(tile + slots[f + i] * PITCH + v * N, square[i]);
      } else {
        T flat[N * N];
        UNROLL for (int i = 0; i < N; i++) store(flat + i * N, square[i]);
        for (int64_t i = 0; i < width; i++)
          store(tile + slots[f + i] * PITCH + v * N, load(flat + i * N));
      }
    }
  }
  for (int64_t f = features; f < wide; f++)
    memcpy(tile + slots[f] * PITCH, tile + slots[f - features] * PITCH, PITCH * sizeof(T));
}

// Adds surplus features to the first ones, in place: the transpose of wrapping.
template <class T, int V>
inline void fold(T *tile, const int32_t *slots, int64_t wide, int64_t features) {
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t f = features; f < wide; f++) {
    T *to = tile + slots[f - features] * PITCH;
    const T *from = tile + slots[f] * PITCH;
    UNROLL for (int v = 0; v < V; v++)
      store(to + v * LANES<T>, load(to + v * LANES<T>) + load(from + v * LANES<T>));
  }
}

// Adds the features of a tile, by slots, to those of another in their own order.
template <class T, int V>
inline void accumulate(T *sum, const T *tile, const int32_t *slots, int64_t features, bool first) {
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t f = 0; f < features; f++) {
    const T *from = tile + slots[f] * PITCH;
    UNROLL for (int v = 0; v < V; v++) {
      T *to = sum + f * PITCH + v * LANES<T>;
      const Vector<T> value = load(from + v * LANES<T>);
      store(to, first ? value : load(to) + value);
    }
  }
}

// Bias and activation of the features of a tile, in place, by slots.
template <class T, int V>
inline void finish(T *tile, const int32_t *slots, int64_t features, const T *bias,
                   int32_t activation) {
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t f = 0; f < features; f++) {
    T *place = tile + (slots ? slots[f] : f) * PITCH;
    const Vector<T> shift = broadcast(bias ? bias[f] : T(0));
    for (int v = 0; v < V; v++) {
      T *at = place + v * LANES<T>;
      store(at, activate<T>(load(at) + shift, activation));
    }
  }
}

// Brings a tile out to rows: feature f from slot slots[f], or f itself where slots is null; adds
// bias[f] where there is one.
template <class T, int V, class E>
inline void leave(const T *tile, const int32_t *slots, int64_t features, const T *bias, E *y,
                  int64_t stride, int64_t rows) {
  constexpr int N = LANES<T>;
  constexpr int64_t PITCH = ROWS<T, V>;
  for (int64_t f = 0; f < features; f += N) {
    const int64_t width = features - f < N ? features - f : N;
    const Vector<T> shift = bias ? load(bias + f, width) : Vector<T>{};
    UNROLL for (int v = 0; v < V; v++) {
      Vector<T> square[N];
      E *to = y + v * N * stride + f;
      if (width == N && slots && rows >= (v + 1) * N) {
        UNROLL for (int i = 0; i < N; i++) square[i] = load(tile + slots[f + i] * PITCH + v * N);
        transpose<T>(square);
        UNROLL for (int r = 0; r < N; r++) store_as<T>(to + r * stride, square[r] + shift);
      } else {
        UNROLL for (int i = 0; i < N; i++) {
          const int64_t feature = f + (i < width ? i : 0);
          square[i] = load(tile + (slots ? slots[feature] : feature) * PITCH + v * N);
        }
        transpose<T>(square);
        UNROLL for (int r = 0; r < N; r++)
          if (v * N + r < rows) store_as<T>(to + r * stride, square[r] + shift, width);
      }
    }
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
