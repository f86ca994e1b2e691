#include "trainer/weights/required_tensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using testing::safetensors_bytes;
using testing::ScratchDirectory;

struct Stored {
  std::string name;
  std::string dtype;
  int64_t rows, columns;
};

class RequiredTensors : public ::testing::Test {
 protected:
  // Checks a model whose file holds these tensors.
  void check() const {
    std::string header;
    int64_t end = 0;
    for (const Stored& t : stored_) {
      const int64_t begin = end;
      end += t.rows * t.columns * (t.dtype == "F32" ? 4 : t.dtype == "BF16" ? 2 : 1);
      header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{},{}],"data_offsets":[{},{}]}})",
                            header.empty() ? "" : ",", t.name, t.dtype, t.rows, t.columns, begin, end);
    }
    scratch_.add("model.safetensors", safetensors_bytes("{" + header + "}", static_cast<size_t>(end)));
    check_required_tensors(ModelFiles(scratch_.path()), spec_, scratch_.path());
  }

  const ScratchDirectory scratch_;
  const FrozenSpec spec_{{{"block", UnitPool::kBlocks, {{"q.weight", {4, 2}}, {"k.weight", {2, 2}}}}},
                         {0},
                         {0},
                         {{"norm.weight", {1, 2}}}};
  std::vector<Stored> stored_ = {{"q.weight", "F32", 4, 2}, {"k.weight", "BF16", 2, 2}, {"norm.weight", "F32", 1, 2}};
};

TEST_F(RequiredTensors, AreFoundInAnyDtypeThatIsRead) { EXPECT_NO_THROW(check()); }

TEST_F(RequiredTensors, ThatAreMissingAreNamed) {
  stored_.erase(stored_.begin());
  EXPECT_ERROR(check(), DataError, scratch_.path().native() + ": q.weight is missing; is config.json that of these");
}

TEST_F(RequiredTensors, OfAnotherShapeAreNamedWithBoth) {
  stored_[1] = {"k.weight", "BF16", 4, 1};
  EXPECT_ERROR(check(), DataError, "k.weight has shape [4, 1], config.json asks for [2, 2]");
}

TEST_F(RequiredTensors, OfIntegersAreRefused) {
  stored_[2].dtype = "I8";
  EXPECT_ERROR(check(), DataError, "norm.weight is stored as I8; F32, F16 and BF16 are supported");
}

TEST_F(RequiredTensors, MoreThanTheModelHasAreRefused) {
  stored_.push_back({"q.bias", "F32", 1, 4});
  EXPECT_ERROR(check(), DataError, "q.bias belongs to no layer of config.json");
}

TEST_F(RequiredTensors, KnownLeftoversAreHarmless) {
  stored_.push_back({"lm_head.weight", "F32", 9, 2});
  stored_.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, 8});
  EXPECT_NO_THROW(check());
}

TEST_F(RequiredTensors, AtMostFiveProblemsAreListed) {
  stored_.clear();
  for (const char* name : {"a", "b", "c", "d"}) stored_.push_back({name, "U8", 1, 1});
  EXPECT_ERROR(check(), DataError, "norm.weight is missing; q.weight is missing", "b belongs", "(and 2 more)");
}

}  // namespace
}  // namespace rankwise
