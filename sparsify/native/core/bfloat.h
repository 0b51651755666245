// Products of blocks in bfloat16 with sums in float32, where the processor has an instruction for
// it: a lane adds the products of two neighbouring inputs. The weights of two neighbouring inputs
// lie side by side, so they are broadcast from where they are; the inputs are paired per block.
#pragma once

#include "product.h"

#if defined(__AVX512F__)

#define BFLOAT_CODE __attribute__((target("avx512bf16")))

namespace sparsify {
namespace SPARSIFY_ISA {

constexpr int64_t PAIRED = 512;  // inputs that are paired at once

// Features 2 k and 2 k + 1 of a tile of one vector become the halves of lanes of pair k. An odd
// last one is paired with zero.
BFLOAT_CODE inline void pair_inputs(const float *x, int64_t inputs, __m512bh *pairs) {
  alignas(64) uint16_t order[32];
  for (int i = 0; i < 32; i++) order[i] = uint16_t(i / 2 + i % 2 * 16);
  const __m512i turn = _mm512_load_si512(order);
  for (int64_t k = 0; k < inputs; k += 2) {
    const __m512 first = _mm512_loadu_ps(x + k * 16);
    const __m512 second = k + 1 < inputs ? _mm512_loadu_ps(x + k * 16 + 16) : _mm512_setzero_ps();
    const __m512bh both = _mm512_cvtne2ps_pbh(second, first);
    pairs[k / 2] = (__m512bh)_mm512_permutexvar_epi16(turn, (__m512i)both);
  }
}

BFLOAT_CODE INLINE __m512bh broadcast_pair(const Bfloat *from, int64_t count) {
  uint32_t bits = 0;
  if (count > 1)
    memcpy(&bits, from, 4);
  else
    memcpy(&bits, from, 2);
  return (__m512bh)_mm512_set1_epi32(int32_t(bits));
}

// As `product`: I outputs of a block, for inputs that are paired.
template <int I>
BFLOAT_CODE inline void paired_product(const Bfloat *w, int64_t step, const __m512bh *pairs,
                                       int64_t inputs, float *y, const int32_t *target,
                                       bool adds) {
  __m512 sum[I];
  UNROLL for (int i = 0; i < I; i++) sum[i] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + 1 < inputs; k += 2) {
    const __m512bh value = pairs[k / 2];
    UNROLL for (int i = 0; i < I; i++)
      sum[i] = _mm512_dpbf16_ps(sum[i], value, broadcast_pair(w + i * step + k, 2));
  }
  if (k < inputs)
    UNROLL for (int i = 0; i < I; i++)
      sum[i] = _mm512_dpbf16_ps(sum[i], pairs[k / 2], broadcast_pair(w + i * step + k, 1));
  UNROLL for (int i = 0; i < I; i++) {
    float *to = y + int64_t(target[i]) * 16;
    if (adds) sum[i] = _mm512_add_ps(sum[i], _mm512_loadu_ps(to));
    _mm512_storeu_ps(to, sum[i]);
  }
}

template <int I>
BFLOAT_CODE inline void paired_outputs(int64_t outputs, const Bfloat *w, int64_t step,
                                       const __m512bh *pairs, int64_t inputs, float *y,
                                       const int32_t *target, bool adds) {
  for (; outputs >= I; outputs -= I, w += I * step, target += I)
    paired_product<I>(w, step, pairs, inputs, y, target, adds);
  if constexpr (I > 1)
    if (outputs) paired_outputs<I - 1>(outputs, w, step, pairs, inputs, y, target, adds);
}

// As `multiply`, for one vector of rows.
BFLOAT_CODE inline void multiply_paired(const Stage &stage, const Bfloat *w, const float *x,
                                        float *y) {
  __m512bh pairs[PAIRED / 2];
  const int32_t *target = stage.target;
  for (int64_t block = 0; block < stage.blocks; block++) {
    for (int64_t k = 0; k < stage.inputs; k += PAIRED) {
      const int64_t left = stage.inputs - k, inputs = left < PAIRED ? left : PAIRED;
      pair_inputs(x + k * 16, inputs, pairs);
      paired_outputs<MOST_OUTPUTS<1>>(stage.outputs, w + k, stage.inputs, pairs, inputs, y, target,
                                      k > 0);
    }
    w += stage.outputs * stage.inputs;
    x += stage.inputs * 16;
    target += stage.outputs;
  }
}

}  // namespace SPARSIFY_ISA
}  // namespace sparsify

#endif
