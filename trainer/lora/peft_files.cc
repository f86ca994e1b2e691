#include "trainer/lora/peft_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "trainer/lora/effective_config.h"
#include "trainer/lora/float_bits.h"
#include "trainer/lora/model_card.h"
#include "trainer/weights/safetensors.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr uint64_t kMaxConfigBytes = 16u << 20;
constexpr size_t kMaxKeysShown = 5;

static_assert(std::endian::native == std::endian::little, "safetensors holds little-endian numbers");

struct Problems {
  std::vector<std::string> found;

  void check(const std::string& place) const {
    if (found.empty()) return;
    const std::vector<std::string> first(found.begin(), found.begin() + std::min(found.size(), kMaxKeysShown));
    const std::string more =
        found.size() > first.size() ? fmt::format(" (and {} more)", found.size() - first.size()) : "";
    throw DataError(fmt::format("{}: {}{}", place, fmt::join(first, "; "), more));
  }
};

using Shapes = std::map<std::string, std::vector<int64_t>, std::less<>>;

// Expected against found, both ways.
void check_tensors(const std::vector<AdapterTensorSpec>& expected, const Shapes& found, const std::string& place) {
  Problems problems;
  std::set<std::string_view> expected_keys;
  for (const AdapterTensorSpec& spec : expected) {
    expected_keys.insert(spec.key);
    const auto at = found.find(spec.key);
    if (at == found.end()) {
      problems.found.push_back(spec.key + " is missing");
    } else if (at->second != spec.shape) {
      problems.found.push_back(fmt::format("{} has shape {}, but adapter_config.json and the base model say {}",
                                           spec.key, at->second, spec.shape));
    }
  }
  for (const auto& [key, shape] : found)
    if (!expected_keys.contains(key)) problems.found.push_back(key + " is unexpected");
  problems.check(place);
}

void check_finite(std::string_view key, std::span<const float> data, const std::string& place) {
  const auto bad = std::ranges::find_if(data, [](float x) { return !std::isfinite(x); });
  RW_CHECK(bad == data.end(), DataError, "{}: {} holds {} at element {}; an adapter must be finite", place, key, *bad,
           bad - data.begin());
}

std::vector<TensorView> file_views(std::span<const AdapterTensorView> tensors) {
  std::vector<TensorView> views;
  for (const AdapterTensorView& t : tensors) views.push_back({t.key, Dtype::kF32, t.shape, std::as_bytes(t.data)});
  return views;
}

void check_for_writing(const std::vector<MatchedModule>& matched, std::span<const AdapterTensorView> tensors) try {
  const std::string place = "writing the adapter";
  Shapes shapes;
  for (const AdapterTensorView& tensor : tensors) {
    RW_CHECK(shapes.emplace(tensor.key, tensor.shape).second, DataError, "{}: {} twice", place, tensor.key);
    const int64_t num_elements =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
    RW_CHECK(std::ssize(tensor.data) == num_elements, DataError, "{}: {} has shape {} but {} elements", place,
             tensor.key, tensor.shape, tensor.data.size());
    check_finite(tensor.key, tensor.data, place);
  }
  check_tensors(adapter_tensor_specs(matched), shapes, place);
} catch (const DataError& error) {
  throw Error(error.what());  // these tensors are ours, not a file's
}

std::vector<float> read_tensor(const SafetensorsFile& file, const TensorEntry& entry) {
  std::vector<float> values(static_cast<size_t>(entry.num_elements()));
  if (entry.dtype == Dtype::kF32) {
    file.read(entry, 0, std::as_writable_bytes(std::span(values)));
    return values;
  }
  RW_CHECK(entry.dtype == Dtype::kF16 || entry.dtype == Dtype::kBF16, DataError,
           "{}: {} is stored as {}; supported: F32, F16, BF16", file.path().string(), entry.name,
           dtype_name(entry.dtype));
  std::vector<uint16_t> halves(values.size());
  file.read(entry, 0, std::as_writable_bytes(std::span(halves)));
  const auto widen = entry.dtype == Dtype::kF16 ? float_of_half : float_of_bfloat16;
  std::ranges::transform(halves, values.begin(), widen);
  return values;
}

std::vector<AdapterTensor> read_tensors(const fs::path& path, std::span<const MatchedModule> matched) {
  const SafetensorsFile file(path);
  Shapes shapes;
  for (const TensorEntry& entry : file.header().tensors) shapes.emplace(entry.name, entry.shape);
  const std::vector<AdapterTensorSpec> specs = adapter_tensor_specs(matched);
  check_tensors(specs, shapes, path.string());
  std::vector<AdapterTensor> tensors;
  for (const AdapterTensorSpec& spec : specs) {
    tensors.push_back({spec.key, spec.shape, read_tensor(file, file.entry(spec.key))});
    check_finite(spec.key, tensors.back().data, path.string());
  }
  return tensors;
}

void refuse_pickle(const fs::path& directory) {
  const fs::path pickle = directory / "adapter_model.bin";
  RW_CHECK(fs::exists(directory / kWeightsFile) || !fs::exists(pickle), DataError,
           "{}: a pickle can run code when it is read and is refused. Load the adapter with PEFT and save it again: "
           "model.save_pretrained(directory, safe_serialization=True)",
           pickle.string());
}

// What a file asks for is data: the reader of the file cannot mend it in a configuration of ours.
std::vector<MatchedModule> match_file(const LoraConfig& config, std::span<const ModuleInfo> model,
                                      const std::string& place) try {
  std::vector<MatchedModule> matched = match_targets(config, model);
  RW_CHECK(!matched.empty(), DataError,
           "{}: target_modules names no linear layer of this base model; is it the right one?", place);
  return matched;
} catch (const ConfigError& error) {
  throw DataError(place + ": " + error.what());
}

}  // namespace

std::string lora_a_key(std::string_view module) { return fmt::format("base_model.model.{}.lora_A.weight", module); }
std::string lora_b_key(std::string_view module) { return fmt::format("base_model.model.{}.lora_B.weight", module); }

std::vector<AdapterTensorSpec> adapter_tensor_specs(std::span<const MatchedModule> matched) {
  std::vector<AdapterTensorSpec> specs;
  for (const MatchedModule& module : matched) {
    specs.push_back({lora_a_key(module.name), {module.r, module.in_features}});
    specs.push_back({lora_b_key(module.name), {module.out_features, module.r}});
  }
  return specs;
}

void write_adapter(const fs::path& directory, const AdapterInfo& info, std::span<const ModuleInfo> model,
                   std::span<const AdapterTensorView> tensors) {
  const std::vector<MatchedModule> matched = match_targets(info.lora, model);
  const AdapterInfo effective{effective_config(info.lora, model, matched), info.base_model_name_or_path};
  check_for_writing(matched, tensors);
  write_safetensors(directory / kWeightsFile, file_views(tensors), {{"format", "pt"}});
  write_new_file(directory / kConfigFile, format_adapter_config(effective));
  write_new_file(directory / "README.md", model_card(effective, matched));
  fsync_directory(directory);
}

AdapterFiles read_adapter(const fs::path& directory, std::span<const ModuleInfo> model) {
  refuse_pickle(directory);
  const std::string config_path = (directory / kConfigFile).string();
  AdapterFiles files;
  files.info = parse_adapter_config(read_file(config_path, kMaxConfigBytes), config_path);
  files.modules = match_file(files.info.lora, model, config_path);
  files.tensors = read_tensors(directory / kWeightsFile, files.modules);
  return files;
}

}  // namespace rankwise
