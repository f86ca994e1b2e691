#include "trainer/kernels/gemm_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormat = 1;
constexpr uint64_t kMaxBytes = 16 << 20;
constexpr size_t kDigits = 16;  // of a word

std::string name_of(const GemmShape& shape) {
  constexpr std::string_view kStarts[] = {"zeros", "out", "other"};
  return fmt::format("{}x{}x{} {} {}{} {} {} {} {} {}", shape.rows, shape.columns, shape.depth,
                     shape.float8 ? "e4m3" : "bf16", shape.left_transposed ? 't' : 'n',
                     shape.right_transposed ? 't' : 'n', kStarts[static_cast<int>(shape.start)], shape.left_alignment,
                     shape.right_alignment, shape.start_alignment, shape.out_alignment);
}

std::string text_of(const GemmAlgorithm& algorithm) {
  std::string text;
  for (const uint64_t word : algorithm.words) text += fmt::format("{:016x}", word);
  return text;
}

GemmAlgorithm algorithm_of(std::string_view text) {
  GemmAlgorithm algorithm{};
  RW_CHECK(text.size() == std::size(algorithm.words) * kDigits, DataError, "an algorithm of {} digits", text.size());
  for (uint64_t& word : algorithm.words) {
    const std::string_view digits = text.substr(0, kDigits);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + kDigits, word, 16);
    RW_CHECK(error == std::errc() && end == digits.data() + kDigits, DataError, "an algorithm that is no number");
    text.remove_prefix(kDigits);
  }
  return algorithm;
}

std::string gpu_of(const GemmDevice& device) {
  return fmt::format("{}, {} multiprocessors", device.name, device.multiprocessors);
}

// "gemm-NVIDIA-H100-80GB-HBM3-132-130100.json"
fs::path file_of(const fs::path& directory, const GemmDevice& device) {
  std::string name = fmt::format("gemm-{}-{}-{}", device.name, device.multiprocessors, device.cublaslt_version);
  const auto is_plain = [](char c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'); };
  std::ranges::replace_if(
      name, [&](char c) { return !is_plain(c); }, '-');
  return directory / (name + ".json");
}

// Against digits that a disk or a hand has changed: cuBLASLt believes what it is given.
std::string sum_of(const json& algorithms) { return fmt::format("{:016x}", hash64(algorithms.dump())); }

double median(std::vector<float> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::ranges::nth_element(times, middle);
  return *middle;
}

}  // namespace

GemmCache::GemmCache(const fs::path& directory, const GemmDevice& device)
    : file_(file_of(directory, device)), gpu_(gpu_of(device)), version_(device.cublaslt_version) {
  try {
    stored_ = read();
  } catch (const std::exception& error) {
    log_warning("{}: {}; GEMM algorithms are timed anew", file_.native(), error.what());
  }
}

GemmCache::Texts GemmCache::read() const {
  std::error_code unreadable;
  if (!fs::exists(file_, unreadable) && !unreadable) return {};
  const json root = parse_json(read_file(file_, kMaxBytes), file_.filename().native());
  RW_CHECK(json_uint(root.at("format"), "format") == kFormat, DataError, "of another format");
  RW_CHECK(root.at("gpu") == gpu_ && json_uint(root.at("cublaslt"), "cublaslt") == version_, DataError,
           "of another GPU or version of cuBLASLt than {}, {}", gpu_, version_);
  const json& algorithms = root.at("algorithms");
  RW_CHECK(root.at("xxh3") == sum_of(algorithms), DataError, "its algorithms do not have the hash that it names");
  auto texts = algorithms.get<Texts>();
  for (const auto& [name, text] : texts) algorithm_of(text);
  return texts;
}

void GemmCache::write() const {
  Texts together = stored_;
  try {
    together.merge(read());  // what others have added
  } catch (const std::exception&) {
    // Broken: replaced.
  }
  fs::create_directories(file_.parent_path());
  const json algorithms = together;
  const json root = {{"format", kFormat},
                     {"gpu", gpu_},
                     {"cublaslt", version_},
                     {"algorithms", algorithms},
                     {"xxh3", sum_of(algorithms)}};
  replace_file(file_, root.dump(1) + "\n");
}

const GemmCache::Choice* GemmCache::find(const GemmShape& shape) const {
  const auto found = choices_.find(shape);
  return found == choices_.end() ? nullptr : &found->second;
}

GemmCache::Choice GemmCache::stored(const GemmShape& shape) const {
  const auto found = stored_.find(name_of(shape));
  return found == stored_.end() ? std::nullopt : Choice(algorithm_of(found->second));
}

void GemmCache::remember(const GemmShape& shape, const Choice& choice) { choices_[shape] = choice; }

void GemmCache::keep(const GemmShape& shape, const GemmAlgorithm& algorithm) {
  remember(shape, algorithm);
  if (file_.empty()) return;
  const std::string name = name_of(shape);
  stored_[name] = text_of(algorithm);
  try {
    write();
  } catch (const std::exception& error) {
    log_warning("{}: {}; the next start times GEMM algorithms again", file_.native(), error.what());
    file_.clear();
  }
}

std::optional<size_t> fastest(std::span<const std::vector<float>> times) {
  constexpr double kFaster = 0.99;
  std::vector<double> medians;
  for (const auto& of_one : times) medians.push_back(median(of_one));
  if (medians.empty()) return std::nullopt;
  const auto best = std::ranges::min_element(medians);
  if (!std::isfinite(*best)) return std::nullopt;
  return *best < kFaster * medians.front() ? static_cast<size_t>(best - medians.begin()) : 0;
}

}  // namespace rankwise
