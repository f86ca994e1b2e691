// Move-only ownership of a C handle: UniqueHandle<int, CloseFd, -1>.
#pragma once

#include <unistd.h>

#include <utility>

namespace rankwise {

template <typename T, typename Deleter, T kInvalid = T{}>
class UniqueHandle {
 public:
  UniqueHandle() = default;
  explicit UniqueHandle(T value) noexcept : value_(value) {}
  UniqueHandle(UniqueHandle&& other) noexcept : value_(std::exchange(other.value_, kInvalid)) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) reset(std::exchange(other.value_, kInvalid));
    return *this;
  }
  ~UniqueHandle() { reset(); }

  void reset(T value = kInvalid) noexcept {
    if (value_ != kInvalid) Deleter{}(value_);
    value_ = value;
  }
  T get() const noexcept { return value_; }
  T release() noexcept { return std::exchange(value_, kInvalid); }
  explicit operator bool() const noexcept { return value_ != kInvalid; }

 private:
  T value_ = kInvalid;
};

struct CloseFd {
  void operator()(int fd) const noexcept { ::close(fd); }
};
using UniqueFd = UniqueHandle<int, CloseFd, -1>;

}  // namespace rankwise
