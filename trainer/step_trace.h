// What the host asks for and what a device does, operator by operator and kernel by kernel, as a Chrome trace: for
// chrome://tracing, ui.perfetto.dev and tests/bench/gpu/step_profile.py. LibTorch's own profiler (Kineto) records it.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace rankwise {

// Runs `work` under the profiler and writes what this thread's operators, RECORD_FUNCTION scopes and, with_kernels, the
// CUDA devices did to `file` (replaced if there). Names and times alone, so that a step of a large model stays at some
// MB. `facts`: a JSON value, kept in the trace as "rankwise". `work` is to have waited for the device when it returns.
// Throws IoError where the file cannot be written, and what `work` throws.
void write_trace(const std::filesystem::path& file, const std::string& facts, bool with_kernels,
                 const std::function<void()>& work);

}  // namespace rankwise
