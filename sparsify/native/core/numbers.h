// Elements as they are stored, and the type that is computed in.
#pragma once

#include "vector.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// float32 and float64 are stored as they are computed; the halves are converted.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

#if defined(__aarch64__)
typedef __fp16 HalfNumber;
#else
typedef _Float16 HalfNumber;
#endif

template <class E>
struct Computed {
  using type = E;
};
template <>
struct Computed<Half> {
  using type = float;
};
template <>
struct Computed<Bfloat> {
  using type = float;
};

INLINE float widen(float value) { return value; }
INLINE double widen(double value) { return value; }

INLINE float widen(Bfloat value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  memcpy(&wide, &bits, 4);
  return wide;
}

INLINE float widen(Half value) {
  HalfNumber half;
  memcpy(&half, &value, 2);
  return float(half);
}

INLINE void narrow(float value, float &to) { to = value; }
INLINE void narrow(double value, double &to) { to = value; }

// To the nearest, ties to even, as torch does; a NaN stays one.
INLINE void narrow(float value, Bfloat &to) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  to.bits = value == value ? uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16) : 0x7fc0;
}

INLINE void narrow(float value, Half &to) {
  const HalfNumber half = HalfNumber(value);
  memcpy(&to, &half, 2);
}

template <class T, class E>
constexpr bool IS_SAME = false;
template <class T>
constexpr bool IS_SAME<T, T> = true;

// The 16-bit numbers that fill a vector of float32 when they are widened.
typedef uint16_t Shorts __attribute__((vector_size(BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(BYTES)));

INLINE Vector<float> widen(Shorts bits) {
  const Words words = __builtin_convertvector(bits, Words) << 16;
  Vector<float> wide;
  memcpy(&wide, &words, BYTES);
  return wide;
}

INLINE Shorts narrow(Vector<float> value) {
  Words words;
  memcpy(&words, &value, BYTES);
  const Words rounded = (words + 0x7fff + (words >> 16 & 1)) >> 16;
  return __builtin_convertvector(value == value ? rounded : Words{} + 0x7fc0, Shorts);
}

template <class T, class E>
INLINE Vector<T> load_as(const E *from) {
  if constexpr (IS_SAME<T, E>) {
    return load(from);
  } else if constexpr (IS_SAME<E, Bfloat>) {
    Shorts bits;
    memcpy(&bits, from, sizeof(bits));
    return widen(bits);
  } else {
    T wide[LANES<T>];
    UNROLL for (int i = 0; i < LANES<T>; i++) wide[i] = widen(from[i]);
    return load(wide);
  }
}

template <class T, class E>
INLINE Vector<T> load_as(const E *from, int64_t count) {
  if constexpr (IS_SAME<T, E>) {
    return load(from, count);
#if defined(__AVX512F__)
  } else if constexpr (IS_SAME<E, Bfloat>) {
    const __m256i bits = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from);
    return widen((Shorts)bits);
#endif
  } else {
    T wide[LANES<T>] = {};
    for (int64_t i = 0; i < count; i++) wide[i] = widen(from[i]);
    return load(wide);
  }
}

template <class T, class E>
INLINE void store_as(E *to, Vector<T> value) {
  if constexpr (IS_SAME<T, E>) {
    store(to, value);
  } else if constexpr (IS_SAME<E, Bfloat>) {
    const Shorts bits = narrow(value);
    memcpy(to, &bits, sizeof(bits));
  } else {
    UNROLL for (int i = 0; i < LANES<T>; i++) narrow(value[i], to[i]);
  }
}

template <class T, class E>
INLINE void store_as(E *to, Vector<T> value, int64_t count) {
  for (int64_t i = 0; i < count; i++) narrow(value[i], to[i]);
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
