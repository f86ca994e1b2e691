#define PCRE2_CODE_UNIT_WIDTH 8
#include "trainer/lora/name_pattern.h"

#include <pcre2.h>

#include "base/check.h"

namespace rankwise {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
// A sane pattern needs some hundreds of steps for a module path; this many take a millisecond or two.
constexpr uint32_t kMaxSteps = 100'000;
constexpr uint32_t kMaxHeapKib = 1024;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* pointer) const noexcept {
    Free(pointer);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;

std::string message_of(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

Code compile(const std::string& pattern, const std::string& place) {
  RW_CHECK(pattern.size() <= kMaxPatternBytes, ConfigError, "{}: a pattern of {} bytes; at most {} are allowed", place,
           pattern.size(), kMaxPatternBytes);
  RW_CHECK(pattern.find("{,") == std::string::npos, ConfigError, "{}: \"{}\": write {{0,n}} instead of {{,n}}", place,
           pattern);
  int code = 0;
  PCRE2_SIZE offset = 0;
  Code compiled(pcre2_compile(units(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code,
                              &offset, nullptr));
  RW_CHECK(compiled != nullptr, ConfigError, "{}: \"{}\" is not a regular expression: {} at position {}", place,
           pattern, message_of(code), offset);
  return compiled;
}

}  // namespace

struct NamePattern::Impl {
  std::string pattern;
  std::string place;
  Code code;
  MatchData match;
  MatchContext context;
};

NamePattern::NamePattern(std::string_view pattern, std::string_view place) : impl_(std::make_unique<Impl>()) {
  impl_->pattern = pattern;
  impl_->place = place;
  impl_->code = compile(impl_->pattern, impl_->place);
  impl_->match.reset(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  impl_->context.reset(pcre2_match_context_create(nullptr));
  RW_CHECK(impl_->match && impl_->context, Error, "out of memory for the pattern \"{}\"", pattern);
  pcre2_set_match_limit(impl_->context.get(), kMaxSteps);
  pcre2_set_depth_limit(impl_->context.get(), kMaxSteps);
  pcre2_set_heap_limit(impl_->context.get(), kMaxHeapKib);
}
NamePattern::~NamePattern() = default;
NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;

bool NamePattern::run(std::string_view name, unsigned options) const {
  const int rc = pcre2_match(impl_->code.get(), units(name), name.size(), 0, options | PCRE2_ANCHORED,
                             impl_->match.get(), impl_->context.get());
  RW_CHECK(rc >= 0 || rc == PCRE2_ERROR_NOMATCH, ConfigError, "{}: \"{}\" on \"{}\": {}; use a simpler pattern",
           impl_->place, impl_->pattern, name, message_of(rc));
  return rc >= 0;
}

bool NamePattern::matches_whole(std::string_view name) const { return run(name, PCRE2_ENDANCHORED); }

bool NamePattern::matches_start(std::string_view name) const { return run(name, 0); }

std::optional<std::string> NamePattern::capture(std::string_view name, const char* group) const {
  if (!run(name, 0)) return std::nullopt;
  const int number = pcre2_substring_number_from_name(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(group));
  if (number < 0) return std::nullopt;
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(impl_->match.get()) + 2 * number;
  if (bounds[0] == PCRE2_UNSET) return std::nullopt;
  return std::string(name.substr(bounds[0], bounds[1] - bounds[0]));
}

}  // namespace rankwise
