#include <CLI/CLI.hpp>

#include "base/file.h"
#include "base/log.h"
#include "configs/run_config.h"
#include "launcher/commands/commands.h"
#include "trainer/config_mapping.h"
#include "trainer/frozen_model.h"
#include "trainer/lora/match_report.h"
#include "trainer/lora/peft_files.h"
#include "trainer/training_data.h"

namespace rankwise {
namespace {

// Everything that a run reads, but for the weights' values. Nothing is written except the data cache; the output
// directory is made and tried.
ExitCode check(const std::string& path, const std::vector<std::string>& overrides) {
  init_log(-1, LogLevel::kInfo);
  const RunConfig config = load_run_config(path, overrides);
  probe_writable(config.run.output_dir);
  const ModelConfig model = read_model_config(config.model.path);
  check_weights(model, ModelFiles(config.model.path), config.model.path);
  const auto modules = adaptable_modules(model);
  const auto matched = resolve_targets(lora_config_of(config.lora), modules);
  if (config.lora.init_adapter) read_adapter(*config.lora.init_adapter, modules);
  const TrainingText text = load_text(config.model, config.data);
  const TrainingData data = load_data(config, text, {});
  const int64_t num_steps = Sampler(sampler_settings_of(config, data.train.num_rows(), 1)).num_steps();
  const Schedule schedule = schedule_of(config.train, num_steps);
  fmt::print("{}\n{}\n{}\n", dump_run_config(config), match_table(matched),
             trainable_report(matched, count_parameters(model)));
  fmt::print("steps: {}, of these warm-up: {}\n", num_steps, schedule.warmup_steps);
  fmt::print("{}\n", describe("train", data.train.report()));
  if (data.eval) fmt::print("{}\n", describe("eval", data.eval->report()));
  return ExitCode::kOk;
}

}  // namespace

void add_check(CLI::App& app, Command& chosen) {
  auto path = std::make_shared<std::string>();
  auto overrides = std::make_shared<std::vector<std::string>>();
  auto* command = app.add_subcommand("check", "Read a configuration and all that it names, without training.");
  command->add_option("config", *path, "the run's YAML file")->required();
  command->add_option("--set", *overrides, "key.path=value")->allow_extra_args(false);
  command->footer("Example: rankwise check configs/recipes/smollm2_devil.yaml");
  command->callback([=, &chosen] { chosen = [=] { return check(*path, *overrides); }; });
}

}  // namespace rankwise
