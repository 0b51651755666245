// The kernels of one instruction set; compiled once for each, with its name as SPARSIFY_ISA.
#include "backward.h"

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

namespace sparsify {
namespace SPARSIFY_ISA {

template <class E>
constexpr TypeKernels kernels() {
  using T = typename Computed<E>::type;
  return {forward<T, T, E>, backward<T, E>, TILE * LANES<T>};
}

template <class E>
void widen_all(const void *from, int64_t count, float *to) {
  for (int64_t i = 0; i < count; i++) to[i] = widen(static_cast<const E *>(from)[i]);
}

template <class E>
void narrow_all(const float *from, int64_t count, void *to) {
  for (int64_t i = 0; i < count; i++) narrow(from[i], static_cast<E *>(to)[i]);
}

#if defined(__AVX512F__)
constexpr auto FORWARD_PAIRED = forward<float, Bfloat, Bfloat>;
#else
constexpr bool (*FORWARD_PAIRED)(const Forward &, int64_t, int64_t) = nullptr;
#endif

extern const Kernels KERNELS = {TEXT(SPARSIFY_ISA), kernels<float>(), kernels<Half>(),
                                kernels<double>(), kernels<Bfloat>(), FORWARD_PAIRED,
                                widen_all<Half>, widen_all<Bfloat>,
                                narrow_all<Half>, narrow_all<Bfloat>};

}  // namespace SPARSIFY_ISA
}  // namespace sparsify
