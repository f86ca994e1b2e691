#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "comms/world.h"
#include "launcher/commands/commands.h"
#include "trainer/step_benchmark.h"

namespace rankwise {
namespace {

double gib(int64_t bytes) { return static_cast<double>(bytes) / 0x1p30; }

void print(const World& world, const BenchmarkOptions& options, const BenchmarkResult& result) {
  nlohmann::ordered_json json;
  json["stack"] = "rankwise";
  json["shape"] = options.model.empty() ? options.shape : options.model.string();
  json["ranks"] = world.size();
  json["device"] = result.device;
  json["base"] = result.base;
  json["base_dtype"] = word_of(options.base_dtype);
  json["samples_per_micro_batch"] = result.samples_per_micro_batch;
  json["activations"] = result.activations;
  json["gather_transport"] = result.gather_transport;
  json["tokens_per_second_per_gpu"] = result.tokens_per_second_per_rank;
  json["step_seconds_mean"] = result.step_seconds;
  json["load_seconds"] = result.load_seconds;
  json["read_bytes"] = result.read_bytes;
  json["seconds_to_first_step"] = result.seconds_to_first_step;
  json["turn_activation_bytes"] = result.turn_activation_bytes;
  json["peak_gib"] = gib(result.peak_bytes);
  json["plan_gib"] = gib(result.planned_bytes);
  json["driver_gib"] = gib(result.driver_bytes);
  json["planned_driver_gib"] = gib(result.planned_driver_bytes);
  json["exposed_gather_ms"] = 1e3 * result.exposed_gather_seconds;
  json["gathered_bytes_per_micro_batch"] = result.gathered_bytes_per_micro_batch;
  json["planned_gathered_bytes"] = result.planned_gathered_bytes;
  json["reduced_bytes_per_step"] = result.reduced_bytes_per_step;
  json["graph_replays"] = result.num_replays;
  json["loss"] = result.losses;
  std::cout << json.dump() << std::endl;
}

ExitCode bench(World& world, const BenchmarkOptions& options) {
  const BenchmarkResult result = run_step_benchmark(world, options);
  if (world.rank() == 0) print(world, options, result);
  return ExitCode::kOk;
}

template <typename T>
void add_choice(CLI::App* command, const char* name, T& value, const std::map<std::string, T>& values) {
  command->add_option(name, value, "")->transform(CLI::CheckedTransformer(values));
}

}  // namespace

void add_bench(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<BenchmarkOptions>();
  auto* command = app.add_subcommand(
      "bench", "Time training steps of a named shape with random weights, without files, or of a model.");
  command->add_option("--shape", options->shape, "tiny, 1b, 8b or 70b (Llama)")->capture_default_str();
  auto* layers = command->add_option("--layers", options->num_layers, "instead of all of the shape's");
  layers->check(CLI::Range(1, 1000));
  command->add_option("--model", options->model, "a Hugging Face directory: its shape and its weights, read and timed")
      ->excludes("--shape")
      ->excludes(layers);
  command->add_option("--micro-batch", options->micro_batch, "sequences")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--sequence-length", options->sequence_length, "tokens")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--shortest", options->shortest,
                   "tokens of samples of drawn lengths, packed; else all have that many")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--steps", options->steps, "measured")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_option("--warm-up", options->warm_up, "before them")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command
      ->add_option("--trace", options->trace,
                   "file for a Chrome trace of three more steps, of rank 0, for ui.perfetto.dev and\n"
                   "tests/bench/gpu/step_profile.py")
      ->excludes("--shortest");  // its ideal knows samples of one length
  using P = ParallelSection;
  add_choice<P::Device>(command, "--device", options->parallel.device,
                        {{"auto", P::Device::kAuto}, {"cpu", P::Device::kCpu}, {"cuda", P::Device::kCuda}});
  using M = ModelSection;
  add_choice<M::BaseDtype>(command, "--base-dtype", options->base_dtype,
                           {kBaseDtypeWords.begin(), kBaseDtypeWords.end()});
  add_choice<P::Base>(command, "--base", options->parallel.base,
                      {{"auto", P::Base::kAuto},
                       {"replicate", P::Base::kReplicate},
                       {"shard", P::Base::kShard},
                       {"hybrid", P::Base::kHybrid}});
  command
      ->add_option("--shard-group", options->parallel.shard_group, "ranks of a group of --base hybrid; else a host's")
      ->check(CLI::Range(1, 1 << 20));
  add_choice<P::Activations>(command, "--activations", options->parallel.activations,
                             {{"auto", P::Activations::kAuto},
                              {"save", P::Activations::kSave},
                              {"recompute_mlp", P::Activations::kRecomputeMlp},
                              {"recompute_block", P::Activations::kRecomputeBlock},
                              {"offload", P::Activations::kOffload}});
  command->add_option("--prefetch", options->parallel.prefetch, "blocks gathered ahead")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command->add_flag("!--no-peer-copies", options->peer_copies, "gather over NCCL also between GPUs of one host");
  command->add_flag("--cpu-offload", options->parallel.cpu_offload, "shards in pinned host memory, on GPUs");
  command->add_flag("--deterministic", options->deterministic, "equal bits from equal runs");
  command->add_flag("!--no-cuda-graphs", options->cuda_graphs, "start each kernel by itself");
  command->add_option("--resident-gib", options->parallel.resident_gib, "for gathered blocks that stay");
  command->footer("Prints one line of JSON.\nExample: mpirun -np 2 rankwise bench --shape 8b --base shard");
  command->callback([=, &chosen] {
    chosen = [options] { return run_on_world([&](World& world) { return bench(world, *options); }); };
  });
}

}  // namespace rankwise
