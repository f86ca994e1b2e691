#include "trainer/model/decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "trainer/model/gpu.h"
#include "trainer/model/loss.h"
#include "trainer/model/norm.h"
#include "trainer/model/products.h"
#include "trainer/weights/tensor_memory.h"

namespace rankwise {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kFinalNorm = "model.norm.weight";

UnitSpec block_unit(const ModelConfig& c, int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  return {fmt::format("block {}", layer),
          UnitPool::kBlocks,
          {{prefix + "self_attn.q_proj.weight", {q, c.hidden_size}},
           {prefix + "self_attn.k_proj.weight", {kv, c.hidden_size}},
           {prefix + "self_attn.v_proj.weight", {kv, c.hidden_size}},
           {prefix + "self_attn.o_proj.weight", {c.hidden_size, q}},
           {prefix + "mlp.gate_proj.weight", {c.intermediate_size, c.hidden_size}},
           {prefix + "mlp.up_proj.weight", {c.intermediate_size, c.hidden_size}},
           {prefix + "mlp.down_proj.weight", {c.hidden_size, c.intermediate_size}}}};
}

std::vector<MatrixSpec> replicated_of_block(const ModelConfig& c, int64_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<MatrixSpec> all = {{prefix + "input_layernorm.weight", {c.hidden_size}},
                                 {prefix + "post_attention_layernorm.weight", {c.hidden_size}}};
  const auto add = [&](bool present, const char* name, int64_t size) {
    if (present) all.push_back({prefix + name, {size}});
  };
  add(c.qk_norm, "self_attn.q_norm.weight", c.head_dim);
  add(c.qk_norm, "self_attn.k_norm.weight", c.head_dim);
  add(c.attention_bias, "self_attn.q_proj.bias", q);
  add(c.attention_bias, "self_attn.k_proj.bias", kv);
  add(c.attention_bias, "self_attn.v_proj.bias", kv);
  add(c.attention_output_bias, "self_attn.o_proj.bias", c.hidden_size);
  add(c.mlp_bias, "mlp.gate_proj.bias", c.intermediate_size);
  add(c.mlp_bias, "mlp.up_proj.bias", c.intermediate_size);
  add(c.mlp_bias, "mlp.down_proj.bias", c.hidden_size);
  return all;
}

// Of the allocator's memory, or of the driver's, which holds the graphs themselves.
bool is_out_of_memory(const std::exception& error) {
  constexpr int32_t kOutOfMemory = 2;  // cudaErrorMemoryAllocation
  const auto* driver = dynamic_cast<const c10::AcceleratorError*>(&error);
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         (driver != nullptr && driver->get_error_code() == kOutOfMemory);
}

std::string text_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  return torch != nullptr ? torch->what_without_backtrace() : error.what();
}

}  // namespace

FrozenSpec Decoder::frozen_spec(const ModelConfig& c) {
  FrozenSpec spec;
  const int layers = static_cast<int>(c.num_hidden_layers);
  spec.units.push_back({"embedding", UnitPool::kEnds, {{kEmbedding, {c.vocab_size, c.hidden_size}}}});
  spec.forward_order.push_back(0);
  for (int layer = 0; layer < layers; ++layer) {
    spec.units.push_back(block_unit(c, layer));
    spec.forward_order.push_back(layer + 1);
    for (auto& vector : replicated_of_block(c, layer)) spec.replicated.push_back(std::move(vector));
  }
  if (!c.tie_word_embeddings) spec.units.push_back({"head", UnitPool::kEnds, {{kHead, {c.vocab_size, c.hidden_size}}}});
  spec.forward_order.push_back(c.tie_word_embeddings ? 0 : layers + 1);
  for (int layer = layers; layer >= 1; --layer) spec.backward_order.push_back(layer);
  spec.replicated.push_back({kFinalNorm, {c.hidden_size}});
  return spec;
}

