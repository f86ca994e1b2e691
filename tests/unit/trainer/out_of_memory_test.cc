// Provoked for real: by tensors that no machine has room for.
#include "trainer/out_of_memory.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <new>

#include "base/error.h"
#include "comms/world.h"
#include "tests/support/expect_error.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

at::Tensor absurd_tensor() { return at::empty({int64_t{1} << 60}, at::kByte); }

// What the error of `part` is explained as; "" where it is not.
std::string explained(const std::function<void()>& part) {
  try {
    part();
  } catch (const std::exception& error) {
    return explain_out_of_memory(error).value_or("");
  }
  ADD_FAILURE() << "did not throw";
  return "";
}

TEST(OutOfMemory, OutsideAScopeActivationsWereAllocated) {
  const std::string text = explained([] { absurd_tensor(); });
  EXPECT_THAT(text,
              AllOf(HasSubstr("out of memory on the host while allocating activations: 1073741824.0 GiB asked for"),
                    HasSubstr("in use so far by this process's tensors, of "),
                    HasSubstr("lower train.per_device_train_batch_size or data.max_length, or set "
                              "parallel.activations: recompute_block or parallel.base: shard, or start fewer "
                              "ranks a host")));
}

TEST(OutOfMemory, InScopesTheInnermostIsNamedWithItsOwnRemedy) {
  const std::string text = explained([] {
    const TensorScope outer(TensorKind::kAdapter);
    const TensorScope inner(TensorKind::kGathered);
    absurd_tensor();
  });
  EXPECT_THAT(text, AllOf(HasSubstr("while allocating gathered: "), HasSubstr("parallel.resident_gib")));
}

TEST(OutOfMemory, AScopeThatEndedWellIsNotNamed) {
  const std::string text = explained([] {
    { const TensorScope over(TensorKind::kOptimizer); }
    absurd_tensor();
  });
  EXPECT_THAT(text, HasSubstr("while allocating activations: "));
}

TEST(OutOfMemory, AnEarlierExceptionIsForgottenWhenTheNextScopeBegins) {
  explained([] {
    const TensorScope scope(TensorKind::kBaseShard);
    absurd_tensor();
  });
  const std::string text = explained([] {
    { const TensorScope over(TensorKind::kOptimizer); }
    absurd_tensor();
  });
  EXPECT_THAT(text, HasSubstr("while allocating activations: "));
}

TEST(OutOfMemory, MemoryThatIsNoTensorIsToldSo) {
  { const TensorScope over(TensorKind::kOptimizer); }
  const std::string text = explained([] { throw std::bad_alloc(); });
  EXPECT_THAT(text, AllOf(HasSubstr("while allocating other memory than tensors: "), HasSubstr("fewer ranks a host"),
                          Not(HasSubstr("asked for"))));
}

TEST(OutOfMemory, OtherErrorsAreNotExplained) {
  EXPECT_EQ(explained([] { throw DataError("model.json:3: no such field"); }), "");
  EXPECT_EQ(explained([] { at::zeros({2}).view({3}); }), "");
}

// World::agree tells the error of one rank to all.
TEST(OutOfMemory, InAnAgreementTheExplanationIsWhatAllRanksAreTold) {
  World world;
  EXPECT_ERROR(world.agree("adapter", [] { absurd_tensor(); }), AgreedError, "adapter: ", "DefaultCPUAllocator");
  world.explain_errors_with(&explain_out_of_memory);
  EXPECT_ERROR(world.agree("adapter",
                           [] {
                             const TensorScope scope(TensorKind::kAdapter);
                             absurd_tensor();
                           }),
               AgreedError, "adapter: out of memory on the host while allocating adapter: ", "lower lora.r");
}

}  // namespace
}  // namespace rankwise
