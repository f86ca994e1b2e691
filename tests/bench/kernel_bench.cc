// What the CUDA kernels move each second beside a copy, at the sizes of an 8B model with 8,192 tokens. Markdown.
//   kernel_bench [--tokens N] [--runs R]
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "comms/cuda.h"
#include "trainer/kernels/nf4.h"
#include "trainer/model/dropout.h"
#include "trainer/model/float8.h"
#include "trainer/model/gpu.h"
#include "trainer/model/gpu_low_rank_mlp.h"
#include "trainer/model/mlp.h"
#include "trainer/model/norm.h"
#include "trainer/model/rope.h"
#include "trainer/optim/adamw.h"
#include "trainer/weights/current_stream.h"
#include "trainer/weights/nf4.h"

using namespace rankwise;

namespace {

constexpr int64_t kHidden = 4096, kWidth = 14336, kHeads = 32, kKeys = 8, kHead = 128, kRank = 16, kVocabulary = 128256;

struct Kernel {
  std::string name;
  double bytes;  // read and written, each once
  std::function<void()> run;
};

at::TensorOptions on_gpu(at::ScalarType dtype) { return at::TensorOptions().device(c10::kCUDA).dtype(dtype); }

at::Tensor drawn(at::IntArrayRef shape, at::ScalarType dtype = at::kBFloat16) {
  return at::randn(shape, on_gpu(at::kFloat)).to(dtype);
}

double bytes_of(std::initializer_list<at::Tensor> tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), 0.0,
                         [](double sum, const at::Tensor& t) { return sum + static_cast<double>(t.nbytes()); });
}

// The median of milliseconds, each run with cold caches behind work that the host is ahead of.
double milliseconds(const std::function<void()>& run, int runs) {
  const auto stream = current_stream(c10::Device(c10::kCUDA));
  const at::Tensor other = at::zeros({int64_t{64} << 20}, on_gpu(at::kFloat));
  std::vector<double> times;
  for (int k = 0; k < runs + 3; ++k) {
    other.sum();  // leaves a cache of clean lines, which cost nothing to give up
    c10::Event begin(c10::kCUDA, c10::EventFlag::BACKEND_DEFAULT), end(c10::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
    begin.record(stream);
    run();
    end.record(stream);
    end.synchronize();
    if (k >= 3) times.push_back(begin.elapsedTime(end));
  }
  std::ranges::nth_element(times, times.begin() + times.size() / 2);
  return times[times.size() / 2];
}

Batch one_sample(int64_t tokens) {
  Batch batch;
  batch.ids.assign(static_cast<size_t>(tokens), 0);
  batch.positions.resize(static_cast<size_t>(tokens));
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  batch.sample_starts = {0, tokens};
  batch.sample_ids = {0};
  return batch;
}

LowRank pair(int64_t inputs, int64_t outputs) {
  const auto gradient = [](int64_t rows, int64_t columns) { return at::zeros({rows, columns}, on_gpu(at::kFloat)); };
  return {drawn({kRank, inputs}), drawn({outputs, kRank}), gradient(kRank, inputs), gradient(outputs, kRank), 2.0};
}

void add_rows(std::vector<Kernel>& all, int64_t tokens) {
  const at::Tensor x = drawn({tokens, kHidden}), dy = drawn({tokens, kHidden}), weight = drawn({kHidden});
  const at::Tensor rstd = rms_norm(x, weight, 1e-5).rstd_N1;
  all.push_back({"RMSNorm", bytes_of({x, x, rstd}), [=] { rms_norm(x, weight, 1e-5); }});
  const at::Tensor gradient = drawn({tokens, kHidden});
  all.push_back({"RMSNorm backward, added to a gradient", bytes_of({x, x, x, x, rstd}), [=] {
                   at::Tensor in_place = gradient;
                   add_rms_norm_backward(in_place, dy, x, rstd, weight);
                 }});
  const at::Tensor heads = drawn({tokens, kHeads + 2 * kKeys, kHead}).narrow(1, 0, kHeads),
                   before = drawn(heads.sizes());
  const at::Tensor head_weight = drawn({kHead});
  all.push_back({"RMSNorm of q's heads, the input kept", bytes_of({before, before, before}),
                 [=] { rms_norm_heads(heads, head_weight, 1e-6, before); }});
  all.push_back({"RMSNorm of q's heads, backward", bytes_of({before, before, before}),
                 [=] { rms_norm_heads_backward(heads, before, head_weight, 1e-6); }});
  ModelConfig config;
  config.head_dim = kHead;
  config.rope_theta = 500000.0;
  std::vector<int64_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), 0);
  Rope rope(config);
  const RopeAngles angles = rope.angles(positions, at::kBFloat16, c10::Device(c10::kCUDA));
  const at::Tensor qkv = drawn({tokens, kHeads + 2 * kKeys, kHead});
  const at::Tensor rotated = qkv.narrow(1, 0, kHeads + kKeys);
  all.push_back({"rotary embedding of q and k", 2.0 * static_cast<double>(rotated.numel()) * 2,
                 [=] { apply_rope(rotated, angles, false); }});
  const Dropout dropout = step_dropout({1, 2}, 1, one_sample(tokens), 0.05, x.device()).of(0, kQkvInput);
  all.push_back({"dropout mask", bytes_of({x}), [=] { dropout_mask(dropout, kHidden, x.options()); }});
}

