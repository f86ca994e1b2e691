#include "trainer/lora/match_report.h"

#include <gtest/gtest.h>

#include "tests/unit/lora/tiny_model.h"

namespace rankwise {
namespace {

TEST(MatchTable, HasALineForEachEntryKindRankAndAlpha) {
  const LoraConfig config{.r = 4,
                          .lora_alpha = 8,
                          .target_modules = NameList{"q_proj", "mlp.up_proj"},
                          .rank_pattern = {{R"(layers\.1\..*)", 2}}};
  EXPECT_EQ(match_table(match_targets(config, tiny_llama())),
            "target       module   modules      r   alpha   scaling     parameters\n"
            "q_proj       q_proj         2      4       8         2            128\n"
            "mlp.up_proj  up_proj        2      4       8         2            192\n"
            "q_proj       q_proj         1      2       8         4             32\n"
            "mlp.up_proj  up_proj        1      2       8         4             48\n"
            "total                       6                                     400\n");
}

TEST(MatchTable, CutsALongRegex) {
  const NameRegex regex{".*(" + std::string(100, 'x') + "|q_proj)"};
  const std::string table = match_table(match_targets({.target_modules = regex}, tiny_llama()));
  EXPECT_LT(table.find('\n'), 110u);
}

// The line that PEFT 0.21 prints for SmolLM2-135M with r 8 on all linear layers: 2,442,240 parameters on 134,515,008.
TEST(TrainableReport, ReadsLikePefts) {
  const std::vector<MatchedModule> matched{{.name = "a", .in_features = 305279, .out_features = 1, .r = 8}};
  EXPECT_EQ(trainable_report(matched, 134515008),
            "trainable params: 2,442,240 || all params: 136,957,248 || trainable%: 1.7832");
}

TEST(TrainableReport, GroupsDigitsByThree) {
  const std::vector<MatchedModule> matched{{.name = "a", .in_features = 99, .out_features = 1, .r = 1}};
  EXPECT_EQ(trainable_report(matched, 900), "trainable params: 100 || all params: 1,000 || trainable%: 10.0000");
}

}  // namespace
}  // namespace rankwise
