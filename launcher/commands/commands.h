// One file a command. Each adds itself to the command line and leaves what to run when it was chosen.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace CLI {
class App;
}

namespace rankwise {

class World;

// What main runs after parsing; null while no command was chosen.
using Command = std::function<ExitCode()>;

// Set by SIGTERM, SIGINT and SIGUSR1: finish the step, save, leave with 75.
const std::atomic<bool>& stop_requested();
void install_stop_signals();

// Runs `part` on all ranks. An error that all share is printed once, by rank 0, and ends all of them in order; another
// one is printed with its rank and ends the job.
ExitCode run_on_world(const std::function<ExitCode(World&)>& part);

// Adds --log-format, which is obeyed as soon as it is read, so that also what is wrong behind it is said in that
// format.
void describe_log_format(CLI::App& command);
constexpr const char* kLogFormatVariable = "RANKWISE_LOG_FORMAT";  // the same for every command

// What `train` was asked on its command line.
struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
  bool help_config = false;
};
void describe_train(CLI::App& command, TrainOptions& options);

void add_train(CLI::App& app, Command& chosen);
void add_check(CLI::App& app, Command& chosen);
void add_plan(CLI::App& app, Command& chosen);
void add_prepare(CLI::App& app, Command& chosen);
void add_inspect(CLI::App& app, Command& chosen);
void add_generate(CLI::App& app, Command& chosen);
void add_bench(CLI::App& app, Command& chosen);
void add_launch(CLI::App& app, Command& chosen);

}  // namespace rankwise
