#include "trainer/data/settings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

template <typename Enum, size_t n>
using Words = std::array<std::pair<Enum, std::string_view>, n>;

constexpr Words<RecordFormat, 5> kFormats = {{{RecordFormat::kMessages, "messages"},
                                              {RecordFormat::kPromptCompletion, "prompt_completion"},
                                              {RecordFormat::kAlpaca, "alpaca"},
                                              {RecordFormat::kShareGpt, "sharegpt"},
                                              {RecordFormat::kText, "text"}}};
constexpr Words<LossOn, 3> kLossOn = {
    {{LossOn::kCompletion, "completion"}, {LossOn::kAssistant, "assistant"}, {LossOn::kAll, "all"}}};
constexpr Words<OverLength, 4> kOverLength = {{{OverLength::kError, "error"},
                                               {OverLength::kTruncateLeft, "truncate_left"},
                                               {OverLength::kTruncateRight, "truncate_right"},
                                               {OverLength::kDrop, "drop"}}};
constexpr Words<DataPart, 3> kParts = {
    {{DataPart::kAll, "all"}, {DataPart::kTrain, "train"}, {DataPart::kEval, "eval"}}};

template <typename Enum, size_t n>
Enum value_of(const Words<Enum, n>& words, std::string_view what, std::string_view word) {
  std::array<std::string_view, n> valid;
  for (size_t i = 0; i < n; ++i) {
    if (words[i].second == word) return words[i].first;
    valid[i] = words[i].second;
  }
  throw ConfigError(fmt::format("{}: \"{}\" is not one of {}", what, word, fmt::join(valid, ", ")));
}

template <typename Enum, size_t n>
std::string_view find_word(const Words<Enum, n>& words, Enum value) {
  for (const auto& [each, word] : words) {
    if (each == value) return word;
  }
  throw Error(fmt::format("an enumerator without a word: {}", static_cast<int>(value)));
}

}  // namespace

RecordFormat record_format_from(std::string_view word) { return value_of(kFormats, "format", word); }
LossOn loss_on_from(std::string_view word) { return value_of(kLossOn, "loss_on", word); }
OverLength over_length_from(std::string_view word) { return value_of(kOverLength, "over_length", word); }

std::string_view word_of(RecordFormat format) { return find_word(kFormats, format); }
std::string_view word_of(LossOn loss_on) { return find_word(kLossOn, loss_on); }
std::string_view word_of(OverLength over_length) { return find_word(kOverLength, over_length); }
std::string_view word_of(DataPart part) { return find_word(kParts, part); }

}  // namespace rankwise
