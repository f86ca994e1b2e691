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
  std::string device;
  double memory_gib = 0, device_gib = 0;
};

std::unique_ptr<ModelFiles> files_if_downloaded(const std::filesystem::path& model_dir) {
  try {
    return std::make_unique<ModelFiles>(model_dir);
  } catch (const NoInputError&) {
    return nullptr;
  }
}

bool on_gpus(const RunConfig& config) { return config.parallel.device == ParallelSection::Device::kCuda; }

RunConfig config_of(const Options& options) {
  auto overrides = options.overrides;
  const std::string device = options.device.empty() && options.device_gib > 0 ? "cuda" : options.device;
  if (!device.empty()) overrides.push_back("parallel.device=" + device);
  return load_run_config(options.config, overrides);
}

int64_t bytes_of_gib(double gib) { return static_cast<int64_t>(gib * 0x1p30); }

int64_t available_bytes(const Options& options, const RunConfig& config, int ranks_per_host) {
  RW_CHECK(options.device_gib == 0 || on_gpus(config), UsageError,
           "--device-gib {} and --device cpu: a CPU rank's memory is --memory-gib", options.device_gib);
  if (options.memory_gib > 0) return bytes_of_gib(options.memory_gib);
  if (!on_gpus(config)) return available_host_bytes(ranks_per_host);
  RW_CHECK(options.device_gib > 0, UsageError,
           "parallel.device is cuda: give --device-gib, the memory of one GPU in GiB (about 79 for an H100)");
  return available_device_bytes(bytes_of_gib(options.device_gib));
}

ExitCode plan(const Options& options) {
  init_log(-1, LogLevel::kInfo);
  RW_CHECK(options.ranks % options.hosts == 0, UsageError, "--ranks {} is not a multiple of --hosts {}", options.ranks,
           options.hosts);
  const int ranks_per_host = options.ranks / options.hosts;
  const RunConfig config = config_of(options);
  const int64_t available = available_bytes(options, config, ranks_per_host);
  const c10::Device device = on_gpus(config) ? c10::kCUDA : c10::kCPU;
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
  auto* memory = command->add_option("--memory-gib", options->memory_gib,
                                     "free for one rank; default: this host's free memory, shared");
  command->add_option("--device", options->device, "cpu or cuda, in place of parallel.device; no GPU is needed here")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--device-gib", options->device_gib, "memory of one GPU, a rank each; means --device cuda")
      ->check(CLI::PositiveNumber)
      ->excludes(memory);
  command->footer(
      "Examples: rankwise plan configs/recipes/smollm2_devil.yaml --ranks 2\n"
      "          rankwise plan mine.yaml --ranks 8 --device cuda --device-gib 80");
  command->callback([=, &chosen] { chosen = [options] { return plan(*options); }; });
}

}  // namespace rankwise
