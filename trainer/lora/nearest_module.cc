#include "trainer/lora/nearest_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "base/nearest.h"

namespace rankwise {
namespace {

std::string_view last_components(std::string_view path, long count) {
  size_t begin = path.size();
  for (long i = 0; i < count; ++i) {
    begin = begin == 0 ? std::string_view::npos : path.rfind('.', begin - 1);
    if (begin == std::string_view::npos) return path;
  }
  return path.substr(begin + 1);
}

}  // namespace

std::string nearest_module(std::string_view name, std::span<const ModuleInfo> model) {
  const long num_components = 1 + std::ranges::count(name, '.');
  std::map<std::string, size_t> endings;
  for (const ModuleInfo& module : model) ++endings[std::string(last_components(module.name, num_components))];
  std::vector<std::string> candidates;
  for (const auto& [ending, count] : endings) candidates.push_back(ending);
  const std::string nearest = nearest_name(name, candidates);
  if (nearest.empty()) return nearest;
  return fmt::format("{} ({} module{})", nearest, endings[nearest], endings[nearest] == 1 ? "" : "s");
}

}  // namespace rankwise
