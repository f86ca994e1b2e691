// The adapter code for tests in Python: one JSON request on stdin, one JSON answer on stdout. An error of ours is an
// answer too: {"error": message, "code": exit code}.
//   {"do": "match" | "resolve", "config": adapter_config.json as text, "modules": [...]}
//   {"do": "write", "config": ..., "modules": [...], "directory": D, "tensors": {key: {"shape": [...], "data": [...]}}}
//   {"do": "read", "modules": [...], "directory": D}
// A module is {"name", "in", "out", "kind": "linear" | "output_embedding" | "embedding"}.
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "trainer/lora/match_report.h"
#include "trainer/lora/peft_files.h"

namespace {

using namespace rankwise;
using nlohmann::json;

ModuleKind kind_of(const std::string& word) {
  if (word == "output_embedding") return ModuleKind::kOutputEmbedding;
  return word == "embedding" ? ModuleKind::kEmbedding : ModuleKind::kLinear;
}

std::vector<ModuleInfo> modules_of(const json& request) {
  std::vector<ModuleInfo> modules;
  for (const json& m : request.at("modules"))
    modules.push_back({m.at("name"), m.at("in"), m.at("out"), kind_of(m.at("kind"))});
  return modules;
}

AdapterInfo info_of(const json& request) {
  return parse_adapter_config(request.at("config").get<std::string>(), "request");
}

json matched_as_json(const std::vector<MatchedModule>& matched) {
  json out = json::object();
  for (const MatchedModule& m : matched) out[m.name] = {{"r", m.r}, {"alpha", m.alpha}, {"scaling", m.scaling}};
  return out;
}

json match(const json& request) {
  const auto modules = modules_of(request);
  const LoraConfig config = info_of(request).lora;
  const auto matched = request.at("do") == "match" ? match_targets(config, modules) : resolve_targets(config, modules);
  return {{"modules", matched_as_json(matched)},
          {"table", match_table(matched)},
          {"report", trainable_report(matched, request.value("base_parameters", int64_t{1}))}};
}

json write(const json& request) {
  std::vector<std::vector<float>> data;
  for (const json& tensor : request.at("tensors")) data.push_back(tensor.at("data").get<std::vector<float>>());
  std::vector<AdapterTensorView> views;
  for (const auto& [key, tensor] : request.at("tensors").items())
    views.push_back({key, tensor.at("shape"), data[views.size()]});
  write_adapter(request.at("directory").get<std::string>(), info_of(request), modules_of(request), views);
  return json::object();
}

json read(const json& request) {
  const AdapterFiles files = read_adapter(request.at("directory").get<std::string>(), modules_of(request));
  json tensors = json::object();
  for (const AdapterTensor& t : files.tensors) tensors[t.key] = {{"shape", t.shape}, {"data", t.data}};
  return {
      {"modules", matched_as_json(files.modules)}, {"config", format_adapter_config(files.info)}, {"tensors", tensors}};
}

json answer(const json& request) try {
  const std::string verb = request.at("do");
  if (verb == "write") return write(request);
  if (verb == "read") return read(request);
  return match(request);
} catch (const Error& error) {
  return {{"error", error.what()}, {"code", static_cast<int>(error.code())}};
}

}  // namespace

int main() {
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  std::cout << answer(json::parse(text)) << "\n";
}
