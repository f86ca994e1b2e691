#include "trainer/weights/frozen_store.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"
#include "base/round_up.h"
#include "trainer/weights/current_stream.h"
#include "trainer/weights/float8.h"
#include "trainer/weights/host_parts.h"
#include "trainer/weights/nf4.h"
#include "trainer/weights/tensor_loader.h"
#include "trainer/weights/tensor_memory.h"
#include "trainer/weights/unit_loader.h"

namespace rankwise {

struct FrozenStore::Unit {
  PlacedUnit placed;
  bool stays = false;   // whole
  at::Tensor shard;     // [shard_bytes]
  at::Tensor resident;  // [num_bytes] where it stays, else undefined; the shard is a part of it, or in host memory
  at::Tensor scales_R;  // of the rows of all matrices, in float8; else undefined
  Work pending;         // of the resident copy's one gather
};

struct FrozenStore::Pool {
  std::vector<at::Tensor> buffers;  // one a slot
  std::vector<Work> pending;
};

namespace {

at::ScalarType matrix_dtype(const FrozenStoreOptions& options) { return options.matrix_dtype.value_or(options.dtype); }

PlacedUnit place(const UnitSpec& unit, int shard_group_size, const FrozenStoreOptions& options) {
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(matrix_dtype(options)));
  return place_unit(unit, shard_group_size, span_format(options.format, unit.pool, element_bytes));
}

at::Tensor empty_bytes(int64_t count, at::Device device) {
  return at::empty({count}, at::TensorOptions().dtype(at::kByte).device(device));
}

at::Tensor resident_buffer(const PlacedUnit& unit, at::Device device) {
  const TensorScope scope(TensorKind::kGathered);
  return empty_bytes(unit.num_bytes(), device);
}

int64_t num_rows(const PlacedUnit& unit) {
  int64_t rows = 0;
  for (const auto& matrix : unit.matrices) rows += matrix.shape[0];
  return rows;
}

}  // namespace

FrozenStore::~FrozenStore() = default;

FrozenStore::FrozenStore(const ModelFiles& files, FrozenSpec spec, std::unique_ptr<Communicator> shard_group,
                         const FrozenStoreOptions& options)
    : FrozenStore(std::make_unique<TensorLoader>(files), std::move(spec), std::move(shard_group), options) {}

FrozenStore::FrozenStore(std::unique_ptr<WeightSource> source, FrozenSpec spec,
                         std::unique_ptr<Communicator> shard_group, const FrozenStoreOptions& options)
    : spec_(std::move(spec)), group_(std::move(shard_group)), options_(options) {
  std::vector<PlacedUnit> placed;
  for (const auto& unit : spec_.units) placed.push_back(place(unit, group_->size(), options_));
  const auto resident = choose_resident_units(placed, options_.resident_bytes, options_.cpu_offload);
  for (size_t u = 0; u < placed.size(); ++u) units_.push_back({placed[u], resident[u], {}, {}, {}, {}});
  load(std::move(source));
  share();
  gather_residents();
  make_ring();
}

void FrozenStore::load(std::unique_ptr<WeightSource> source) {
  const TensorScope scope(TensorKind::kBaseShard);
  // All before the first is read: what reading takes in passing would lie between them, and leave gaps.
  for (auto& unit : units_) {
    if (!options_.cpu_offload) make_room(unit);
  }
  for (auto& unit : units_) load_unit(*source, unit);
  load_replicated(*source);
  nonfinite_ = source->nonfinite_tensors();
  at::Tensor sum = at::full({1}, static_cast<int64_t>(source->fingerprint()),
                            at::TensorOptions().dtype(at::kLong).device(options_.device));
  group_->all_reduce(sum, Reduce::kSum).wait();
  fingerprint_ = static_cast<uint64_t>(sum.item<int64_t>());
  source.reset();  // with what it has on the device, while the scope counts
  release_cached_memory();
}

void FrozenStore::share() {
  if (group_->size() == 1 && !options_.cpu_offload) return;
  std::vector<at::Tensor> shards;
  for (const auto& unit : units_) shards.push_back(unit.shard);
  shards_ = options_.cpu_offload ? share_from_host(*group_, std::move(shards), options_.device)
                                 : group_->share(std::move(shards));
}

