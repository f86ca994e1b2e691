#include "configs/schema.h"

namespace rankwise {
namespace {

std::vector<Field<TrainSection>> train_length_fields() {
  using S = TrainSection;
  return {
      field(
          "num_train_epochs", &S::num_train_epochs, optional_kind("null", integer(1)),
          "Passes over the training data. Give this or `train.max_steps`. A run may be continued with more of either."),
      field("max_steps", &S::max_steps, optional_kind("null", integer(1)),
            "Optimizer steps. Give this or `train.num_train_epochs`."),
      field("global_batch_size", &S::global_batch_size, integer(1),
            "Samples (rows when packed) in an optimizer step, over all ranks and micro-batches. A multiple of "
            "`train.per_device_train_batch_size`."),
      field("per_device_train_batch_size", &S::per_device_train_batch_size, integer(1),
            "Samples (rows) that a rank computes at a time; the rest of its share is accumulated."),
      field("per_device_eval_batch_size", &S::per_device_eval_batch_size, optional_kind("null", integer(1)),
            "The same for evaluation. `null`: as in training."),
  };
}

std::vector<Field<TrainSection>> optimizer_fields() {
  using S = TrainSection;
  constexpr NumberRange kPositive{.min = 0, .max = 1, .without_min = true};
  return {
      field("learning_rate", &S::learning_rate, number(kPositive), "AdamW's step size at the top of the schedule."),
      field("lr_scheduler_type", &S::lr_scheduler_type,
            choice<S::Scheduler>({{"linear", S::Scheduler::kLinear},
                                  {"cosine", S::Scheduler::kCosine},
                                  {"constant", S::Scheduler::kConstant},
                                  {"constant_with_warmup", S::Scheduler::kConstantWithWarmup}}),
            "How the learning rate goes on after warm-up: down to 0 along a line or half a cosine, or level. "
            "`constant` has no warm-up."),
      field("warmup_ratio", &S::warmup_ratio, number({.min = 0, .max = 1}),
            "Warm-up as a share of all steps. Not together with `train.warmup_steps`."),
      field("warmup_steps", &S::warmup_steps, optional_kind("null", integer(0)),
            "Steps in which the learning rate rises from 0. `null`: by `train.warmup_ratio`."),
      field("weight_decay", &S::weight_decay, number({.min = 0, .max = 1}), "AdamW's decoupled weight decay."),
      field("adam_beta1", &S::adam_beta1, number(kFraction), "Decay of the mean of the gradient."),
      field("adam_beta2", &S::adam_beta2, number(kFraction), "Decay of the mean of its square."),
      field("adam_epsilon", &S::adam_epsilon, number(kPositive), "Added to the root of that mean."),
      field("max_grad_norm", &S::max_grad_norm, number({.min = 0, .max = 1e9}),
            "Longer gradients of the whole adapter are scaled down to this norm. 0: never."),
  };
}

std::vector<Field<TrainSection>> loop_fields() {
  using S = TrainSection;
  return {
      field("deterministic", &S::deterministic, optional_kind("auto", boolean()),
            "Equal bits from equal runs on equal machines, at some cost on GPUs. `auto`: true on CPUs, false on GPUs."),
      field("eval_steps", &S::eval_steps, integer(0),
            "Evaluate every so many steps, and always before the first and after the last. 0: only then."),
      field("logging_steps", &S::logging_steps, integer(1), "Log every so many steps."),
      field(
          "save_steps", &S::save_steps, integer(0),
          "Save a checkpoint every so many steps, and always after the last. 0: only then. At most `train.max_steps`, "
          "to which the default is lowered."),
      field("save_total_limit", &S::save_total_limit, integer(1), "Older checkpoints than this many are removed."),
      field(
          "max_nonfinite_steps", &S::max_nonfinite_steps, integer(0),
          "Steps in a row that may be skipped because the loss or the gradient is not finite; one more ends the run."),
      field("integrity_check_steps", &S::integrity_check_steps, integer(0),
            "Every so many steps, and before each checkpoint, ranks compare their adapters and moments bit by bit, and "
            "say whether their part of the base is what was loaded: each step looks at a slice of it, a checkpoint at "
            "all. A rank that is wrong is named and ends the run. 0: never."),
      field("cuda_graphs", &S::cuda_graphs, boolean(),
            "On GPUs, in bfloat16: where micro-batches of one shape follow each other, record what one starts as CUDA "
            "graphs and start the others by two calls each, which small models and short samples need for the host to "
            "keep up. One shape: samples of one length, a multiple of 256, and as many of their tokens learned. Only "
            "where the base lies whole on each GPU and inputs of blocks are not offloaded. The same numbers with and "
            "without."),
  };
}

}  // namespace

Kind<TrainSection> train_kind() {
  std::vector<Field<TrainSection>> fields = train_length_fields();
  for (const auto& more : {optimizer_fields(), loop_fields()}) fields.insert(fields.end(), more.begin(), more.end());
  return record(std::move(fields));
}

}  // namespace rankwise
