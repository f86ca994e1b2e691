#include "trainer/step_benchmark.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <chrono>
#include <deque>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/file.h"
#include "comms/cuda.h"
#include "trainer/config_mapping.h"
#include "trainer/devices.h"
#include "trainer/frozen_model.h"
#include "trainer/phase_clock.h"
#include "trainer/step_trace.h"
#include "trainer/train_step.h"
#include "trainer/weights/tensor_loader.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 42;
constexpr double kLearningRate = 1e-4;
constexpr int64_t kTracedSteps = 3;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int64_t driver_bytes_in_use(c10::Device device) {
  if (!device.is_cuda()) return 0;
  const DeviceBytes bytes = device_bytes();
  return bytes.total - bytes.free;
}

struct NamedShape {
  const char* name;
  int64_t hidden, intermediate, layers, heads, kv_heads, vocabulary;
  bool tied;
};
constexpr NamedShape kShapes[] = {{"tiny", 256, 512, 4, 4, 2, 1024, true},
                                  {"1b", 2048, 8192, 16, 32, 8, 128256, true},
                                  {"8b", 4096, 14336, 32, 32, 8, 128256, false},
                                  {"70b", 8192, 28672, 80, 64, 8, 128256, false}};

// By turns, where samples' lengths are drawn.
constexpr int64_t kPackedBatches = 8;

// Of as many tokens as micro_batch samples of sequence_length.
std::vector<int64_t> sample_lengths(const BenchmarkOptions& options, uint64_t key) {
  const int64_t longest = options.sequence_length, tokens = options.micro_batch * longest;
  const int64_t shortest = options.shortest.value_or(longest);
  RW_CHECK(shortest <= longest, UsageError, "--shortest {}: more than --sequence-length {}", shortest, longest);
  std::vector<int64_t> lengths;
  for (int64_t left = tokens; left > 0; left -= lengths.back()) {
    const uint64_t drawn = random_below(key, lengths.size(), static_cast<uint64_t>(longest - shortest + 1));
    lengths.push_back(std::min(left, shortest + static_cast<int64_t>(drawn)));
  }
  return lengths;
}

Batch random_batch(const ModelConfig& model, const BenchmarkOptions& options, uint64_t key) {
  Batch batch;
  batch.sample_starts.push_back(0);
  for (const int64_t length : sample_lengths(options, random64(key, 0))) {
    for (int64_t t = 0; t < length; ++t) {
      const auto id = static_cast<int64_t>(
          random_below(key, static_cast<uint64_t>(batch.num_tokens()), static_cast<uint64_t>(model.vocab_size)));
      if (t > 0) batch.targets.push_back(id);
      if (t + 1 < length) batch.target_rows.push_back(batch.num_tokens());
      batch.ids.push_back(id);
      batch.positions.push_back(t);
    }
    batch.sample_ids.push_back(static_cast<int64_t>(batch.sample_ids.size()));
    batch.sample_starts.push_back(batch.num_tokens());
  }
  return batch;
}

std::vector<Batch> random_batches(const ModelConfig& model, const BenchmarkOptions& options, int rank) {
  const uint64_t key = random64(kSeed, static_cast<uint64_t>(rank));
  std::vector<Batch> batches;
  for (int64_t b = 0; b < (options.shortest ? kPackedBatches : 1); ++b)
    batches.push_back(random_batch(model, options, random64(key, static_cast<uint64_t>(b))));
  return batches;
}

RunConfig config_of(const BenchmarkOptions& options) {
  RunConfig config;
  config.model.dtype = options.dtype;
  config.model.base_dtype = options.base_dtype;
  config.lora.r = options.lora_r;
  config.lora.lora_alpha = options.lora_alpha;
  config.train.per_device_train_batch_size = options.micro_batch;
  config.data.max_length = options.sequence_length;
  config.parallel = options.parallel;
  return config;
}

// Steps are read one behind, as in training, and all of them before a clock is.
void run_steps(TrainStep& step, const std::vector<Batch>& batches, int64_t count, BenchmarkResult& result) {
  std::deque<PendingStep> pending;
  for (int64_t k = 0; k < count; ++k) {
    RECORD_FUNCTION("rankwise::step", {});
    step.add(batches[static_cast<size_t>(k) % batches.size()], {k, kSeed, 0.0}, [&](ModelPhase half) {
      if (half == ModelPhase::kBackward)
        result.turn_activation_bytes = std::max(
            result.turn_activation_bytes, tensor_memory().live_bytes[static_cast<size_t>(TensorKind::kActivations)]);
    });
    step.exchange(/*stop_requested=*/false);
    pending.push_back(step.update(kLearningRate));
    while (pending.size() > (k + 1 < count ? 1u : 0u)) {
      result.losses.push_back(pending.front().read().mean_loss());
      pending.pop_front();
    }
  }
}

