#include "trainer/weights/required_tensors.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace rankwise {
namespace {

constexpr size_t kMaxShown = 5;

bool is_read(Dtype dtype) {
  return dtype == Dtype::kF64 || dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

std::vector<MatrixSpec> required_by(const FrozenSpec& spec) {
  std::vector<MatrixSpec> all = spec.replicated;
  for (const UnitSpec& unit : spec.units) all.insert(all.end(), unit.matrices.begin(), unit.matrices.end());
  return all;
}

std::string problem_of(const MatrixSpec& required, const TensorEntry* found) {
  if (found == nullptr) return required.name + " is missing";
  if (found->shape != required.shape) {
    return fmt::format("{} has shape [{}], config.json asks for [{}]", required.name, fmt::join(found->shape, ", "),
                       fmt::join(required.shape, ", "));
  }
  if (is_read(found->dtype)) return {};
  return fmt::format("{} is stored as {}; F32, F16 and BF16 are supported", required.name, dtype_name(found->dtype));
}

bool is_harmless(std::string_view name) { return name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq"); }

}  // namespace

void check_required_tensors(const ModelFiles& files, const FrozenSpec& spec, const std::filesystem::path& model_dir) {
  std::vector<std::string> problems;
  std::set<std::string> names;
  for (const MatrixSpec& required : required_by(spec)) {
    if (auto problem = problem_of(required, files.find(required.name)); !problem.empty()) {
      problems.push_back(std::move(problem));
    }
    names.insert(required.name);
  }
  for (const std::string& name : files.names()) {
    if (!names.contains(name) && !is_harmless(name)) problems.push_back(name + " belongs to no layer of config.json");
  }
  const std::vector<std::string> shown(problems.begin(), problems.begin() + std::min(problems.size(), kMaxShown));
  RW_CHECK(problems.empty(), DataError, "{}: {}{}; is config.json that of these weights?", model_dir.native(),
           fmt::join(shown, "; "),
           problems.size() > kMaxShown ? fmt::format(" (and {} more)", problems.size() - kMaxShown) : "");
}

}  // namespace rankwise
