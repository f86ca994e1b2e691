// The frozen part of a run put together: files, shape, sharded weights and the decoder over them.
#pragma once

#include <memory>

#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/lora/target_matching.h"
#include "trainer/memory_plan.h"
#include "trainer/model/decoder.h"
#include "trainer/weights/frozen_store.h"
#include "trainer/weights/model_config.h"
#include "trainer/weights/model_files.h"

namespace rankwise {

struct FrozenModelOptions {
  c10::ScalarType dtype;
  c10::Device device = c10::kCPU;
  BaseFormat base_format = BaseFormat::kPlain;
  Layout layout = {};
};

struct FrozenModel {
  ModelConfig config;
  ModelFiles files;
  FrozenStore store;
  Decoder decoder;

  FrozenModel(const std::filesystem::path& model_dir, std::unique_ptr<Communicator> shard_group,
              const FrozenModelOptions& options);
  FrozenModel(const FrozenModel&) = delete;  // the decoder refers to the store
};

// What plain matrices are kept and gathered in on CPUs: bfloat16 where all files have it and the products widen it
// (float32), else the dtype that the run computes in, as on every other device. files: null before the model is
// downloaded, config.json's word counts.
c10::ScalarType matrix_dtype_of(const ModelFiles* files, const ModelConfig& config, c10::ScalarType compute,
                                c10::Device device);

// How the weights are kept under these options. files: as above.
FrozenStoreOptions store_options(const ModelFiles* files, const ModelConfig& config, const FrozenModelOptions& options);

// Throws what check_required_tensors throws.
void check_weights(const ModelConfig& config, const ModelFiles& files, const std::filesystem::path& model_dir);

// Known from config.json alone. A tied tensor counts once.
int64_t count_parameters(const ModelConfig& config);
// The modules that target_modules are matched against, in the order of the model.
std::vector<ModuleInfo> adaptable_modules(const ModelConfig& config);

}  // namespace rankwise
