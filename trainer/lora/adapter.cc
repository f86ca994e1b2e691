#include "trainer/lora/adapter.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/hash.h"
#include "base/round_up.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

constexpr int64_t kAlignment = 16;  // elements: 64 bytes of float32

// Kaiming-uniform with a = sqrt(5) is uniform in +-1/sqrt(fan_in).
double draw(LoraInit method, bool is_a, const AdapterEntry& entry, uint64_t key, uint64_t index) {
  if (!is_a && method != LoraInit::kRandom) return 0.0;
  if (method == LoraInit::kGaussian) return random_normal(key, index) / static_cast<double>(entry.shape[0]);
  return (2.0 * random_unit(key, index) - 1.0) / std::sqrt(static_cast<double>(entry.shape[1]));
}

}  // namespace

Adapter::Adapter(std::vector<MatchedModule> modules, std::span<LinearGroup* const> groups,
                 const AdapterOptions& options)
    : options_(options), modules_(std::move(modules)) {
  for (const auto& spec : adapter_tensor_specs(modules_))
    entries_.push_back({spec.key, spec.shape, 0, spec.shape[0] * spec.shape[1]});
  place(groups);
  const auto master_options = at::TensorOptions().dtype(options_.master_dtype).device(options_.device);
  {
    const TensorScope scope(TensorKind::kAdapter);
    masters_ = at::zeros({num_elements_}, master_options);
    compute_ = options_.compute_dtype == options_.master_dtype ? masters_ : masters_.to(options_.compute_dtype);
  }
  if (options_.trainable) {
    const TensorScope scope(TensorKind::kGradients);
    gradients_ = at::zeros({num_elements_}, master_options);
  }
  attach(groups);
}

void Adapter::place(std::span<LinearGroup* const> groups) {
  std::map<std::string, size_t, std::less<>> index;
  for (size_t m = 0; m < modules_.size(); ++m) index[modules_[m].name] = m;
  const auto put = [this](AdapterEntry& entry) {
    entry.begin = num_elements_;
    num_elements_ += entry.num_elements;
  };
  for (auto* group : groups) {
    std::vector<size_t> members;
    for (const auto& part : group->parts()) {
      if (const auto found = index.find(part.module); found != index.end()) members.push_back(found->second);
    }
    num_elements_ = round_up(num_elements_, kAlignment);
    for (const size_t m : members) put(entries_[2 * m]);
    for (const size_t m : members) {
      num_elements_ = round_up(num_elements_, kAlignment);
      put(entries_[2 * m + 1]);
    }
  }
  num_elements_ = round_up(num_elements_, kAlignment);
}

at::Tensor Adapter::view(const at::Tensor& flat, const AdapterEntry& entry) const {
  return flat.narrow(0, entry.begin, entry.num_elements).view(entry.shape);
}

at::Tensor Adapter::master(const AdapterEntry& entry) const { return view(masters_, entry); }
at::Tensor Adapter::gradient(const AdapterEntry& entry) const { return view(gradients_, entry); }

void Adapter::attach(std::span<LinearGroup* const> groups) {
  std::map<std::string, LowRank, std::less<>> pairs;
  for (size_t m = 0; m < modules_.size(); ++m) {
    const auto &a = entries_[2 * m], &b = entries_[2 * m + 1];
    LowRank pair{view(compute_, a), view(compute_, b), {}, {}, modules_[m].scaling};
    if (options_.trainable) {
      pair.grad_a_RI = gradient(a);
      pair.grad_b_OR = gradient(b);
    }
    pairs.emplace(modules_[m].name, std::move(pair));
  }
  for (auto* group : groups) {
    for (auto& part : group->parts()) {
      const auto found = pairs.find(part.module);
      part.lora = found == pairs.end() ? std::nullopt : std::optional<LowRank>(found->second);
    }
    group->lora_changed();
  }
}

void Adapter::initialise(LoraInit method, uint64_t seed) {
  for (size_t e = 0; e < entries_.size(); ++e) {
    const AdapterEntry& entry = entries_[e];
    at::Tensor values = at::empty({entry.num_elements}, at::kDouble);
    const uint64_t key = hash64(entry.key, seed);
    auto* out = values.data_ptr<double>();
    for (int64_t i = 0; i < entry.num_elements; ++i)
      out[i] = draw(method, e % 2 == 0, entry, key, static_cast<uint64_t>(i));
    master(entry).copy_(values.view(entry.shape));
  }
  refresh_compute_copies();
}

void Adapter::load(std::span<const AdapterTensor> tensors) {
  std::map<std::string_view, const AdapterTensor*> by_key;
  for (const auto& tensor : tensors) by_key[tensor.key] = &tensor;
  for (const auto& entry : entries_) {
    const auto found = by_key.find(entry.key);
    RW_CHECK(found != by_key.end(), Error, "{}: not among the adapter's tensors", entry.key);
    RW_CHECK(found->second->shape == entry.shape, Error, "{}: shape [{}], expected [{}]", entry.key,
             fmt::join(found->second->shape, ", "), fmt::join(entry.shape, ", "));
    master(entry).copy_(at::from_blob(const_cast<float*>(found->second->data.data()), entry.shape, at::kFloat));
  }
  refresh_compute_copies();
}

std::vector<AdapterTensor> Adapter::tensors() const {
  std::vector<AdapterTensor> all;
  for (const auto& entry : entries_) {
    const at::Tensor values = master(entry).to(at::kCPU, at::kFloat).contiguous();
    const float* data = values.const_data_ptr<float>();
    all.push_back({entry.key, entry.shape, std::vector<float>(data, data + entry.num_elements)});
  }
  return all;
}

void Adapter::refresh_compute_copies() {
  RECORD_FUNCTION("rankwise::compute_copies", {});
  if (options_.compute_dtype != options_.master_dtype) compute_.copy_(masters_);
}

}  // namespace rankwise
