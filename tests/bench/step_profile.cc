// Where a training step spends its time on a CPU: forward and backward of real rows, each ATen operator with its own
// time. One process, no exchange.
//   step_profile CONFIG.yaml [--rows R] [--batches B] [--threads T] [--top K]
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <map>

#include "base/log.h"
#include "monitoring/process_memory.h"
#include "trainer/config_mapping.h"
#include "trainer/data/batcher.h"
#include "trainer/frozen_model.h"
#include "trainer/lora/adapter.h"
#include "trainer/training_data.h"
#include "trainer/weights/tensor_memory.h"

using namespace rankwise;
using Clock = std::chrono::steady_clock;

namespace {

struct OperatorTime {
  double self_seconds = 0;
  int64_t calls = 0;
};
std::map<std::string, OperatorTime> operators;

struct Frame : at::ObserverContext {
  std::string name;
  Clock::time_point start = Clock::now();
  Frame* parent = nullptr;
  double children_seconds = 0;
};
thread_local Frame* innermost = nullptr;

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& function) {
  auto frame = std::make_unique<Frame>();
  frame->parent = std::exchange(innermost, frame.get());
  frame->name = function.name();
  frame->start = Clock::now();
  return frame;
}

void leave(const at::RecordFunction&, at::ObserverContext* context) {
  auto* frame = static_cast<Frame*>(context);
  const double seconds = std::chrono::duration<double>(Clock::now() - frame->start).count();
  auto& entry = operators[frame->name];
  entry.self_seconds += seconds - frame->children_seconds;
  ++entry.calls;
  if (frame->parent != nullptr) frame->parent->children_seconds += seconds;
  innermost = frame->parent;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void print_operators(size_t top, double total) {
  std::vector<std::pair<std::string, OperatorTime>> sorted(operators.begin(), operators.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.self_seconds > b.second.self_seconds; });
  for (size_t k = 0; k < std::min(top, sorted.size()); ++k) {
    const auto& [name, time] = sorted[k];
    fmt::print("{:6.2f} s {:5.1f} %  {:6} calls  {}\n", time.self_seconds, 100 * time.self_seconds / total, time.calls,
               name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  install_tensor_memory();
  CLI::App app;
  std::string path;
  int64_t num_rows = 2, num_batches = 3;
  int threads = 1;
  size_t top = 40;
  std::string policy = "save";
  app.add_option("config", path)->required();
  app.add_option("--rows", num_rows);
  app.add_option("--batches", num_batches);
  app.add_option("--threads", threads);
  app.add_option("--top", top);
  app.add_option("--policy", policy);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(threads);
  const RunConfig config = load_run_config(path);
  const TrainingText text = load_text(config.model, config.data);
  const TrainingData data = load_data(config, text, {});
  const auto dtype = compute_dtype_of(config.model.dtype, c10::kCPU);
  const Layout layout{.activations = policy == "save" ? ActivationPolicy::kSave : ActivationPolicy::kRecomputeBlock};
  FrozenModel model(config.model.path, make_local_communicator(), {.dtype = dtype, .layout = layout});
  const auto groups = model.decoder.groups();
  Adapter adapter(resolve_targets(lora_config_of(config.lora), adaptable_modules(model.config)), groups,
                  {.compute_dtype = dtype});
  adapter.initialise(LoraInit::kKaiming, 1);

  const auto run = [&](int64_t batch_index) {
    std::vector<int64_t> rows;
    // Far apart: packing puts the longest samples first.
    for (int64_t r = 0; r < num_rows; ++r) rows.push_back((batch_index * num_rows + r) * 37 % data.train.num_rows());
    const Batch batch = make_batch(data.train, rows);
    model.decoder.forward_backward(batch, {}, [](ModelPhase) {});
    return batch.num_tokens();
  };
  run(0);
  operators.clear();
  if (top > 0) at::addGlobalCallback(at::RecordFunctionCallback(enter, leave).scopes({at::RecordScope::FUNCTION}));
  const auto start = Clock::now();
  const double cpu_start = cpu_seconds();
  int64_t tokens = 0;
  for (int64_t b = 1; b <= num_batches; ++b) tokens += run(b);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count(), cpu = cpu_seconds() - cpu_start;
  print_operators(top, seconds);
  fmt::print(
      "{} tokens in {:.2f} s: {:.1f} tokens/s; {:.1f} tokens per CPU second; tensors peak {:.0f} MB, process peak "
      "{:.0f} MB\n",
      tokens, seconds, static_cast<double>(tokens) / seconds, static_cast<double>(tokens) / cpu,
      static_cast<double>(tensor_memory().peak_total) / 1e6,
      static_cast<double>(process_memory().peak_resident_bytes) / 1e6);
}
