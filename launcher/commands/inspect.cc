#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/log.h"
#include "launcher/commands/commands.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/trainer_state.h"
#include "trainer/weights/model_config.h"
#include "trainer/weights/model_files.h"

namespace rankwise {
namespace {

void print_tensor(const TensorEntry& entry) {
  fmt::print("{:<72} {:<4} [{}]\n", entry.name, dtype_name(entry.dtype), fmt::join(entry.shape, ", "));
}

void inspect_checkpoint(const std::filesystem::path& directory) {
  const CheckpointInfo checkpoint = verify_checkpoint(directory);
  const TrainerState state = read_trainer_state(checkpoint);
  fmt::print("checkpoint of step {}: whole; epoch {}, {} input tokens, {} target tokens\n", state.step, state.epoch,
             state.input_tokens, state.target_tokens);
  if (state.best_eval) fmt::print("best eval loss {:.4f} at step {}\n", state.best_eval->loss, state.best_eval->step);
  for (const auto& field : checkpoint.manifest.fingerprint) fmt::print("  {:<20} {}\n", field.name, field.value);
}

void inspect_model(const std::filesystem::path& directory) {
  const ModelConfig config = read_model_config(directory);
  const ModelFiles files(directory);
  fmt::print("{}: {} layers, hidden {}, {} heads, {} key/value heads, head {}, MLP {}, vocabulary {}{}\n",
             config.architecture, config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
             config.num_key_value_heads, config.head_dim, config.intermediate_size, config.vocab_size,
             config.tie_word_embeddings ? ", tied embeddings" : "");
  for (const auto& name : files.names()) print_tensor(files.entry(name));
}

ExitCode inspect(const std::filesystem::path& path) {
  init_log(-1, LogLevel::kInfo);
  if (std::filesystem::exists(path / kManifestName)) {
    inspect_checkpoint(path);
  } else if (std::filesystem::exists(path / "config.json")) {
    inspect_model(path);
  } else {
    const bool is_directory = std::filesystem::is_directory(path);
    const SafetensorsFile file(is_directory ? path / "adapter_model.safetensors" : path);
    for (const auto& entry : file.header().tensors) print_tensor(entry);
  }
  return ExitCode::kOk;
}

}  // namespace

void add_inspect(CLI::App& app, Command& chosen) {
  auto path = std::make_shared<std::string>();
  auto* command = app.add_subcommand("inspect", "Show what a model, adapter, checkpoint or safetensors file holds.");
  command->add_option("path", *path, "a directory or a .safetensors file")->required();
  command->footer("Example: rankwise inspect runs/smollm2-devil/checkpoint-20");
  command->callback([=, &chosen] { chosen = [=] { return inspect(*path); }; });
}

}  // namespace rankwise
