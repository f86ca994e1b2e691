#include "trainer/model/mlp.h"

#include <gtest/gtest.h>

#include "tests/support/tolerance.h"

namespace rankwise::testing {
namespace {

at::Tensor reference(const at::Tensor& gate_up) {
  const auto parts = gate_up.chunk(2, -1);
  return parts[0] * parts[0].sigmoid() * parts[1];
}

TEST(SwiGlu, GatesTheUpperHalf) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const at::Tensor gate_up = numbers({9, 26}, 1, dtype) * 4;
    expect_close(swiglu(gate_up), reference(gate_up.to(at::kDouble)), c10::toString(dtype));
  }
}

TEST(SwiGlu, BackwardIsAutogradsInPlace) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    at::Tensor gate_up = numbers({9, 26}, 1, dtype) * 4;
    const at::Tensor dh = numbers({9, 13}, 2, dtype);
    const at::Tensor exact = with_gradient(gate_up.to(at::kDouble));
    reference(exact).backward(dh.to(at::kDouble));
    const void* memory = gate_up.data_ptr();
    swiglu_backward(dh.clone(), gate_up);
    EXPECT_EQ(gate_up.data_ptr(), memory);
    expect_close(gate_up, exact.grad(), c10::toString(dtype));
  }
}

}  // namespace
}  // namespace rankwise::testing
