// A check of the core that needs nothing but the core: forward and backward of random fabrics against
// plain loops in double. For machines and emulators without Python. Prints the worst relative error.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "sparsify.h"

using Numbers = std::vector<double>;

namespace {

uint64_t state = 1;

uint64_t draw(uint64_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % below;
}

double number() { return double(draw(2000001)) / 1e6 - 1; }

struct Stage {
  int64_t a, b, c, d;
  int64_t in() const { return a * c * d; }
  int64_t out() const { return a * b * d; }
};

// y of (rows, out): the definition; or, transposed, gradients of the inputs; or those of weights.
Numbers apply(const Stage &s, const Numbers &w, const Numbers &x, int64_t rows, bool transposed) {
  Numbers y(rows * (transposed ? s.in() : s.out()));
  for (int64_t r = 0; r < rows; r++)
    for (int64_t a = 0; a < s.a; a++)
      for (int64_t j = 0; j < s.d; j++)
        for (int64_t i = 0; i < s.b; i++)
          for (int64_t k = 0; k < s.c; k++) {
            const double weight = w[((a * s.d + j) * s.b + i) * s.c + k];
            const int64_t from = r * s.in() + (a * s.c + k) * s.d + j;
            const int64_t to = r * s.out() + (a * s.b + i) * s.d + j;
            if (transposed)
              y[from] += weight * x[to];
            else
              y[to] += weight * x[from];
          }
  return y;
}

Numbers weight_gradient(const Stage &s, const Numbers &grad, const Numbers &x, int64_t rows) {
  Numbers found(s.a * s.b * s.c * s.d);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t a = 0; a < s.a; a++)
      for (int64_t j = 0; j < s.d; j++)
        for (int64_t i = 0; i < s.b; i++)
          for (int64_t k = 0; k < s.c; k++)
            found[((a * s.d + j) * s.b + i) * s.c + k] +=
                grad[r * s.out() + (a * s.b + i) * s.d + j] *
                x[r * s.in() + (a * s.c + k) * s.d + j];
  return found;
}

template <class T>
std::vector<T> rounded(const Numbers &numbers) {
  return std::vector<T>(numbers.begin(), numbers.end());
}

template <class T>
double error(const std::vector<T> &found, const Numbers &expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return sqrt(difference / size);
}

Numbers random_numbers(int64_t count) {
  Numbers made(count);
  for (double &one : made) one = float(number());  // the same in float and double
  return made;
}

template <class T>
double check(const std::vector<Stage> &stages, int64_t rows, int32_t type) {
  const int64_t in = stages.front().in(), out = stages.back().out();
  std::vector<int64_t> description = {in, out, 1, int64_t(stages.size())};
  std::vector<Numbers> weights, values = {random_numbers(rows * in)}, gradients(stages.size());
  for (const Stage &s : stages) {
    for (int64_t size : {int64_t(SPARSIFY_BLOCKS), s.a, s.b, s.c, s.d}) description.push_back(size);
    weights.push_back(random_numbers(s.a * s.b * s.c * s.d));
    values.push_back(apply(s, weights.back(), values.back(), rows, false));
  }
  const Numbers grad = random_numbers(rows * out);
  Numbers flow = grad;
  for (size_t s = stages.size(); s-- > 0;) {
    gradients[s] = weight_gradient(stages[s], flow, values[s], rows);
    flow = apply(stages[s], weights[s], flow, rows, true);
  }
  std::vector<std::vector<T>> factors, found;
  std::vector<const void *> factor_pointers;
  std::vector<void *> found_pointers;
  for (size_t s = 0; s < stages.size(); s++) {
    factors.push_back(rounded<T>(weights[s]));
    found.push_back(std::vector<T>(weights[s].size()));
  }
  for (size_t s = 0; s < stages.size(); s++) {
    factor_pointers.push_back(factors[s].data());
    found_pointers.push_back(found[s].data());
  }
  const std::vector<T> x = rounded<T>(values[0]), g = rounded<T>(grad);
  std::vector<T> y(rows * out), grad_x(rows * in);
  sparsify_fabric *fabric = nullptr;
  const char *wrong = sparsify_create(description.data(), int64_t(description.size()), nullptr, 0,
                                      &fabric);
  if (!wrong)
    wrong = sparsify_forward(fabric, type, rows, x.data(), in, factor_pointers.data(), nullptr,
                             SPARSIFY_IDENTITY, y.data(), nullptr);
  if (!wrong)
    wrong = sparsify_backward(fabric, type, rows, g.data(), out, x.data(), in,
                              factor_pointers.data(), grad_x.data(), found_pointers.data(),
                              nullptr);
  sparsify_destroy(fabric);
  if (wrong) {
    fprintf(stderr, "%s\n", wrong);
    exit(1);
  }
  double worst = fmax(error(y, values.back()), error(grad_x, flow));
  for (size_t s = 0; s < stages.size(); s++) worst = fmax(worst, error(found[s], gradients[s]));
  return worst;
}

std::vector<Stage> random_stages() {
  std::vector<Stage> stages;
  int64_t width = int64_t(1 + draw(12)) * int64_t(1 + draw(12));
  for (uint64_t left = 1 + draw(4); left > 0; left--) {
    int64_t c = 1 + int64_t(draw(uint64_t(width)));
    while (width % c) c--;
    int64_t d = 1 + int64_t(draw(uint64_t(width / c)));
    while (width / c % d) d--;
    const int64_t b = draw(3) ? c : 1 + int64_t(draw(20));
    stages.push_back({width / c / d, b, c, d});
    width = stages.back().out();
    if (width > 400) break;
  }
  return stages;
}

}  // namespace

int main() {
  double worst = 0, worst_double = 0;
  for (int trial = 0; trial < 300; trial++) {
    const std::vector<Stage> stages = random_stages();
    const int64_t rows = 1 + int64_t(draw(40));
    worst = fmax(worst, check<float>(stages, rows, SPARSIFY_FLOAT32));
    worst_double = fmax(worst_double, check<double>(stages, rows, SPARSIFY_FLOAT64));
  }
  const std::vector<std::vector<Stage>> known = {
      {{16, 4, 4, 1}, {4, 4, 4, 4}, {1, 4, 4, 16}},
      {{8, 2, 2, 1}, {4, 2, 2, 2}, {2, 2, 2, 4}, {1, 2, 2, 8}},
      {{16, 16, 16, 1}, {1, 16, 16, 16}},
  };
  for (const std::vector<Stage> &stages : known)
    for (int64_t rows : {1, 3, 16, 37})
      worst = fmax(worst, check<float>(stages, rows, SPARSIFY_FLOAT32));
  printf("%s float32 %.3g float64 %.3g\n", sparsify_isa(), worst, worst_double);
  return worst < 1e-6 && worst_double < 1e-14 ? 0 : 1;
}
