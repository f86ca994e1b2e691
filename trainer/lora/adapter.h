// The trainable part: an ordered list of named tensors in three flat buffers (masters, gradients, compute copies) that
// one all-reduce, one clip and one AdamW pass serve. Replicated on every rank.
// Legend: R rank of a pair, I inputs, O outputs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "trainer/lora/peft_files.h"
#include "trainer/lora/target_matching.h"
#include "trainer/model/linear.h"

namespace rankwise {

struct AdapterEntry {
  std::string key;  // PEFT's: base_model.model.<module>.lora_A.weight
  std::vector<int64_t> shape;
  int64_t begin;  // elements from the start of the flat buffers
  int64_t num_elements;
};

struct AdapterOptions {
  c10::ScalarType master_dtype = c10::ScalarType::Float;  // of masters, gradients and moments
  c10::ScalarType compute_dtype = c10::ScalarType::Float;
  bool trainable = true;  // false: no gradient buffer (generation)
  c10::Device device = c10::kCPU;
};

class Adapter {
 public:
  // Lays the tensors out and hangs them on the groups' parts. The A's of a group lie adjacent, so that one GEMM serves
  // them; every B starts on 64 bytes. All zero until initialise() or load().
  Adapter(std::vector<MatchedModule> modules, std::span<LinearGroup* const> groups, const AdapterOptions& options);

  // Each tensor is drawn at full size as a function of (seed, key): the same on every rank at any world size.
  void initialise(LoraInit method, uint64_t seed);
  // Values by key; every entry must be there. Error names the first that is missing or of another size.
  void load(std::span<const AdapterTensor> tensors);
  // float32 copies on the host, in the order of adapter_tensor_specs.
  std::vector<AdapterTensor> tensors() const;

  const std::vector<MatchedModule>& modules() const { return modules_; }
  const std::vector<AdapterEntry>& entries() const { return entries_; }
  at::Tensor& masters() { return masters_; }
  at::Tensor& gradients() { return gradients_; }
  at::Tensor master(const AdapterEntry& entry) const;  // a view, shaped
  at::Tensor gradient(const AdapterEntry& entry) const;
  void refresh_compute_copies();  // after the masters changed

 private:
  void place(std::span<LinearGroup* const> groups);
  void attach(std::span<LinearGroup* const> groups);
  at::Tensor view(const at::Tensor& flat, const AdapterEntry& entry) const;

  AdapterOptions options_;
  std::vector<MatchedModule> modules_;
  std::vector<AdapterEntry> entries_;  // by modules_: A at 2k, B at 2k + 1
  int64_t num_elements_ = 0;
  at::Tensor masters_, gradients_, compute_;
};

}  // namespace rankwise
