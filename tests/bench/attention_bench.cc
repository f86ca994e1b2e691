// Milliseconds of attention on a GPU, forward and backward: as a model calls it, by LibTorch's cuDNN and
// FlashAttention.
//   attention_bench [--heads H] [--keys K] [--size D] [--tokens N] [--longest L] [--window W] [--deterministic]
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "comms/cuda.h"
#include "trainer/model/attention.h"
#include "trainer/model/cudnn_attention.h"

using namespace rankwise;
using Clock = std::chrono::steady_clock;

namespace {

struct Case {
  AttentionShape shape;
  SampleLayout samples;
  at::Tensor qkv_NE, dout_NF;
};

// One way to compute it: forward returns what backward takes.
struct Way {
  std::string name;
  std::function<std::function<at::Tensor()>(const Case&)> forward;
};

Case draw(const AttentionShape& shape, std::vector<int64_t> starts) {
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(c10::kCUDA);
  const int64_t rows = starts.back();
  return {shape, SampleLayout(std::move(starts), c10::kCUDA, shape), at::randn({rows, shape.qkv_width()}, options),
          at::randn({rows, shape.num_heads * shape.head_dim}, options)};
}

std::vector<int64_t> draw_starts(int64_t tokens, int64_t longest, std::mt19937_64& random) {
  std::vector<int64_t> starts = {0};
  while (starts.back() < tokens) {
    const int64_t length = std::uniform_int_distribution<int64_t>(std::min<int64_t>(50, longest), longest)(random);
    starts.push_back(std::min(tokens, starts.back() + length));
  }
  return starts;
}

double scale_of(const Case& c) { return 1.0 / std::sqrt(static_cast<double>(c.shape.head_dim)); }

at::Tensor joined(const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) {
  return at::cat({dq, dk, dv}, 1).flatten(1);
}

const Way kOurs = {"rankwise", [](const Case& c) {
                     AttentionSaved saved;
                     const at::Tensor out = attention_forward(c.qkv_NE, c.samples, c.shape, &saved);
                     return [&c, saved, out] {
                       return attention_backward(c.dout_NF, c.qkv_NE, out, saved, c.samples, c.shape);
                     };
                   }};

const Way kFlash = {
    "FlashAttention", [](const Case& c) {
      const QkvViews in = split_qkv(c.qkv_NE, c.shape);
      const auto& starts = c.samples.starts_S;
      const int64_t longest = c.samples.longest();
      std::optional<int64_t> left, right;
      if (c.shape.sliding_window) left = *c.shape.sliding_window - 1, right = 0;
      auto [out, logsumexp, seed, offset, unused] =
          at::_flash_attention_forward(in.q_NHD, in.k_NKD, in.v_NKD, starts, starts, longest, longest, 0.0,
                                       /*is_causal=*/true, false, scale_of(c), left, right);
      return [&c, in, starts, longest, left, right, out = out, logsumexp = logsumexp, seed = seed, offset = offset] {
        const auto [dq, dk, dv] = at::_flash_attention_backward(
            c.dout_NF.view(out.sizes()), in.q_NHD, in.k_NKD, in.v_NKD, out, logsumexp, starts, starts, longest, longest,
            0.0, /*is_causal=*/true, seed, offset, scale_of(c), left, right);
        return joined(dq, dk, dv);
      };
    }};

// [N, H, D] to [S, H, T, D], and back.
at::Tensor samples_of(const at::Tensor& x_NHD, const Case& c) {
  return x_NHD.unflatten(0, {-1, c.samples.longest()}).transpose(1, 2);
}
at::Tensor rows_of(const at::Tensor& x_SHTD) { return x_SHTD.transpose(1, 2).flatten(0, 1); }

// Equal samples alone: for others it makes its plan anew at each call.
const Way kLibTorch = {
    "LibTorch's cuDNN", [](const Case& c) {
      const QkvViews rows = split_qkv(c.qkv_NE, c.shape);
      const QkvViews in = {samples_of(rows.q_NHD, c), samples_of(rows.k_NKD, c), samples_of(rows.v_NKD, c)};
      const auto result = at::_scaled_dot_product_cudnn_attention(in.q_NHD, in.k_NKD, in.v_NKD, {}, true, 0.0,
                                                                  /*is_causal=*/true, false, scale_of(c));
      return [&c, in, result] {
        const int64_t longest = c.samples.longest();
        const at::Tensor dout = samples_of(c.dout_NF.unflatten(-1, {c.shape.num_heads, c.shape.head_dim}), c);
        const auto [dq, dk, dv] = at::_scaled_dot_product_cudnn_attention_backward(
            dout, in.q_NHD, in.k_NKD, in.v_NKD, std::get<0>(result), std::get<1>(result), std::get<6>(result),
            std::get<7>(result), {}, {}, {}, longest, longest, 0.0, /*is_causal=*/true, scale_of(c));
        return joined(rows_of(dq), rows_of(dk), rows_of(dv));
      };
    }};

void wait_for_device() { at::zeros({1}, at::TensorOptions(c10::kCUDA)).item<float>(); }

double milliseconds_of(const std::function<void()>& work) {
  wait_for_device();
  const auto start = Clock::now();
  work();
  wait_for_device();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void measure(const Way& way, const std::vector<Case>& cases) {
  constexpr int kRounds = 30;
  std::vector<std::function<at::Tensor()>> backward(cases.size());
  const auto all_forward = [&] {
    for (size_t c = 0; c < cases.size(); ++c) backward[c] = way.forward(cases[c]);
  };
  const auto all_backward = [&] {
    for (const auto& one : backward) one();
  };
  const double first = milliseconds_of(all_forward) + milliseconds_of(all_backward);
  const auto usual = [&](const std::function<void()>& work) {
    const double total = milliseconds_of([&] {
      for (int round = 0; round < kRounds; ++round) work();
    });
    return total / kRounds / static_cast<double>(cases.size());
  };
  const double forward_ms = usual(all_forward), backward_ms = usual(all_backward);
  fmt::print("  {:18} forward {:7.3f} ms   backward {:7.3f} ms   first round {:8.1f} ms\n", way.name, forward_ms,
             backward_ms, first);
}

void describe(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const auto* plan = cudnn_attention_plan(c.qkv_NE, c.samples, c.shape, true);
    fmt::print("  {} samples of up to {}: ", c.samples.count(), c.samples.longest());
    if (plan == nullptr) {
      fmt::print("by FlashAttention\n");
    } else {
      fmt::print("by cuDNN, workspace {} and {} MiB\n", plan->forward_workspace_bytes >> 20,
                 plan->backward_workspace_bytes >> 20);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app;
  AttentionShape shape{32, 8, 128, {}};
  int64_t tokens = 8192, longest = 2048, window = 0;
  bool deterministic = false;
  app.add_option("--heads", shape.num_heads);
  app.add_option("--keys", shape.num_kv_heads);
  app.add_option("--size", shape.head_dim);
  app.add_option("--tokens", tokens);
  app.add_option("--longest", longest);
  app.add_option("--window", window);
  app.add_flag("--deterministic", deterministic);
  CLI11_PARSE(app, argc, argv);
  if (window > 0) shape.sliding_window = window;
  if (num_cuda_devices() == 0) {
    fmt::print("no GPU here\n");
    return 0;
  }
  at::globalContext().setDeterministicAlgorithms(deterministic, false);

  std::vector<int64_t> equal;
  for (int64_t start = 0; start <= tokens; start += longest) equal.push_back(start);
  std::vector<Case> dense = {draw(shape, equal)}, packed;
  std::mt19937_64 random(1);
  for (int batch = 0; batch < 8; ++batch) packed.push_back(draw(shape, draw_starts(tokens, longest, random)));

  fmt::print("equal samples of {}, {} tokens\n", longest, equal.back());
  measure(kOurs, dense);
  measure(kFlash, dense);
  if (!shape.sliding_window && !deterministic) measure(kLibTorch, dense);
  describe(dense);
  fmt::print("packed samples of 50 to {}, {} tokens, {} batches\n", longest, tokens, packed.size());
  measure(kOurs, packed);
  measure(kFlash, packed);
  describe(packed);
}
