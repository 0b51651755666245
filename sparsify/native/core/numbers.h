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
  _Float16 half;
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
  const _Float16 half = _Float16(value);
  memcpy(&to, &half, 2);
}

template <class T, class E>
constexpr bool IS_SAME = false;
template <class T>
constexpr bool IS_SAME<T, T> = true;

template <class T, class E>
INLINE Vector<T> load_as(const E *from) {
  if constexpr (IS_SAME<T, E>) {
    return load(from);
  } else {
    T wide[LANES<T>];
    UNROLL for (int i = 0; i < LANES<T>; i++) wide[i] = widen(from[i]);
    return load(wide);
  }
}

template <class T, class E>
INLINE Vector<T> load_as(const E *from, int64_t count) {
  T wide[LANES<T>] = {};
  for (int64_t i = 0; i < count; i++) wide[i] = widen(from[i]);
  return load(wide);
}

template <class T, class E>
INLINE void store_as(E *to, Vector<T> value) {
  if constexpr (IS_SAME<T, E>) {
    store(to, value);
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