ModelConfig model_of(const BenchmarkOptions& options) {
  return options.model.empty() ? named_shape(options.shape, options.num_layers) : read_model_config(options.model);
}

std::optional<ModelFiles> files_of(const BenchmarkOptions& options) {
  if (options.model.empty()) return std::nullopt;
  return std::make_optional<ModelFiles>(options.model);
}

std::unique_ptr<WeightSource> weights_of(const std::optional<ModelFiles>& files) {
  if (files) return std::make_unique<TensorLoader>(*files);
  return std::make_unique<RandomWeights>(kSeed);
}

AdamW optimizer_of(Adapter& adapter) {
  const TensorScope scope(TensorKind::kOptimizer);
  return AdamW(adapter.masters(), AdamWOptions{});
}

// What is known before any weight is there.
struct Setting {
  ModelConfig model;
  std::optional<ModelFiles> files;
  RunConfig config;
  Devices devices;
  c10::ScalarType dtype;
  Workload workload;
  int64_t driver_bytes_before;
  MemoryPlan plan;

  Setting(World& world, const BenchmarkOptions& options)
      : model(model_of(options)),
        files(files_of(options)),
        config(config_of(options)),
        devices(world, {.wish = options.parallel.device,
                        .timeout = std::chrono::seconds(120),
                        .peer_copies = options.peer_copies,
                        .deterministic = options.deterministic}),
        dtype(compute_dtype_of(options.dtype, device())),
        workload(workload_of(config, stored(), model, device())),
        driver_bytes_before(driver_bytes_in_use(device())),
        plan(choose_layout(workload, layout_wishes_of(options.parallel, world.size(), world.local_size()),
                           devices.available_bytes())) {
    world.agree("devices", [&] { require_products(workload.base_format, devices.capability()); });
    require_dividing_groups(world, plan.layout.shard_group_size);
  }
  c10::Device device() const { return devices.device(); }
  const ModelFiles* stored() const { return files ? &*files : nullptr; }
};

// All that a step takes, in the order in which it is made.
struct Training {
  PhaseClock clock;
  std::unique_ptr<Communicator> reduction;
  Clock::time_point load_start = Clock::now();
  FrozenStore store;
  double load_seconds = seconds_since(load_start);
  Decoder decoder;
  std::vector<LinearGroup*> groups = decoder.groups();
  Adapter adapter;
  AdamW adamw;
  TrainStep step;

  explicit Training(const Setting& setting)
      : clock(setting.device()),
        reduction(setting.devices.all_ranks()),
        store(weights_of(setting.files), Decoder::frozen_spec(setting.model),
              setting.devices.shard_group(setting.plan.layout.shard_group_size),
              store_options(setting.stored(), setting.model,
                            {.dtype = setting.dtype,
                             .device = setting.device(),
                             .base_format = setting.workload.base_format,
                             .layout = setting.plan.layout})),
        decoder(setting.model, store, setting.dtype, setting.plan.layout.activations),
        adapter(setting.workload.adapter, groups, {.compute_dtype = setting.dtype, .device = setting.device()}),
        adamw(optimizer_of(adapter)),
        step(decoder, adapter, adamw, *reduction, /*max_grad_norm=*/1.0) {
    adapter.initialise(LoraInit::kKaiming, kSeed);
    store.observe_waits(&clock);
  }
};

BenchmarkResult time_steps(Training& training, const std::vector<Batch>& batches, const BenchmarkOptions& options,
                           Clock::time_point start) {
  TrainStep& step = training.step;
  FrozenStore& store = training.store;
  BenchmarkResult result;
  run_steps(step, batches, 1, result);
  result.seconds_to_first_step = seconds_since(start);
  run_steps(step, batches, options.warm_up - 1, result);
  training.clock.take();
  const uint64_t gathered_before = store.gathered_bytes();
  const auto begin = Clock::now();
  run_steps(step, batches, options.steps, result);
  const auto steps = static_cast<double>(options.steps);
  result.step_seconds = seconds_since(begin) / steps;
  result.tokens_per_second_per_rank = static_cast<double>(batches.front().num_tokens()) / result.step_seconds;
  for (const auto& batch : batches)
    result.samples_per_micro_batch +=
        static_cast<double>(batch.sample_ids.size()) / static_cast<double>(batches.size());
  result.exposed_gather_seconds = training.clock.take()[static_cast<size_t>(Phase::kGather)] / steps;
  result.gathered_bytes_per_micro_batch =
      static_cast<int64_t>(store.gathered_bytes() - gathered_before) / options.steps;
  return result;
}

