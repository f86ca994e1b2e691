// An adapter's directory as PEFT reads and writes it: adapter_model.safetensors, adapter_config.json, README.md.
// Float32, half-split RoPE: nothing is permuted or scaled on the way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/lora/peft_config.h"
#include "trainer/lora/target_matching.h"

namespace rankwise {

// "base_model.model.<module>.lora_A.weight", [r, in_features]; "....lora_B.weight", [out_features, r].
std::string lora_a_key(std::string_view module);
std::string lora_b_key(std::string_view module);

struct AdapterTensorSpec {
  std::string key;
  std::vector<int64_t> shape;
  bool operator==(const AdapterTensorSpec&) const = default;
};
// A then B of each module, in the order of `matched`.
std::vector<AdapterTensorSpec> adapter_tensor_specs(std::span<const MatchedModule> matched);

// Row-major; the data stays the caller's.
struct AdapterTensorView {
  std::string key;
  std::vector<int64_t> shape;
  std::span<const float> data;
};
struct AdapterTensor {
  std::string key;
  std::vector<int64_t> shape;
  std::vector<float> data;
};

struct AdapterFiles {
  AdapterInfo info;
  std::vector<MatchedModule> modules;  // in the order of the model
  std::vector<AdapterTensor> tensors;  // as adapter_tensor_specs(modules)
};

// Writes the three files into `directory`, which exists and holds none of them, each durable; the directory is synced.
// What adapter_config.json says is effective_config of info.lora, and every tensor, in any order, is checked against
// it and for non-finite values before a byte is written: Error. IoError if writing fails.
void write_adapter(const std::filesystem::path& directory, const AdapterInfo& info, std::span<const ModuleInfo> model,
                   std::span<const AdapterTensorView> tensors);

// Reads F32, F16 or BF16 as float32. Strict: the tensors are exactly those that adapter_config.json and the model
// imply, with their shapes, and finite. Throws DataError naming the file, up to five keys, both values and the remedy;
// NoInputError if a file is not there.
AdapterFiles read_adapter(const std::filesystem::path& directory, std::span<const ModuleInfo> model);

}  // namespace rankwise
