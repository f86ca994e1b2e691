// trainer_state/state.json: where the training stood. The optimizer's tensors lie beside it in optimizer.safetensors.
// Sample order, dropout and initialisation are functions of the seed and of these positions, so there is no generator
// state to keep.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "trainer/checkpoint/checkpoint.h"

namespace rankwise {

struct BestEval {
  double loss = 0;
  uint64_t step = 0;
  bool operator==(const BestEval&) const = default;
};

struct TrainerState {
  uint64_t step = 0;             // steps finished, skipped ones included: the schedule's clock
  uint64_t optimizer_steps = 0;  // steps that changed the adapter: AdamW's t
  uint64_t epoch = 0;            // epochs finished
  uint64_t epoch_rows = 0;       // rows of the current epoch used so far, over all ranks
  uint64_t input_tokens = 0;     // since step 0, over all ranks
  uint64_t target_tokens = 0;
  double train_seconds = 0;  // since step 0, without the time between two runs
  std::optional<BestEval> best_eval;
  bool operator==(const TrainerState&) const = default;
};

// Doubles are written in hexadecimal ("0x1.8p+1"): they come back with the same bits, infinities included; a NaN comes
// back as a NaN.
std::string trainer_state_to_json(const TrainerState& state);
// Pure and strict: every key, no other. Throws DataError beginning with `place`.
TrainerState trainer_state_from_json(std::string_view text, std::string_view place);

// Creates trainer_state/state.json below `directory`, where trainer_state/ exists already.
void write_trainer_state(const std::filesystem::path& directory, const TrainerState& state);
// DataError if the state is not of the checkpoint's step.
TrainerState read_trainer_state(const CheckpointInfo& checkpoint);

}  // namespace rankwise
