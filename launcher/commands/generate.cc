#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>

#include "base/check.h"
#include "base/log.h"
#include "launcher/commands/commands.h"
#include "trainer/config_mapping.h"
#include "trainer/frozen_model.h"
#include "trainer/generate.h"
#include "trainer/lora/adapter.h"
#include "trainer/training_data.h"

namespace rankwise {
namespace {

struct Options {
  std::string model, adapter;
  std::vector<std::string> prompts;
  bool raw = false;
  SamplingOptions sampling;
};

std::string templated(const TrainingText& text, const std::string& prompt, bool raw) {
  if (raw) return prompt;
  RW_CHECK(text.chat_template.has_value(), DataError, "this model has no chat template; use --raw for plain text");
  return text.chat_template->render({{"user", prompt}}, /*add_generation_prompt=*/true);
}

std::unique_ptr<Adapter> load_adapter(FrozenModel& model, const std::string& directory, c10::ScalarType dtype) {
  if (directory.empty()) return nullptr;
  const auto groups = model.decoder.groups();
  AdapterFiles files = read_adapter(directory, adaptable_modules(model.config));
  auto adapter = std::make_unique<Adapter>(
      std::move(files.modules), groups,
      AdapterOptions{.master_dtype = c10::ScalarType::Float, .compute_dtype = dtype, .trainable = false});
  adapter->load(files.tensors);
  return adapter;
}

// One line for one answer.
std::string on_one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

ExitCode generate_texts(const Options& options) {
  init_log(-1, LogLevel::kInfo);
  const TrainingText text = load_text({.path = options.model}, {});
  const auto dtype = compute_dtype_of(ModelSection::Dtype::kAuto, c10::kCPU);
  FrozenModel model(options.model, make_local_communicator(), {.dtype = dtype});
  const auto adapter = load_adapter(model, options.adapter, dtype);
  for (const auto& prompt : options.prompts) {
    const auto encoding =
        text.tokenizer.encode(templated(text, prompt, options.raw), options.raw, SpecialTokens::kRecognise);
    const std::vector<int64_t> ids(encoding.ids.begin(), encoding.ids.end());
    const Generated answer = generate(model.decoder, ids, model.config.eos_token_ids, options.sampling, {});
    std::cout << on_one_line(text.tokenizer.decode(answer.ids, /*skip_special_tokens=*/true))
              << (answer.stopped ? "" : " ...") << std::endl;
  }
  return ExitCode::kOk;
}

}  // namespace

void add_generate(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  auto* command =
      app.add_subcommand("generate", "Let a model, with or without an adapter, answer prompts; one line each.");
  command->add_option("--model", options->model, "a Hugging Face model directory")->required();
  command->add_option("--adapter", options->adapter, "a PEFT adapter directory, such as runs/NAME/final");
  command->add_option("--prompt", options->prompts, "what the user says; may be repeated")
      ->required()
      ->allow_extra_args(false);
  command->add_flag("--raw", options->raw, "continue the prompt as plain text, without the chat template");
  command->add_option("--max-new-tokens", options->sampling.max_new_tokens, "")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", options->sampling.top_p, "")->check(CLI::Range(0.0, 1.0))->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "")->capture_default_str();
  command->footer(
      "An answer that --max-new-tokens cut off ends in ' ...'.\n"
      "Example: rankwise generate --model models/SmolLM2-135M-Instruct --adapter runs/smollm2-devil/final "
      "--prompt 'Define programmer.' --temperature 0.8 --top-p 0.9");
  command->callback([=, &chosen] { chosen = [options] { return generate_texts(*options); }; });
}

}  // namespace rankwise
