#include "trainer/weights/frozen_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "trainer/weights/tensor_loader.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

void check_shape(const TensorEntry& entry, const std::vector<int64_t>& expected) {
  RW_CHECK(entry.shape == expected, DataError, "tensor {}: shape [{}] in the file, config.json asks for [{}]",
           entry.name, fmt::join(entry.shape, ", "), fmt::join(expected, ", "));
}

}  // namespace

struct FrozenStore::Unit {
  PlacedUnit placed;
  at::Tensor shard;     // [shard_elements]
  at::Tensor resident;  // [num_elements] where the unit stays whole, else undefined
  Work pending;         // of the resident copy's one gather
};

struct FrozenStore::Pool {
  std::vector<at::Tensor> buffers;  // one a slot
  std::vector<Work> pending;
};

FrozenStore::~FrozenStore() = default;

FrozenStore::FrozenStore(const ModelFiles& files, FrozenSpec spec, std::unique_ptr<Communicator> shard_group,
                         const FrozenStoreOptions& options)
    : spec_(std::move(spec)), group_(std::move(shard_group)), options_(options) {
  const c10::ScalarType matrix_dtype = options_.matrix_dtype.value_or(options_.dtype);
  const auto tensor_options = at::TensorOptions().dtype(matrix_dtype);
  const int64_t element_bytes = static_cast<int64_t>(c10::elementSize(matrix_dtype));
  std::vector<PlacedUnit> placed;
  for (const auto& unit : spec_.units) placed.push_back(place_unit(unit, group_->size()));
  for (const auto& unit : placed) units_.push_back({unit, {}, {}, {}});
  load(files);

  const bool sharded = group_->size() > 1;
  const auto resident = choose_resident_units(placed, element_bytes, sharded ? options_.resident_bytes : 0);
  std::vector<bool> always_here(units_.size(), !sharded);
  const TensorScope scope(TensorKind::kGathered);
  std::vector<int64_t> largest(2, 0);
  for (size_t u = 0; u < units_.size(); ++u) {
    if (resident[u]) {
      always_here[u] = true;
      units_[u].resident = at::empty({placed[u].num_elements}, tensor_options);
      units_[u].pending = group_->all_gather(units_[u].shard, units_[u].resident);
    }
    if (!always_here[u]) {
      auto& size = largest[static_cast<size_t>(placed[u].pool)];
      size = std::max(size, placed[u].num_elements);
    }
  }
  schedule_ = std::make_unique<GatherSchedule>(spec_, options_.prefetch, always_here);
  for (const UnitPool pool : {UnitPool::kEnds, UnitPool::kBlocks}) {
    const auto size = largest[static_cast<size_t>(pool)];
    auto& slots = pools_.emplace_back();
    for (int k = 0; size > 0 && k < schedule_->num_slots(pool); ++k)
      slots.buffers.push_back(at::empty({size}, tensor_options));
    slots.pending.resize(slots.buffers.size());
  }
}

void FrozenStore::load(const ModelFiles& files) {
  const TensorScope scope(TensorKind::kBaseShard);
  TensorLoader loader(files);
  for (auto& unit : units_) load_unit(files, loader, unit);
  load_replicated(files, loader);
  nonfinite_ = loader.nonfinite_tensors();
  at::Tensor sum = at::full({1}, static_cast<int64_t>(loader.fingerprint()), at::kLong);
  group_->all_reduce(sum, Reduce::kSum).wait();
  fingerprint_ = static_cast<uint64_t>(sum.item<int64_t>());
}

void FrozenStore::load_unit(const ModelFiles& files, TensorLoader& loader, Unit& unit) {
  unit.shard = at::zeros({unit.placed.shard_elements},
                         at::TensorOptions().dtype(options_.matrix_dtype.value_or(options_.dtype)));
  const int64_t shard_begin = unit.placed.shard_elements * group_->rank();
  const int64_t shard_end = shard_begin + unit.placed.shard_elements;
  for (const auto& matrix : unit.placed.matrices) {
    check_shape(files.entry(matrix.name), matrix.shape);
    const int64_t begin = std::max(shard_begin, matrix.begin), end = std::min(shard_end, matrix.end);
    if (begin >= end) continue;
    loader.load(matrix.name, begin - matrix.begin, unit.shard.narrow(0, begin - shard_begin, end - begin), true);
  }
}

