#include "trainer/model/gpu_gemm.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <vector>

#include "base/round_up.h"
#include "base/shared_library.h"
#include "trainer/model/gpu.h"

namespace rankwise {
namespace {

constexpr int64_t kLarge = 256;  // of each side; below it a product is over before a choice matters
constexpr int kCandidates = 16;
constexpr int kRounds = 7;          // of those that come near the best in a first round
constexpr float kNear = 1.2f;       // in a single run
constexpr int64_t kPaddedTo = 128;  // elements, so that rows of a stand-in are aligned as well as any

GemmDevice current_gemm_device() {
  GemmDevice device{};
  check_launch(cuda_library_function<decltype(rankwise_gemm_device)>("rankwise_gemm_device")(&device));
  return device;
}

GemmCache cache_in(const std::filesystem::path& directory) {
  return directory.empty() ? GemmCache() : GemmCache(directory, current_gemm_device());
}

std::vector<GemmAlgorithm> candidates(const GpuGemm& call, int most) {
  static auto* const ask = cuda_library_function<decltype(rankwise_gemm_candidates)>("rankwise_gemm_candidates");
  std::vector<GemmAlgorithm> found(static_cast<size_t>(most));
  found.resize(static_cast<size_t>(ask(&call, found.data(), most)));
  return found;
}

std::optional<GemmAlgorithm> first_candidate(const GpuGemm& call) {
  const auto found = candidates(call, 1);
  return found.empty() ? std::nullopt : std::optional(found.front());
}

bool fits(const GpuGemm& call, const GemmAlgorithm& algorithm) {
  static auto* const ask = cuda_library_function<decltype(rankwise_gemm_fits)>("rankwise_gemm_fits");
  return ask(&call, &algorithm);
}

bool start(const GpuGemm& call, const std::optional<GemmAlgorithm>& algorithm) {
  static auto* const multiply = cuda_library_function<decltype(rankwise_gemm)>("rankwise_gemm");
  return algorithm && multiply(&call, &*algorithm, gpu_row_kernels().current_stream()) == 0;
}

std::vector<std::vector<float>> times_of(const GpuGemm& call, const std::vector<GemmAlgorithm>& algorithms,
                                         int rounds) {
  static auto* const time = cuda_library_function<decltype(rankwise_time_gemms)>("rankwise_time_gemms");
  std::vector<float> milliseconds(algorithms.size() * static_cast<size_t>(rounds));
  launch(time, GemmTiming{&call, algorithms.data(), static_cast<int>(algorithms.size()), rounds, milliseconds.data()});
  std::vector<std::vector<float>> times;
  for (auto at = milliseconds.begin(); at != milliseconds.end(); at += rounds) times.emplace_back(at, at + rounds);
  return times;
}

// Those worth more rounds: the first, and what one run shows to be near the best.
std::vector<GemmAlgorithm> near_the_best(const GpuGemm& call, const std::vector<GemmAlgorithm>& algorithms) {
  const auto times = times_of(call, algorithms, 1);
  const float limit = kNear * std::ranges::min(times).front();
  std::vector<GemmAlgorithm> near = {algorithms.front()};
  for (size_t a = 1; a < algorithms.size(); ++a) {
    if (times[a].front() <= limit) near.push_back(algorithms[a]);
  }
  return near;
}

// The same product as often as one likes: where it adds to its own output, on a stand-in for that.
struct Trial {
  GpuGemm call;
  at::Tensor stand_in;

