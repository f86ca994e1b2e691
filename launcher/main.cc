// rankwise: one binary, one command line. The only place that turns an error into an exit code.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "base/check.h"
#include "base/log.h"
#include "base/nearest.h"
#include "launcher/commands/commands.h"
#include "trainer/weights/tensor_memory.h"

namespace {

constexpr const char* kFooter =
    "Exit codes: 0 done, 64 usage, 65 bad data or a checkpoint that does not fit, 66 no such input, 69 no peer or "
    "device,\n"
    "70 internal, 71 communication, 73 cannot write output, 74 I/O, 75 stopped on request (resumable), 77 permission, "
    "78 bad configuration.";

int report(const std::exception& error, rankwise::ExitCode code) {
  rankwise::log_last_words(error.what());
  return static_cast<int>(code);
}

// CLI11 itself would say only that a command is required.
void require_known_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> names;
  for (const auto* command : app.get_subcommands({})) names.push_back(command->get_name());
  RW_CHECK(std::ranges::find(names, argv[1]) != names.end(), rankwise::UsageError,
           "there is no command \"{}\"; nearest: {} (rankwise --help lists them all)", argv[1],
           rankwise::nearest_name(argv[1], names));
}

// CLI11 writes several lines; for programs they are one.
int explain(const CLI::App& app, const CLI::ParseError& error) {
  std::ostringstream help, complaint;
  const int code = app.exit(error, help, complaint);
  std::cout << help.str();
  if (code == 0) return 0;
  if (rankwise::log_format() == rankwise::LogFormat::kJson)
    rankwise::log_last_words(complaint.str());
  else
    std::cerr << complaint.str();
  return static_cast<int>(rankwise::ExitCode::kUsage);
}

int run(int argc, char** argv) {
  if (const char* name = std::getenv(rankwise::kLogFormatVariable))
    rankwise::set_log_format(rankwise::log_format_named(name, rankwise::kLogFormatVariable));
  CLI::App app("LoRA fine-tuning on many ranks: the frozen base sharded, only adapters trained, reduced and saved.",
               "rankwise");
  app.set_version_flag("--version", std::string(RANKWISE_VERSION));
  app.require_subcommand(1);
  app.footer(kFooter);
  rankwise::Command chosen;
  for (auto* add : {rankwise::add_train, rankwise::add_launch, rankwise::add_check, rankwise::add_plan,
                    rankwise::add_prepare, rankwise::add_inspect, rankwise::add_generate, rankwise::add_bench}) {
    add(app, chosen);
  }
  for (auto* command : app.get_subcommands({})) rankwise::describe_log_format(*command);
  require_known_command(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return explain(app, error);
  }
  return static_cast<int>(chosen());
}

}  // namespace

int main(int argc, char** argv) {
  rankwise::install_tensor_memory();
  try {
    return run(argc, argv);
  } catch (const rankwise::Error& error) {
    return report(error, error.code());
  } catch (const std::exception& error) {
    return report(error, rankwise::ExitCode::kInternal);
  }
}