void add_mlp(std::vector<Kernel>& all, int64_t tokens) {
  const at::Tensor gate_up = drawn({tokens, 2 * kWidth}), dh = drawn({tokens, kWidth}), s = drawn({tokens, 2 * kRank});
  const at::Tensor ds_down = drawn({tokens, kRank});
  const auto gate = pair(kHidden, kWidth), up = pair(kHidden, kWidth), down = pair(kWidth, kHidden);
  all.push_back({"SwiGLU", bytes_of({gate_up, dh}), [=] { swiglu(gate_up); }});
  all.push_back({"SwiGLU backward", bytes_of({gate_up, gate_up, dh}), [=] {
                   at::Tensor in_place = gate_up;
                   swiglu_backward(dh, in_place);
                 }});
  all.push_back({"SwiGLU with low-rank terms", bytes_of({gate_up, dh, s}), [=] {
                   low_rank_swiglu({&gate, &up, &down, {}}, gate_up, s);
                 }});
  all.push_back({"SwiGLU with low-rank terms, backward", bytes_of({gate_up, gate_up, dh, s, s}), [=] {
                   at::Tensor in_place = gate_up;
                   low_rank_swiglu_backward({&gate, &up, &down, {}}, dh, ds_down, in_place, s);
                 }});
}

void add_low_rank(std::vector<Kernel>& all, int64_t tokens) {
  const LowRank only = pair(kHidden, kHidden);
  const std::vector<LowRankSlice> slices = {{.out_begin = 0,
                                             .columns = kHidden,
                                             .rank = kRank,
                                             .b_OR = only.b_OR,
                                             .grad_b_OR = only.grad_b_OR,
                                             .scaling = 2}};
  const at::Tensor residual = drawn({tokens, kHidden}), out = at::empty_like(residual), s = drawn({tokens, kRank});
  all.push_back({"low-rank term", bytes_of({out, s}), [=] { low_rank_add(out, {}, s, slices); }});
  all.push_back({"low-rank term added to a residual", bytes_of({out, residual, s}),
                 [=] { low_rank_add(out, {{residual}}, s, slices); }});
  all.push_back(
      {"dS and dB of a low-rank pair", bytes_of({residual, s, s}), [=] { low_rank_gradient(residual, s, slices); }});
}

void add_rest(std::vector<Kernel>& all, int64_t tokens) {
  const at::Tensor logits = drawn({2048, kVocabulary}), targets = at::zeros({2048}, on_gpu(at::kLong));
  const at::Tensor losses = at::empty({2048}, on_gpu(at::kFloat));
  all.push_back({"cross entropy to its gradient", bytes_of({logits, logits}), [=] {
                   launch(
                       gpu_row_kernels().cross_entropy,
                       GpuCrossEntropy{GpuType::kBFloat16, logits.mutable_data_ptr(), targets.const_data_ptr<int64_t>(),
                                       losses.mutable_data_ptr<float>(), logits.size(0), logits.size(1), true});
                 }});
  const at::Tensor x = drawn({tokens, kHidden});
  all.push_back({"rows to float8", bytes_of({x}) * 1.5, [=] { float8_rows(x); }});
  const int64_t count = int64_t{2} * kWidth * kHidden;
  const int64_t packed_bytes = count / kNf4SpanElements * static_cast<int64_t>(sizeof(Nf4Span));
  const at::Tensor packed = at::zeros({packed_bytes}, on_gpu(at::kByte));
  all.push_back({"NF4 to bfloat16", bytes_of({packed}) + 2.0 * static_cast<double>(count),
                 [=] { nf4_expand(packed, count, at::kBFloat16); }});
  const at::Tensor parameters = drawn({int64_t{42} << 20}, at::kFloat),
                   gradients = drawn({int64_t{42} << 20}, at::kFloat);
  const at::Tensor one = at::ones({}, on_gpu(at::kDouble)), none = at::zeros({}, on_gpu(at::kDouble));
  const auto adamw = std::make_shared<AdamW>(parameters, AdamWOptions{});
  // Gradients are read once more for their norm; parameters and both moments are read and written.
  all.push_back(
      {"AdamW with clipping", bytes_of({parameters}) * 8, [=] { adamw->update(gradients, one, none, 1e-4, 1.0); }});
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"What the CUDA kernels move beside a copy"};
  int64_t tokens = 8192;
  int runs = 30;
  app.add_option("--tokens", tokens)->check(CLI::PositiveNumber);
  app.add_option("--runs", runs)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  if (num_cuda_devices() == 0) {
    fmt::print(stderr, "kernel_bench: no CUDA device\n");
    return 69;
  }
  const at::NoGradGuard no_grad;
  std::vector<Kernel> kernels;
  add_rows(kernels, tokens);
  add_mlp(kernels, tokens);
  add_low_rank(kernels, tokens);
  add_rest(kernels, tokens);
  const at::Tensor from = drawn({tokens, 2 * kWidth});
  at::Tensor to = at::empty_like(from);
  const double copy_rate = 2.0 * static_cast<double>(from.nbytes()) / milliseconds([&] { to.copy_(from); }, runs) / 1e9;
  fmt::print("| kernel | ms | TB/s | of a copy |\n|---|---|---|---|\n| copy | | {:.2f} | |\n", copy_rate);
  for (const auto& kernel : kernels) {
    const double ms = milliseconds(kernel.run, runs), rate = kernel.bytes / ms / 1e9;
    fmt::print("| {} | {:.3f} | {:.2f} | {:.0f} % |\n", kernel.name, ms, rate, 100 * rate / copy_rate);
  }
}
