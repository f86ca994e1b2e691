#include "base/json_events.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

using nlohmann::json;

// Lets the receiver's refusals have a place: nlohmann's event interface tells positions for its own errors only.
class TrackedIterator {
 public:
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  TrackedIterator(const char* at, size_t* consumed) : at_(at), consumed_(consumed) {}
  reference operator*() const { return *at_; }
  TrackedIterator& operator++() {
    ++at_;
    ++*consumed_;
    return *this;
  }
  TrackedIterator operator++(int) {
    TrackedIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  size_t* consumed_;
};

// nlohmann's events, with what its parser lets pass refused.
class StrictSax final : public nlohmann::json_sax<json> {
 public:
  StrictSax(const JsonLimits& limits, JsonReceiver& receiver) : limits_(limits), receiver_(receiver) {}

  bool null() override { return forward(json(nullptr)); }
  bool boolean(bool value) override { return forward(json(value)); }
  bool number_integer(number_integer_t value) override { return forward(json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return forward(json(value)); }
  bool number_float(number_float_t value, const string_t& text) override {
    // nlohmann turns integers that do not fit into 64 bits into doubles without a word.
    const bool is_integer = text.find_first_of(".eE") == string_t::npos;
    if (is_integer && !limits_.wide_integers_as_double) throw JsonRefusal{"integer out of range"};
    return forward(json(value));
  }
  bool string(string_t& value) override { return forward(json(std::move(value))); }
  bool binary(binary_t& /*value*/) override { throw JsonRefusal{"binary value"}; }
  bool key(string_t& name) override { return receiver_.key(std::move(name)), true; }
  bool start_object(size_t /*elements*/) override { return deeper(), receiver_.begin_object(), true; }
  bool end_object() override { return --depth_, receiver_.end_object(), true; }
  bool start_array(size_t /*elements*/) override { return deeper(), receiver_.begin_array(), true; }
  bool end_array() override { return --depth_, receiver_.end_array(), true; }

  bool parse_error(size_t /*position*/, const std::string& /*last_token*/, const json::exception& e) override {
    if (e.id == 406) throw JsonRefusal{"number out of range"};
    // "...: syntax error while parsing value - REASON; last read: 'THE TEXT'": the reason stays, the text does not.
    const std::string_view what = e.what();
    const size_t from = std::min(what.find("syntax error"), what.size());
    const std::string_view reason = what.substr(from, what.find("; last read") - from);
    throw JsonRefusal{std::string(reason.empty() ? "not JSON" : reason)};
  }

 private:
  bool forward(json&& value) { return receiver_.scalar(std::move(value)), true; }
  void deeper() {
    if (++depth_ > limits_.max_depth) throw JsonRefusal{fmt::format("nested deeper than {} levels", limits_.max_depth)};
  }

  const JsonLimits& limits_;
  JsonReceiver& receiver_;
  int depth_ = 0;
};

[[noreturn]] void refuse(std::string_view text, size_t consumed, std::string_view place, std::string_view reason) {
  const std::string_view before = text.substr(0, consumed == 0 ? 0 : std::min(consumed, text.size()) - 1);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
  throw DataError(fmt::format("{}:{}:{}: {}", place, line, column, reason));
}

}  // namespace

void read_json_events(std::string_view text, std::string_view place, const JsonLimits& limits, JsonReceiver& receiver) {
  RW_CHECK(text.size() <= limits.max_bytes, DataError, "{}: {} bytes of JSON, at most {} are read", place, text.size(),
           limits.max_bytes);
  // nlohmann skips a byte-order mark and takes a NUL byte for the end of the input.
  if (text.starts_with("\xEF\xBB\xBF")) refuse(text, 0, place, "begins with a byte-order mark; save it as plain UTF-8");
  if (const size_t nul = text.find('\0'); nul != text.npos) refuse(text, nul + 1, place, "NUL byte");

  size_t consumed = 0;
  StrictSax sax(limits, receiver);
  try {
    json::sax_parse(TrackedIterator(text.data(), &consumed), TrackedIterator(text.data() + text.size(), &consumed),
                    &sax);
  } catch (const JsonRefusal& refusal) {
    refuse(text, consumed, place, refusal.reason);
  }
}

}  // namespace rankwise
