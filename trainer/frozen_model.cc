#include "trainer/frozen_model.h"

#include <functional>
#include <numeric>

#include "base/check.h"
#include "trainer/model/products.h"
#include "trainer/weights/required_tensors.h"

namespace rankwise {

FrozenModel::FrozenModel(const std::filesystem::path& model_dir, std::unique_ptr<Communicator> shard_group,
                         const FrozenModelOptions& options)
    : config(read_model_config(model_dir)),
      files(model_dir),
      store(files, Decoder::frozen_spec(config), std::move(shard_group), store_options(&files, config, options)),
      decoder(config, store, options.dtype, options.layout.activations) {}

c10::ScalarType matrix_dtype_of(const ModelFiles* files, const ModelConfig& config, c10::ScalarType compute,
                                c10::Device device) {
  if (!device.is_cpu() || compute != c10::ScalarType::Float || !sums_mixed_products()) return compute;
  for (const auto& unit : Decoder::frozen_spec(config).units) {
    for (const auto& matrix : unit.matrices) {
      const Dtype stored = files != nullptr ? files->entry(matrix.name).dtype : config.dtype;
      if (stored != Dtype::kBF16) return compute;
    }
  }
  return c10::ScalarType::BFloat16;
}

FrozenStoreOptions store_options(const ModelFiles* files, const ModelConfig& config,
                                 const FrozenModelOptions& options) {
  return {.dtype = options.dtype,
          .matrix_dtype = matrix_dtype_of(files, config, options.dtype, options.device),
          .format = options.base_format,
          .prefetch = options.layout.prefetch,
          .resident_bytes = options.layout.resident_bytes,
          .device = options.device,
          .cpu_offload = options.layout.cpu_offload};
}

void check_weights(const ModelConfig& config, const ModelFiles& files, const std::filesystem::path& model_dir) {
  check_required_tensors(files, Decoder::frozen_spec(config), model_dir);
}

int64_t count_parameters(const ModelConfig& config) {
  const FrozenSpec spec = Decoder::frozen_spec(config);
  const auto count = [](const MatrixSpec& m) {
    return std::accumulate(m.shape.begin(), m.shape.end(), int64_t{1}, std::multiplies<>());
  };
  int64_t total = 0;
  for (const auto& vector : spec.replicated) total += count(vector);
  for (const auto& unit : spec.units) {
    for (const auto& matrix : unit.matrices) total += count(matrix);
  }
  return total;
}

std::vector<ModuleInfo> adaptable_modules(const ModelConfig& config) {
  std::vector<ModuleInfo> modules;
  for (const auto& unit : Decoder::frozen_spec(config).units) {
    for (const auto& matrix : unit.matrices) {
      const auto kind = unit.pool == UnitPool::kBlocks ? ModuleKind::kLinear
                        : unit.name == "head"          ? ModuleKind::kOutputEmbedding
                                                       : ModuleKind::kEmbedding;
      modules.push_back({matrix.name.substr(0, matrix.name.rfind(".weight")), matrix.shape[1], matrix.shape[0], kind});
    }
  }
  return modules;
}

}  // namespace rankwise
