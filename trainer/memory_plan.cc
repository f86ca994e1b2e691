#include "trainer/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "trainer/config_mapping.h"
#include "trainer/model/decoder.h"
#include "trainer/model/gpu_low_rank_mlp.h"
#include "trainer/model/loss.h"
#include "trainer/weights/gather_schedule.h"

namespace rankwise {
namespace {

constexpr int64_t kStatisticsBytes = 4;  // rstd: float32

struct Widths {  // elements a token
  int64_t c, e, f, i, heads, normed_qk;
};

Widths widths_of(const ModelConfig& m) {
  const int64_t q = m.num_attention_heads * m.head_dim, kv = m.num_key_value_heads * m.head_dim;
  return {m.hidden_size, q + 2 * kv, q, m.intermediate_size, m.num_attention_heads, m.qk_norm ? q + kv : 0};
}

// Ranks of the pairs of one layer; attention's summed.
struct Ranks {
  int64_t attention = 0, gate = 0, up = 0, down = 0;
};

Ranks ranks_of_first_layer(const std::vector<MatchedModule>& adapter) {
  Ranks ranks;
  for (const auto& module : adapter) {
    if (module.name.find("layers.0.") == std::string::npos) continue;
    auto& total = module.name.ends_with("down_proj")   ? ranks.down
                  : module.name.ends_with("gate_proj") ? ranks.gate
                  : module.name.ends_with("up_proj")   ? ranks.up
                                                       : ranks.attention;
    total += module.r;
  }
  return ranks;
}

bool mlp_shares_passes(const Workload& w) {
  const Ranks r = ranks_of_first_layer(w.adapter);
  const auto dtype = w.element_bytes == 2 ? c10::ScalarType::BFloat16 : c10::ScalarType::Float;
  return shares_passes({r.gate, r.up, r.down}, w.model.intermediate_size, dtype, w.device);
}

int64_t& bytes_of(MemoryPlan& plan, TensorKind kind) { return plan.bytes[static_cast<size_t>(kind)]; }

int64_t replicated_elements(const FrozenSpec& spec) {
  int64_t total = 0;
  for (const auto& vector : spec.replicated) total += vector.shape[0];
  return total;
}

int64_t adapter_elements(const std::vector<MatchedModule>& adapter) {
  int64_t total = 0;
  for (const auto& module : adapter) total += module.num_parameters();
  return total;
}

bool gathers(const Layout& layout) { return layout.shard_group_size > 1 || layout.cpu_offload; }

// A float32 for each output channel, on every rank.
int64_t scale_bytes(const Workload& w, const FrozenSpec& spec) {
  if (w.base_format != BaseFormat::kFloat8) return 0;
  int64_t channels = 0;
  for (const auto& unit : spec.units) {
    for (const auto& matrix : unit.matrices) channels += unit.pool == UnitPool::kBlocks ? matrix.shape[0] : 0;
  }
  return channels * 4;
}

void plan_base(MemoryPlan& plan, const Workload& w) {
  const FrozenSpec spec = Decoder::frozen_spec(w.model);
  const int group = plan.layout.shard_group_size;
  std::vector<PlacedUnit> units;
  for (const auto& unit : spec.units)
    units.push_back(place_unit(unit, group, span_format(w.base_format, unit.pool, w.matrix_bytes)));
  int64_t shard = 0, largest[2] = {0, 0};
  int64_t whole = 0;
  const bool on_host = plan.layout.cpu_offload;
  const auto resident = choose_resident_units(units, plan.layout.resident_bytes, on_host);
  std::vector<bool> here(units.size(), !gathers(plan.layout));
  for (size_t u = 0; u < units.size(); ++u) {
    here[u] = here[u] || resident[u];
    if (resident[u]) whole += units[u].num_bytes();
    if (resident[u]) plan.resident_bytes += resident_bytes(units[u], on_host);
    if (!resident[u] || on_host) shard += units[u].shard_bytes();
    auto& pool = largest[static_cast<size_t>(units[u].pool)];
    if (!here[u]) pool = std::max(pool, units[u].num_bytes());
  }
  (on_host ? plan.host_bytes : bytes_of(plan, TensorKind::kBaseShard)) = shard;
  bytes_of(plan, TensorKind::kBaseShard) += replicated_elements(spec) * w.element_bytes + scale_bytes(w, spec);
  bytes_of(plan, TensorKind::kGathered) = whole + largest[0] + (plan.layout.prefetch + 1) * largest[1];
  const auto count = GatherSchedule::count(spec, plan.layout.prefetch, here);
  for (size_t u = 0; u < units.size(); ++u) {
    const int64_t received = units[u].num_bytes() - units[u].shard_bytes();
    plan.first_gathered_bytes += received * count.first[u];
    plan.steady_gathered_bytes += received * count.steady[u];
  }
}

// The largest weights that are expanded at one time: those of one group of layers; CPUs make 16 bits out of float32.
// Products in float8 read the codes, but transposed backward, and beside those of their rows.
int64_t expanded_bytes(const Workload& w) {
  if (w.base_format == BaseFormat::kPlain) return 0;
  const Widths v = widths_of(w.model);
  if (w.base_format == BaseFormat::kFloat8 && w.device.is_cuda())
    return (v.c + w.tokens_per_micro_batch) * std::max(v.e, 2 * v.i);
  const int64_t element_bytes = w.element_bytes + (w.element_bytes == 2 && w.device.is_cpu() ? 4 : 0);
  return v.c * std::max(v.e, 2 * v.i) * element_bytes;
}

// The highest moment is one of two: the head's chunk while everything is saved, or the MLP's backward of the last
// block.
int64_t activation_peak(const MemoryPlan& plan, const Workload& w) {
  const Widths v = widths_of(w.model);
  const int64_t tokens = w.tokens_per_micro_batch;
  const int64_t row = tokens * w.element_bytes;
  // On a CPU logits of 16 bits, their float32 and the gradient's 16 again; all others are worked on in place.
  const int64_t logit_bytes = w.element_bytes == 2 && w.device.is_cpu() ? 8 : w.element_bytes;
  const int64_t chunk = std::min(tokens, head_chunk_rows(w.device)) * w.model.vocab_size * logit_bytes;
  const int64_t head = row * 4 * v.c + chunk;
  const bool recomputes = plan.layout.activations != ActivationPolicy::kSave;
  const int64_t again = recomputes ? saved_bytes_of_block(w, ActivationPolicy::kSave, tokens) -
                                         saved_bytes_of_block(w, plan.layout.activations, tokens)
                                   : 0;
  const int64_t expanded = expanded_bytes(w);
  // One of the MLP's two wide gradients beside a pass's own, or gate's and up's weights; composed: all at one time.
  const int64_t widest = mlp_shares_passes(w)
                             ? std::max(row * v.i + std::max(shared_pass_bytes(tokens, v.i), expanded / 2), expanded)
                             : row * 2 * v.i + expanded;
  const int64_t mlp_backward = again + row * 4 * v.c + widest;
  const int64_t row_keys = w.drops ? tokens * w.model.num_hidden_layers * kNumInputGroups * int64_t{8} : 0;
  return plan.saved_activation_bytes + row_keys + std::max(head, mlp_backward);
}

// Inputs of blocks that lie in host memory between forward and backward.
int64_t offloaded_bytes(const Workload& w, const Layout& layout) {
  if (layout.activations != ActivationPolicy::kOffload || !w.device.is_cuda()) return 0;
  const auto leaving = num_offloaded_inputs(static_cast<size_t>(w.model.num_hidden_layers));
  return static_cast<int64_t>(leaving) * w.tokens_per_micro_batch * w.model.hidden_size * w.element_bytes;
}

int64_t library_bytes(const Workload& w, const Layout& layout) {
  if (!w.device.is_cuda()) return 0;
  const int communicators = (layout.world_size > 1 ? 1 : 0) + (layout.shard_group_size > 1 ? 1 : 0);
  return kGpuLibraryBytes + communicators * kCommunicatorBytes;
}

std::vector<Layout> layouts_by_cost(const Workload& w, const LayoutWishes& wishes) {
  using enum ActivationPolicy;
  std::vector<int> groups = {1};
  if (wishes.world_size > 1) groups.push_back(wishes.world_size);
  if (wishes.shard_group_size) groups = {*wishes.shard_group_size};
  std::vector<ActivationPolicy> policies = {kSave, kRecomputeMlp, kRecomputeBlock};
  if (wishes.activations) policies = {*wishes.activations};
  if (wishes.activations == kOffload && !w.device.is_cuda()) policies = {kRecomputeBlock};  // in host memory already
  std::vector<Layout> layouts;
  for (const ActivationPolicy policy : policies) {
    for (const int group : groups) {
      layouts.push_back({wishes.world_size, group, wishes.prefetch, wishes.resident_bytes.value_or(0), policy,
                         wishes.cpu_offload && w.device.is_cuda()});
    }
  }
  return layouts;
}

// From the budget that would fit without any buffer of the ring, a unit less each time: a pool that is wholly resident
// has no buffers, so that the last units of it cost nothing.
MemoryPlan with_resident_units(const Workload& w, const MemoryPlan& plan, int64_t available_bytes) {
  Layout layout = plan.layout;
  const int64_t buffers = plan.bytes[static_cast<size_t>(TensorKind::kGathered)];
  layout.resident_bytes = available_bytes - needed_bytes(plan) + buffers;
  while (layout.resident_bytes > 0) {
    const MemoryPlan larger = plan_memory(w, layout);
    if (needed_bytes(larger) <= available_bytes) return larger;
    layout.resident_bytes = larger.resident_bytes - 1;
  }
  return plan;
}

std::string gib(int64_t bytes) { return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / 0x1p30); }

std::string mib(int64_t bytes) { return fmt::format("{:>10.1f} MiB", static_cast<double>(bytes) / 0x1p20); }

}  // namespace

