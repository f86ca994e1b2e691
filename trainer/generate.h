// Text from the model and an adapter: greedy, or sampled with temperature and top_p (Holtzman et al. 2020).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trainer/model/decoder.h"

namespace rankwise {

struct SamplingOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0.0;  // 0: the most probable token, always
  double top_p = 1.0;        // of the probability mass, most probable tokens first
  uint64_t seed = 42;        // the same seed and prompt give the same text
};

struct Generated {
  std::vector<int32_t> ids;  // without the token that ended it
  bool stopped;              // by one of stop_ids, not by max_new_tokens
};

// on_token may be empty; it sees each token as it comes.
Generated generate(Decoder& model, const std::vector<int64_t>& prompt, const std::vector<int64_t>& stop_ids,
                   const SamplingOptions& options, const std::function<void(int32_t)>& on_token);

}  // namespace rankwise
