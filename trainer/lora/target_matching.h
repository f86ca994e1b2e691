// Which modules of a model carry an adapter, and with which rank and scaling: PEFT's rules (release 0.21),
// checked live against PEFT by tests/parity/test_target_matching.py.
//   1. exclude_modules wins over everything.
//   2. target_modules: a list names modules by path or by its end; a regex must match the whole path; all-linear is
//      every linear layer but the output embedding.
//   3. layers_to_transform keeps, of what a list entry found by its end, the named layers. An entry that is a whole
//      path is not filtered.
//   4. The first key of rank_pattern and of alpha_pattern that matches gives r and alpha, else r and lora_alpha do.
//   5. scaling = alpha / r, or alpha / sqrt(r) with use_rslora.
// PEFT refuses a regex that also hits a container, a norm or an activation; those are not part of `model` here and are
// passed over.
// Known difference: PEFT shortens lists of 20 entries and more to endings before step 3; whole paths there lose their
// exemption from layers_to_transform.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/lora/lora_config.h"

namespace rankwise {

enum class ModuleKind { kLinear, kOutputEmbedding, kEmbedding };

struct ModuleInfo {
  std::string name;  // Hugging Face's path, such as model.layers.0.self_attn.q_proj
  int64_t in_features = 0;
  int64_t out_features = 0;
  ModuleKind kind = ModuleKind::kLinear;
};

struct MatchedModule {
  std::string name;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t r = 0;
  double alpha = 0;
  double scaling = 0;
  std::string entry = {};  // of target_modules: the first that named it, the regex, or "all-linear"

  int64_t num_parameters() const { return r * (in_features + out_features); }
};

// PEFT's result, in the order of `model`; may be empty, and entries without a match pass. For adapters that others
// made. Throws ConfigError for a config that PEFT refuses, a bad pattern, or a target that is an embedding, which would
// be trained by PEFT and is not supported here.
std::vector<MatchedModule> match_targets(const LoraConfig& config, std::span<const ModuleInfo> model);

// The same, for training: everything the user wrote must have an effect. ConfigError naming the entry of
// target_modules, exclude_modules, layers_to_transform, rank_pattern or alpha_pattern that has none, and the nearest
// name of the model.
std::vector<MatchedModule> resolve_targets(const LoraConfig& config, std::span<const ModuleInfo> model);

}  // namespace rankwise
