#include "trainer/weights/weight_source.h"

#include <ATen/ATen.h>

#include "base/hash.h"

namespace rankwise {

void RandomWeights::load(const std::string& name, int64_t begin, at::Tensor out, bool /*counted*/) {
  if (name.ends_with("norm.weight")) {
    out.fill_(1.0);
    return;
  }
  const auto seed = hash64(name, seed_ + static_cast<uint64_t>(begin));
  auto generator = at::globalContext().defaultGenerator(out.device()).clone();
  generator.set_current_seed(seed);
  out.normal_(0.0, 0.02, generator);
}

}  // namespace rankwise
