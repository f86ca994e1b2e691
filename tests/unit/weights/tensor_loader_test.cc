#include "trainer/weights/tensor_loader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/random_model.h"
#include "tests/support/scratch_directory.h"

namespace rankwise::testing {
namespace {

constexpr int64_t kRows = 700, kColumns = 1024;  // of several chunks in float32, the last not full

at::Tensor numbers(at::ScalarType dtype) {
  return at::linspace(-3, 3, kRows * kColumns).view({kRows, kColumns}).to(dtype);
}

class TensorLoaderTest : public ::testing::Test {
 protected:
  ModelFiles files_with(const at::Tensor& weight) {
    const auto directory = scratch_ / std::to_string(++num_models_);
    std::filesystem::create_directory(directory);
    write_model(directory, {{"w", weight}});
    return ModelFiles(directory);
  }

 private:
  ScratchDirectory scratch_;
  int num_models_ = 0;
};

TEST_F(TensorLoaderTest, ConvertsWhileItReads) {
  for (const auto stored : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const ModelFiles files = files_with(numbers(stored));
    for (const auto wanted : {at::kFloat, at::kBFloat16, at::kDouble}) {
      at::Tensor out = at::empty({kRows * kColumns}, wanted);
      TensorLoader(files).load("w", 0, out, true);
      EXPECT_TRUE(out.equal(numbers(stored).to(wanted).view({-1})));
    }
  }
}

TEST_F(TensorLoaderTest, ThePartsFingerprintsAddUpToTheWholes) {
  const ModelFiles files = files_with(numbers(at::kFloat));
  const int64_t count = kRows * kColumns, cut = 300 * 1024;
  at::Tensor out = at::empty({count}, at::kFloat);
  TensorLoader whole(files), first(files), second(files), uncounted(files);
  whole.load("w", 0, out, true);
  first.load("w", 0, out.narrow(0, 0, cut), true);
  second.load("w", cut, out.narrow(0, cut, count - cut), true);
  uncounted.load("w", 0, out, false);
  EXPECT_EQ(first.fingerprint() + second.fingerprint(), whole.fingerprint());
  EXPECT_NE(first.fingerprint(), 0u);
  EXPECT_EQ(uncounted.fingerprint(), 0u);
}

TEST_F(TensorLoaderTest, CountsATensorWithAValueThatIsNotFiniteOnce) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    at::Tensor weight = numbers(at::kBFloat16);
    weight[0][5] = weight[kRows - 1][kColumns - 1] = bad;
    const ModelFiles files = files_with(weight);
    at::Tensor out = at::empty({kRows * kColumns}, at::kFloat);
    TensorLoader loader(files);
    loader.load("w", 0, out, true);
    EXPECT_EQ(loader.nonfinite_tensors(), 1);
  }
}

}  // namespace
}  // namespace rankwise::testing
