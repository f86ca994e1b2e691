// Errors, by who can fix them. Each carries the process exit code of its class (sysexits), so that main is the only
// place that turns an error into a code. A message holds the place, both values that disagree, and the remedy.
#pragma once

#include <stdexcept>
#include <string>

namespace rankwise {

// Exit codes are part of the interface (README, "Exit codes").
enum class ExitCode : int {
  kOk = 0,
  kUsage = 64,          // bad command line
  kBadData = 65,        // malformed data, weights or checkpoint, or one that does not fit
  kNoInput = 66,        // an input file is not there
  kUnavailable = 69,    // no peer or device
  kInternal = 70,       // a bug, or corrupted state
  kCommunication = 71,  // watchdog, lost peer, or one whose numbers changed
  kCannotWrite = 73,    // output cannot be created
  kIo = 74,             // a read or write failed
  kStopped = 75,        // stopped on request after saving; resumable
  kNoPermission = 77,
  kBadConfig = 78,
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  explicit Error(const std::string& message) : Error(ExitCode::kInternal, message) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

struct UsageError : Error {
  explicit UsageError(const std::string& m) : Error(ExitCode::kUsage, m) {}
};
struct ConfigError : Error {
  explicit ConfigError(const std::string& m) : Error(ExitCode::kBadConfig, m) {}
};
struct DataError : Error {
  explicit DataError(const std::string& m) : Error(ExitCode::kBadData, m) {}
};
struct NoInputError : Error {
  explicit NoInputError(const std::string& m) : Error(ExitCode::kNoInput, m) {}
};
struct UnavailableError : Error {
  explicit UnavailableError(const std::string& m) : Error(ExitCode::kUnavailable, m) {}
};
struct CommError : Error {
  explicit CommError(const std::string& m) : Error(ExitCode::kCommunication, m) {}
};
struct IoError : Error {
  explicit IoError(const std::string& m, ExitCode code = ExitCode::kIo) : Error(code, m) {}
};

// "open models/x.json: No such file or directory" with the code that fits errno_value: ENOENT 66, EACCES 77, ENOSPC,
// EROFS, EDQUOT and EFBIG 73, anything else 74.
[[noreturn]] void throw_errno(const std::string& what, int errno_value);

}  // namespace rankwise
