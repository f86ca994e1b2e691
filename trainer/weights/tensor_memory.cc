#include "trainer/weights/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <exception>
#include <numeric>
#include <optional>
#include <utility>

namespace rankwise {
namespace {

thread_local TensorKind current_kind = TensorKind::kActivations;
thread_local std::optional<TensorKind> left_by_exception;

class PeakCounter {
 public:
  void add(int64_t bytes) {
    const int64_t live = live_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    int64_t peak = peak_.load(std::memory_order_relaxed);
    while (live > peak && !peak_.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
    }
  }
  int64_t live() const { return live_.load(std::memory_order_relaxed); }
  int64_t peak() const { return peak_.load(std::memory_order_relaxed); }
  void reset_peak() { peak_.store(live(), std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> live_{0}, peak_{0};
};

// LibTorch asks for one allocator for the whole process: the one piece of global state here.
struct Counters {
  std::array<PeakCounter, kNumTensorKinds> kinds;
  PeakCounter total;
};
Counters counters;

// Stands before each block, one alignment unit long.
struct BlockHeader {
  int64_t bytes;
  TensorKind kind;
};
constexpr size_t kHeaderBytes = 64;

// A step allocates the same large blocks again and again. By default each comes fresh from the kernel, which clears it
// page by page, and goes back: a tenth of a step. Here memory once obtained stays, in huge pages where the system
// leaves that to the program.
void keep_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
}

void ask_for_huge_pages(char* block, size_t bytes) {
  constexpr size_t kWorthwhile = size_t{4} << 20;
  if (bytes < kWorthwhile) return;
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  char* begin = block + (page - reinterpret_cast<uintptr_t>(block) % page) % page;
  madvise(begin, static_cast<size_t>(block + bytes - begin) / page * page, MADV_HUGEPAGE);  // no matter if refused
}

void free_counted(void* data) {
  if (data == nullptr) return;
  auto* block = static_cast<char*>(data) - kHeaderBytes;
  const auto* header = reinterpret_cast<BlockHeader*>(block);
  counters.kinds[static_cast<size_t>(header->kind)].add(-header->bytes);
  counters.total.add(-header->bytes);
  c10::free_cpu(block);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &free_counted, c10::Device(c10::kCPU)};
    auto* block = static_cast<char*>(c10::alloc_cpu(bytes + kHeaderBytes));
    ask_for_huge_pages(block, bytes + kHeaderBytes);
    new (block) BlockHeader{static_cast<int64_t>(bytes), current_kind};
    counters.kinds[static_cast<size_t>(current_kind)].add(static_cast<int64_t>(bytes));
    counters.total.add(static_cast<int64_t>(bytes));
    void* data = block + kHeaderBytes;
    return {data, data, &free_counted, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_counted; }
  void copy_data(void* destination, const void* source, std::size_t count) const override {
    default_copy_data(destination, source, count);
  }
};

CountingAllocator counting_allocator;

std::optional<c10::Device> counted_device;
std::array<std::atomic<int64_t>, kNumTensorKinds> kept_on_device;

constexpr auto kAggregate = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

c10::CachingDeviceAllocator::DeviceStats device_stats() {
  return c10::getDeviceAllocator(counted_device->type())->getDeviceStats(counted_device->index());
}

int64_t kept_bytes() { return std::accumulate(kept_on_device.begin(), kept_on_device.end(), int64_t{0}); }

// What no scope that has ended keeps: a scope that encloses another does not count what is the other's.
int64_t unkept_device_bytes() { return device_stats().allocated_bytes[kAggregate].current - kept_bytes(); }

TensorMemory device_memory() {
  const auto stats = device_stats();
  const auto &bytes = stats.allocated_bytes[kAggregate], &reserved = stats.reserved_bytes[kAggregate];
  TensorMemory memory{.live_total = bytes.current,
                      .peak_total = bytes.peak,
                      .reserved_bytes = reserved.current,
                      .peak_reserved_bytes = reserved.peak,
                      .num_retries = stats.num_alloc_retries};
  for (size_t k = 0; k < kNumTensorKinds; ++k) memory.live_bytes[k] = memory.peak_bytes[k] = kept_on_device[k];
  constexpr auto kActivations = static_cast<size_t>(TensorKind::kActivations);
  memory.live_bytes[kActivations] += bytes.current - kept_bytes();
  memory.peak_bytes[kActivations] += bytes.peak - kept_bytes();
  return memory;
}

}  // namespace

std::string_view tensor_kind_name(TensorKind kind) {
  static constexpr std::string_view kNames[kNumTensorKinds] = {"base_shard", "gathered",  "adapter",
                                                               "gradients",  "optimizer", "activations"};
  return kNames[static_cast<size_t>(kind)];
}

void install_tensor_memory() {
  keep_memory();
  c10::SetAllocator(c10::kCPU, &counting_allocator, /*priority=*/200);
}

void count_device_memory(c10::Device device) { counted_device = device; }
c10::Device tensor_memory_device() { return counted_device.value_or(c10::Device(c10::kCPU)); }

TensorMemory tensor_memory() {
  if (counted_device) return device_memory();
  TensorMemory memory;
  for (size_t k = 0; k < kNumTensorKinds; ++k) {
    memory.live_bytes[k] = counters.kinds[k].live();
    memory.peak_bytes[k] = counters.kinds[k].peak();
  }
  memory.live_total = counters.total.live();
  memory.peak_total = counters.total.peak();
  return memory;
}

void reset_tensor_memory_peaks() {
  if (counted_device) c10::getDeviceAllocator(counted_device->type())->resetPeakStats(counted_device->index());
  for (auto& kind : counters.kinds) kind.reset_peak();
  counters.total.reset_peak();
}

// Segments that can grow are taken from the device when their own stream has come so far; others may still use them.
void release_cached_memory() {
  if (!counted_device) return;
  c10::impl::VirtualGuardImpl(counted_device->type()).synchronizeDevice(counted_device->index());
  c10::getDeviceAllocator(counted_device->type())->emptyCache();
}

std::optional<TensorKind> kind_left_by_exception() { return left_by_exception; }

TensorScope::TensorScope(TensorKind kind)
    : outer_(std::exchange(current_kind, kind)), exceptions_before_(std::uncaught_exceptions()) {
  if (exceptions_before_ == 0) left_by_exception.reset();
  if (counted_device) unkept_before_ = unkept_device_bytes();
}

TensorScope::~TensorScope() {
  if (counted_device) kept_on_device[static_cast<size_t>(current_kind)] += unkept_device_bytes() - unkept_before_;
  if (std::uncaught_exceptions() > exceptions_before_ && !left_by_exception) left_by_exception = current_kind;
  current_kind = outer_;
}

}  // namespace rankwise
