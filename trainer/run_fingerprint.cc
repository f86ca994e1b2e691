#include "trainer/run_fingerprint.h"

#include <fmt/format.h>

#include "base/hash.h"
#include "trainer/config_mapping.h"

namespace rankwise {
namespace {

std::string shortened(std::string_view hash) { return std::string(hash.substr(0, 16)); }

std::string_view word_of(TrainSection::Scheduler scheduler) {
  switch (scheduler) {
    case TrainSection::Scheduler::kLinear:
      return "linear";
    case TrainSection::Scheduler::kCosine:
      return "cosine";
    case TrainSection::Scheduler::kConstant:
      return "constant";
    case TrainSection::Scheduler::kConstantWithWarmup:
      return "constant_with_warmup";
  }
  return "unknown";
}

std::string modules_text(std::span<const MatchedModule> modules) {
  std::string all;
  for (const auto& m : modules) all += fmt::format("{} {} {}\n", m.name, m.r, m.scaling);
  return fmt::format("{} modules, {}", modules.size(), shortened(sha256_hex(all)));
}

std::string data_settings_text(const RunConfig& config) {
  const DataSettings s = data_settings_of(config.data, DataPart::kTrain, config.run.seed);
  return fmt::format("max_length {} packing {} loss_on {} over_length {} eval_fraction {}", s.max_length, s.packing,
                     word_of(s.loss_on), word_of(s.over_length), s.eval_fraction);
}

std::string optimizer_text(const TrainSection& t) {
  return fmt::format("adamw betas {} {} epsilon {} weight_decay {} max_grad_norm {}", t.adam_beta1, t.adam_beta2,
                     t.adam_epsilon, t.weight_decay, t.max_grad_norm);
}

std::string schedule_text(const TrainSection& t) {
  const std::string warmup =
      t.warmup_steps ? fmt::format("{} steps", *t.warmup_steps) : fmt::format("{} of all steps", t.warmup_ratio);
  return fmt::format("{} learning_rate {} warmup {}", word_of(t.lr_scheduler_type), t.learning_rate, warmup);
}

std::string base_text(const RunConfig& config, const RunFacts& facts) {
  const auto base_dtype = config.model.base_dtype;
  if (base_dtype == ModelSection::BaseDtype::kSame) return facts.base_weights;
  return fmt::format("{} in {}", facts.base_weights, word_of(base_dtype));
}

}  // namespace

Fingerprint make_fingerprint(const RunConfig& config, const RunFacts& facts) {
  constexpr auto kMust = FieldRule::kMustMatch, kMay = FieldRule::kInformative;
  const auto text = [](const auto& value) { return fmt::format("{}", value); };
  return {{"base_weights", base_text(config, facts), kMust},
          {"dtype", facts.compute_dtype, kMust},
          {"lora_r", text(config.lora.r), kMust},
          {"lora_alpha", text(config.lora.lora_alpha), kMust},
          {"lora_dropout", text(config.lora.lora_dropout), kMust},
          {"lora_modules", modules_text(facts.modules), kMust},
          {"tokenizer", shortened(facts.tokenizer), kMust},
          {"chat_template", shortened(facts.chat_template), kMust},
          {"data_settings", data_settings_text(config), kMust},
          {"data", shortened(facts.data), kMust},
          {"seed", text(config.run.seed), kMust},
          {"global_batch_size", text(config.train.global_batch_size), kMust},
          {"optimizer", optimizer_text(config.train), kMust},
          {"schedule", schedule_text(config.train), kMust},
          {std::string(kTotalStepsField), text(facts.total_steps), kMay},
          {"world_size", text(facts.world_size), kMay},
          {"version", RANKWISE_VERSION, kMay}};
}

std::string_view consequence_of(std::string_view field) {
  if (field == kTotalStepsField) return "from here on the learning rate follows the schedule of this run";
  if (field == "world_size") return "the same samples; sums in another order, so the last bits may differ";
  return "the last bits may differ";
}

}  // namespace rankwise
