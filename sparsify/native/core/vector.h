// One register of numbers, written with the vector extensions of GCC and Clang: the same source
// makes SSE, AVX2, AVX-512 and NEON code, each in a namespace and an object file of its own.
#pragma once

#include <stdint.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE inline __attribute__((always_inline))

namespace sparsify {
namespace SPARSIFY_ISA {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
constexpr int REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16;
constexpr int REGISTERS = 32;
#else
constexpr int BYTES = 16;
constexpr int REGISTERS = 16;
#endif

template <class T>
constexpr int LANES = BYTES / sizeof(T);

template <class T>
struct Register {
  typedef T type __attribute__((vector_size(BYTES)));
};
template <class T>
using Vector = typename Register<T>::type;

template <class T>
INLINE Vector<T> load(const T *from) {
  Vector<T> value;
  memcpy(&value, from, BYTES);
  return value;
}

// The first `count` lanes, the others zero.
template <class T>
INLINE Vector<T> load(const T *from, int64_t count) {
  Vector<T> value = {};
  memcpy(&value, from, count * sizeof(T));
  return value;
}

template <class T>
INLINE void store(T *to, Vector<T> value) {
  memcpy(to, &value, BYTES);
}

template <class T>
INLINE void store(T *to, Vector<T> value, int64_t count) {
  memcpy(to, &value, count * sizeof(T));
}

template <class T>
INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};  // minus zero changes no bit; plus zero would change -0
}

// Keeps a loaded value in a register, where the compiler would load it again for each use.
template <class V>
INLINE void pin(V &value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__x86_64__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#else
  (void)value;
#endif
}

// interleave: a0 b0 a1 b1 ... of the first halves (low) or the second (high).
// separate: the even (low) or odd lanes of a, then those of b.
INLINE void interleave(Vector<float> a, Vector<float> b, Vector<float> &low, Vector<float> &high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

INLINE void interleave(Vector<double> a, Vector<double> b, Vector<double> &low,
                       Vector<double> &high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
  low = __builtin_shufflevector(a, b, 0, 2);
  high = __builtin_shufflevector(a, b, 1, 3);
#endif
}

INLINE void separate(Vector<float> a, Vector<float> b, Vector<float> &low, Vector<float> &high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  low = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  high = __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

INLINE void separate(Vector<double> a, Vector<double> b, Vector<double> &low,
                     Vector<double> &high) {
#if defined(__AVX512F__)
  low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#elif defined(__AVX2__)
  low = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  high = __builtin_shufflevector(a, b, 1, 3, 5, 7);
#else
  low = __builtin_shufflevector(a, b, 0, 2);
  high = __builtin_shufflevector(a, b, 1, 3);
#endif
}

// Transposes a square: lane j of vector i becomes lane i of vector j.
template <class T>
INLINE void transpose(Vector<T> (&square)[LANES<T>]) {
  constexpr int N = LANES<T>;
  UNROLL for (int round = 1; round < N; round *= 2) {
    Vector<T> mixed[N];
    UNROLL for (int i = 0; i < N / 2; i++)
      interleave(square[i], square[i + N / 2], mixed[2 * i], mixed[2 * i + 1]);
    UNROLL for (int i = 0; i < N; i++) square[i] = mixed[i];
  }
}

// Sums each run of COUNT lanes over COUNT vectors read as one list; the sums keep its order.
template <class T, int COUNT>
INLINE Vector<T> sum_runs(Vector<T> (&values)[COUNT]) {
  UNROLL for (int left = COUNT; left > 1; left /= 2) {
    UNROLL for (int i = 0; i < left / 2; i++) {
      Vector<T> even, odd;
      separate(values[2 * i], values[2 * i + 1], even, odd);
      values[i] = even + odd;
    }
  }
  return values[0];
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
