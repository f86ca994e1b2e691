#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/log.h"
#include "configs/run_config.h"
#include "launcher/commands/commands.h"
#include "trainer/config_mapping.h"
#include "trainer/memory_plan.h"

namespace rankwise {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 1, hosts = 1;
  double memory_gib = 0;
};

std::unique_ptr<ModelFiles> files_if_downloaded(const std::filesystem::path& model_dir) {
  try {
    return std::make_unique<ModelFiles>(model_dir);
  } catch (const NoInputError&) {
    return nullptr;
  }
}

ExitCode plan(const Options& options) {
  init_log(-1, LogLevel::kInfo);
  RW_CHECK(options.ranks % options.hosts == 0, UsageError, "--ranks {} is not a multiple of --hosts {}", options.ranks,
           options.hosts);
  const int ranks_per_host = options.ranks / options.hosts;
  const RunConfig config = load_run_config(options.config, options.overrides);
  const int64_t available =
      options.memory_gib > 0 ? static_cast<int64_t>(options.memory_gib * 0x1p30) : available_host_bytes(ranks_per_host);
  const c10::Device device = config.parallel.device == ParallelSection::Device::kCuda ? c10::kCUDA : c10::kCPU;
  const auto files = files_if_downloaded(config.model.path);
  const MemoryPlan chosen =
      choose_layout(workload_of(config, files.get(), read_model_config(config.model.path), device),
                    layout_wishes_of(config.parallel, options.ranks, ranks_per_host), available);
  fmt::print("{}\n", describe(chosen, available));
  return ExitCode::kOk;
}

}  // namespace

void add_plan(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  auto* command = app.add_subcommand("plan", "Show what a run will hold and move on each rank; needs no ranks.");
  command->add_option("config", options->config, "the run's YAML file")->required();
  command->add_option("--set", options->overrides, "key.path=value")->allow_extra_args(false);
  command->add_option("--ranks", options->ranks, "ranks in all")->check(CLI::Range(1, 65536))->capture_default_str();
  command->add_option("--hosts", options->hosts, "hosts that they share evenly")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--memory-gib", options->memory_gib, "for one rank; default: this host's free memory, shared");
  command->footer("Example: rankwise plan configs/recipes/smollm2_devil.yaml --ranks 2");
  command->callback([=, &chosen] { chosen = [options] { return plan(*options); }; });
}

}  // namespace rankwise
