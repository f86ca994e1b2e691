#include "configs/schema.h"

namespace rankwise {
namespace {

constexpr int64_t kMaxRank = 4096;
constexpr int64_t kMaxAlpha = 1'000'000;

}  // namespace

Kind<LoraSection> lora_kind() {
  using S = LoraSection;
  return record<S>({
      field("r", &S::r, integer(1, kMaxRank), "Rank of the adapter's A and B matrices."),
      field("lora_alpha", &S::lora_alpha, integer(1, kMaxAlpha), "The adapter's output is scaled by lora_alpha / r."),
      field("lora_dropout", &S::lora_dropout, number(kFraction),
            "Probability that an input of A is dropped in training."),
      field("target_modules", &S::target_modules, names_or_pattern(),
            "Which linear layers get an adapter: names (a module matches if its name is one, or ends in one after a "
            "dot), one regular expression for the whole module name, or `all-linear`: all but the output head."),
      field("exclude_modules", &S::exclude_modules, optional_kind("null", names_or_pattern()),
            "Modules left out even if they are targets; the same rules."),
      field("layers_to_transform", &S::layers_to_transform, optional_kind("null", list_of(integer(0), 1)),
            "Only these layer numbers get an adapter. Needs a list in `lora.target_modules`."),
      field("layers_pattern", &S::layers_pattern, optional_kind("null", list_of(text(), 1)),
            "Names of the module list that holds the layers, if it is not the usual one. Needs "
            "`lora.layers_to_transform`."),
      field("rank_pattern", &S::rank_pattern, pattern_map(1, kMaxRank),
            "Another r for some modules: module name or regular expression to r. The first that matches wins."),
      field("alpha_pattern", &S::alpha_pattern, pattern_map(1, kMaxAlpha),
            "Another lora_alpha for some modules, likewise."),
      field("use_rslora", &S::use_rslora, boolean(), "Scale by lora_alpha / sqrt(r) instead."),
      field("init_lora_weights", &S::init_lora_weights,
            choice<S::Init>({{"true", S::Init::kTrue}, {"false", S::Init::kFalse}, {"gaussian", S::Init::kGaussian}}),
            "`true`: A Kaiming-uniform, B zero. `gaussian`: A normal with deviation 1 / r, B zero. `false`: A and B "
            "random, so that the model differs from the base at once; for tests."),
      field("init_adapter", &S::init_adapter, optional_kind("null", path()),
            "A PEFT adapter directory whose weights the run starts from, with a new optimizer at step 0."),
  });
}

}  // namespace rankwise
