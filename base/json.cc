#include "base/json.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/json_events.h"

namespace rankwise {
namespace {

using nlohmann::json;

// Builds the tree. Pointers to open containers stay valid: only the innermost one ever grows.
class TreeBuilder final : public JsonReceiver {
 public:
  explicit TreeBuilder(uint64_t max_values) : values_left_(max_values) {}

  void begin_object() override { open_.push_back(&add(json::object())); }
  void begin_array() override { open_.push_back(&add(json::array())); }
  void end_object() override { open_.pop_back(); }
  void end_array() override { open_.pop_back(); }
  void scalar(json&& value) override { add(std::move(value)); }
  void key(std::string&& name) override {
    const auto [at, is_new] = open_.back()->get_ref<json::object_t&>().try_emplace(std::move(name));
    if (!is_new) throw JsonRefusal{"duplicate key"};
    slot_ = &at->second;
  }

  json take() { return std::move(root_); }

 private:
  json& add(json&& value) {
    if (values_left_-- == 0) throw JsonRefusal{"too many values"};
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return *slot_ = std::move(value);
    return open_.back()->get_ref<json::array_t&>().emplace_back(std::move(value));
  }

  uint64_t values_left_;
  json root_;
  std::vector<json*> open_;
  json* slot_ = nullptr;  // of the key read last
};

}  // namespace

json parse_json(std::string_view text, std::string_view place, const JsonLimits& limits) {
  TreeBuilder tree(limits.max_values);
  read_json_events(text, place, limits, tree);
  return tree.take();
}

uint64_t json_uint(const json& value, std::string_view what) {
  constexpr uint64_t kMax = 1ull << 53;
  const bool non_negative = value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
  RW_CHECK(non_negative, DataError, "{}: expected a non-negative integer, found {}", what,
           value.is_number() ? value.dump() : std::string(value.type_name()));
  const uint64_t number = value.get<uint64_t>();
  RW_CHECK(number <= kMax, DataError, "{}: {} is above 2^53", what, number);
  return number;
}

}  // namespace rankwise
