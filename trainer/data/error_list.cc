#include "trainer/data/error_list.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"

namespace rankwise {
namespace {

constexpr size_t kMaxKept = 20;

}  // namespace

void ErrorList::add(std::string message) {
  ++count_;
  if (kept_.size() < kMaxKept) kept_.push_back(std::move(message));
}

void ErrorList::throw_if_any() const {
  if (count_ == 0) return;
  std::string text = fmt::format("{}", fmt::join(kept_, "\n"));
  const auto more = count_ - static_cast<int64_t>(kept_.size());
  if (more > 0) text += fmt::format("\n... and {} more of {} bad records", more, count_);
  throw DataError(text);
}

}  // namespace rankwise