  explicit Trial(const GpuGemm& c) : call(c) {
    if (c.start_NM != c.out_NM) return;  // out is written over by the product itself afterwards
    const int64_t stride = round_up(c.columns, kPaddedTo);
    stand_in = at::empty({c.rows, stride}, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
    call.start_NM = call.out_NM = stand_in.mutable_data_ptr();
    call.start_stride = call.out_stride = stride;
  }
};

bool has_columns_in_one_piece(const at::Tensor& matrix) {
  return matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1);
}

bool is_matrix_like(const at::Tensor& matrix, const at::Tensor& out_NM) {
  return matrix.device() == out_NM.device() && matrix.scalar_type() == at::kBFloat16 && matrix.dim() == 2 &&
         has_columns_in_one_piece(matrix);
}

bool is_factor(const at::Tensor& matrix, const at::Tensor& out_NM) {
  return matrix.device() == out_NM.device() &&
         (matrix.scalar_type() == at::kBFloat16 || matrix.scalar_type() == at::kFloat8_e4m3fn) &&
         (has_columns_in_one_piece(matrix) || has_columns_in_one_piece(matrix.t()));
}

std::filesystem::path& directory_of_choices() {
  static std::filesystem::path directory;
  return directory;
}

}  // namespace

GpuGemms::GpuGemms(const std::filesystem::path& directory) : cache_(cache_in(directory)) {}

bool GpuGemms::multiply(const GpuGemm& call) {
  if (at::globalContext().deterministicAlgorithms()) return start(call, first_candidate(call));
  const std::lock_guard lock(mutex_);
  const auto chosen = choose(call);
  if (!chosen) return false;
  return start(call, chosen) || start(call, first_candidate(call));  // a choice for other rows may not do for these
}

std::optional<GemmAlgorithm> GpuGemms::choose(const GpuGemm& call) {
  const GemmShape shape = shape_of(call);
  if (const auto* known = cache_.find(shape)) return *known;
  if (const auto stored = cache_.stored(shape); stored && fits(call, *stored)) {
    cache_.remember(shape, stored);
    return stored;
  }
  std::optional<GemmAlgorithm> chosen;
  try {
    chosen = time(call);
    chosen ? cache_.keep(shape, *chosen) : cache_.remember(shape, std::nullopt);
  } catch (const c10::OutOfMemoryError&) {  // no room for a stand-in: another start may have it
    chosen = first_candidate(call);
    cache_.remember(shape, chosen);
  }
  return chosen;
}

std::optional<GemmAlgorithm> GpuGemms::time(const GpuGemm& call) {
  const auto found = candidates(call, kCandidates);
  if (found.empty()) return std::nullopt;
  const Trial trial(call);
  num_timed_ += static_cast<int64_t>(found.size());
  const auto near = near_the_best(trial.call, found);
  const auto place = fastest(times_of(trial.call, near, kRounds));
  return place ? std::optional(near[*place]) : std::nullopt;
}

GpuGemms& gpu_gemms() {
  static GpuGemms gemms(directory_of_choices());
  return gemms;
}

void keep_gemm_choices_in(const std::filesystem::path& directory) { directory_of_choices() = directory; }

std::optional<GpuGemm> large_gemm(const at::Tensor& out_NM, const at::Tensor& start_NM, const at::Tensor& left_NK,
                                  const at::Tensor& right_KM) {
  const int64_t rows = left_NK.size(0), depth = left_NK.size(1), columns = right_KM.size(1);
  if (!out_NM.is_cuda() || std::min({rows, columns, depth}) < kLarge) return std::nullopt;
  if (!is_matrix_like(out_NM, out_NM) || (start_NM.defined() && !is_matrix_like(start_NM, out_NM))) return std::nullopt;
  if (!is_factor(left_NK, out_NM) || !is_factor(right_KM, out_NM)) return std::nullopt;
  if (left_NK.scalar_type() != right_KM.scalar_type()) return std::nullopt;
  const bool left_transposed = !has_columns_in_one_piece(left_NK),
             right_transposed = !has_columns_in_one_piece(right_KM);
  return GpuGemm{.left_NK = left_NK.const_data_ptr(),
                 .right_KM = right_KM.const_data_ptr(),
                 .start_NM = start_NM.defined() ? start_NM.const_data_ptr() : nullptr,
                 .out_NM = out_NM.mutable_data_ptr(),
                 .left_scales_N = nullptr,
                 .right_scales_M = nullptr,
                 .rows = rows,
                 .columns = columns,
                 .depth = depth,
                 .left_stride = left_NK.stride(left_transposed ? 1 : 0),
                 .right_stride = right_KM.stride(right_transposed ? 1 : 0),
                 .start_stride = start_NM.defined() ? start_NM.stride(0) : 0,
                 .out_stride = out_NM.stride(0),
                 .left_transposed = left_transposed,
                 .right_transposed = right_transposed};
}

bool multiply_large(const at::Tensor& out_NM, const at::Tensor& start_NM, const at::Tensor& left_NK,
                    const at::Tensor& right_KM, const GemmScales& scales) {
  auto call = large_gemm(out_NM, start_NM, left_NK, right_KM);
  if (!call || (left_NK.scalar_type() == at::kFloat8_e4m3fn) != scales.left_N.defined()) return false;
  if (scales.left_N.defined()) {
    call->left_scales_N = scales.left_N.const_data_ptr<float>();
    call->right_scales_M = scales.right_M.const_data_ptr<float>();
  }
  RECORD_FUNCTION("rankwise::large_gemm", {});
  return gpu_gemms().multiply(*call);
}

}  // namespace rankwise
