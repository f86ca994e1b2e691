// RW_CHECK(condition, ErrorType, "format {}", values...): throws ErrorType with the formatted message when the
// condition is false. The message is built only then.
#pragma once

#include <fmt/format.h>

#include "base/error.h"

#define RW_CHECK(condition, ErrorType, ...)        \
  do {                                             \
    if (!(condition)) [[unlikely]]                 \
      throw ErrorType(::fmt::format(__VA_ARGS__)); \
  } while (false)
