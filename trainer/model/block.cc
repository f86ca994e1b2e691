#include "trainer/model/block.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "trainer/model/gpu_low_rank_mlp.h"
#include "trainer/model/mlp.h"
#include "trainer/model/norm.h"

namespace rankwise {
namespace {

std::string layer_prefix(int64_t layer) { return fmt::format("model.layers.{}.", layer); }

LinearPart part(int64_t layer, const char* name, int64_t in, int64_t out, bool bias) {
  return {layer_prefix(layer) + name, in, out, bias, std::nullopt};
}

std::vector<LinearPart> qkv_parts(const ModelConfig& c, int64_t layer) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  return {part(layer, "self_attn.q_proj", c.hidden_size, q, c.attention_bias),
          part(layer, "self_attn.k_proj", c.hidden_size, kv, c.attention_bias),
          part(layer, "self_attn.v_proj", c.hidden_size, kv, c.attention_bias)};
}

std::vector<LinearPart> gate_up_parts(const ModelConfig& c, int64_t layer) {
  return {part(layer, "mlp.gate_proj", c.hidden_size, c.intermediate_size, c.mlp_bias),
          part(layer, "mlp.up_proj", c.hidden_size, c.intermediate_size, c.mlp_bias)};
}

}  // namespace

void BlockSaved::drop_attention() {
  for (auto* tensor : {&rstd1_N1, &qkv_linear.s_NR, &o_linear.s_NR, &unnormed_qk_NHD, &qkv_NE, &out_NF})
    tensor->reset();
  attention = {};
}

void BlockSaved::drop_mlp() {
  for (auto* tensor : {&rstd2_N1, &gate_up_linear.s_NR, &gate_up_NI2}) tensor->reset();
}

Block::Block(FrozenStore& store, const ModelConfig& c, int64_t layer)
    : store_(store),
      prefix_(layer_prefix(layer)),
      layer_(layer),
      eps_(c.rms_norm_eps),
      qk_norm_(c.qk_norm),
      shape_{c.num_attention_heads, c.num_key_value_heads, c.head_dim,
             c.layer_is_sliding[static_cast<size_t>(layer)] ? c.sliding_window : std::nullopt},
      qkv_(store, qkv_parts(c, layer)),
      o_(store,
         {part(layer, "self_attn.o_proj", c.num_attention_heads * c.head_dim, c.hidden_size, c.attention_output_bias)}),
      gate_up_(store, gate_up_parts(c, layer)),
      down_(store, {part(layer, "mlp.down_proj", c.intermediate_size, c.hidden_size, c.mlp_bias)}),
      unit_(store.find(prefix_ + "self_attn.q_proj.weight").unit) {}

bool Block::composes_mlp(c10::ScalarType dtype) const {
  const auto adapted = [](const LinearGroup& group) {
    return std::ranges::any_of(group.parts(), [](const LinearPart& one) { return one.lora.has_value(); });
  };
  return (adapted(gate_up_) || adapted(down_)) && !shares_passes(gate_up_, down_, dtype, store_.device());
}

const at::Tensor& Block::norm_weight(const char* name) const { return store_.replicated(prefix_ + name); }

void Block::norm_heads(const at::Tensor& qkv_NE, BlockSaved* saved) const {
  if (!qk_norm_) return;
  const int64_t q = shape_.num_heads, k = shape_.num_kv_heads;
  const QkvViews views = split_qkv(qkv_NE, shape_);
  at::Tensor before_q, before_k;
  if (saved != nullptr) {
    saved->unnormed_qk_NHD = at::empty({qkv_NE.size(0), q + k, shape_.head_dim}, qkv_NE.options());
    before_q = saved->unnormed_qk_NHD.narrow(1, 0, q);
    before_k = saved->unnormed_qk_NHD.narrow(1, q, k);
  }
  rms_norm_heads(views.q_NHD, norm_weight("self_attn.q_norm.weight"), eps_, before_q);
  rms_norm_heads(views.k_NKD, norm_weight("self_attn.k_norm.weight"), eps_, before_k);
}

void Block::norm_heads_backward(const at::Tensor& dqkv_NE, const BlockSaved& saved) const {
  if (!qk_norm_) return;
  const int64_t q = shape_.num_heads, k = shape_.num_kv_heads;
  const QkvViews gradients = split_qkv(dqkv_NE, shape_);
  const at::Tensor& before = saved.unnormed_qk_NHD;
  rms_norm_heads_backward(gradients.q_NHD, before.narrow(1, 0, q), norm_weight("self_attn.q_norm.weight"), eps_);
  rms_norm_heads_backward(gradients.k_NKD, before.narrow(1, q, k), norm_weight("self_attn.k_norm.weight"), eps_);
}