const char* base_name(const Layout& layout) {
  return layout.shard_group_size == 1 ? "replicate" : layout.shard_group_size == layout.world_size ? "shard" : "hybrid";
}

const char* policy_name(ActivationPolicy policy) {
  return policy == ActivationPolicy::kSave           ? "save"
         : policy == ActivationPolicy::kRecomputeMlp ? "recompute_mlp"
         : policy == ActivationPolicy::kOffload      ? "offload"
                                                     : "recompute_block";
}

int64_t saved_bytes_of_block(const Workload& w, ActivationPolicy policy, int64_t tokens) {
  const Widths v = widths_of(w.model);
  const Ranks r = ranks_of_first_layer(w.adapter);
  int64_t elements = v.c + r.down;
  int64_t statistics = 0;
  if (!recomputes_block(policy)) {
    elements += v.e + v.f + v.c + v.normed_qk + r.attention;
    statistics += 1 + (w.device.is_cuda() ? v.heads : 0);  // GPUs keep each head's logsumexp
  }
  if (policy == ActivationPolicy::kSave) {
    elements += 2 * v.i + r.gate + r.up;
    statistics += 1;
  }
  return tokens * (elements * w.element_bytes + statistics * kStatisticsBytes);
}

MemoryPlan plan_memory(const Workload& w, const Layout& layout) {
  MemoryPlan plan;
  plan.layout = layout;
  plan.base_format = w.base_format;
  plan_base(plan, w);
  const int64_t adapter = adapter_elements(w.adapter);
  bytes_of(plan, TensorKind::kAdapter) =
      adapter * (w.master_bytes + (w.element_bytes != w.master_bytes ? w.element_bytes : 0));
  bytes_of(plan, TensorKind::kGradients) = adapter * w.master_bytes;
  bytes_of(plan, TensorKind::kOptimizer) = 2 * adapter * w.master_bytes;
  plan.reduced_bytes_per_step = adapter * w.master_bytes;
  plan.saved_activation_bytes =
      w.model.num_hidden_layers * saved_bytes_of_block(w, layout.activations, w.tokens_per_micro_batch);
  const int64_t offloaded = offloaded_bytes(w, layout);
  plan.saved_activation_bytes -= offloaded;
  plan.host_bytes += offloaded;
  bytes_of(plan, TensorKind::kActivations) = activation_peak(plan, w);
  for (const int64_t bytes : plan.bytes) plan.total_bytes += bytes;
  plan.overhead_bytes = library_bytes(w, layout);
  return plan;
}

