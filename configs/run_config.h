// Everything that one run is told, as plain structs that mirror the YAML file key by key: train.max_steps in the file
// is config.train.max_steps here. docs/configuration.md lists each key with its range, default and meaning; that page,
// the parser and the dump come from one table (configs/schema.cc), so they cannot drift apart.
//
// An empty optional is the file's `null`, or the word named beside it. A part of the program is given the section that
// describes it, never the whole RunConfig.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rankwise {

// A list of module names, or one regular expression that must match a whole module name (PEFT's two forms).
using NamesOrPattern = std::variant<std::string, std::vector<std::string>>;

struct RunSection {
  std::string name = "run";
  std::filesystem::path output_dir;  // required
  uint64_t seed = 42;
  bool operator==(const RunSection&) const = default;
};

struct ModelSection {
  enum class Dtype { kAuto, kFloat32, kBFloat16, kFloat64 };
  enum class BaseDtype { kSame, kNf4, kFloat8 };
  enum class Task { kCausalLm };
  std::filesystem::path path;  // required
  Dtype dtype = Dtype::kAuto;
  BaseDtype base_dtype = BaseDtype::kSame;
  Task task = Task::kCausalLm;
  bool operator==(const ModelSection&) const = default;
};

// The words of ModelSection::base_dtype, in the order in which people are told them.
inline constexpr std::array<std::pair<std::string_view, ModelSection::BaseDtype>, 3> kBaseDtypeWords = {
    {{"same", ModelSection::BaseDtype::kSame},
     {"nf4", ModelSection::BaseDtype::kNf4},
     {"float8", ModelSection::BaseDtype::kFloat8}}};

// As the file has it.
constexpr std::string_view word_of(ModelSection::BaseDtype base_dtype) {
  for (const auto& [word, value] : kBaseDtypeWords) {
    if (value == base_dtype) return word;
  }
  return "unknown";
}

struct LoraSection {
  enum class Init {
    kTrue,      // A Kaiming-uniform, B zero: the adapter changes nothing at step 0
    kFalse,     // A and B both Kaiming-uniform: for tests that need a non-zero adapter
    kGaussian,  // A normal with standard deviation 1/r, B zero
  };
  // Module pattern -> value, in the order of the file: the first pattern that matches wins.
  using PatternMap = std::vector<std::pair<std::string, int64_t>>;

  int64_t r = 8;
  int64_t lora_alpha = 8;
  double lora_dropout = 0.0;
  NamesOrPattern target_modules = "all-linear";  // this word is reserved: it is not a regular expression
  std::optional<NamesOrPattern> exclude_modules;
  std::optional<std::vector<int64_t>> layers_to_transform;
  std::optional<std::vector<std::string>> layers_pattern;
  PatternMap rank_pattern;
  PatternMap alpha_pattern;
  bool use_rslora = false;
  Init init_lora_weights = Init::kTrue;
  std::optional<std::filesystem::path> init_adapter;
  bool operator==(const LoraSection&) const = default;
};

struct DataSection {
  enum class Format { kMessages, kPromptCompletion, kAlpaca, kShareGpt, kText };
  enum class LossOn { kCompletion, kAssistant, kAll };
  enum class OverLength { kError, kTruncateLeft, kTruncateRight, kDrop };
  struct File {
    std::filesystem::path path;         // required
    Format format = Format::kMessages;  // required
    bool operator==(const File&) const = default;
  };

  std::vector<File> train;  // required: at least one
  std::vector<File> eval;
  double eval_fraction = 0.0;
  int64_t max_length = 512;
  bool packing = true;
  LossOn loss_on = LossOn::kCompletion;
  OverLength over_length = OverLength::kError;
  std::optional<std::filesystem::path> chat_template;  // empty: the model's own
  std::filesystem::path cache_dir = "runs/cache";
  bool operator==(const DataSection&) const = default;
};

struct TrainSection {
  enum class Scheduler { kLinear, kCosine, kConstant, kConstantWithWarmup };

