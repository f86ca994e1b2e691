// The linear layers of a small Llama, for the tests of this folder.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "trainer/lora/target_matching.h"

namespace rankwise {

inline std::vector<ModuleInfo> tiny_llama(int num_layers = 3) {
  std::vector<ModuleInfo> model{{"model.embed_tokens", 100, 8, ModuleKind::kEmbedding}};
  for (int layer = 0; layer < num_layers; ++layer) {
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      model.push_back({fmt::format("model.layers.{}.{}", layer, name), in, out});
    };
    add("self_attn.q_proj", 8, 8);
    add("self_attn.k_proj", 8, 4);
    add("self_attn.v_proj", 8, 4);
    add("self_attn.o_proj", 8, 8);
    add("mlp.gate_proj", 8, 16);
    add("mlp.up_proj", 8, 16);
    add("mlp.down_proj", 16, 8);
  }
  model.push_back({"lm_head", 8, 100, ModuleKind::kOutputEmbedding});
  return model;
}

inline std::vector<std::string> names_of(const std::vector<MatchedModule>& matched) {
  std::vector<std::string> names;
  for (const MatchedModule& module : matched) names.push_back(module.name);
  return names;
}

}  // namespace rankwise
