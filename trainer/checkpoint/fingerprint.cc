#include "trainer/checkpoint/fingerprint.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace rankwise {
namespace {

const FingerprintField* find_field(const Fingerprint& fingerprint, const std::string& name) {
  const auto found = std::ranges::find(fingerprint, name, &FingerprintField::name);
  return found == fingerprint.end() ? nullptr : &*found;
}

std::string shown(const std::optional<std::string>& value) { return value ? fmt::format("\"{}\"", *value) : "nothing"; }

bool is_allowed(const FieldDifference& difference, const std::set<std::string>& allowed) {
  switch (difference.rule) {
    case FieldRule::kMustMatch:
      return false;
    case FieldRule::kMayChange:
      return allowed.contains(difference.name);
    case FieldRule::kInformative:
      return true;
  }
  return false;
}

}  // namespace

std::string_view field_rule_name(FieldRule rule) {
  switch (rule) {
    case FieldRule::kMustMatch:
      return "must_match";
    case FieldRule::kMayChange:
      return "may_change";
    case FieldRule::kInformative:
      return "informative";
  }
  return "unknown";
}

std::optional<FieldRule> field_rule_from_name(std::string_view name) {
  for (const FieldRule rule : {FieldRule::kMustMatch, FieldRule::kMayChange, FieldRule::kInformative}) {
    if (field_rule_name(rule) == name) return rule;
  }
  return std::nullopt;
}

std::string describe(const FieldDifference& difference) {
  return fmt::format("{}: the checkpoint has {}, this run has {}", difference.name, shown(difference.saved),
                     shown(difference.current));
}

std::vector<FieldDifference> fingerprint_differences(const Fingerprint& saved, const Fingerprint& current) {
  std::vector<FieldDifference> differences;
  for (const FingerprintField& field : current) {
    const FingerprintField* before = find_field(saved, field.name);
    if (before == nullptr) {
      differences.push_back({field.name, std::nullopt, field.value, field.rule});
    } else if (before->value != field.value) {
      differences.push_back({field.name, before->value, field.value, field.rule});
    }
  }
  for (const FingerprintField& field : saved) {
    if (find_field(current, field.name) == nullptr) {
      differences.push_back({field.name, field.value, std::nullopt, field.rule});
    }
  }
  return differences;
}

std::vector<FieldDifference> compare_fingerprints(const Fingerprint& saved, const Fingerprint& current,
                                                  const std::set<std::string>& allowed, std::string_view place) {
  std::vector<FieldDifference> passed;
  std::string refused;
  for (FieldDifference& difference : fingerprint_differences(saved, current)) {
    if (is_allowed(difference, allowed)) {
      passed.push_back(std::move(difference));
      continue;
    }
    refused += fmt::format("\n  {}{}", describe(difference),
                           difference.rule == FieldRule::kMayChange ? " (can be allowed by name)" : "");
  }
  RW_CHECK(
      refused.empty(), DataError,
      "{}: this checkpoint does not fit the run:{}\nRun with the values of the checkpoint, or start anew in another "
      "run.output_dir.",
      place, refused);
  return passed;
}

}  // namespace rankwise
