// What a checkpoint of a run fits, field by field: the names are those that a refusal shows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "configs/run_config.h"
#include "trainer/checkpoint/fingerprint.h"
#include "trainer/lora/target_matching.h"

namespace rankwise {

// What the configuration does not say itself; hashes as text.
struct RunFacts {
  std::string base_weights;
  std::string tokenizer;
  std::string chat_template;  // "none" without one
  std::string data;           // of the training data as it is prepared
  std::string compute_dtype;
  std::span<const MatchedModule> modules;
  int64_t total_steps = 0;
  int world_size = 1;
};

// Everything that decides the numbers of a step must match. Length (kTotalStepsField), world size and version may
// change: a run may be made longer, and go on elsewhere.
Fingerprint make_fingerprint(const RunConfig& config, const RunFacts& facts);

inline constexpr std::string_view kTotalStepsField = "total_steps";

// What it means for the rest of the run that one of the fields that may change has changed.
std::string_view consequence_of(std::string_view field);

}  // namespace rankwise
