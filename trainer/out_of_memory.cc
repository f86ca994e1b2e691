#include "trainer/out_of_memory.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <new>
#include <sstream>
#include <string_view>
#include <utility>

#include "comms/cuda.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

struct Failure {
  bool on_host = false;
  std::optional<TensorKind> kind;  // empty: no tensor
  std::optional<double> asked_bytes;
};

std::string size_text(double bytes) {
  return bytes < 0x1p30 ? fmt::format("{:.1f} MiB", bytes / 0x1p20) : fmt::format("{:.1f} GiB", bytes / 0x1p30);
}

// LibTorch tells sizes in its messages alone: "ried to allocate 512.00 MiB" on GPUs, "ried to allocate 64 bytes" on
// CPUs.
std::optional<double> asked_bytes_of(const std::string& message) {
  constexpr std::string_view kBefore = "ried to allocate ";
  const size_t found = message.find(kBefore);
  if (found == std::string::npos) return std::nullopt;
  std::istringstream rest(message.substr(found + kBefore.size()));
  double count = 0;
  std::string unit;
  rest >> count >> unit;
  for (const auto& [name, bytes] :
       {std::pair("bytes", 1.0), std::pair("KiB", 0x1p10), std::pair("MiB", 0x1p20), std::pair("GiB", 0x1p30)}) {
    if (unit.starts_with(name)) return count * bytes;
  }
  return std::nullopt;
}

std::optional<Failure> failure_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return Failure{true, kind_left_by_exception(), {}};
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  if (torch_error == nullptr) return std::nullopt;
  const std::string& message = torch_error->msg();
  const bool on_host = message.find("DefaultCPUAllocator: ") != std::string::npos;
  if (!on_host && dynamic_cast<const c10::OutOfMemoryError*>(&error) == nullptr) return std::nullopt;
  return Failure{on_host, kind_left_by_exception().value_or(TensorKind::kActivations), asked_bytes_of(message)};
}

double host_bytes() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// Of the place where the allocation failed: tensors are counted on one device.
std::string fullness(bool on_host) {
  const std::string whole = size_text(on_host ? host_bytes() : static_cast<double>(device_bytes().total));
  if (on_host != tensor_memory_device().is_cpu()) return fmt::format("{} in all", whole);
  return fmt::format("at most {} in use so far by this process's tensors, of {}",
                     size_text(static_cast<double>(tensor_memory().peak_total)), whole);
}

std::string_view change_for(std::optional<TensorKind> kind) {
  if (!kind) return "free memory on the host";
  switch (*kind) {
    case TensorKind::kBaseShard:
    case TensorKind::kGathered:
      return "set parallel.base: shard over more ranks, on GPUs parallel.cpu_offload: true, or lower "
             "parallel.resident_gib or parallel.prefetch";
    case TensorKind::kAdapter:
    case TensorKind::kGradients:
    case TensorKind::kOptimizer:
      return "lower lora.r, or set parallel.base: shard";
    default:
      return "lower train.per_device_train_batch_size or data.max_length, or set parallel.activations: "
             "recompute_block or parallel.base: shard";
  }
}

}  // namespace

std::optional<std::string> explain_out_of_memory(const std::exception& error) {
  const auto failure = failure_of(error);
  if (!failure) return std::nullopt;
  return fmt::format("out of memory on {} while allocating {}: {}{}; {}{}",
                     failure->on_host ? "the host" : tensor_memory_device().str(),
                     failure->kind ? tensor_kind_name(*failure->kind) : "other memory than tensors",
                     failure->asked_bytes ? size_text(*failure->asked_bytes) + " asked for, " : "",
                     fullness(failure->on_host), change_for(failure->kind),
                     failure->on_host ? ", or start fewer ranks a host" : "");
}

}  // namespace rankwise