void FrozenStore::load_replicated(const ModelFiles& files, TensorLoader& loader) {
  for (const auto& vector : spec_.replicated) {
    check_shape(files.entry(vector.name), vector.shape);
    at::Tensor whole = at::empty(vector.shape, at::TensorOptions().dtype(options_.dtype));
    loader.load(vector.name, 0, whole.view({-1}), group_->rank() == 0);
    replicated_.emplace(vector.name, std::move(whole));
  }
}

WeightHandle FrozenStore::find(std::string_view name) const {
  for (size_t u = 0; u < units_.size(); ++u) {
    for (const auto& matrix : units_[u].placed.matrices) {
      if (matrix.name == name) return {static_cast<int>(u), matrix.begin, matrix.shape};
    }
  }
  throw Error(fmt::format("no frozen matrix is named {}", name));
}

std::optional<WeightHandle> FrozenStore::find_adjacent(const std::vector<std::string>& names) const {
  WeightHandle joined = find(names.front());
  for (size_t k = 1; k < names.size(); ++k) {
    const WeightHandle next = find(names[k]);
    const bool follows = next.unit == joined.unit && next.begin == joined.begin + joined.shape[0] * joined.shape[1] &&
                         next.shape[1] == joined.shape[1];
    if (!follows) return std::nullopt;
    joined.shape[0] += next.shape[0];
  }
  return joined;
}

void FrozenStore::travel(Direction direction) { direction_ = direction; }

void FrozenStore::gather(const GatherAction& action) {
  auto& unit = units_[static_cast<size_t>(action.unit)];
  auto& pool = pools_[static_cast<size_t>(unit.placed.pool)];
  pool.pending[static_cast<size_t>(action.slot)].wait();  // a prefetch that was never used
  at::Tensor whole = pool.buffers[static_cast<size_t>(action.slot)].narrow(0, 0, unit.placed.num_elements);
  pool.pending[static_cast<size_t>(action.slot)] = group_->all_gather(unit.shard, whole);
}

const at::Tensor& FrozenStore::whole(int index) {
  auto& unit = units_[static_cast<size_t>(index)];
  for (const auto& action : schedule_->touch(index, direction_)) gather(action);
  if (group_->size() == 1) return unit.shard;
  const auto start = std::chrono::steady_clock::now();
  const int slot = schedule_->slot_of(index);
  auto& pool = pools_[static_cast<size_t>(unit.placed.pool)];
  (slot < 0 ? unit.pending : pool.pending[static_cast<size_t>(slot)]).wait();
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return slot < 0 ? unit.resident : pool.buffers[static_cast<size_t>(slot)];
}

at::Tensor FrozenStore::weight(const WeightHandle& handle) {
  const int64_t count = handle.shape[0] * handle.shape[1];
  return whole(handle.unit).narrow(0, handle.begin, count).view(handle.shape);
}

const at::Tensor& FrozenStore::replicated(std::string_view name) const {
  const auto found = replicated_.find(name);
  RW_CHECK(found != replicated_.end(), Error, "no replicated tensor is named {}", name);
  return found->second;
}

uint64_t FrozenStore::gathered_bytes() const noexcept { return group_->stats().all_gather_bytes; }

std::vector<bool> choose_resident_units(const std::vector<PlacedUnit>& units, int64_t element_bytes,
                                        int64_t budget_bytes) {
  std::vector<bool> resident(units.size(), false);
  for (const UnitPool pool : {UnitPool::kEnds, UnitPool::kBlocks}) {
    for (size_t u = 0; u < units.size(); ++u) {
      const int64_t bytes = units[u].num_elements * element_bytes;
      if (units[u].pool != pool || bytes > budget_bytes) continue;
      resident[u] = true;
      budget_bytes -= bytes;
    }
  }
  return resident;
}

}  // namespace rankwise
