#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace rankwise {
namespace {

ExitCode code_of(int errno_value) {
  switch (errno_value) {
    case ENOENT:
    case ENOTDIR:
      return ExitCode::kNoInput;
    case EACCES:
    case EPERM:
      return ExitCode::kNoPermission;
    case ENOSPC:
    case EROFS:
    case EDQUOT:
    case EFBIG:
      return ExitCode::kCannotWrite;
    default:
      return ExitCode::kIo;
  }
}

}  // namespace

void throw_errno(const std::string& what, int errno_value) {
  throw Error(code_of(errno_value), what + ": " + std::generic_category().message(errno_value));
}

}  // namespace rankwise