void FrozenStore::gather_residents() {
  for (size_t u = 0; u < units_.size(); ++u) {
    Unit& unit = units_[u];
    if (!unit.stays) continue;
    if (!unit.resident.defined()) unit.resident = resident_buffer(unit.placed, options_.device);
    unit.pending = shards_->gather(u, unit.resident);
  }
}

void FrozenStore::make_ring() {
  const TensorScope scope(TensorKind::kGathered);
  std::vector<bool> always_here;
  std::vector<int64_t> largest(2, 0);
  for (const auto& unit : units_) {
    always_here.push_back(!shards_ || unit.stays);
    auto& size = largest[static_cast<size_t>(unit.placed.pool)];
    if (!always_here.back()) size = std::max(size, unit.placed.num_bytes());
  }
  schedule_ = std::make_unique<GatherSchedule>(spec_, options_.prefetch, always_here);
  for (const UnitPool pool : {UnitPool::kEnds, UnitPool::kBlocks}) {
    const auto size = largest[static_cast<size_t>(pool)];
    auto& slots = pools_.emplace_back();
    for (int k = 0; size > 0 && k < schedule_->num_slots(pool); ++k)
      slots.buffers.push_back(empty_bytes(size, options_.device));
    slots.pending.resize(slots.buffers.size());
  }
}

BaseFormat FrozenStore::format_of(const PlacedUnit& unit) const {
  return unit.pool == UnitPool::kBlocks ? options_.format : BaseFormat::kPlain;
}

// The shard in its place in the whole where the unit stays.
void FrozenStore::make_room(Unit& unit) {
  const int64_t bytes = unit.placed.shard_bytes();
  if (unit.stays && !options_.cpu_offload) {
    unit.resident = resident_buffer(unit.placed, options_.device);
    unit.shard = unit.resident.narrow(0, group_->rank() * bytes, bytes);
  } else {
    unit.shard = empty_bytes(bytes, options_.device);
  }
  unit.shard.zero_();
  if (format_of(unit.placed) == BaseFormat::kFloat8)
    unit.scales_R = at::empty({num_rows(unit.placed)}, unit.shard.options().dtype(at::kFloat));
}

void FrozenStore::load_unit(WeightSource& source, Unit& unit) {
  if (options_.cpu_offload) make_room(unit);
  switch (format_of(unit.placed)) {
    case BaseFormat::kPlain:
      load_plain_unit(source, unit.placed, group_->rank(), unit.shard.view(matrix_dtype(options_)));
      break;
    case BaseFormat::kNf4:
      load_nf4_unit(source, unit.placed, *group_, unit.shard);
      break;
    case BaseFormat::kFloat8:
      load_float8_unit(source, unit.placed, *group_, unit.shard, unit.scales_R);
      break;
  }
  if (options_.cpu_offload) unit.shard = pinned_copy(unit.shard);
}

