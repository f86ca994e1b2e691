// 4-bit NormalFloat with its scales quantised again, as QLoRA has it (Dettmers et al. 2023, arXiv 2305.14314), bit for
// bit in the numbers of bitsandbytes (create_dynamic_map and the table of its kernels). 64 neighbours in a matrix share
// a maximum, 256 of these a scale, all of a matrix an offset:
//   value = kNf4Values[code] * (kNf4Maxima[maximum] * scale + offset), every step rounded to float32.
// Quantising is trainer/weights/nf4.h; this is the way back, on CPUs and, in librankwise_cuda.so, on CUDA devices.
#pragma once

#include <array>
#include <cstdint>

#include "trainer/kernels/gpu_rows.h"

namespace rankwise {

inline constexpr int64_t kNf4Block = 64;
inline constexpr int64_t kNf4BlocksOfSpan = 256;
inline constexpr int64_t kNf4SpanElements = kNf4Block * kNf4BlocksOfSpan;

// What can be expanded without its neighbours.
struct alignas(16) Nf4Span {
  uint8_t codes[kNf4SpanElements / 2];  // of two elements, the first in the upper half
  uint8_t maxima[kNf4BlocksOfSpan];
  float scale, offset;
};
static_assert(sizeof(Nf4Span) == 8464);

// Quantiles of the normal distribution, scaled to [-1, 1].
inline constexpr std::array<float, 16> kNf4Values = {-1.0f,
                                                     -0.6961928009986877f,
                                                     -0.5250730514526367f,
                                                     -0.39491748809814453f,
                                                     -0.28444138169288635f,
                                                     -0.18477343022823334f,
                                                     -0.09105003625154495f,
                                                     0.0f,
                                                     0.07958029955625534f,
                                                     0.16093020141124725f,
                                                     0.24611230194568634f,
                                                     0.33791524171829224f,
                                                     0.44070982933044434f,
                                                     0.5626170039176941f,
                                                     0.7229568362236023f,
                                                     1.0f};

// The dynamic map of 8 bits, signed, ascending: of each power of ten from 1e-6 to 1 the middles of 2^i equal parts of
// [0.1, 1], with both signs; 0; 1. The ends of the parts are rounded as at::linspace rounds on CPUs with FMA.
constexpr std::array<float, 256> make_nf4_maxima() {
  constexpr float kPowers[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, 256> map{};
  int positive = 128;
  for (int i = 0; i < 7; ++i) {
    const int parts = 1 << i;
    const double step = (1.0f - 0.1f) / static_cast<float>(parts);
    const auto end_of = [&](int part) {
      return static_cast<float>(part < (parts + 1) / 2 ? 0.1f + step * part : 1.0f - step * (parts - part));
    };
    for (int part = 0; part < parts; ++part, ++positive) {
      map[positive] = (end_of(part) + end_of(part + 1)) / 2 * kPowers[i];
      map[254 - positive] = -map[positive];
    }
  }
  map[255] = 1.0f;
  return map;
}
inline constexpr std::array<float, 256> kNf4Maxima = make_nf4_maxima();

// The first `count` elements of the spans, on as many threads as OpenMP gives.
void expand_nf4(const Nf4Span* spans, int64_t count, float* out);

// The same on a CUDA device: pointers to its memory, 16-byte aligned; out is rounded once more where it is bfloat16.
// count is a multiple of kNf4Block.
struct GpuNf4Expansion {
  GpuType type;
  const Nf4Span* spans;
  void* out;
  int64_t count;
};

}  // namespace rankwise

// Starts its work on `stream` (a cudaStream_t) and returns a cudaError_t, 0 for success.
extern "C" int rankwise_expand_nf4(const rankwise::GpuNf4Expansion* call, void* stream);
