#include "trainer/lora/match_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "trainer/lora/module_rules.h"

namespace rankwise {
namespace {

struct Row {
  const MatchedModule* first;  // what all modules of the row share
  int64_t num_modules = 0;
  int64_t num_parameters = 0;
};

bool belongs(const Row& row, const MatchedModule& module) {
  return row.first->entry == module.entry && last_component(row.first->name) == last_component(module.name) &&
         row.first->r == module.r && row.first->alpha == module.alpha;
}

std::vector<Row> rows_of(std::span<const MatchedModule> matched) {
  std::vector<Row> rows;
  for (const MatchedModule& module : matched) {
    auto row = std::ranges::find_if(rows, [&](const Row& known) { return belongs(known, module); });
    if (row == rows.end()) row = rows.insert(rows.end(), Row{&module});
    ++row->num_modules;
    row->num_parameters += module.num_parameters();
  }
  return rows;
}

// 1234567 -> "1,234,567"
std::string grouped(int64_t value) {
  std::string text = fmt::format("{}", value);
  for (auto at = static_cast<long>(text.size()) - 3; at > 0; at -= 3) text.insert(static_cast<size_t>(at), 1, ',');
  return text;
}

constexpr size_t kWidestEntry = 48;  // a longer regex is cut, to keep the table a table

std::string shown(const std::string& entry) {
  return entry.size() <= kWidestEntry ? entry : entry.substr(0, kWidestEntry - 3) + "...";
}

}  // namespace

std::string match_table(std::span<const MatchedModule> matched) {
  const std::vector<Row> rows = rows_of(matched);
  size_t entry_width = std::string_view("target").size();
  size_t module_width = std::string_view("module").size();
  for (const Row& row : rows) {
    entry_width = std::max(entry_width, shown(row.first->entry).size());
    module_width = std::max(module_width, last_component(row.first->name).size());
  }
  const auto line = [&](auto&&... cell) {
    return fmt::format("{:<{}}  {:<{}}  {:>7}  {:>5}  {:>6}  {:>8}  {:>13}\n", cell...);
  };
  std::string table =
      line("target", entry_width, "module", module_width, "modules", "r", "alpha", "scaling", "parameters");
  Row total{nullptr};
  for (const Row& row : rows) {
    const MatchedModule& m = *row.first;
    table += line(shown(m.entry), entry_width, last_component(m.name), module_width, row.num_modules, m.r,
                  fmt::format("{:g}", m.alpha), fmt::format("{:.6g}", m.scaling), grouped(row.num_parameters));
    total.num_modules += row.num_modules;
    total.num_parameters += row.num_parameters;
  }
  return table +
         line("total", entry_width, "", module_width, total.num_modules, "", "", "", grouped(total.num_parameters));
}

std::string trainable_report(std::span<const MatchedModule> matched, int64_t num_base_parameters) {
  int64_t trainable = 0;
  for (const MatchedModule& module : matched) trainable += module.num_parameters();
  const int64_t all = num_base_parameters + trainable;
  const double percent = 100.0 * static_cast<double>(trainable) / static_cast<double>(all);
  return fmt::format("trainable params: {} || all params: {} || trainable%: {:.4f}", grouped(trainable), grouped(all),
                     percent);
}

}  // namespace rankwise
