#include "configs/schema.h"

namespace rankwise {
namespace {

Kind<RunSection> run_kind() {
  using S = RunSection;
  return record<S>({
      field("name", &S::name, text(), "What logs and metrics call the run."),
      field("output_dir", &S::output_dir, path(),
            "Where the run writes its log, checkpoints and final adapter; made if absent. A later run with the same "
            "directory continues this one (`checkpoint.resume`).",
            Required::kYes),
      field("seed", &S::seed, seed(),
            "Decides adapter initialisation, sample order and dropout, whatever the number of ranks."),
  });
}

Kind<ModelSection> model_kind() {
  using S = ModelSection;
  return record<S>({
      field("path", &S::path, path(),
            "A Hugging Face model directory: `config.json`, safetensors files and the tokenizer. Only read.",
            Required::kYes),
      field("dtype", &S::dtype,
            choice<S::Dtype>({{"auto", S::Dtype::kAuto},
                              {"float32", S::Dtype::kFloat32},
                              {"bfloat16", S::Dtype::kBFloat16},
                              {"float64", S::Dtype::kFloat64}},
                             {"float16"}),
            "What the base model is computed in. `auto`: bfloat16 where the device multiplies it fast (GPUs, CPUs with "
            "AMX or AVX512-BF16), otherwise float32. The adapter is always trained in float32 or better."),
      field(
          "base_dtype", &S::base_dtype, choice<S::BaseDtype>({kBaseDtypeWords.begin(), kBaseDtypeWords.end()}),
          "What the frozen base is stored and gathered in. `same`: as it is computed in. `nf4`: the linear layers of "
          "the blocks in 4 bits, as QLoRA and bitsandbytes have them (blocks of 64, scales quantised again), made "
          "from the files at each start and expanded before each product. `float8`: in e4m3 with a scale for each "
          "output "
          "channel; GPUs of compute capability 9.0 multiply in it, in bfloat16, CPUs expand it. Embedding, head, norms "
          "and biases stay as they are."),
      field("task", &S::task,
            choice<S::Task>({{"causal_lm", S::Task::kCausalLm}}, {"sequence_classification", "seq_cls"}),
            "What is learned. `causal_lm`: predict the next token."),
  });
}

Kind<ParallelSection> parallel_kind() {
  using S = ParallelSection;
  return record<S>({
      field("device", &S::device,
            choice<S::Device>({{"auto", S::Device::kAuto}, {"cpu", S::Device::kCpu}, {"cuda", S::Device::kCuda}}),
            "What the ranks compute on, one GPU a rank for `cuda`. `auto`: GPUs where every rank of a host has one."),
      field("base", &S::base,
            choice<S::Base>({{"auto", S::Base::kAuto},
                             {"replicate", S::Base::kReplicate},
                             {"shard", S::Base::kShard},
                             {"hybrid", S::Base::kHybrid}}),
            "How the frozen base lies on the ranks: whole on each, split over all, or split inside groups. `auto`: by "
            "the memory there is, whole where it fits."),
      field("shard_group", &S::shard_group, optional_kind("host", integer(1)),
            "The size of such a group in ranks, for `hybrid` alone. `host`: the ranks of one host."),
      field("prefetch", &S::prefetch, integer(0, 64), "Units (blocks) of the base that are gathered ahead of use."),
      field("resident_gib", &S::resident_gib, optional_kind("auto", number({.min = 0, .max = 1e6})),
            "Memory a rank may use, in GiB, to keep gathered units instead of gathering them again, beyond its own "
            "parts of them. `auto`: on GPUs what the plan leaves free, on CPUs none."),
      field("activations", &S::activations,
            choice<S::Activations>({{"auto", S::Activations::kAuto},
                                    {"save", S::Activations::kSave},
                                    {"recompute_mlp", S::Activations::kRecomputeMlp},
                                    {"recompute_block", S::Activations::kRecomputeBlock},
                                    {"offload", S::Activations::kOffload}}),
            "What is kept for the backward pass: all, all but the MLP's, or the input of each block alone. `offload`: "
            "the same inputs, on GPUs in pinned host memory, from where they cross the bus beside the products; on "
            "CPUs that is `recompute_block`. `auto`: by the memory there is, never `offload`; the base is sharded "
            "before they are recomputed."),
      field("cpu_offload", &S::cpu_offload, boolean(),
            "On GPUs: shards of the base stay in pinned host memory and cross the bus when they are gathered. For "
            "models larger than the GPUs."),
  });
}

Kind<CommsSection> comms_kind() {
  using S = CommsSection;
  return record<S>({
      field("timeout_seconds", &S::timeout_seconds, integer(1, 604'800),
            "A rank that makes no progress for so long ends the run and is named."),
      field("expected_world_size", &S::expected_world_size, optional_kind("null", integer(1)),
            "Refuse to start with another number of ranks. `null`: any."),
      field("peer_copies", &S::peer_copies, boolean(),
            "GPUs of one host read each other's shards of the base with their copy engines. `false`: they gather over "
            "NCCL, as they do between hosts."),
  });
}

Kind<CheckpointSection> checkpoint_kind() {
  using S = CheckpointSection;
  return record<S>({
      field("resume", &S::resume, resume(),
            "`auto`: go on from the newest valid checkpoint in `run.output_dir`, or begin if there is none; "
            "`required`: stop if there is none; `never`: begin at step 0; a path: go on from that checkpoint."),
  });
}

Kind<MonitoringSection> monitoring_kind() {
  using S = MonitoringSection;
  return record<S>({
      field("listen", &S::listen, optional_kind("null", address_and_port()),
            "Where the metrics page is served (`/metrics`, `/healthz`, `/readyz`). Port 0: any free one. `null`: "
            "nowhere."),
      field("endpoints", &S::endpoints,
            choice<S::Endpoints>({{"host", S::Endpoints::kHost}, {"rank", S::Endpoints::kRank}}),
            "`host`: one metrics page a host, with the series of all its ranks. `rank`: one a rank, at the port of "
            "`listen` and those behind it, in the order of the ranks of a host."),
      field("required", &S::required, boolean(), "Whether a port that is taken ends the run (code 78) or only warns."),
  });
}

Kind<RunConfig> make_run_config_kind() {
  using S = RunConfig;
  return record<S>({
      section("run", &S::run, run_kind(), "The run itself."),
      section("model", &S::model, model_kind(), "The frozen base model."),
      section("lora", &S::lora, lora_kind(), "The adapter. Names and rules are PEFT's."),
      section("data", &S::data, data_kind(), "What is learned."),
      section("train", &S::train, train_kind(),
              "How it is learned. Names are those of transformers' TrainingArguments."),
      section("parallel", &S::parallel, parallel_kind(), "How base and activations share the memory of the ranks."),
      section("comms", &S::comms, comms_kind(), "The ranks."),
      section("checkpoint", &S::checkpoint, checkpoint_kind(), "Where to go on."),
      section("monitoring", &S::monitoring, monitoring_kind(), "What others can see of the run."),
  });
}

}  // namespace

const Kind<RunConfig>& run_config_kind() {
  static const Kind<RunConfig> kind = make_run_config_kind();
  return kind;
}

}  // namespace rankwise