Decoder::Decoder(const ModelConfig& config, FrozenStore& store, c10::ScalarType dtype, ActivationPolicy policy)
    : config_(config),
      store_(store),
      dtype_(dtype),
      policy_(policy),
      rope_(config),
      embedding_(store.find(kEmbedding)),
      head_(store.find(config.tie_word_embeddings ? kEmbedding : kHead)) {
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) blocks_.emplace_back(store, config, layer);
  if (policy == ActivationPolicy::kOffload && store.device().is_cuda())
    offloaded_ = std::make_unique<OffloadedInputs>(store.device(), blocks_.size());
}

std::vector<LinearGroup*> Decoder::groups() {
  std::vector<LinearGroup*> all;
  for (auto& block : blocks_) {
    for (auto* group : block.groups()) all.push_back(group);
  }
  return all;
}

int64_t Decoder::num_composed() const {
  return std::ranges::count_if(blocks_, [&](const Block& block) { return block.composes_mlp(dtype_); });
}

const char* Decoder::attention_kernel(const Batch& batch) {
  const auto options = at::TensorOptions().dtype(dtype_).device(store_.device());
  const AttentionShape& shape = blocks_.front().attention_shape();
  return rankwise::attention_kernel(options, SampleLayout(batch.sample_starts, store_.device(), shape), shape);
}

at::Tensor Decoder::here(const std::vector<int64_t>& values) const { return upload(values, store_.device()); }

BlockContext Decoder::context_of(const Batch& batch, const StepContext* step) {
  const RopeAngles angles = rope_.angles(batch.positions, dtype_, store_.device());
  const SampleLayout samples(batch.sample_starts, store_.device(), blocks_.front().attention_shape());
  if (step == nullptr) return {samples, angles, /*training=*/false};
  return {
      samples, angles, /*training=*/true,
      step_dropout({step->dropout_seed, step->step}, config_.num_hidden_layers, batch, step->dropout, store_.device())};
}

at::Tensor Decoder::embed(const at::Tensor& ids_N) {
  return store_.weight(embedding_).index_select(0, ids_N).to(dtype_);
}

at::Tensor Decoder::to_logits(const at::Tensor& hidden_NC) {
  const Product product[] = {{hidden_NC, store_.weight(head_).t()}};
  return sum_products({}, product);
}

at::Tensor Decoder::run_blocks(at::Tensor x_NC, const BlockContext& context, std::vector<BlockSaved>* saved) {
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const bool offloads = offloaded_ && saved != nullptr;
    if (offloads) offloaded_->put(layer, x_NC);
    x_NC = blocks_[layer].forward(x_NC, context, policy_, saved != nullptr ? &(*saved)[layer] : nullptr);
    if (offloads) (*saved)[layer].x_NC.reset();
  }
  return x_NC;
}

Decoder::Inputs Decoder::inputs_of(const Batch& batch, const StepContext* step) {
  return {here(batch.ids), here(batch.target_rows), here(batch.targets), context_of(batch, step)};
}

// All that differs between two micro-batches of a shape; the last is undefined where nothing is dropped.
std::array<at::Tensor*, 6> Decoder::changing(Inputs& inputs) {
  BlockContext& context = inputs.context;
  return {&inputs.ids_N,           &inputs.target_rows_M,   &inputs.targets_M,
          &context.angles.cos_N1D, &context.angles.sin_N1D, &context.dropout.row_keys_MN};
}

at::Tensor Decoder::evaluate(const Batch& batch) {
  const at::NoGradGuard no_grad;
  forget_recorded();
  store_.travel(Direction::kForward);
  const Inputs inputs = inputs_of(batch, nullptr);
  const at::Tensor x_NC = run_blocks(embed(inputs.ids_N), inputs.context, nullptr);
  const at::Tensor rows_MC = x_NC.index_select(0, inputs.target_rows_M);
  const at::Tensor hidden_MC = rms_norm(rows_MC, store_.replicated(kFinalNorm), config_.rms_norm_eps).normed_NC;
  return head_loss(hidden_MC, store_.weight(head_), inputs.targets_M, false).sum;
}

