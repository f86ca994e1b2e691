// A regular expression over module paths, with the meaning of Python's `re`, which PEFT uses. PCRE2 underneath.
//
// Differences, all outside of what module patterns need: PCRE2 knows more (recursion, \h, \K, POSIX classes) and takes
// inline flags such as (?i) anywhere; Python's (?a), (?L), (?u) and \u0041 are refused. `{,n}`, which PCRE2 would take
// as plain text, is refused rather than misread.
// A pattern is bounded: too long, or too many steps on one name, is an error and never a stall.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace rankwise {

// Immutable; one thread at a time. Each function throws ConfigError naming the place and the pattern.
class NamePattern {
 public:
  // `place` stands before each message, such as "lora.target_modules".
  NamePattern(std::string_view pattern, std::string_view place);
  ~NamePattern();
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;

  bool matches_whole(std::string_view name) const;  // re.fullmatch
  bool matches_start(std::string_view name) const;  // re.match
  // re.match(...)["group"]; none if the pattern does not match or the group took no part.
  std::optional<std::string> capture(std::string_view name, const char* group) const;

 private:
  struct Impl;
  bool run(std::string_view name, unsigned options) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rankwise
