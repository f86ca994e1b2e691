#include "launcher/permanent_failure.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace rankwise {
namespace {

constexpr uint64_t kMaxMarkerBytes = 64 << 10;

PermanentFailure read_marker(const std::filesystem::path& path) {
  const nlohmann::json json = parse_json(read_file(path, kMaxMarkerBytes), path.native());
  return {json.at("exit_code").get<int>(), json.at("error").get<std::string>(),
          json.at("fingerprint").get<std::string>()};
}

}  // namespace

bool is_permanent(int exit_code) {
  switch (static_cast<ExitCode>(exit_code)) {
    case ExitCode::kUsage:
    case ExitCode::kBadData:
    case ExitCode::kNoInput:
    case ExitCode::kNoPermission:
    case ExitCode::kBadConfig:
      return true;
    default:
      return false;
  }
}

std::filesystem::path permanent_failure_path(const std::filesystem::path& output_dir) {
  return output_dir / "FAILED_PERMANENT";
}

void mark_permanent_failure(const std::filesystem::path& output_dir, const PermanentFailure& failure) {
  nlohmann::ordered_json json;
  json["exit_code"] = failure.code;
  json["error"] = failure.error;
  json["fingerprint"] = failure.fingerprint;
  const auto as_replacement = nlohmann::ordered_json::error_handler_t::replace;
  replace_file(permanent_failure_path(output_dir), json.dump(2, ' ', false, as_replacement) + "\n");
}

std::optional<PermanentFailure> find_permanent_failure(const std::filesystem::path& output_dir,
                                                       const std::string& fingerprint) {
  const auto path = permanent_failure_path(output_dir);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  try {
    PermanentFailure failure = read_marker(path);
    if (failure.fingerprint == fingerprint && is_permanent(failure.code)) return failure;
  } catch (const std::exception&) {  // not ours, or half of it: then it says nothing
  }
  std::filesystem::remove(path, ignored);
  return std::nullopt;
}

}  // namespace rankwise
