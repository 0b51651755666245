// One register of numbers, written with the vector extensions of GCC and Clang: the same source
// makes SSE, AVX2, AVX-512 and NEON code, each in a namespace and an object file of its own.
#pragma once

#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE inline __attribute__((always_inline))

namespace sparsify {
namespace SPARSIFY_ISA {

// Bytes and number of registers; vectors of rows in a tile: one, where a multiplication can read its
// broadcast weight from memory.
#if defined(__AVX512F__)
constexpr int BYTES = 64;
constexpr int REGISTERS = 32;
constexpr int TILE = 1;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
constexpr int REGISTERS = 16;
constexpr int TILE = 2;
#elif defined(__aarch64__)
constexpr int BYTES = 16;
constexpr int REGISTERS = 32;
constexpr int TILE = 2;
#else
constexpr int BYTES = 16;
constexpr int REGISTERS = 16;
constexpr int TILE = 2;
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

// The first `count` lanes, the others zero; nothing beyond them is read.
template <class T>
INLINE Vector<T> load(const T *from, int64_t count) {
  Vector<T> value = {};
  memcpy(&value, from, count * sizeof(T));
  return value;
}
#if defined(__AVX512F__)
template <>
INLINE Vector<float> load(const float *from, int64_t count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
template <>
INLINE Vector<double> load(const double *from, int64_t count) {
  return _mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
}
#elif defined(__AVX2__)
template <>
INLINE Vector<float> load(const float *from, int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), lane));
}
template <>
INLINE Vector<double> load(const double *from, int64_t count) {
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane));
}
#endif

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

// Lane l of the result is lane LANE(l) of a and b read as one list.
template <class T, int (*LANE)(int), int... L>
INLINE Vector<T> pick(Vector<T> a, Vector<T> b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, LANE(L)...);
}
template <class T, int (*LANE)(int)>
INLINE Vector<T> pick(Vector<T> a, Vector<T> b) {
  return pick<T, LANE>(a, b, std::make_integer_sequence<int, LANES<T>>());
}

// One round of a transposition: blocks of S by S lanes beside the diagonal change places.
template <int N, int S>
constexpr int upper(int lane) {
  return lane & S ? N + lane - S : lane;
}
template <int N, int S>
constexpr int lower(int lane) {
  return lane & S ? N + lane : lane + S;
}

template <class T, int S>
INLINE void exchange(Vector<T> (&square)[LANES<T>]) {
  constexpr int N = LANES<T>;
  UNROLL for (int i = 0; i < N; i++) {
    if (i & S) continue;
    const Vector<T> first = square[i], second = square[i + S];
    square[i] = pick<T, upper<N, S>>(first, second);
    square[i + S] = pick<T, lower<N, S>>(first, second);
  }
}

// Transposes a square: lane j of vector i becomes lane i of vector j.
template <class T, int S = LANES<T> / 2>
INLINE void transpose(Vector<T> (&square)[LANES<T>]) {
  exchange<T, S>(square);
  if constexpr (S > 1) transpose<T, S / 2>(square);
}

constexpr int even(int lane) { return 2 * lane; }
constexpr int odd(int lane) { return 2 * lane + 1; }

// Sums each run of COUNT lanes over COUNT vectors read as one list; the sums keep its order.
template <class T, int COUNT>
INLINE Vector<T> sum_runs(Vector<T> (&values)[COUNT]) {
  UNROLL for (int left = COUNT; left > 1; left /= 2) {
    UNROLL for (int i = 0; i < left / 2; i++) {
      const Vector<T> first = values[2 * i], second = values[2 * i + 1];
      values[i] = pick<T, even>(first, second) + pick<T, odd>(first, second);
    }
  }
  return values[0];
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
