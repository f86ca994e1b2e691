// One block of the Llama family: x + attention(norm(x)), then + mlp(norm(.)), forward and backward written out.
// What is kept between the two is BlockSaved and nothing else; an activation policy drops a part of it, which backward
// then computes again.
// Legend: N tokens, C channels, E width of [q | k | v], F heads x head size, I MLP width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "trainer/data/batch.h"
#include "trainer/model/attention.h"
#include "trainer/model/linear.h"
#include "trainer/model/rope.h"

namespace rankwise {

enum class ActivationPolicy {  // from the most that is kept to the least
  kSave,                       // keep all of BlockSaved
  kRecomputeMlp,               // drop the MLP's part: the two widest tensors
  kRecomputeBlock,             // keep the block's input alone
  kOffload,                    // the same, and the Decoder keeps the input: trainer/model/offloaded_inputs.h
};

// Of what forward makes, nothing is kept.
constexpr bool recomputes_block(ActivationPolicy policy) { return policy >= ActivationPolicy::kRecomputeBlock; }

// Everything about a batch that blocks share.
struct BlockContext {
  SampleLayout samples;
  RopeAngles angles;
  bool training;  // keep for backward
  StepDropout dropout = {};
};

struct BlockSaved {
  at::Tensor x_NC;  // the block's input
  at::Tensor rstd1_N1;
  LinearSaved qkv_linear, o_linear;
  at::Tensor unnormed_qk_NHD;  // q and k before their norm (Qwen3), else undefined
  at::Tensor qkv_NE;           // after norm and rotation
  at::Tensor out_NF;           // attention's output
  AttentionSaved attention;
  at::Tensor middle_NC;  // between the halves
  at::Tensor rstd2_N1;
  LinearSaved gate_up_linear, down_linear;
  at::Tensor gate_up_NI2;  // [gate | up] before the activation; without low-rank terms where low_rank_mlp() has them

  void drop_attention();  // what attention_half makes
  void drop_mlp();        // what mlp_half makes without its output; down_linear stays
};

class Block {
 public:
  Block(FrozenStore& store, const ModelConfig& config, int64_t layer);

  at::Tensor forward(const at::Tensor& x_NC, const BlockContext& context, ActivationPolicy policy, BlockSaved* saved);
  // Consumes dy and saved. Returns dL/dx, undefined unless need_dx.
  at::Tensor backward(at::Tensor dy_NC, const BlockContext& context, ActivationPolicy policy, BlockSaved& saved,
                      bool need_dx);

  // Generation: `history` holds this layer's rotated keys and its values, one row a token, and grows by the new ones.
  struct History {
    at::Tensor k_PKD, v_PKD;
  };
  at::Tensor extend(const at::Tensor& x_NC, const RopeAngles& angles, History& history);

  std::vector<LinearGroup*> groups() { return {&qkv_, &o_, &gate_up_, &down_}; }
  int unit() const { return unit_; }
  // Whether the MLP has low-rank terms that take passes of their own, beside SwiGLU's
  // (trainer/model/gpu_low_rank_mlp.h).
  bool composes_mlp(c10::ScalarType dtype) const;
  const AttentionShape& attention_shape() const { return shape_; }

 private:
  at::Tensor attention_half(const at::Tensor& x_NC, const BlockContext& context, BlockSaved& saved, bool with_output);
  at::Tensor mlp_half(const BlockContext& context, BlockSaved& saved, bool with_output);
  at::Tensor attention_half_backward(at::Tensor dy_NC, const BlockContext& context, BlockSaved& saved, bool need_dx);
  at::Tensor mlp_middle_backward(const at::Tensor& dy_NC, const BlockContext& context, BlockSaved& saved);
  at::Tensor mlp_half_backward(at::Tensor dy_NC, const BlockContext& context, BlockSaved& saved);
  at::Tensor project_qkv(const at::Tensor& x_NC, const Dropout& dropout, BlockSaved* saved);
  void norm_heads(const at::Tensor& qkv_NE, BlockSaved* saved) const;
  void norm_heads_backward(const at::Tensor& dqkv_NE, const BlockSaved& saved) const;
  void rotate(const at::Tensor& qkv_NE, const RopeAngles& angles, bool inverse) const;
  const at::Tensor& norm_weight(const char* name) const;

  FrozenStore& store_;
  std::string prefix_;
  int64_t layer_;
  double eps_;
  bool qk_norm_;
  AttentionShape shape_;
  LinearGroup qkv_, o_, gate_up_, down_;
  int unit_;
};

}  // namespace rankwise
