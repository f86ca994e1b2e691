#include "trainer/training_data.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/file.h"
#include "trainer/config_mapping.h"

namespace rankwise {
namespace {

constexpr uint64_t kMaxTemplateBytes = 1 << 20;

}  // namespace

TrainingText load_text(const ModelSection& model, const DataSection& data) {
  std::error_code error;
  RW_CHECK(std::filesystem::exists(model.path, error) || error, NoInputError,
           "model.path: {}: no such directory; give that of a Hugging Face model", model.path.string());
  TrainingText text{Tokenizer::load(model.path), std::nullopt};
  if (data.chat_template) {
    text.chat_template.emplace(read_file(*data.chat_template, kMaxTemplateBytes), data.chat_template->string(),
                               text.tokenizer);
  } else if (const auto& own = text.tokenizer.chat_template()) {
    text.chat_template.emplace(*own, (model.path / "tokenizer_config.json").string(), text.tokenizer);
  }
  return text;
}

TrainingData load_data(const RunConfig& config, const TrainingText& text, const PrepareCallback& progress) {
  const auto* chat_template = text.chat_template ? &*text.chat_template : nullptr;
  const auto prepare = [&](DataPart part) {
    return prepare_dataset(data_settings_of(config.data, part, config.run.seed), text.tokenizer, chat_template,
                           progress);
  };
  TrainingData data{prepare(DataPart::kTrain), std::nullopt};
  if (!config.data.eval.empty() || config.data.eval_fraction > 0) data.eval.emplace(prepare(DataPart::kEval));
  return data;
}

std::string describe(std::string_view name, const DataReport& report) {
  std::string text =
      fmt::format("{}: {} samples in {} rows ({:.0f} % full), {} tokens, {} in the loss", name, report.num_samples,
                  report.num_rows, 100.0 * report.fill_ratio(), report.num_tokens, report.num_target_tokens);
  const auto add = [&text](int64_t count, const char* what) {
    if (count > 0) text += fmt::format("; {} {}", count, what);
  };
  add(report.num_truncated, "truncated");
  add(report.num_dropped_too_long, "dropped as too long");
  add(report.num_dropped_no_target, "dropped without a target");
  return text;
}

}  // namespace rankwise
