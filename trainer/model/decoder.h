// The causal language model of the Llama family (Llama, Mistral, Qwen2, Qwen3, SmolLM2): embedding, blocks, final norm,
// head. Its weights are the FrozenStore's; its trainable part is what the adapter hangs on the linear layers.
// Legend: N tokens, C channels, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/data/batch.h"
#include "trainer/model/block.h"
#include "trainer/model/gpu_graph.h"
#include "trainer/model/loss.h"
#include "trainer/model/offloaded_inputs.h"
#include "trainer/model/repeated_shape.h"

namespace rankwise {

struct StepContext {
  int64_t step = 0;  // optimizer step: keys the dropout masks
  uint64_t dropout_seed = 0;
  double dropout = 0.0;
};

// Called between parts of a micro-batch; the trainer's clock and watchdog hang on it.
enum class ModelPhase { kForward, kBackward };

class Decoder {
 public:
  // What this architecture freezes, for the store and for the memory plan.
  static FrozenSpec frozen_spec(const ModelConfig& config);

  // On CPUs kOffload is kRecomputeBlock: the inputs are in host memory already.
  Decoder(const ModelConfig& config, FrozenStore& store, c10::ScalarType dtype, ActivationPolicy policy);

  std::vector<LinearGroup*> groups();                // all linear layers, block by block, in the order of the model
  int64_t num_composed() const;                      // blocks whose MLP's low-rank terms take passes of their own
  const char* attention_kernel(const Batch& batch);  // who attends to it in training, for people
  // From now on, where micro-batches of one shape follow each other (repeated_shape.h) and their samples are of one
  // length, training records one and starts the others by two calls (gpu_graph.h), until another shape or an evaluation
  // comes. Returns why not, for people; null: so it will be.
  const char* record_graphs();
  bool records_graphs() const noexcept { return recorder_ != nullptr; }  // no more once there was no memory for one
  int64_t num_replays() const noexcept { return num_replays_; }          // micro-batches that were started so
  void check() { store_.check(); }  // CommError if the ranks that hold the base with this one are gone

  // Sum of -log p(target) over the batch, a float64 scalar on the base's device, which may still be at work on it; no
  // gradient, no dropout.
  at::Tensor evaluate(const Batch& batch);

  // Forward, then backward: adds d(loss sum)/d(A and B) to the adapter's gradients. Returns the loss sum,
  // as evaluate() does. on_phase is called as each half begins.
  at::Tensor forward_backward(const Batch& batch, const StepContext& step,
                              const std::function<void(ModelPhase)>& on_phase);
  // The same, with the gradient of the embedding's output [N, C] too: for tests.
  at::Tensor forward_backward(const Batch& batch, const StepContext& step, at::Tensor* dembedding_NC);

  at::Tensor logits(const Batch& batch);  // [N, V], for tests and inspection

  // Generation: `history` starts empty and belongs to one sequence. Returns the logits [V] of the last token.
  struct History {
    std::vector<Block::History> blocks;
    int64_t num_tokens = 0;
  };
  at::Tensor extend(const std::vector<int64_t>& ids, History& history);

 private:
  // A micro-batch where the base lies.
  struct Inputs {
    at::Tensor ids_N, target_rows_M, targets_M;
    BlockContext context;
  };
  // What forward leaves for backward.
  struct Turn {
    std::vector<BlockSaved> saved;
    at::Tensor x_NC, rows_MC, rstd_M1;  // the last block's output, its target rows, and what normed those
    HeadLoss loss;
  };
  struct Recorded {
    RepeatedShape::Shape shape;
    Inputs inputs;  // read by the graphs
    at::Tensor loss = {};
    std::vector<GpuGraph> graphs = {};  // forward, backward
    int64_t uses = 0;
  };

  at::Tensor here(const std::vector<int64_t>& values) const;  // on the base's device
  BlockContext context_of(const Batch& batch, const StepContext* step);
  at::Tensor embed(const at::Tensor& ids_N);
  at::Tensor to_logits(const at::Tensor& hidden_NC);
  at::Tensor run_blocks(at::Tensor x_NC, const BlockContext& context, std::vector<BlockSaved>* saved);
  Inputs inputs_of(const Batch& batch, const StepContext* step);
  static std::array<at::Tensor*, 6> changing(Inputs& inputs);
  Turn forward(const Inputs& inputs);
  at::Tensor backward(Turn turn, const Inputs& inputs, bool need_dembedding);
  Recorded* recorded_for(const Inputs& inputs);
  Recorded record(const RepeatedShape::Shape& shape, const Inputs& inputs);
  void record_if_there_is_room(const RepeatedShape::Shape& shape, const Inputs& inputs);
  void forget_recorded();
  at::Tensor replay(Recorded& recorded, Inputs& inputs, const std::function<void(ModelPhase)>& on_phase);
  at::Tensor train(const Batch& batch, const StepContext& step, const std::function<void(ModelPhase)>& on_phase,
                   at::Tensor* dembedding_NC);

  ModelConfig config_;
  FrozenStore& store_;
  c10::ScalarType dtype_;
  ActivationPolicy policy_;
  Rope rope_;
  WeightHandle embedding_, head_;
  std::vector<Block> blocks_;
  std::unique_ptr<OffloadedInputs> offloaded_;  // where the policy offloads and the base lies on a device, else null
  std::unique_ptr<GpuRecorder> recorder_;       // null: micro-batches are started kernel by kernel
  RepeatedShape shapes_;
  std::optional<Recorded> recorded_;
  int64_t num_replays_ = 0;
};

}  // namespace rankwise
