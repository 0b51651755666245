// Pointwise functions of a vector, for the store of a last stage.
#pragma once

#include <math.h>

#include "numbers.h"
#include "sparsify.h"

namespace sparsify {
namespace SPARSIFY_ISA {

// exp(x) as 2^n * e^r with |r| <= log(2) / 2, e^r by its series; relative error below 2e-7.
INLINE Vector<float> exponential(Vector<float> x) {
  typedef int32_t Integers __attribute__((vector_size(BYTES)));
  const Vector<float> highest = broadcast(88.0f), lowest = broadcast(-87.0f);
  x = x > highest ? highest : x;
  x = x < lowest ? lowest : x;
  const Vector<float> magic = broadcast(12582912.0f);  // 1.5 * 2^23: rounds to a whole number
  Vector<float> shifted = x * 1.44269504f + magic;
  pin(shifted);
  const Vector<float> n = shifted - magic;
  Vector<float> r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vector<float> sum = broadcast(1.0f / 5040);
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  Integers bits;
  memcpy(&bits, &shifted, BYTES);
  bits = (bits << 23) + 0x3f800000;  // the low bits of `shifted` are n
  Vector<float> power;
  memcpy(&power, &bits, BYTES);
  return sum * power;
}

// erf by formula 7.1.26 of Abramowitz and Stegun, absolute error below 1.5e-7.
INLINE Vector<float> error_function(Vector<float> x) {
  const Vector<float> size = x < 0 ? -x : x;
  const Vector<float> t = 1.0f / (1.0f + 0.3275911f * size);
  Vector<float> sum = broadcast(1.061405429f);
  sum = sum * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const Vector<float> value = 1.0f - sum * t * exponential(-size * size);
  return x < 0 ? -value : value;
}

INLINE Vector<float> sigmoid(Vector<float> x) { return 1.0f / (1.0f + exponential(-x)); }

constexpr double ROOT_HALF = 0.70710678118654752440;
constexpr double TANH_SCALE = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double TANH_CUBE = 0.044715;

INLINE Vector<float> gelu(Vector<float> x) {
  return 0.5f * x * (1.0f + error_function(x * float(ROOT_HALF)));
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
INLINE Vector<float> gelu_tanh(Vector<float> x) {
  return x * sigmoid(x * float(2 * TANH_SCALE) * (1.0f + x * x * float(TANH_CUBE)));
}

INLINE Vector<float> silu(Vector<float> x) { return x * sigmoid(x); }

template <class F>
INLINE Vector<double> each(Vector<double> x, F function) {
  for (int i = 0; i < LANES<double>; i++) x[i] = function(x[i]);
  return x;
}

INLINE Vector<double> gelu(Vector<double> x) {
  return each(x, [](double v) { return 0.5 * v * (1 + erf(v * ROOT_HALF)); });
}

INLINE Vector<double> gelu_tanh(Vector<double> x) {
  return each(x, [](double v) {
    return 0.5 * v * (1 + tanh(TANH_SCALE * v * (1 + TANH_CUBE * v * v)));
  });
}

INLINE Vector<double> silu(Vector<double> x) {
  return each(x, [](double v) { return v / (1 + exp(-v)); });
}

template <class T>
INLINE Vector<T> activate(Vector<T> x, int32_t activation) {
  switch (activation) {
    case SPARSIFY_RELU: return x < 0 ? Vector<T>{} : x;
    case SPARSIFY_GELU: return gelu(x);
    case SPARSIFY_GELU_TANH: return gelu_tanh(x);
    case SPARSIFY_SILU: return silu(x);
    default: return x;
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