int64_t needed_bytes(const MemoryPlan& plan) { return plan.total_bytes + plan.overhead_bytes; }

MemoryPlan choose_layout(const Workload& w, const LayoutWishes& wishes, int64_t available_bytes) {
  const auto fits = [&](const MemoryPlan& plan) { return needed_bytes(plan) <= available_bytes; };
  std::vector<MemoryPlan> tried;
  for (const Layout& layout : layouts_by_cost(w, wishes)) {
    tried.push_back(plan_memory(w, layout));
    if (fits(tried.back())) break;
  }
  const auto best = fits(tried.back()) ? std::prev(tried.end()) : std::ranges::min_element(tried, {}, needed_bytes);
  MemoryPlan plan = *best;
  const bool resident_is_auto = w.device.is_cuda() && gathers(plan.layout) && !wishes.resident_bytes;
  const auto slack = static_cast<int64_t>(kPlanAccuracy * static_cast<double>(available_bytes));
  if (resident_is_auto && fits(plan)) plan = with_resident_units(w, plan, available_bytes - slack);
  for (auto other = tried.begin(); other != tried.end(); ++other) {
    if (other != best) plan.rejected.push_back({other->layout, needed_bytes(*other)});
  }
  return plan;
}

std::string describe(const MemoryPlan& plan, int64_t available_bytes) {
  const auto& l = plan.layout;
  const std::string format =
      plan.base_format == BaseFormat::kPlain ? "" : fmt::format(" in {}", word_of(plan.base_format));
  std::string text = fmt::format("plan: base {}{} over {} rank(s) of {}, activations {}, prefetch {}", base_name(l),
                                 format, l.shard_group_size, l.world_size, policy_name(l.activations), l.prefetch);
  if (l.cpu_offload) text += ", shards in host memory";
  if (plan.resident_bytes > 0) text += fmt::format(", resident {}", gib(plan.resident_bytes));
  for (const auto& [layout, needed] : plan.rejected) {
    text += fmt::format("\n  {}, {} does not fit: needs {} of {}", base_name(layout), policy_name(layout.activations),
                        gib(needed), gib(available_bytes));
  }
  const auto line = [&text](std::string_view name, int64_t bytes) {
    text += fmt::format("\n  {:<12} {}", name, mib(bytes));
  };
  for (size_t k = 0; k < kNumTensorKinds; ++k) line(tensor_kind_name(static_cast<TensorKind>(k)), plan.bytes[k]);
  line("total", plan.total_bytes);
  text += fmt::format(" a rank, of {} available", mib(available_bytes));
  if (plan.overhead_bytes > 0) {
    line("libraries", plan.overhead_bytes);
    text += fmt::format(" beside it, together {}", mib(needed_bytes(plan)));
  }
  if (plan.host_bytes > 0) line("host memory", plan.host_bytes);
  text +=
      fmt::format("\n  received a micro-batch {} (the first {}), reduced a step {}", mib(plan.steady_gathered_bytes),
                  mib(plan.first_gathered_bytes), mib(plan.reduced_bytes_per_step));
  if (needed_bytes(plan) > available_bytes)
    text += "\n  warning: this does not fit; use more ranks, a smaller micro-batch or max_length";
  return text;
}

