#include "trainer/checkpointing.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "trainer/checkpoint/resume.h"
#include "trainer/checkpoint/retention.h"
#include "trainer/config_mapping.h"
#include "trainer/run_fingerprint.h"
#include "trainer/weights/safetensors.h"

namespace rankwise {
namespace {

constexpr const char* kOptimizerFile = "trainer_state/optimizer.safetensors";

Dtype file_dtype(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? Dtype::kF64 : Dtype::kF32; }

// One flat buffer as one tensor an entry of the adapter, named PREFIX.key: nothing depends on the layout.
struct NamedBuffer {
  std::string prefix;
  at::Tensor flat;
};

std::vector<NamedBuffer> buffers_of(TrainingState& state) {
  std::vector<NamedBuffer> buffers = {{"exp_avg", state.adamw.first_moment()},
                                      {"exp_avg_sq", state.adamw.second_moment()}};
  // The adapter's file holds float32; masters of another width are kept here as well.
  if (state.adapter.masters().scalar_type() != at::kFloat) buffers.push_back({"master", state.adapter.masters()});
  return buffers;
}

// The buffers themselves, or copies of what lies on a device.
std::vector<NamedBuffer> on_host(std::vector<NamedBuffer> buffers) {
  for (auto& buffer : buffers) buffer.flat = buffer.flat.cpu();
  return buffers;
}

at::Tensor slice(const at::Tensor& flat, const AdapterEntry& entry) {
  return flat.narrow(0, entry.begin, entry.num_elements);
}

std::string make_run_id(const RunConfig& config) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return sha256_hex(fmt::format("{} {} {}", dump_run_config(config), now, ::getpid())).substr(0, 16);
}

}  // namespace

Checkpointing::Checkpointing(World& world, const RunConfig& config, std::vector<ModuleInfo> model_modules,
                             Fingerprint fingerprint)
    : world_(world), config_(config), modules_(std::move(model_modules)), fingerprint_(std::move(fingerprint)) {
  world_.agree("run directory", [&] {
    if (world_.rank() == 0) directory_ = std::make_unique<RunDirectory>(config_.run.output_dir, make_run_id(config_));
  });
  comm_ = world_.make_communicator(nullptr);
}

Checkpointing::~Checkpointing() = default;

AdapterInfo Checkpointing::adapter_info() const { return {lora_config_of(config_.lora), config_.model.path.string()}; }

void Checkpointing::write_state(const std::filesystem::path& directory, TrainingState state) const {
  const auto tensors = state.adapter.tensors();
  std::vector<AdapterTensorView> views;
  for (const auto& tensor : tensors) views.push_back({tensor.key, tensor.shape, tensor.data});
  write_adapter(directory, adapter_info(), modules_, views);

  std::vector<TensorView> optimizer;
  const auto buffers = on_host(buffers_of(state));
  for (const auto& [prefix, flat] : buffers) {
    for (const auto& entry : state.adapter.entries()) {
      const at::Tensor part = slice(flat, entry);
      optimizer.push_back({prefix + "." + entry.key, file_dtype(part), entry.shape,
                           std::span(static_cast<const std::byte*>(part.const_data_ptr()), part.nbytes())});
    }
  }
  write_safetensors(directory / kOptimizerFile, std::move(optimizer), {});
  write_trainer_state(directory, state.progress);
}

void Checkpointing::read_state(const CheckpointInfo& checkpoint, TrainingState state) const {
  const auto changed =
      compare_fingerprints(checkpoint.manifest.fingerprint, fingerprint_, {}, checkpoint.directory.string());
  for (const FieldDifference& difference : changed) {
    log_info("{}: {}: {}", checkpoint.directory.string(), describe(difference), consequence_of(difference.name));
  }
  state.adapter.load(read_adapter(checkpoint.directory, modules_).tensors);
  const SafetensorsFile optimizer(checkpoint.directory / kOptimizerFile);
  for (auto& [prefix, there] : buffers_of(state)) {
    const at::Tensor flat = there.cpu();
    for (const auto& entry : state.adapter.entries()) {
      const TensorEntry& stored = optimizer.entry(prefix + "." + entry.key);
      at::Tensor part = slice(flat, entry);
      RW_CHECK(stored.shape == entry.shape && stored.dtype == file_dtype(part), DataError,
               "{}: {} is {} [{}], expected {} [{}]", optimizer.path().string(), stored.name, dtype_name(stored.dtype),
               fmt::join(stored.shape, ", "), dtype_name(file_dtype(part)), fmt::join(entry.shape, ", "));
      optimizer.read(stored, 0, std::span(static_cast<std::byte*>(part.data_ptr()), part.nbytes()));
    }
    if (!there.is_cpu()) there.copy_(flat);
  }
  state.progress = read_trainer_state(checkpoint);
}

bool Checkpointing::restore(TrainingState state) {
  std::optional<CheckpointInfo> checkpoint;
  std::string progress;
  world_.agree("resume", [&] {
    if (world_.rank() != 0) return;
    checkpoint = choose_checkpoint(config_.run.output_dir, resume_policy_of(config_.checkpoint));
    if (!checkpoint) return;
    read_state(*checkpoint, state);
    progress = trainer_state_to_json(state.progress);
  });
  progress = world_.gather_strings(progress)[0];
  if (progress.empty()) return false;
  state.progress = trainer_state_from_json(progress, "the state of rank 0");
  for (auto* flat : {&state.adapter.masters(), &state.adamw.first_moment(), &state.adamw.second_moment()}) {
    at::Tensor here = flat->cpu();
    comm_->broadcast(here, 0).wait();
    if (!flat->is_cpu()) flat->copy_(here);
  }
  state.adapter.refresh_compute_copies();
  state.adamw.set_steps(static_cast<int64_t>(state.progress.optimizer_steps));
  return true;
}

void Checkpointing::save(TrainingState state) {
  const auto start = std::chrono::steady_clock::now();
  world_.agree("checkpoint", [&] {
    if (!directory_) return;
    save_checkpoint(*directory_, state.progress.step, fingerprint_,
                    [&](const auto& directory) { write_state(directory, state); });
    const auto& best = state.progress.best_eval;
    prune_checkpoints(*directory_, static_cast<uint64_t>(config_.train.save_total_limit),
                      best ? std::optional<uint64_t>(best->step) : std::nullopt);
  });
  last_save_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Checkpointing::save_final(const Adapter& adapter) {
  world_.agree("final adapter", [&] {
    if (!directory_) return;
    const auto target = directory_->path() / "final", work = directory_->path() / "final.tmp";
    std::filesystem::remove_all(work);
    std::filesystem::create_directory(work);
    const auto tensors = adapter.tensors();
    std::vector<AdapterTensorView> views;
    for (const auto& tensor : tensors) views.push_back({tensor.key, tensor.shape, tensor.data});
    write_adapter(work, adapter_info(), modules_, views);
    std::filesystem::remove_all(target);
    publish_directory(work, target);
  });
}

}  // namespace rankwise
