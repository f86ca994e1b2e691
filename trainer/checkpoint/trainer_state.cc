#include "trainer/checkpoint/trainer_state.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "trainer/checkpoint/json_fields.h"

namespace rankwise {
namespace {

constexpr std::string_view kStateName = "state.json";
constexpr uint64_t kMaxStateBytes = 1 << 20;

std::string hex_of(double value) { return fmt::format("{:a}", value); }

double double_of(const nlohmann::json& json, const std::string& what) {
  const std::string& text = json_string(json, what);
  std::string digits = text;  // from_chars takes no "0x"
  if (const size_t prefix = digits.find("0x"); prefix != std::string::npos) digits.erase(prefix, 2);
  double value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::hex);
  const bool exact = error == std::errc{} && end == digits.data() + digits.size() && hex_of(value) == text;
  RW_CHECK(exact, DataError, "{}: expected a hexadecimal number as \"0x1.8p+1\", found {} bytes of other text", what,
           text.size());
  return value;
}

std::optional<BestEval> best_eval_of(const nlohmann::json& json, const std::string& what) {
  if (json.is_null()) return std::nullopt;
  require_exact_keys(json, {"loss", "step"}, what);
  return BestEval{.loss = double_of(json["loss"], what + ".loss"), .step = json_uint(json["step"], what + ".step")};
}

}  // namespace

std::string trainer_state_to_json(const TrainerState& state) {
  nlohmann::ordered_json json;
  json["step"] = state.step;
  json["optimizer_steps"] = state.optimizer_steps;
  json["epoch"] = state.epoch;
  json["epoch_rows"] = state.epoch_rows;
  json["input_tokens"] = state.input_tokens;
  json["target_tokens"] = state.target_tokens;
  json["train_seconds"] = hex_of(state.train_seconds);
  json["best_eval"] = nullptr;
  if (state.best_eval) json["best_eval"] = {{"loss", hex_of(state.best_eval->loss)}, {"step", state.best_eval->step}};
  return json.dump(2) + "\n";
}

TrainerState trainer_state_from_json(std::string_view text, std::string_view place) {
  const nlohmann::json json = parse_json(text, place);
  const std::string where = std::string(place) + ": ";
  require_exact_keys(
      json,
      {"step", "optimizer_steps", "epoch", "epoch_rows", "input_tokens", "target_tokens", "train_seconds", "best_eval"},
      place);
  const auto count = [&](const char* key) { return json_uint(json[key], where + key); };
  return {.step = count("step"),
          .optimizer_steps = count("optimizer_steps"),
          .epoch = count("epoch"),
          .epoch_rows = count("epoch_rows"),
          .input_tokens = count("input_tokens"),
          .target_tokens = count("target_tokens"),
          .train_seconds = double_of(json["train_seconds"], where + "train_seconds"),
          .best_eval = best_eval_of(json["best_eval"], where + "best_eval")};
}

void write_trainer_state(const std::filesystem::path& directory, const TrainerState& state) {
  write_new_file(directory / kTrainerStateDirectory / kStateName, trainer_state_to_json(state));
}

TrainerState read_trainer_state(const CheckpointInfo& checkpoint) {
  const auto path = checkpoint.directory / kTrainerStateDirectory / kStateName;
  const TrainerState state = trainer_state_from_json(read_file(path, kMaxStateBytes), path.string());
  RW_CHECK(state.step == checkpoint.manifest.step, DataError, "{}: is of step {}, the checkpoint of step {}",
           path.string(), state.step, checkpoint.manifest.step);
  return state;
}

}  // namespace rankwise