// What step_profile.py needs to know of a trace.
std::string facts_of(const Setting& setting, const BenchmarkOptions& options, int ranks) {
  const ModelConfig& model = setting.model;
  return fmt::format(
      R"({{"shape": "{}", "num_hidden_layers": {}, "hidden_size": {}, "intermediate_size": {}, )"
      R"("num_attention_heads": {}, "num_key_value_heads": {}, "head_dim": {}, "vocab_size": {}, "lora_r": {}, )"
      R"("micro_batch": {}, "sequence_length": {}, "activations": "{}", "base_dtype": "{}", "ranks": {}}})",
      options.shape, model.num_hidden_layers, model.hidden_size, model.intermediate_size, model.num_attention_heads,
      model.num_key_value_heads, model.head_dim, model.vocab_size, options.lora_r, options.micro_batch,
      options.sequence_length, policy_name(setting.plan.layout.activations), word_of(options.base_dtype), ranks);
}

// Collective. Rank 0 alone records.
void trace_steps(const World& world, const BenchmarkOptions& options, const std::string& facts, bool with_kernels,
                 const std::function<void()>& steps) {
  if (options.trace.empty()) return;
  if (world.rank() == 0) return write_trace(options.trace, facts, with_kernels, steps);
  steps();
}

void note_loading(BenchmarkResult& result, const Setting& setting, const Training& training) {
  result.load_seconds = training.load_seconds;
  if (setting.files) result.read_bytes = static_cast<int64_t>(setting.files->bytes_read());
  result.device = setting.device().str();
  result.gather_transport = training.store.transport();
}

void note_memory(BenchmarkResult& result, const Setting& setting) {
  const MemoryPlan& plan = setting.plan;
  result.base = base_name(plan.layout);
  result.activations = policy_name(plan.layout.activations);
  result.planned_gathered_bytes = plan.steady_gathered_bytes;
  result.planned_bytes = plan.total_bytes;
  result.peak_bytes = tensor_memory().peak_total;
  result.driver_bytes = driver_bytes_in_use(setting.device());
  if (setting.device().is_cuda()) result.planned_driver_bytes = setting.driver_bytes_before + needed_bytes(plan);
}

void require_writable(World& world, const std::filesystem::path& trace) {
  if (trace.empty()) return;
  world.agree("--trace", [&] {
    if (world.rank() == 0) probe_writable(std::filesystem::absolute(trace).parent_path());
  });
}

}  // namespace

ModelConfig named_shape(const std::string& name, std::optional<int64_t> num_layers) {
  for (const auto& shape : kShapes) {
    if (name != shape.name) continue;
    ModelConfig config;
    config.model_type = "llama";
    config.architecture = "LlamaForCausalLM";
    config.vocab_size = shape.vocabulary;
    config.hidden_size = shape.hidden;
    config.intermediate_size = shape.intermediate;
    config.num_hidden_layers = num_layers.value_or(shape.layers);
    config.num_attention_heads = shape.heads;
    config.num_key_value_heads = shape.kv_heads;
    config.head_dim = shape.hidden / shape.heads;
    config.max_position_embeddings = 131072;
    config.rms_norm_eps = 1e-5;
    config.rope_theta = 500000.0;
    config.layer_is_sliding.assign(static_cast<size_t>(config.num_hidden_layers), false);
    config.tie_word_embeddings = shape.tied;
    config.dtype = Dtype::kBF16;
    return config;
  }
  throw UsageError(fmt::format("--shape {}: unknown; tiny, 1b, 8b and 70b are there", name));
}

BenchmarkResult run_step_benchmark(World& world, const BenchmarkOptions& options) {
  const auto start = Clock::now();
  require_writable(world, options.trace);
  const Setting setting(world, options);
  Training training(setting);
  if (options.cuda_graphs) training.decoder.record_graphs();  // where they can be
  const std::vector<Batch> batches = random_batches(setting.model, options, world.rank());
  BenchmarkResult result = time_steps(training, batches, options, start);
  note_loading(result, setting, training);
  note_memory(result, setting);
  result.num_replays = training.decoder.num_replays();
  result.reduced_bytes_per_step = static_cast<int64_t>(training.adapter.gradients().nbytes());
  trace_steps(world, options, facts_of(setting, options, world.size()), setting.device().is_cuda(),
              [&] { run_steps(training.step, batches, kTracedSteps, result); });
  return result;
}

}  // namespace rankwise
