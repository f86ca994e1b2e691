#include "trainer/weights/model_index.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "trainer/weights/safetensors_header.h"

namespace rankwise {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr JsonLimits kLimits{.max_bytes = 64 << 20, .max_depth = 4, .max_values = 1 << 20};
constexpr size_t kMaxFileNameBytes = 255;

bool is_shard_name(std::string_view name) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return name.size() <= kMaxFileNameBytes && !name.starts_with('.') && name.ends_with(".safetensors") &&
         std::ranges::all_of(name, is_plain);
}

bool is_within(const fs::path& path, const fs::path& root) {
  const auto [in_root, in_path] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return in_root == root.end() && in_path != path.end();
}

}  // namespace

ModelIndex parse_model_index(std::string_view json_text, std::string_view place) {
  json index = parse_json(json_text, place, kLimits);
  RW_CHECK(index.is_object() && index.contains("weight_map"), DataError, "{}: needs an object with weight_map", place);
  json& map = index["weight_map"];
  RW_CHECK(map.is_object() && !map.empty(), DataError, "{}: weight_map must name the file of each tensor", place);

  ModelIndex result;
  for (auto& [tensor, file] : map.get_ref<json::object_t&>()) {
    if (const auto problem = tensor_name_problem(tensor))
      throw DataError(fmt::format("{}: weight_map: {}", place, *problem));
    RW_CHECK(file.is_string() && is_shard_name(file.get_ref<const std::string&>()), DataError,
             "{}: weight_map: \"{}\" must name one file of this directory, like model-00001-of-00002.safetensors",
             place, tensor);
    result.shard_of_tensor.emplace_hint(result.shard_of_tensor.end(), tensor, std::move(file.get_ref<std::string&>()));
  }
  const json metadata = index.value("metadata", json::object());
  RW_CHECK(metadata.is_object(), DataError, "{}: metadata must be an object", place);
  if (const auto total = metadata.find("total_size"); total != metadata.end()) {
    result.total_size_bytes = json_uint(*total, fmt::format("{}: metadata.total_size", place));
  }
  return result;
}

void check_stays_inside(const fs::path& directory, const std::string& name) {
  std::error_code error;
  const fs::path target = fs::canonical(directory / name, error);
  RW_CHECK(!error, NoInputError, "{}: {}", (directory / name).native(), error.message());
  const fs::path root = fs::canonical(directory);
  if (is_within(target, root)) return;
  const bool is_snapshot = root.parent_path().filename() == "snapshots";
  const fs::path blobs = root.parent_path().parent_path() / "blobs";
  RW_CHECK(is_snapshot && is_within(target, blobs), DataError,
           "{}: a link that leads to {}, outside the model's directory; copy the file there instead",
           (directory / name).native(), target.native());
}

}  // namespace rankwise
