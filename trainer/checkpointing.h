// What of a training run goes into a checkpoint, and back. Rank 0 reads and writes; the others are told over the wire.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/checkpoint/trainer_state.h"
#include "trainer/lora/adapter.h"
#include "trainer/optim/adamw.h"

namespace rankwise {

// The parts of a run that training changes, and what they belong to.
struct TrainingState {
  Adapter& adapter;
  AdamW& adamw;
  TrainerState& progress;
};

class Checkpointing {
 public:
  // Collective. Rank 0 takes the run directory; its error is every rank's.
  Checkpointing(World& world, const RunConfig& config, std::vector<ModuleInfo> model_modules, Fingerprint fingerprint);
  ~Checkpointing();

  // Collective. Applies checkpoint.resume: restores `state` on every rank, bit by bit. False: start from the beginning.
  bool restore(TrainingState state);
  // Rank 0 writes checkpoint-<step>; the verdict is every rank's. Throws an AgreedError.
  void save(TrainingState state);
  // Rank 0 writes final/, the adapter alone.
  void save_final(const Adapter& adapter);
  double last_save_seconds() const { return last_save_seconds_; }

 private:
  void write_state(const std::filesystem::path& directory, TrainingState state) const;
  void read_state(const CheckpointInfo& checkpoint, TrainingState state) const;
  AdapterInfo adapter_info() const;

  World& world_;
  const RunConfig& config_;
  std::vector<ModuleInfo> modules_;
  Fingerprint fingerprint_;
  std::unique_ptr<RunDirectory> directory_;  // on rank 0
  std::unique_ptr<Communicator> comm_;       // carries what rank 0 read
  double last_save_seconds_ = 0;
};

}  // namespace rankwise