std::string compare(const MemoryPlan& plan, const TensorMemory& measured) {
  std::string text = "memory of this rank's tensors, peak:";
  const auto line = [&text](std::string_view name, int64_t planned, int64_t seen) {
    const double deviation =
        planned > 0 ? 100.0 * static_cast<double>(seen - planned) / static_cast<double>(planned) : 0.0;
    text += fmt::format("\n  {:<12} {} planned {} measured ({:+.1f} %)", name, mib(planned), mib(seen), deviation);
  };
  for (size_t k = 0; k < kNumTensorKinds; ++k) {
    line(tensor_kind_name(static_cast<TensorKind>(k)), plan.bytes[k], measured.peak_bytes[k]);
  }
  line("total", plan.total_bytes, measured.peak_total);
  return text;
}

int64_t available_host_bytes(int ranks_per_host) {
  constexpr int64_t kLibraryBytes = int64_t{512} << 20;
  std::ifstream memory("/proc/meminfo");
  for (std::string line; std::getline(memory, line);) {
    if (line.starts_with("MemAvailable:")) {
      return std::max<int64_t>(0, std::stoll(line.substr(13)) * 1024 / ranks_per_host - kLibraryBytes);
    }
  }
  return int64_t{1} << 40;  // unknown: do not stand in the way
}

int64_t available_device_bytes(int64_t device_bytes) { return std::max<int64_t>(0, device_bytes - kContextBytes); }

}  // namespace rankwise