Decoder::Turn Decoder::forward(const Inputs& inputs) {
  store_.travel(Direction::kForward);
  Turn turn;
  turn.saved.resize(blocks_.size());
  turn.x_NC = run_blocks(embed(inputs.ids_N), inputs.context, &turn.saved);
  turn.rows_MC = turn.x_NC.index_select(0, inputs.target_rows_M);
  Normed normed = rms_norm(turn.rows_MC, store_.replicated(kFinalNorm), config_.rms_norm_eps);
  turn.loss = head_loss(normed.normed_NC, store_.weight(head_), inputs.targets_M, true);
  turn.rstd_M1 = std::move(normed.rstd_N1);
  return turn;
}

at::Tensor Decoder::backward(Turn turn, const Inputs& inputs, bool need_dembedding) {
  store_.travel(Direction::kBackward);
  at::Tensor dx_NC = at::zeros_like(turn.x_NC);
  turn.x_NC.reset();
  dx_NC.index_copy_(
      0, inputs.target_rows_M,
      rms_norm_backward(std::move(turn.loss.dhidden_MC), turn.rows_MC, turn.rstd_M1, store_.replicated(kFinalNorm)));
  for (size_t layer = blocks_.size(); layer-- > 0;) {
    if (offloaded_) turn.saved[layer].x_NC = offloaded_->take(layer);
    dx_NC = blocks_[layer].backward(std::move(dx_NC), inputs.context, policy_, turn.saved[layer],
                                    layer > 0 || need_dembedding);
    turn.saved[layer] = {};
  }
  return dx_NC;
}

const char* Decoder::record_graphs() {
  const auto odd = [](LinearGroup* group) { return group->parts().front().in_features % kGpuRowStep != 0; };
  if (!store_.device().is_cuda()) return "the base is not on a GPU";
  if (!store_.stays_whole()) return "parts of the base are gathered in every step";
  if (policy_ == ActivationPolicy::kOffload) return "activations pass to the host and back";
  if (dtype_ != at::kBFloat16)
    return "model.dtype is not bfloat16";  // whose parts that wait for the host are not known
  if (std::ranges::any_of(groups(), odd)) return "a layer's width is no multiple of 8";  // dropout's masks, by the host
  recorder_ = std::make_unique<GpuRecorder>(store_.device());
  return nullptr;
}

// There is memory for the activations of one micro-batch, and those that were recorded have it.
void Decoder::forget_recorded() {
  if (!recorded_) return;
  shapes_.lost(recorded_->uses);
  recorded_.reset();
  release_cached_memory();
}

// The first micro-batch of a shape shows every product its algorithm and attention its plan; a later one is recorded.
Decoder::Recorded* Decoder::recorded_for(const Inputs& inputs) {
  if (!recorder_) return nullptr;
  const SampleLayout& samples = inputs.context.samples;
  const RepeatedShape::Shape shape{inputs.ids_N.size(0), inputs.targets_M.size(0),
                                   samples.dense() ? samples.longest() : 0};
  if (recorded_ && recorded_->shape != shape) forget_recorded();
  const bool pays = shapes_.comes(shape) && samples.dense();
  if (!recorded_ && pays) record_if_there_is_room(shape, inputs);
  return recorded_ ? &*recorded_ : nullptr;
}

// Where there is none, this and all later micro-batches are started kernel by kernel.
void Decoder::record_if_there_is_room(const RepeatedShape::Shape& shape, const Inputs& inputs) {
  release_cached_memory();  // a graph's memory is its own
  try {
    recorded_.emplace(record(shape, inputs));
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) {
      throw Error(
          fmt::format("a micro-batch could not be recorded as a CUDA graph: {}; with train.cuda_graphs: false "
                      "none is",
                      text_of(error)));
    }
    recorder_.reset();
    release_cached_memory();
  }
}

