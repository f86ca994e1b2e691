#include "trainer/checkpoint/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "trainer/checkpoint/json_fields.h"

namespace rankwise {
namespace {

constexpr std::string_view kFormatName = "rankwise-checkpoint";
constexpr size_t kMaxPathBytes = 255;
constexpr int kMaxPathComponents = 4;

bool is_path_component(std::string_view component) {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !component.empty() && component != "." && component != ".." &&
         component.find_first_not_of(kAllowed) == std::string_view::npos;
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

nlohmann::ordered_json body_of(const Manifest& manifest) {
  nlohmann::ordered_json body;
  body["format"] = kFormatName;
  body["version"] = kManifestVersion;
  body["run_id"] = manifest.run_id;
  body["step"] = manifest.step;
  body["fingerprint"] = nlohmann::ordered_json::array();
  for (const FingerprintField& field : manifest.fingerprint) {
    body["fingerprint"].push_back(
        {{"name", field.name}, {"value", field.value}, {"rule", field_rule_name(field.rule)}});
  }
  body["files"] = nlohmann::ordered_json::array();
  for (const ManifestFile& file : manifest.files) {
    body["files"].push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return body;
}

void check_header(const nlohmann::json& json, const std::string& place) {
  RW_CHECK(json.is_object() && json.contains("format") && json["format"] == kFormatName, DataError,
           "{}: \"format\" is not \"{}\"", place, kFormatName);
  RW_CHECK(json.contains("version"), DataError, "{}: \"version\" is missing", place);
  const uint64_t version = json_uint(json["version"], place + ": version");
  RW_CHECK(version == kManifestVersion, DataError,
           "{}: format version {}, this program reads version {}; use the program that wrote the checkpoint", place,
           version, kManifestVersion);
}

Fingerprint parse_fingerprint(const nlohmann::json& json, const std::string& place) {
  RW_CHECK(json.is_array(), DataError, "{}: expected an array, found {}", place, json.type_name());
  Fingerprint fingerprint;
  std::set<std::string> names;
  for (const auto& item : json) {
    require_exact_keys(item, {"name", "value", "rule"}, place);
    const std::string& name = json_string(item["name"], place + ".name");
    const auto rule = field_rule_from_name(json_string(item["rule"], place + ".rule"));
    RW_CHECK(rule.has_value(), DataError, "{}: \"{}\" has an unknown rule", place, name);
    RW_CHECK(names.insert(name).second, DataError, "{}: \"{}\" is there twice", place, name);
    fingerprint.push_back({name, json_string(item["value"], place + ".value"), *rule});
  }
  return fingerprint;
}

ManifestFile parse_file(const nlohmann::json& json, const std::string& place) {
  require_exact_keys(json, {"path", "bytes", "sha256"}, place);
  ManifestFile file{.path = json_string(json["path"], place + ".path"),
                    .bytes = json_uint(json["bytes"], place + ".bytes"),
                    .sha256 = json_string(json["sha256"], place + ".sha256")};
  RW_CHECK(is_manifest_path(file.path), DataError, "{}: \"{}\" is not a path inside the checkpoint", place, file.path);
  RW_CHECK(is_sha256(file.sha256), DataError, "{}: \"{}\" has no valid sha256", place, file.path);
  return file;
}

std::vector<ManifestFile> parse_files(const nlohmann::json& json, const std::string& place) {
  RW_CHECK(json.is_array(), DataError, "{}: expected an array, found {}", place, json.type_name());
  std::vector<ManifestFile> files;
  for (const auto& item : json) {
    ManifestFile file = parse_file(item, place);
    RW_CHECK(files.empty() || files.back().path < file.path, DataError, "{}: \"{}\" is there twice or out of order",
             place, file.path);
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

bool is_manifest_path(std::string_view path) {
  if (path.size() > kMaxPathBytes || path == kManifestName) return false;
  int num_components = 0;
  for (size_t begin = 0; begin <= path.size(); ++num_components) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (!is_path_component(path.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return num_components <= kMaxPathComponents;
}

std::string manifest_to_json(const Manifest& manifest) {
  nlohmann::ordered_json json = body_of(manifest);
  json["manifest_sha256"] = sha256_hex(json.dump());
  return json.dump(2) + "\n";
}

Manifest manifest_from_json(std::string_view text, std::string_view place) {
  const std::string where(place);
  const nlohmann::json json = parse_json(text, place);
  check_header(json, where);
  require_exact_keys(json, {"format", "version", "run_id", "step", "fingerprint", "files", "manifest_sha256"}, place);
  Manifest manifest{.run_id = json_string(json["run_id"], where + ": run_id"),
                    .step = json_uint(json["step"], where + ": step"),
                    .fingerprint = parse_fingerprint(json["fingerprint"], where + ": fingerprint"),
                    .files = parse_files(json["files"], where + ": files")};
  RW_CHECK(
      manifest_to_json(manifest) == text, DataError,
      "{}: not the text that was written: manifest_sha256 or the layout does not fit the content (damaged or edited)",
      place);
  return manifest;
}

}  // namespace rankwise
