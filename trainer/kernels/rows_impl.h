// RowKernels for one instruction set, in vectors of Width floats.
#pragma once

#include <utility>

#include "trainer/kernels/row_kernels.h"
#include "trainer/kernels/vectors.h"

namespace rankwise {
namespace {

template <int Width>
struct Rows {
  using Float = typename Vectors<Width>::Float;
  using Bits = typename Vectors<Width>::Bits;

  static inline Float all(float value) { return value - Float{}; }
  static inline Float max(Float a, Float b) { return a > b ? a : b; }
  static inline Float min(Float a, Float b) { return a < b ? a : b; }

  // 2^n exp(r) with |r| <= ln(2) / 2: r by subtracting n ln(2) in two parts, exp(r) by its Taylor series, whose next
  // term is below 2^-27. NaN stays.
  static inline Float exp(Float argument) {
    const Float x = max(min(argument, all(88.0f)), all(-87.0f));
    constexpr float kRound = 0x1.8p23f;  // leaves an integer in the lowest bits
    const Float shifted = x * 0x1.715476p0f + kRound, n = shifted - kRound;
    const Float r = (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
    constexpr float kCoefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f};
    Float series = all(1.0f / 5040);
#pragma GCC unroll 8
    for (int k = 0; k < 7; ++k) series = series * r + kCoefficients[k];
    const Bits exponent = (load<Bits>(&shifted) + 127u) << 23;
    return argument == argument ? series * load<Float>(&exponent) : argument;
  }

  static inline float sum(Float values) {
    float total = 0;
    for (int k = 0; k < Width; ++k) total += values[k];
    return total;
  }

  // Calls visit(offset, count): whole vectors, then what is left.
  template <typename Visit>
  static inline __attribute__((always_inline)) void for_each(int64_t n, const Visit& visit) {
    int64_t k = 0;
    for (; k + Width <= n; k += Width) visit(k, Width);
    if (k < n) visit(k, static_cast<int>(n - k));
  }
  static inline Float load_some(const float* from, int count, float padding) {
    if (count == Width) return load<Float>(from);
    Float values = all(padding);
    std::memcpy(&values, from, sizeof(float) * static_cast<uint64_t>(count));
    return values;
  }
  static inline void store_some(float* to, Float values, int count) {
    if (count == Width) return store(to, values);
    std::memcpy(to, &values, sizeof(float) * static_cast<uint64_t>(count));
  }

  static RowExponentials exponentiate(float* row, int64_t n, float scale) {
    constexpr float kLowest = -0x1.fffffep127f;
    Float largest = all(kLowest);
    for_each(n, [&](int64_t k, int count) { largest = max(largest, load_some(row + k, count, kLowest)); });
    float top = kLowest;
    for (int k = 0; k < Width; ++k) top = largest[k] > top ? largest[k] : top;
    constexpr int64_t kPart = 64 * Width;  // summed by itself: a whole vocabulary in a row loses a digit
    Float total = all(0), part = all(0);
    for_each(n, [&](int64_t k, int count) {
      const Float value = exp((load_some(row + k, count, kLowest) - top) * scale);
      store_some(row + k, value, count);
      if (k % kPart == 0) total += std::exchange(part, all(0));
      part += count == Width ? value : load_some(row + k, count, 0);
    });
    return {top, sum(total + part)};
  }

  static void softmax_backward(const float* p, float* gradient, int64_t n, float scale) {
    Float products = all(0);
    for_each(n,
             [&](int64_t k, int count) { products += load_some(p + k, count, 0) * load_some(gradient + k, count, 0); });
    const float mean = sum(products);
    for_each(n, [&](int64_t k, int count) {
      const Float value = load_some(p + k, count, 0) * ((load_some(gradient + k, count, 0) - mean) * scale);
      store_some(gradient + k, value, count);
    });
  }

  static inline Float sigmoid(Float x) { return 1.0f / (1.0f + exp(-x)); }

  static void swiglu(const float* gate, const float* up, float* h, int64_t n) {
    for_each(n, [&](int64_t k, int count) {
      const Float g = load_some(gate + k, count, 0);
      store_some(h + k, g * sigmoid(g) * load_some(up + k, count, 0), count);
    });
  }

  static void swiglu_backward(const float* dh, float* gate, float* up, int64_t n) {
    for_each(n, [&](int64_t k, int count) {
      const Float g = load_some(gate + k, count, 0), u = load_some(up + k, count, 0), d = load_some(dh + k, count, 0);
      const Float s = sigmoid(g), silu = g * s;
      store_some(gate + k, d * u * (s + silu * (1.0f - s)), count);
      store_some(up + k, d * silu, count);
    });
  }
};

template <int Width>
constexpr RowKernels kRows = {Rows<Width>::exponentiate, Rows<Width>::softmax_backward, Rows<Width>::swiglu,
                              Rows<Width>::swiglu_backward};

}  // namespace
}  // namespace rankwise