  std::optional<int64_t> num_train_epochs;  // exactly one of these two is set
  std::optional<int64_t> max_steps;
  int64_t global_batch_size = 32;  // a multiple of per_device_train_batch_size
  int64_t per_device_train_batch_size = 4;
  std::optional<int64_t> per_device_eval_batch_size;  // empty: per_device_train_batch_size
  double learning_rate = 2e-4;
  Scheduler lr_scheduler_type = Scheduler::kCosine;
  double warmup_ratio = 0.0;
  std::optional<int64_t> warmup_steps;  // set: warmup_ratio is 0
  double weight_decay = 0.0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;         // 0: no clipping
  std::optional<bool> deterministic;  // empty: auto
  int64_t eval_steps = 100;           // 0: at the start and at the end only
  int64_t logging_steps = 10;
  int64_t save_steps = 100;  // 0: at the end only; never more than max_steps
  int64_t save_total_limit = 3;
  int64_t max_nonfinite_steps = 3;
  int64_t integrity_check_steps = 50;  // 0: never
  bool cuda_graphs = true;
  bool operator==(const TrainSection&) const = default;
};

struct ParallelSection {
  enum class Base { kAuto, kReplicate, kShard, kHybrid };
  enum class Activations { kAuto, kSave, kRecomputeMlp, kRecomputeBlock, kOffload };
  enum class Device { kAuto, kCpu, kCuda };

  Device device = Device::kAuto;
  Base base = Base::kAuto;
  std::optional<int64_t> shard_group;  // ranks; empty: host
  int64_t prefetch = 2;
  std::optional<double> resident_gib;  // empty: auto
  Activations activations = Activations::kAuto;
  bool cpu_offload = false;
  bool operator==(const ParallelSection&) const = default;
};

struct CommsSection {
  int64_t timeout_seconds = 600;
  std::optional<int64_t> expected_world_size;
  bool peer_copies = true;
  bool operator==(const CommsSection&) const = default;
};

struct CheckpointSection {
  enum class Mode { kAuto, kRequired, kNever, kDirectory };
  struct Resume {
    Mode mode = Mode::kAuto;
    std::filesystem::path directory;  // for kDirectory alone
    bool operator==(const Resume&) const = default;
  };

  Resume resume;
  bool operator==(const CheckpointSection&) const = default;
};

struct MonitoringSection {
  enum class Endpoints { kHost, kRank };

  std::optional<std::string> listen = "127.0.0.1:9464";  // ADDRESS:PORT; empty: no endpoint
  Endpoints endpoints = Endpoints::kHost;
  bool required = false;
  bool operator==(const MonitoringSection&) const = default;
};

struct RunConfig {
  RunSection run;
  ModelSection model;
  LoraSection lora;
  DataSection data;
  TrainSection train;
  ParallelSection parallel;
  CommsSection comms;
  CheckpointSection checkpoint;
  MonitoringSection monitoring;
  bool operator==(const RunConfig&) const = default;
};

// Reads a file and applies `overrides` ("train.max_steps=20"; the value is YAML, the last one for a key wins).
// Relative paths in the result are relative to the current working directory, as they are in the file.
// Only the text is judged: whether the files that it names exist is found out by those who open them.
// Throws NoInputError if `file` is not there, otherwise ConfigError for the first fault:
//   "FILE:LINE: dotted.key: reason; remedy", or "--set key=value: dotted.key: reason; remedy".
RunConfig load_run_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

// The same for a text at hand; `place` stands for FILE in messages.
RunConfig parse_run_config(std::string_view text, std::string_view place,
                           const std::vector<std::string>& overrides = {});

// YAML with every default spelled out. Parses back to an equal value; equal values give equal text, so ranks may
// compare a hash of it.
std::string dump_run_config(const RunConfig& config);

// docs/configuration.md.
std::string run_config_reference();

}  // namespace rankwise
