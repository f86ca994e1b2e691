#include "monitoring/run_view.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace rankwise {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kStates = {"starting", "training", "evaluating", "saving", "finished", "stopped", "failed"};
static_assert(kStates.size() == static_cast<size_t>(RunState::kFailed) + 1);

// Six digits are more than a picture shows, and a third of what all would take.
double rounded(double value) {
  if (!std::isfinite(value) || value == 0) return value;
  const double scale = std::pow(10.0, 5 - std::floor(std::log10(std::abs(value))));
  return std::isfinite(scale) ? std::round(value * scale) / scale : value;
}

Json json_of(const ThinnedCurve& curve) {
  Json points = Json::array();
  for (const auto& point : curve.points()) points.push_back({rounded(point.step), rounded(point.value)});
  return points;
}

Json json_of(const RankMemory& memory) {
  Json live = Json::array(), peak = Json::array();
  for (const MemoryUse& use : memory.kinds) {
    live.push_back(use.live_bytes);
    peak.push_back(use.peak_bytes);
  }
  return {{"rank", memory.rank}, {"live_bytes", std::move(live)}, {"peak_bytes", std::move(peak)}};
}

Json phases_of(const RunView& view) {
  Json phases = Json::object();
  for (size_t i = 0; i < kNumPhases; ++i) phases[name_of(static_cast<Phase>(i))] = view.phase_seconds[i];
  return phases;
}

void add_memory(Json& json, const RunView& view) {
  Json kinds = Json::array(), planned = Json::array(), ranks = Json::array();
  for (size_t i = 0; i < kNumMemoryKinds; ++i) {
    kinds.push_back(name_of(static_cast<MemoryKind>(i)));
    planned.push_back(view.planned_bytes[i] ? Json(*view.planned_bytes[i]) : Json());
  }
  for (const RankMemory& memory : view.ranks) ranks.push_back(json_of(memory));
  json["memory_kinds"] = std::move(kinds);
  json["planned_bytes"] = std::move(planned);
  json["ranks"] = std::move(ranks);
}

void add_texts(Json& json, const RunView& view) {
  Json checkpoints = Json::array(), log = Json::array();
  for (const auto& saved : view.checkpoints)
    checkpoints.push_back({{"step", saved.step}, {"seconds", saved.seconds}, {"time", saved.time}});
  for (const auto& line : view.log.lines()) log.push_back({{"time", line.time}, {"text", line.text}});
  json["checkpoints"] = std::move(checkpoints);
  json["configuration"] = view.configuration;
  json["log"] = std::move(log);
}

}  // namespace

void RunView::add_step(const StepMetrics& step) {
  last_step = step;
  loss.add(step.step, step.loss);
  tokens_per_second.add(step.step, rankwise::tokens_per_second(step));
}

void RunView::add_checkpoint(int64_t step, double seconds) {
  if (checkpoints.size() == kMaxCheckpoints) checkpoints.pop_front();
  checkpoints.push_back({step, seconds, unix_time()});
}

std::string run_json(const RunView& view) {
  const StepMetrics& last = view.last_step;
  Json json = {{"state", kStates[static_cast<size_t>(view.state)]},
               {"error", view.error},
               {"name", view.name},
               {"model", view.model},
               {"version", view.version},
               {"world_size", view.world_size},
               {"time", unix_time()},
               {"step", last.step},
               {"start_step", view.start_step},
               {"total_steps", view.total_steps},
               {"epoch", last.epoch},
               {"learning_rate", last.learning_rate},
               {"gradient_norm", last.gradient_norm},
               {"tokens_per_second", tokens_per_second(last)},
               {"step_seconds", last.step_seconds},
               {"loss", json_of(view.loss)},
               {"eval_loss", json_of(view.eval_loss)},
               {"throughput", json_of(view.tokens_per_second)},
               {"phases", phases_of(view)}};
  add_memory(json, view);
  add_texts(json, view);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);  // bytes that are not UTF-8 become U+FFFD
}

}  // namespace rankwise
