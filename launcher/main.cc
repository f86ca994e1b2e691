// rankwise: one binary, one command line. The only place that turns an error into an exit code.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "launcher/commands/commands.h"
#include "trainer/weights/tensor_memory.h"

namespace {

constexpr const char* kFooter =
    "Exit codes: 0 done, 64 usage, 65 bad data or a checkpoint that does not fit, 66 no such input, 69 no peer or "
    "device,\n"
    "70 internal, 71 communication, 73 cannot write output, 74 I/O, 75 stopped on request (resumable), 77 permission, "
    "78 bad configuration.";

int report(const std::exception& error, rankwise::ExitCode code) {
  std::fprintf(stderr, "rankwise: %s\n", error.what());
  return static_cast<int>(code);
}

int run(int argc, char** argv) {
  CLI::App app("LoRA fine-tuning on many ranks: the frozen base sharded, only adapters trained, reduced and saved.",
               "rankwise");
  app.set_version_flag("--version", std::string(RANKWISE_VERSION));
  app.require_subcommand(1);
  app.footer(kFooter);
  rankwise::Command chosen;
  for (auto* add : {rankwise::add_train, rankwise::add_check, rankwise::add_plan, rankwise::add_prepare,
                    rankwise::add_inspect, rankwise::add_generate}) {
    add(app, chosen);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(rankwise::ExitCode::kUsage);
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
