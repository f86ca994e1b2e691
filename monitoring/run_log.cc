#include "monitoring/run_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"

namespace rankwise {
namespace {

using Json = nlohmann::ordered_json;
constexpr uint64_t kMaxLogBytes = 1ull << 30;

// An object with an integer step, or nothing.
std::optional<Json> parse_line(std::string_view line) {
  Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || !object.contains("step") || !object["step"].is_number_integer()) return std::nullopt;
  return object;
}

void add_point(std::vector<LossPoint>& points, const Json& object, const char* key) {
  const auto value = object.find(key);
  if (value == object.end()) return;
  const double loss = value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  points.push_back({object["step"].get<int64_t>(), loss});
}

void add_points(LossCurves& curves, const Json& object) {
  add_point(curves.train, object, "loss");
  add_point(curves.eval, object, "eval_loss");
}

struct KeptLines {
  std::string text;
  LossCurves curves;
  int64_t num_damaged = 0;
};

KeptLines lines_before(std::string_view text, int64_t next_step) {
  KeptLines kept;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const auto object = end == std::string_view::npos ? std::nullopt : parse_line(line);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!object) {
      ++kept.num_damaged;
    } else if ((*object)["step"].get<int64_t>() < next_step) {
      kept.text.append(line).push_back('\n');
      add_points(kept.curves, *object);
    }
  }
  return kept;
}

LossCurves cut(const std::filesystem::path& path, int64_t next_step) {
  if (next_step <= 0 || !std::filesystem::exists(path)) {
    replace_file(path, "");
    return {};
  }
  const std::string text = read_file(path, kMaxLogBytes);
  KeptLines kept = lines_before(text, next_step);
  if (kept.num_damaged > 0) log_warning("{}: removed {} torn or unreadable lines", path.string(), kept.num_damaged);
  if (kept.text != text) replace_file(path, kept.text);
  return std::move(kept.curves);
}

}  // namespace

RunLog::RunLog(std::filesystem::path path, int64_t next_step) : path_(std::move(path)), curves_(cut(path_, next_step)) {
  file_.reset(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!file_) throw_errno("open " + path_.string(), errno);
}

void RunLog::write_step(const StepMetrics& step) {
  if (!file_) return;
  const Json object = {{"step", step.step},
                       {"epoch", step.epoch},
                       {"loss", step.loss},
                       {"grad_norm", step.gradient_norm},
                       {"learning_rate", step.learning_rate},
                       {"target_tokens", step.target_tokens},
                       {"input_tokens", step.input_tokens},
                       {"tokens_per_second", tokens_per_second(step)},
                       {"step_seconds", step.step_seconds},
                       {"peak_memory_bytes", step.peak_memory_bytes}};
  append(object.dump());
  add_points(curves_, object);
}

void RunLog::write_eval(int64_t step, double eval_loss, int64_t eval_target_tokens) {
  if (!file_) return;
  const Json object = {{"step", step}, {"eval_loss", eval_loss}, {"eval_target_tokens", eval_target_tokens}};
  append(object.dump());
  add_points(curves_, object);
}

void RunLog::append(std::string line) {
  line.push_back('\n');
  const off_t size_before = ::lseek(file_.get(), 0, SEEK_END);
  const ssize_t count = ::write(file_.get(), line.data(), line.size());
  if (count == static_cast<ssize_t>(line.size())) return;
  const int error = count < 0 ? errno : ENOSPC;  // a short write is what a full disk gives first
  if (size_before >= 0 && ::ftruncate(file_.get(), size_before) != 0) {
    log_warning("{}: the last line is torn and could not be removed", path_.string());
  }
  throw_errno("write a line to " + path_.string(), error);
}

void RunLog::sync() const {
  if (file_ && ::fdatasync(file_.get()) != 0) throw_errno("fdatasync " + path_.string(), errno);
}

}  // namespace rankwise
