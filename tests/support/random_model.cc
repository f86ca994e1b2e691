#include "tests/support/random_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "trainer/weights/safetensors.h"

namespace rankwise::testing {
namespace {

at::Tensor random_tensor(const std::vector<int64_t>& shape, size_t salt, at::ScalarType dtype) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  const at::Tensor index = at::arange(count, at::kDouble);
  return (index * 12.9898 + static_cast<double>(salt) * 78.233).sin().mul(43758.5453).frac().to(dtype).view(shape);
}

Dtype stored_as(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf       ? Dtype::kF16
         : tensor.scalar_type() == at::kBFloat16 ? Dtype::kBF16
                                                 : Dtype::kF32;
}

}  // namespace

ModelConfig random_model_config(const RandomModelShape& shape) {
  return parse_model_config(
      fmt::format(
          R"({{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "vocab_size": 331,
          "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": {}, "num_attention_heads": 4,
          "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
          "tie_word_embeddings": {}, "torch_dtype": "float32"}})",
          shape.num_layers, shape.tied),
      "random model");
}

std::map<std::string, at::Tensor> random_weights(const FrozenSpec& spec) {
  std::map<std::string, at::Tensor> weights;
  const auto add = [&](const MatrixSpec& matrix) {
    const at::ScalarType dtypes[] = {at::kFloat, at::kHalf, at::kBFloat16};
    weights.emplace(matrix.name, random_tensor(matrix.shape, weights.size(), dtypes[weights.size() % 3]));
  };
  for (const auto& unit : spec.units) {
    for (const auto& matrix : unit.matrices) add(matrix);
  }
  for (const auto& vector : spec.replicated) add(vector);
  return weights;
}

void write_model(const std::filesystem::path& directory, const std::map<std::string, at::Tensor>& weights) {
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : weights) {
    views.push_back({name, stored_as(tensor), tensor.sizes().vec(),
                     std::span(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes())});
  }
  write_safetensors(directory / "model.safetensors", std::move(views), {{"format", "pt"}});
}

}  // namespace rankwise::testing
