// Runs the model and the optimizer on a batch given as JSON and writes what came out as safetensors, so that Python
// tests can hold it against PEFT.
//   parity_tool REQUEST.json OUT.safetensors        request: see run() below
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "comms/world.h"
#include "trainer/devices.h"
#include "trainer/frozen_model.h"
#include "trainer/lora/adapter.h"
#include "trainer/model/decoder.h"
#include "trainer/optim/adamw.h"

using namespace rankwise;
using nlohmann::json;

namespace {

c10::ScalarType dtype_of(const std::string& name) {
  return name == "float64" ? at::kDouble : name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

ParallelSection::Device device_of(const std::string& name) {
  return name == "cuda" ? ParallelSection::Device::kCuda : ParallelSection::Device::kCpu;
}

BaseFormat format_of(const std::string& name) {
  return name == "nf4" ? BaseFormat::kNf4 : name == "float8" ? BaseFormat::kFloat8 : BaseFormat::kPlain;
}

ActivationPolicy policy_of(const std::string& name) {
  return name == "offload"           ? ActivationPolicy::kOffload
         : name == "recompute_block" ? ActivationPolicy::kRecomputeBlock
         : name == "recompute_mlp"   ? ActivationPolicy::kRecomputeMlp
                                     : ActivationPolicy::kSave;
}

Batch batch_of(const json& samples, size_t first, size_t last) {
  Batch batch;
  batch.sample_starts.push_back(0);
  for (size_t s = first; s < last; ++s) {
    const auto ids = samples[s].at("ids").get<std::vector<int64_t>>();
    const auto loss = samples[s].at("loss").get<std::vector<bool>>();
    for (size_t t = 0; t < ids.size(); ++t) {
      if (t + 1 < ids.size() && loss[t + 1]) {
        batch.target_rows.push_back(batch.num_tokens());
        batch.targets.push_back(ids[t + 1]);
      }
      batch.ids.push_back(ids[t]);
      batch.positions.push_back(static_cast<int64_t>(t));
    }
    batch.sample_starts.push_back(batch.num_tokens());
    batch.sample_ids.push_back(static_cast<int64_t>(s));
  }
  return batch;
}

struct Output {
  std::vector<TensorView> views;
  std::vector<at::Tensor> keep;
  void add(const std::string& name, const at::Tensor& tensor) {
    keep.push_back(tensor.to(at::kCPU, at::kDouble).contiguous());
    const auto& kept = keep.back();
    views.push_back({name, Dtype::kF64, kept.sizes().vec(),
                     std::span(static_cast<const std::byte*>(kept.const_data_ptr()), kept.nbytes())});
  }
};

// The dropout masks of one step, [tokens, inputs] for each linear layer: what PEFT is to use in place of its own.
void add_masks(Output& out, const std::vector<LinearGroup*>& groups, const Batch& batch, const StepContext& context) {
  const auto num_groups = static_cast<int64_t>(groups.size());
  const StepDropout dropout = step_dropout({context.dropout_seed, context.step}, num_groups / kNumInputGroups, batch,
                                           context.dropout, at::kCPU);
  for (int64_t g = 0; g < num_groups; ++g) {
    const auto& parts = groups[static_cast<size_t>(g)]->parts();
    const at::Tensor mask = dropout_mask(dropout.of(g / kNumInputGroups, InputGroup{g % kNumInputGroups}),
                                         parts[0].in_features, at::TensorOptions().dtype(at::kDouble));
    for (const auto& part : parts) out.add(fmt::format("mask.{}.{}", context.step, part.module), mask);
  }
}

void run(World& world, const json& request, const std::string& out_path) {
  const std::filesystem::path model_dir = request.at("model").get<std::string>();
  const auto dtype = dtype_of(request.value("dtype", "float32"));
  const ModelConfig config = read_model_config(model_dir);
  const ModelFiles files(model_dir);
  const Devices devices(world, {.wish = device_of(request.value("device", "cpu")),
                                .timeout = std::chrono::seconds(100),
                                .deterministic = request.value("deterministic", false)});
  const at::Device device = devices.device();
  auto group = devices.shard_group(request.value("shard_group", 1));
  auto reducer = devices.all_ranks();
  const Layout layout{.prefetch = request.value("prefetch", 2),
                      .resident_bytes = request.value("resident_bytes", int64_t{0}),
                      .activations = policy_of(request.value("policy", "save")),
                      .cpu_offload = request.value("cpu_offload", false)};
  FrozenStore store(files, Decoder::frozen_spec(config), std::move(group),
                    store_options(&files, config,
                                  {.dtype = dtype,
                                   .device = device,
                                   .base_format = format_of(request.value("base_dtype", "same")),
                                   .layout = layout}));
  Decoder model(config, store, dtype, layout.activations);
  const double dropout = request.value("dropout", 0.0);
  const char* const no_graphs = request.value("cuda_graphs", false) ? model.record_graphs() : nullptr;
  RW_CHECK(no_graphs == nullptr, Error, "cuda_graphs: {}", no_graphs);
  const auto groups = model.groups();
  const auto infos = adaptable_modules(config);
  AdapterFiles adapter_files = read_adapter(request.at("adapter").get<std::string>(), infos);
  Adapter adapter(
      adapter_files.modules, groups,
      {.master_dtype = dtype == at::kBFloat16 ? at::kFloat : dtype, .compute_dtype = dtype, .device = device});
  adapter.load(adapter_files.tensors);

  const auto& samples = request.at("samples");
  const size_t per_batch = request.value("samples_per_batch", samples.size());
  std::vector<Batch> batches;
  int64_t num_targets = 0;
  for (size_t first = 0; first < samples.size(); first += per_batch) {
    batches.push_back(batch_of(samples, first, std::min(first + per_batch, samples.size())));
    num_targets += batches.back().num_targets();
  }
  const Batch stand_in{{0}, {0}, {0, 1}, {-1}, {}, {}};
  const auto rank = static_cast<size_t>(world.rank()), size = static_cast<size_t>(world.size());
  Output out;
  for (const auto& name : request.value("weights", std::vector<std::string>{}))
    out.add("weight." + name, store.weight(store.find(name)));
  if (request.value("logits", true)) out.add("logits", model.logits(batches[0]));
  at::Tensor dembedding;
  AdamW adamw(adapter.masters(), {.weight_decay = request.value("weight_decay", 0.0)});
  const bool evaluates = request.value("evaluate", false);  // the first micro-batch, after each step
  at::Tensor losses = at::zeros({request.value("steps", 1)}, at::kDouble), evaluations = at::zeros_like(losses);
  for (int64_t step = 0; step < losses.size(0); ++step) {
    adapter.gradients().zero_();
    const StepContext context{step, request.value("seed", 1u), dropout};
    if (request.value("masks", false)) add_masks(out, groups, batches[0], context);
    at::Tensor loss = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(device));
    for (size_t first = 0; first < batches.size(); first += size) {  // every rank takes part in every round of gathers
      const Batch& batch = first + rank < batches.size() ? batches[first + rank] : stand_in;
      loss += model.forward_backward(batch, context, step == 0 ? &dembedding : nullptr);
    }
    reducer->all_reduce(loss, Reduce::kSum).wait();
    reducer->all_reduce(adapter.gradients(), Reduce::kSum).wait();
    losses[step] = loss.item<double>() / static_cast<double>(num_targets);
    const double scale = 1.0 / static_cast<double>(num_targets);
    const at::Tensor targets = at::full({}, static_cast<double>(num_targets), loss.options());
    if (step == 0) {
      for (const auto& entry : adapter.entries()) out.add("grad." + entry.key, adapter.gradient(entry) * scale);
      out.add("dembedding", dembedding * scale);
    }
    adamw.update(adapter.gradients(), targets, at::zeros({}, loss.options()), request.value("learning_rate", 1e-3),
                 request.value("max_grad_norm", 0.0));
    adapter.refresh_compute_copies();
    if (evaluates) evaluations[step] = model.evaluate(batches[0]).item<double>();
  }
  out.add("losses", losses);
  out.add("evaluations", evaluations);
  for (const auto& entry : adapter.entries()) out.add("final." + entry.key, adapter.master(entry));
  out.add("replays", at::full({}, model.num_replays(), at::kLong));
  if (world.rank() == 0) write_safetensors(out_path, out.views, {});
  fmt::print("rank {} read {} gathered {}\n", world.rank(), files.bytes_read(), store.gathered_bytes());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  World world;
  try {
    run(world, json::parse(std::ifstream(argv[1])), argv[2]);
    world.finalize();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    world.abort(ExitCode::kInternal);
  }
}
