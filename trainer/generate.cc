#include "trainer/generate.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"
#include "base/counter_random.h"

namespace rankwise {
namespace {

// Draws from the smallest set of most probable tokens whose mass reaches top_p.
int64_t sample(const at::Tensor& logits_V, const SamplingOptions& options, uint64_t counter) {
  if (options.temperature <= 0) return logits_V.argmax().item<int64_t>();
  const at::Tensor probability_V = at::softmax(logits_V.to(at::kDouble) / options.temperature, 0);
  const auto [sorted_V, index_V] = probability_V.sort(/*dim=*/0, /*descending=*/true);
  const at::Tensor mass_V = sorted_V.cumsum(0);
  const auto* mass = mass_V.const_data_ptr<double>();
  const auto* end = mass + mass_V.numel();
  const auto* last = std::min(std::lower_bound(mass, end, options.top_p), end - 1);
  const double point = random_unit(options.seed, counter) * *last;
  const auto chosen = std::min(std::upper_bound(mass, last + 1, point), last) - mass;
  return index_V[chosen].item<int64_t>();
}

}  // namespace

Generated generate(Decoder& model, const std::vector<int64_t>& prompt, const std::vector<int64_t>& stop_ids,
                   const SamplingOptions& options, const std::function<void(int32_t)>& on_token) {
  RW_CHECK(!prompt.empty(), DataError, "the prompt is empty: nothing to continue");
  Decoder::History history;
  Generated result{{}, false};
  std::vector<int64_t> next = prompt;
  for (int64_t count = 0; count < options.max_new_tokens; ++count) {
    const int64_t token = sample(model.extend(next, history), options, static_cast<uint64_t>(count));
    if (std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end()) {
      result.stopped = true;
      break;
    }
    result.ids.push_back(static_cast<int32_t>(token));
    if (on_token) on_token(result.ids.back());
    next = {token};
  }
  return result;
}

}  // namespace rankwise