void Block::rotate(const at::Tensor& qkv_NE, const RopeAngles& angles, bool inverse) const {
  // q and k are neighbours and rotate alike.
  apply_rope(qkv_NE.unflatten(-1, {-1, shape_.head_dim}).narrow(1, 0, shape_.num_heads + shape_.num_kv_heads), angles,
             inverse);
}

at::Tensor Block::project_qkv(const at::Tensor& x_NC, const Dropout& dropout, BlockSaved* saved) {
  const Normed normed = rms_norm(x_NC, norm_weight("input_layernorm.weight"), eps_);
  if (saved != nullptr) saved->rstd1_N1 = normed.rstd_N1;
  at::Tensor qkv_NE = qkv_.forward(normed.normed_NC, {}, dropout, saved != nullptr ? &saved->qkv_linear : nullptr);
  norm_heads(qkv_NE, saved);
  return qkv_NE;
}

at::Tensor Block::attention_half(const at::Tensor& x_NC, const BlockContext& context, BlockSaved& saved,
                                 bool with_output) {
  saved.qkv_NE = project_qkv(x_NC, context.dropout.of(layer_, kQkvInput), &saved);
  rotate(saved.qkv_NE, context.angles, /*inverse=*/false);
  saved.out_NF =
      attention_forward(saved.qkv_NE, context.samples, shape_, context.training ? &saved.attention : nullptr);
  if (!with_output) return {};
  return o_.forward(saved.out_NF, x_NC, context.dropout.of(layer_, kOutputInput), &saved.o_linear);
}

at::Tensor Block::mlp_half(const BlockContext& context, BlockSaved& saved, bool with_output) {
  const Normed normed = rms_norm(saved.middle_NC, norm_weight("post_attention_layernorm.weight"), eps_);
  saved.rstd2_N1 = normed.rstd_N1;
  const Dropout gate_up_dropout = context.dropout.of(layer_, kGateUpInput),
                down_dropout = context.dropout.of(layer_, kDownInput);
  const auto shared = low_rank_mlp(gate_up_, down_, normed.normed_NC, down_dropout);
  if (!shared) {
    saved.gate_up_NI2 = gate_up_.forward(normed.normed_NC, {}, gate_up_dropout, &saved.gate_up_linear);
    if (!with_output) return {};
    return down_.forward(swiglu(saved.gate_up_NI2), saved.middle_NC, down_dropout, &saved.down_linear);
  }
  saved.gate_up_linear.s_NR = gate_up_.low_rank_input(normed.normed_NC, gate_up_dropout);
  saved.gate_up_NI2 = gate_up_.multiply(normed.normed_NC, {}, {});
  if (!with_output) return {};
  const LowRankSwiglu made = low_rank_swiglu(*shared, saved.gate_up_NI2, saved.gate_up_linear.s_NR);
  saved.down_linear.s_NR = made.s_down_NR;
  return down_.multiply(made.h_NI, saved.middle_NC, made.s_down_NR);
}

at::Tensor Block::forward(const at::Tensor& x_NC, const BlockContext& context, ActivationPolicy policy,
                          BlockSaved* saved) {
  BlockSaved now;
  now.middle_NC = attention_half(x_NC, context, now, true);
  if (saved == nullptr) now.drop_attention();
  at::Tensor y_NC = mlp_half(context, now, true);
  if (saved == nullptr) return y_NC;
  now.x_NC = x_NC;
  if (policy != ActivationPolicy::kSave) now.drop_mlp();
  if (recomputes_block(policy)) {
    now.drop_attention();
    now.middle_NC.reset();
  }
  *saved = std::move(now);
  return y_NC;
}

