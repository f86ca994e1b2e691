#include "trainer/step_trace.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <memory>
#include <set>
#include <utility>

#include "base/check.h"

// As torch/csrc/profiler/kineto_shim.h declares it, which includes headers of Kineto that are not on our path.
namespace torch::autograd::profiler {
TORCH_API void addMetadataJson(const std::string& key, const std::string& value);
}

namespace rankwise {
namespace {

namespace profiler = torch::autograd::profiler;

// Recording, from here to finish() or the end of the scope.
class Recording {
 public:
  explicit Recording(bool with_kernels) {
    std::set<profiler::ActivityType> activities = {profiler::ActivityType::CPU};
    if (with_kernels) activities.insert(profiler::ActivityType::CUDA);
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  }
  ~Recording() {
    if (running_) profiler::disableProfiler();
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  std::unique_ptr<profiler::ProfilerResult> finish() {
    running_ = false;
    return profiler::disableProfiler();
  }

 private:
  bool running_ = true;
};

}  // namespace

void write_trace(const std::filesystem::path& file, const std::string& facts, bool with_kernels,
                 const std::function<void()>& work) {
  std::error_code absent;
  std::filesystem::remove(file, absent);
  Recording recording(with_kernels);
  profiler::addMetadataJson("rankwise", facts);
  work();
  recording.finish()->save(file.string());
  // Kineto says nothing to its caller when it cannot write.
  RW_CHECK(std::filesystem::is_regular_file(file, absent), IoError, "{}: the trace could not be written",
           file.string());
}

}  // namespace rankwise
