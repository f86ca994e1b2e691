// Frozen linear layers with low-rank additions: y = x W^T + b + s * dropout(x) A^T B^T (Hu et al. 2021), forward and
// backward written out, so that what is kept between the two is exactly what is named here: S = dropout(x) A^T. The
// input x is the caller's to keep or to compute again; W is never kept, only its handle. Legend: N tokens, I inputs, O
// outputs (of all parts together), R rank (of all parts together).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/model/dropout.h"
#include "trainer/model/gpu_low_rank.h"
#include "trainer/weights/frozen_store.h"

namespace rankwise {

// The trainable pair of one linear layer; the tensors are views into the adapter's flat buffers.
struct LowRank {
  at::Tensor a_RI, b_OR;            // what the GEMMs read, in the compute dtype
  at::Tensor grad_a_RI, grad_b_OR;  // what backward adds to, in the masters' dtype
  double scaling = 1.0;
};

// One linear layer of the model file.
struct LinearPart {
  std::string module;  // "model.layers.0.self_attn.q_proj"
  int64_t in_features;
  int64_t out_features;
  bool has_bias;
  std::optional<LowRank> lora;
};

// What forward leaves for backward.
struct LinearSaved {
  at::Tensor s_NR;
};

// What a layer was given, x * rstd * weight where it had been normed: backward reads x and need not norm it again.
struct LinearInput {
  at::Tensor x_NI;
  at::Tensor rstd_N1 = {}, weight_I = {};  // both or none
};

// One or several layers over the same input (q, k, v; gate, up): one GEMM where their weights are adjacent, always one
// for their A's and for the gradients of these.
class LinearGroup {
 public:
  LinearGroup(FrozenStore& store, std::vector<LinearPart> parts);

  std::vector<LinearPart>& parts() { return parts_; }
  const std::vector<LinearPart>& parts() const { return parts_; }
  int64_t out_features() const { return out_features_; }
  void lora_changed();  // after `lora` of a part was set

  // x W^T + b + ..., plus `residual_NO` where defined. saved may be null (evaluation).
  at::Tensor forward(const at::Tensor& x_NI, const at::Tensor& residual_NO, const Dropout& dropout, LinearSaved* saved);
  // Adds to the gradients of A and B; returns dL/dx, undefined unless need_dx.
  at::Tensor backward(const at::Tensor& dy_NO, const LinearInput& input, const Dropout& dropout,
                      const LinearSaved& saved, bool need_dx);

  // What these two are made of, for a caller who has S or dS from a pass of his own. Both sums with their low-rank term
  // where S or dS is defined.
  at::Tensor low_rank_input(const at::Tensor& x_NI, const Dropout& dropout) const;  // S
  at::Tensor multiply(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR);
  at::Tensor multiply_transposed(const at::Tensor& dy_NO, const at::Tensor& ds_NR);
  at::Tensor low_rank_gradient(const at::Tensor& dy_NO, const at::Tensor& s_NR) const;  // dS; adds to B's gradients
  // The rest of backward.
  at::Tensor backward_from(const at::Tensor& ds_NR, const at::Tensor& dy_NO, const LinearInput& input,
                           const Dropout& dropout, bool need_dx);

 private:
  // The same where products read the base in float8.
  at::Tensor multiply_float8(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR);
  at::Tensor multiply_transposed_float8(const at::Tensor& dy_NO, const at::Tensor& ds_NR);
  at::Tensor scaled_b() const;
  void add_gradient_of_a(const at::Tensor& ds_NR, const LinearInput& input, const at::Tensor& mask_NI);

  FrozenStore& store_;
  std::vector<LinearPart> parts_;
  std::vector<WeightHandle> weights_;  // one a part, or a single one over all of them
  at::Tensor bias_O_;                  // undefined where no part has one
  std::vector<LowRankSlice> slices_;   // of each part
  bool on_gpu_ = false;                // whether trainer/model/gpu_low_rank.h has them
  at::Tensor a_RI_, grad_a_RI_;        // over the parts' A's, which the adapter lays out adjacent
  int64_t out_features_ = 0;
};

}  // namespace rankwise
