// The frozen base, sharded: each rank of the shard group keeps one part of every unit and gathers whole units just
// ahead of their use. It never changes, so nothing is written back, nothing goes stale, and what is still in a buffer
// is used again. Three steps are kept apart: what is stored (the shard), what is gathered (a unit's buffer), what the
// GEMM reads (a view of one matrix). One thread at a time. All ranks of the group touch the same units in the same
// order (touching may gather).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comms/communicator.h"
#include "trainer/weights/gather_schedule.h"
#include "trainer/weights/model_files.h"
#include "trainer/weights/unit_layout.h"
#include "trainer/weights/weight_source.h"

namespace rankwise {

// Where a matrix lies; cheap to copy, valid as long as the store. What a layer keeps instead of the weight.
struct WeightHandle {
  int unit = -1;
  int64_t begin = 0;
  std::vector<int64_t> shape;  // [out, in]
};

// A matrix as products in float8 read it.
struct Float8Weight {
  at::Tensor codes_OI;  // bytes
  at::Tensor scales_O;  // float32
};

struct FrozenStoreOptions {
  c10::ScalarType dtype = c10::ScalarType::Float;              // of norm weights, biases and expanded matrices
  std::optional<c10::ScalarType> matrix_dtype = std::nullopt;  // plain ones are stored and gathered in; else dtype
  BaseFormat format = BaseFormat::kPlain;
  int prefetch = 2;            // units gathered ahead
  int64_t resident_bytes = 0;  // for units that stay whole, beyond their shards
  c10::Device device = c10::kCPU;
  bool cpu_offload = false;  // shards in pinned host memory, on a CUDA device alone
};

class FrozenStore {
 public:
  // Reads this rank's byte ranges, converting while copying. `shard_group` of one rank: everything is kept whole and
  // nothing is ever gathered (replicate), but for what comes from the host where cpu_offload. Throws DataError for a
  // missing tensor or a shape that differs from the spec.
  FrozenStore(const ModelFiles& files, FrozenSpec spec, std::unique_ptr<Communicator> shard_group,
              const FrozenStoreOptions& options);
  FrozenStore(std::unique_ptr<WeightSource> source, FrozenSpec spec, std::unique_ptr<Communicator> shard_group,
              const FrozenStoreOptions& options);
  ~FrozenStore();

  WeightHandle find(std::string_view name) const;  // Error if the model's spec has no such matrix
  // One handle over neighbours that lie without a gap in this order, so that one GEMM serves them; nullopt if they do
  // not.
  std::optional<WeightHandle> find_adjacent(const std::vector<std::string>& names) const;

  void travel(Direction direction);  // of the touches that follow
  // A view, good until another unit of its pool is touched; of a packed unit a copy, expanded for this call.
  at::Tensor weight(const WeightHandle& handle);
  // The same in float8, as it was gathered: a view. Of a float8 base alone.
  Float8Weight float8_weight(const WeightHandle& handle);
  // Whether nothing is gathered but once: the same addresses in every step.
  bool stays_whole() const noexcept;
  // Whether products read float8_weight and not weight: of a float8 base on a CUDA device.
  bool multiplies_float8() const noexcept;
  const at::Tensor& replicated(std::string_view name) const;  // a norm weight or bias

  // What was loaded and stays: shards, units that stay, scales, norms and biases; views. Not what is gathered, also
  // where that is never overwritten (a tied table's buffer).
  std::vector<at::Tensor> held();

  // 64-bit hash over the 4 KiB leaves of all tensors as stored in the files, summed mod 2^64 over the shard group: the
  // same at any world size and dtype.
  uint64_t fingerprint() const noexcept { return fingerprint_; }
  uint64_t gathered_bytes() const noexcept;     // received from other ranks so far
  std::string_view transport() const noexcept;  // of gathers: of the shard group, or "peer"
  void check() { group_->check(); }             // CommError if a gather failed or its deadline is over
  // Told of this thread's waits for gathers, on a device when the stream's wait is queued. nullptr: nobody. Not owned.
  void observe_waits(CommObserver* observer) noexcept { observer_ = observer; }
  c10::Device device() const noexcept { return options_.device; }
  int64_t nonfinite_tensors() const noexcept { return nonfinite_; }  // with a NaN or Inf, seen while loading

 private:
  struct Unit;
  struct Pool;
  void load(std::unique_ptr<WeightSource> source);
  void share();
  void gather_residents();
  void make_ring();
  BaseFormat format_of(const PlacedUnit& unit) const;
  at::Tensor spans_of(const WeightHandle& handle);
  void make_room(Unit& unit);
  void load_unit(WeightSource& source, Unit& unit);
  void load_replicated(WeightSource& source);
  void wait_for(Work& work);
  const at::Tensor& whole(int unit);
  void gather(const GatherAction& action);

  FrozenSpec spec_;
  std::unique_ptr<Communicator> group_;
  FrozenStoreOptions options_;
  std::vector<Unit> units_;
  std::vector<Pool> pools_;
  std::unique_ptr<SharedParts> shards_;  // of all units; null where they are whole already
  std::map<std::string, at::Tensor, std::less<>> replicated_;
  std::unique_ptr<GatherSchedule> schedule_;
  Direction direction_ = Direction::kForward;
  uint64_t fingerprint_ = 0;
  int64_t nonfinite_ = 0;
  CommObserver* observer_ = nullptr;
};

// What a unit takes that stays whole, beyond its shard, which is a part of it unless it lies in host memory. 0: nothing
// is ever gathered.
int64_t resident_bytes(const PlacedUnit& unit, bool cpu_offload);

// Units that stay whole within `budget_bytes`: as many as fit, in the order of their use, ends first.
std::vector<bool> choose_resident_units(const std::vector<PlacedUnit>& units, int64_t budget_bytes, bool cpu_offload);

}  // namespace rankwise
