#include "configs/rules.h"

#include <algorithm>

#include "base/check.h"

namespace rankwise {
namespace {

const YamlNode* find_key(const YamlNode& root, std::string_view key) {
  const size_t dot = key.find('.');
  const YamlNode* section = root.find(key.substr(0, dot));
  return section ? section->find(key.substr(dot + 1)) : nullptr;
}

struct Rules {
  const YamlNode& root;

  // A key that is not written has no place of its own: the nearest that has one speaks for it.
  void require(bool condition, std::string_view key, std::string_view reason) const {
    if (condition) return;
    const YamlNode* node = find_key(root, key);
    if (!node) node = root.find(key.substr(0, key.find('.')));
    throw ConfigError(fmt::format("{}: {}: {}", node ? node->place : root.place, key, reason));
  }

  void check(const LoraSection& lora) const {
    const bool has_list = std::holds_alternative<std::vector<std::string>>(lora.target_modules);
    require(has_list || !lora.layers_to_transform, "lora.layers_to_transform",
            "needs a list in lora.target_modules, not a pattern; list the names, or put the layers into the pattern");
    require(lora.layers_to_transform || !lora.layers_pattern, "lora.layers_pattern",
            "has no effect without lora.layers_to_transform; give both or neither");
  }

  void check(const DataSection& data) const {
    require(data.eval.empty() || data.eval_fraction == 0, "data.eval_fraction",
            fmt::format("{} excludes data.eval ({} files); remove one of them", data.eval_fraction, data.eval.size()));
  }

  void check_length(const TrainSection& train) const {
    require(!train.max_steps || !train.num_train_epochs, "train.max_steps",
            "excludes train.num_train_epochs; set one of them to null");
    require(train.max_steps || train.num_train_epochs, "train.max_steps",
            "how long to train is not said; give train.max_steps or train.num_train_epochs");
    const int64_t global = train.global_batch_size;
    const int64_t device = train.per_device_train_batch_size;
    require(global % device == 0, "train.global_batch_size",
            fmt::format("{} is not a multiple of train.per_device_train_batch_size ({}); try {}", global, device,
                        std::max<int64_t>(global / device, 1) * device));
  }

  void check_intervals(const TrainSection& train) const {
    const int64_t warmup_steps = train.warmup_steps.value_or(0);
    require(!train.warmup_steps || train.warmup_ratio == 0, "train.warmup_steps",
            fmt::format("{} excludes train.warmup_ratio ({}); remove one of them", warmup_steps, train.warmup_ratio));
    const bool is_constant = train.lr_scheduler_type == TrainSection::Scheduler::kConstant;
    require(!is_constant || (warmup_steps == 0 && train.warmup_ratio == 0), "train.lr_scheduler_type",
            "constant has no warm-up; write constant_with_warmup, or remove the warm-up");
    if (!train.max_steps) return;
    require(warmup_steps <= *train.max_steps, "train.warmup_steps",
            fmt::format("{} is more than train.max_steps ({}); lower it", warmup_steps, *train.max_steps));
    require(train.save_steps <= *train.max_steps, "train.save_steps",
            fmt::format("{} is more than train.max_steps ({}); lower it, or write 0 to save at the end only",
                        train.save_steps, *train.max_steps));
  }
};

}  // namespace

void resolve_defaults(RunConfig& config, const YamlNode& root) {
  TrainSection& train = config.train;
  if (train.max_steps && !find_key(root, "train.save_steps")) {
    train.save_steps = std::min(train.save_steps, *train.max_steps);
  }
}

void check_rules(const RunConfig& config, const YamlNode& root) {
  const Rules rules{root};
  rules.check(config.lora);
  rules.check(config.data);
  rules.check_length(config.train);
  rules.check_intervals(config.train);
}

}  // namespace rankwise
