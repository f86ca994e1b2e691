#include "trainer/lora/nearest_module.h"

#include <gtest/gtest.h>

#include "tests/unit/lora/tiny_model.h"

namespace rankwise {
namespace {

TEST(NearestModule, ComparesAsManyComponentsAsTheNameHas) {
  const auto model = tiny_llama();
  EXPECT_EQ(nearest_module("q_porj", model), "q_proj (3 modules)");
  EXPECT_EQ(nearest_module("self_atn.k_proj", model), "self_attn.k_proj (3 modules)");
  EXPECT_EQ(nearest_module("model.layers.1.mlp.up", model), "model.layers.1.mlp.up_proj (1 module)");
  EXPECT_EQ(nearest_module("lmhead", model), "lm_head (1 module)");
}

TEST(NearestModule, AModelWithoutModulesHasNone) { EXPECT_EQ(nearest_module("q_proj", {}), ""); }

}  // namespace
}  // namespace rankwise
