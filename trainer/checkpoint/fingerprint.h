// What a checkpoint depends on, as a list of named values, and what happens on resume when one of them has changed.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rankwise {

enum class FieldRule {
  kMustMatch,    // a difference is always refused: base weights, LoRA rank, tokenizer
  kMayChange,    // refused unless the user allows this field by name: data, learning rate
  kInformative,  // never refused: world size, build, host
};
std::string_view field_rule_name(FieldRule rule);  // "must_match", as in the manifest
std::optional<FieldRule> field_rule_from_name(std::string_view name);

struct FingerprintField {
  std::string name;   // unique in its fingerprint
  std::string value;  // UTF-8; numbers and hashes as text
  FieldRule rule;
  bool operator==(const FingerprintField&) const = default;
};

// In the order in which differences are to be reported.
using Fingerprint = std::vector<FingerprintField>;

struct FieldDifference {
  std::string name;
  std::optional<std::string> saved;    // nullopt: the checkpoint has no such field
  std::optional<std::string> current;  // nullopt: this run has no such field
  FieldRule rule;                      // this run's, or the checkpoint's where this run has no such field
};

// `seed: the checkpoint has "42", this run has "43"`
std::string describe(const FieldDifference& difference);

std::vector<FieldDifference> fingerprint_differences(const Fingerprint& saved, const Fingerprint& current);

// Throws one DataError that names every refused field with both values; `place` names the checkpoint. Returns the
// differences that were let pass, for the log. Naming a kMustMatch field in `allowed` does not help it.
std::vector<FieldDifference> compare_fingerprints(const Fingerprint& saved, const Fingerprint& current,
                                                  const std::set<std::string>& allowed, std::string_view place);

}  // namespace rankwise
