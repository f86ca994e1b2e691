// A model directory of random weights in several dtypes, for tests of what reads them. The same on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "trainer/weights/model_config.h"
#include "trainer/weights/unit_layout.h"

namespace rankwise::testing {

struct RandomModelShape {
  int64_t num_layers = 7;
  bool tied = false;
};

ModelConfig random_model_config(const RandomModelShape& shape);

// As stored: F32, F16 and BF16 in turn.
std::map<std::string, at::Tensor> random_weights(const FrozenSpec& spec);
void write_model(const std::filesystem::path& directory, const std::map<std::string, at::Tensor>& weights);

}  // namespace rankwise::testing
