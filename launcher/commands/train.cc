#include <CLI/CLI.hpp>
#include <iostream>

#include "base/file.h"
#include "comms/world.h"
#include "configs/run_config.h"
#include "launcher/commands/commands.h"
#include "trainer/trainer.h"

namespace rankwise {
namespace {

// Its error is every rank's.
void on_rank_0(World& world, std::string_view what, const std::function<void()>& part) {
  world.agree(what, [&] {
    if (world.rank() == 0) part();
  });
}

// Every rank reads the file; an error that all share is printed once, by rank 0.
ExitCode train(World& world, const TrainOptions& options) {
  RunConfig config;
  world.agree("configuration", [&] { config = load_run_config(options.config, options.overrides); });
  world.require_equal("the configuration", dump_run_config(config));
  if (config.comms.expected_world_size)
    world.agree("world", [&] { world.require_size(static_cast<int>(*config.comms.expected_world_size)); });
  on_rank_0(world, "output directory", [&] { probe_writable(config.run.output_dir); });
  Trainer trainer(world, config, stop_requested());
  // Only now is it this run's directory: locked, and with no checkpoint that does not fit.
  on_rank_0(world, "config.yaml",
            [&] { replace_file(config.run.output_dir / "config.yaml", dump_run_config(config)); });
  return trainer.run() == RunEnd::kFinished ? ExitCode::kOk : ExitCode::kStopped;
}

ExitCode train_on_world(const TrainOptions& options) {
  if (options.help_config) {
    std::cout << run_config_reference();
    return ExitCode::kOk;
  }
  install_stop_signals();
  return run_on_world([&](World& world) { return train(world, options); });
}

}  // namespace

void describe_train(CLI::App& command, TrainOptions& options) {
  auto* config = command.add_option("config", options.config, "the run's YAML file");
  command.add_option("--set", options.overrides, "key.path=value: overrides one key of the file; may be repeated")
      ->allow_extra_args(false);
  auto* help_config =
      command.add_flag("--help-config", options.help_config, "print every key with its range, default and meaning");
  command.final_callback([=] {
    if (config->count() + help_config->count() == 0) throw CLI::RequiredError("config");
  });
}

void add_train(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<TrainOptions>();
  auto* command =
      app.add_subcommand("train", "Train an adapter as a configuration file says; under mpirun on several ranks.");
  describe_train(*command, *options);
  command->footer("Example: mpirun -np 2 rankwise train configs/recipes/smollm2_devil.yaml --set train.max_steps=40");
  command->parse_complete_callback([=, &chosen] { chosen = [options] { return train_on_world(*options); }; });
}

}  // namespace rankwise