void FrozenStore::load_replicated(WeightSource& source) {
  for (const auto& vector : spec_.replicated) {
    source.require(vector.name, vector.shape);
    at::Tensor whole = at::empty(vector.shape, at::TensorOptions().dtype(options_.dtype).device(options_.device));
    source.load(vector.name, 0, whole.view({-1}), group_->rank() == 0);
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
  at::Tensor whole = pool.buffers[static_cast<size_t>(action.slot)].narrow(0, 0, unit.placed.num_bytes());
  pool.pending[static_cast<size_t>(action.slot)] = shards_->gather(static_cast<size_t>(action.unit), whole);
}

const at::Tensor& FrozenStore::whole(int index) {
  auto& unit = units_[static_cast<size_t>(index)];
  for (const auto& action : schedule_->touch(index, direction_)) gather(action);
  if (!shards_) return unit.shard;
  const int slot = schedule_->slot_of(index);
  auto& pool = pools_[static_cast<size_t>(unit.placed.pool)];
  wait_for(slot < 0 ? unit.pending : pool.pending[static_cast<size_t>(slot)]);
  return slot < 0 ? unit.resident : pool.buffers[static_cast<size_t>(slot)];
}

void FrozenStore::wait_for(Work& work) {
  if (!work.pending()) return;
  if (observer_ != nullptr) observer_->wait_begins("gather");
  work.wait();
  if (observer_ != nullptr) observer_->wait_ends();
}

// From its first element on, to the end of its last span.
at::Tensor FrozenStore::spans_of(const WeightHandle& handle) {
  const PlacedUnit& placed = units_[static_cast<size_t>(handle.unit)].placed;
  const int64_t count = handle.shape[0] * handle.shape[1], of_span = placed.format.elements;
  return whole(handle.unit).narrow(0, placed.bytes_of(handle.begin), placed.bytes_of(round_up(count, of_span)));
}

at::Tensor FrozenStore::weight(const WeightHandle& handle) {
  const int64_t count = handle.shape[0] * handle.shape[1];
  switch (format_of(units_[static_cast<size_t>(handle.unit)].placed)) {
    case BaseFormat::kNf4:
      return nf4_expand(spans_of(handle), count, options_.dtype).view(handle.shape);
    case BaseFormat::kFloat8: {
      const auto [codes_OI, scales_O] = float8_weight(handle);
      return float8_expand(codes_OI, scales_O, options_.dtype);
    }
    default:
      return spans_of(handle).view(matrix_dtype(options_)).narrow(0, 0, count).view(handle.shape);
  }
}

Float8Weight FrozenStore::float8_weight(const WeightHandle& handle) {
  const Unit& unit = units_[static_cast<size_t>(handle.unit)];
  RW_CHECK(unit.scales_R.defined(), Error, "{} is not in float8", unit.placed.name);
  int64_t first_row = 0;
  for (const auto& matrix : unit.placed.matrices) first_row += matrix.begin < handle.begin ? matrix.shape[0] : 0;
  const int64_t count = handle.shape[0] * handle.shape[1];
  return {spans_of(handle).narrow(0, 0, count).view(handle.shape), unit.scales_R.narrow(0, first_row, handle.shape[0])};
}

bool FrozenStore::stays_whole() const noexcept { return !shards_ || std::ranges::all_of(units_, &Unit::stays); }

bool FrozenStore::multiplies_float8() const noexcept {
  return options_.format == BaseFormat::kFloat8 && options_.device.is_cuda();
}

const at::Tensor& FrozenStore::replicated(std::string_view name) const {
  const auto found = replicated_.find(name);
  RW_CHECK(found != replicated_.end(), Error, "no replicated tensor is named {}", name);
  return found->second;
}

std::vector<at::Tensor> FrozenStore::held() {
  std::vector<at::Tensor> tensors;
  for (auto& unit : units_) {
    wait_for(unit.pending);
    if (unit.resident.defined()) tensors.push_back(unit.resident);
    if (!unit.resident.defined() || options_.cpu_offload) tensors.push_back(unit.shard);
    if (unit.scales_R.defined()) tensors.push_back(unit.scales_R);
  }
  for (const auto& [name, tensor] : replicated_) tensors.push_back(tensor);
  return tensors;
}

uint64_t FrozenStore::gathered_bytes() const noexcept { return group_->stats().all_gather_bytes; }

std::string_view FrozenStore::transport() const noexcept {
  return shards_ ? shards_->transport() : group_->transport();
}

int64_t resident_bytes(const PlacedUnit& unit, bool cpu_offload) {
  return unit.num_bytes() - (cpu_offload ? 0 : unit.shard_bytes());
}

std::vector<bool> choose_resident_units(const std::vector<PlacedUnit>& units, int64_t budget_bytes, bool cpu_offload) {
  std::vector<bool> resident(units.size(), false);
  for (const UnitPool pool : {UnitPool::kEnds, UnitPool::kBlocks}) {
    for (size_t u = 0; u < units.size(); ++u) {
      const int64_t bytes = resident_bytes(units[u], cpu_offload);
      if (units[u].pool != pool || bytes == 0 || bytes > budget_bytes) continue;
      resident[u] = true;
      budget_bytes -= bytes;
    }
  }
  return resident;
}

}  // namespace rankwise
