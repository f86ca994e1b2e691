// The mistakes of a data file, collected so that one run shows many of them. Keeps the first twenty and counts the
// rest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rankwise {

class ErrorList {
 public:
  void add(std::string message);
  int64_t count() const noexcept { return count_; }
  // DataError with the kept messages, one a line, and the number of the others.
  void throw_if_any() const;

 private:
  std::vector<std::string> kept_;
  int64_t count_ = 0;
};

}  // namespace rankwise
