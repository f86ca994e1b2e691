#include <CLI/CLI.hpp>

#include "base/log.h"
#include "configs/run_config.h"
#include "launcher/commands/commands.h"
#include "monitoring/progress.h"
#include "trainer/training_data.h"

namespace rankwise {
namespace {

ExitCode prepare(const std::string& path, const std::vector<std::string>& overrides) {
  init_log(-1, LogLevel::kInfo);
  const RunConfig config = load_run_config(path, overrides);
  const Terminal terminal = detect_terminal(0);
  std::optional<ProgressPhase> phase(std::in_place, terminal, "preparing data");
  const TrainingText text = load_text(config.model, config.data);
  const TrainingData data = load_data(config, text, {});
  phase.reset();
  fmt::print("{}\n", describe("train", data.train.report()));
  if (data.eval) fmt::print("{}\n", describe("eval", data.eval->report()));
  return ExitCode::kOk;
}

}  // namespace

void add_prepare(CLI::App& app, Command& chosen) {
  auto path = std::make_shared<std::string>();
  auto overrides = std::make_shared<std::vector<std::string>>();
  auto* command = app.add_subcommand("prepare", "Tokenise the data of a configuration once, into its cache.");
  command->add_option("config", *path, "the run's YAML file")->required();
  command->add_option("--set", *overrides, "key.path=value")->allow_extra_args(false);
  command->footer("Example: rankwise prepare configs/recipes/smollm2_devil.yaml");
  command->callback([=, &chosen] { chosen = [=] { return prepare(*path, *overrides); }; });
}

}  // namespace rankwise