Decoder::Recorded Decoder::record(const RepeatedShape::Shape& shape, const Inputs& inputs) {
  Recorded recorded{.shape = shape, .inputs = inputs};
  for (at::Tensor* tensor : changing(recorded.inputs)) {
    if (tensor->defined()) *tensor = tensor->clone();
  }
  Turn turn;
  recorded.graphs = recorder_->record({
      [&] {
        turn = forward(recorded.inputs);
        recorded.loss = turn.loss.sum;
      },
      [&] { backward(std::move(turn), recorded.inputs, /*need_dembedding=*/false); },
  });
  return recorded;
}

at::Tensor Decoder::replay(Recorded& recorded, Inputs& inputs, const std::function<void(ModelPhase)>& on_phase) {
  const auto from = changing(inputs), to = changing(recorded.inputs);
  for (size_t k = 0; k < to.size(); ++k) {
    if (to[k]->defined()) to[k]->copy_(*from[k]);
  }
  recorded.graphs[0].launch();
  on_phase(ModelPhase::kBackward);
  recorded.graphs[1].launch();
  ++recorded.uses;
  ++num_replays_;
  return recorded.loss.clone();  // the next launch writes it again
}

at::Tensor Decoder::train(const Batch& batch, const StepContext& step, const std::function<void(ModelPhase)>& on_phase,
                          at::Tensor* dembedding_NC) {
  const at::NoGradGuard no_grad;
  on_phase(ModelPhase::kForward);
  Inputs inputs = inputs_of(batch, &step);
  if (dembedding_NC == nullptr) {
    if (Recorded* recorded = recorded_for(inputs)) return replay(*recorded, inputs, on_phase);
  }
  Turn turn = forward(inputs);
  at::Tensor loss = turn.loss.sum;
  on_phase(ModelPhase::kBackward);
  at::Tensor dx_NC = backward(std::move(turn), inputs, dembedding_NC != nullptr);
  if (dembedding_NC != nullptr) *dembedding_NC = std::move(dx_NC);
  return loss;
}

at::Tensor Decoder::forward_backward(const Batch& batch, const StepContext& step,
                                     const std::function<void(ModelPhase)>& on_phase) {
  return train(batch, step, on_phase, nullptr);
}

at::Tensor Decoder::forward_backward(const Batch& batch, const StepContext& step, at::Tensor* dembedding_NC) {
  return train(
      batch, step, [](ModelPhase) {}, dembedding_NC);
}

at::Tensor Decoder::logits(const Batch& batch) {
  const at::NoGradGuard no_grad;
  store_.travel(Direction::kForward);
  const at::Tensor x_NC = run_blocks(embed(here(batch.ids)), context_of(batch, nullptr), nullptr);
  const at::Tensor hidden_NC = rms_norm(x_NC, store_.replicated(kFinalNorm), config_.rms_norm_eps).normed_NC;
  return to_logits(hidden_NC);
}

at::Tensor Decoder::extend(const std::vector<int64_t>& ids, History& history) {
  const at::NoGradGuard no_grad;
  store_.travel(Direction::kForward);
  history.blocks.resize(blocks_.size());
  std::vector<int64_t> positions(ids.size());
  std::iota(positions.begin(), positions.end(), history.num_tokens);
  const RopeAngles angles = rope_.angles(positions, dtype_, store_.device());
  at::Tensor x_NC = embed(here(ids));
  for (size_t layer = 0; layer < blocks_.size(); ++layer)
    x_NC = blocks_[layer].extend(x_NC, angles, history.blocks[layer]);
  history.num_tokens += static_cast<int64_t>(ids.size());
  const at::Tensor last_1C = x_NC.narrow(0, x_NC.size(0) - 1, 1);
  const at::Tensor hidden_1C = rms_norm(last_1C, store_.replicated(kFinalNorm), config_.rms_norm_eps).normed_NC;
  return to_logits(hidden_1C).squeeze(0);
}

}  // namespace rankwise