// Turns gate_up into its gradient. Returns dS of gate and up where the same pass made it.
at::Tensor Block::mlp_middle_backward(const at::Tensor& dy_NC, const BlockContext& context, BlockSaved& saved) {
  const Dropout dropout = context.dropout.of(layer_, kDownInput);
  const at::Tensor& s_NR = saved.down_linear.s_NR;
  if (const auto shared = low_rank_mlp(gate_up_, down_, dy_NC, dropout)) {
    const at::Tensor ds_NR = down_.low_rank_gradient(dy_NC, s_NR);
    const at::Tensor dh_NI = down_.multiply_transposed(dy_NC, {});
    return low_rank_swiglu_backward(*shared, dh_NI, ds_NR, saved.gate_up_NI2, saved.gate_up_linear.s_NR);
  }
  const at::Tensor dh_NI = down_.backward(dy_NC, {swiglu(saved.gate_up_NI2)}, dropout, saved.down_linear, true);
  swiglu_backward(dh_NI, saved.gate_up_NI2);
  return {};
}

at::Tensor Block::mlp_half_backward(at::Tensor dy_NC, const BlockContext& context, BlockSaved& saved) {
  const Dropout dropout = context.dropout.of(layer_, kGateUpInput);
  const at::Tensor ds_NR = mlp_middle_backward(dy_NC, context, saved);
  const at::Tensor& weight = norm_weight("post_attention_layernorm.weight");
  const LinearInput normed{saved.middle_NC, saved.rstd2_N1, weight};
  at::Tensor dnormed_NC = ds_NR.defined()
                              ? gate_up_.backward_from(ds_NR, saved.gate_up_NI2, normed, dropout, true)
                              : gate_up_.backward(saved.gate_up_NI2, normed, dropout, saved.gate_up_linear, true);
  saved.gate_up_NI2.reset();
  add_rms_norm_backward(dy_NC, std::move(dnormed_NC), saved.middle_NC, saved.rstd2_N1, weight);
  return dy_NC;
}

at::Tensor Block::attention_half_backward(at::Tensor dy_NC, const BlockContext& context, BlockSaved& saved,
                                          bool need_dx) {
  const Dropout o_dropout = context.dropout.of(layer_, kOutputInput),
                qkv_dropout = context.dropout.of(layer_, kQkvInput);
  const at::Tensor dout_NF = o_.backward(dy_NC, {saved.out_NF}, o_dropout, saved.o_linear, true);
  at::Tensor dqkv_NE =
      attention_backward(dout_NF, saved.qkv_NE, saved.out_NF, saved.attention, context.samples, shape_);
  rotate(dqkv_NE, context.angles, /*inverse=*/true);
  norm_heads_backward(dqkv_NE, saved);
  const at::Tensor& weight = norm_weight("input_layernorm.weight");
  const LinearInput normed{saved.x_NC, saved.rstd1_N1, weight};
  at::Tensor dnormed_NC = qkv_.backward(dqkv_NE, normed, qkv_dropout, saved.qkv_linear, need_dx);
  if (!need_dx) return {};
  add_rms_norm_backward(dy_NC, std::move(dnormed_NC), saved.x_NC, saved.rstd1_N1, weight);
  return dy_NC;
}

at::Tensor Block::backward(at::Tensor dy_NC, const BlockContext& context, ActivationPolicy policy, BlockSaved& saved,
                           bool need_dx) {
  if (recomputes_block(policy)) saved.middle_NC = attention_half(saved.x_NC, context, saved, true);
  if (policy != ActivationPolicy::kSave) mlp_half(context, saved, /*with_output=*/false);
  at::Tensor dmiddle_NC = mlp_half_backward(std::move(dy_NC), context, saved);
  return attention_half_backward(std::move(dmiddle_NC), context, saved, need_dx);
}

at::Tensor Block::extend(const at::Tensor& x_NC, const RopeAngles& angles, History& history) {
  const at::Tensor qkv_NE = project_qkv(x_NC, {}, nullptr);
  rotate(qkv_NE, angles, /*inverse=*/false);
  const QkvViews views = split_qkv(qkv_NE, shape_);
  history.k_PKD = history.k_PKD.defined() ? at::cat({history.k_PKD, views.k_NKD}) : views.k_NKD.contiguous();
  history.v_PKD = history.v_PKD.defined() ? at::cat({history.v_PKD, views.v_NKD}) : views.v_NKD.contiguous();
  const at::Tensor out_NF = attention_with_history(views.q_NHD, history.k_PKD, history.v_PKD, shape_);
  const at::Tensor middle_NC = o_.forward(out_NF, x_NC, {}, nullptr);
  const at::Tensor normed_NC = rms_norm(middle_NC, norm_weight("post_attention_layernorm.weight"), eps_).normed_NC;
  return down_.forward(swiglu(gate_up_.forward(normed_NC, {}, {}, nullptr)), middle_NC, {}, nullptr);
}

}  // namespace rankwise
