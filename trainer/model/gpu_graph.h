// Work on a CUDA device that is given to it again and again: recorded once, as a CUDA graph, and then started by one
// call, where its kernels one by one would take the host longer than the device.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <vector>

namespace rankwise {

class GpuGraph {
 public:
  void launch() const;  // on the current stream

 private:
  friend class GpuRecorder;
  std::shared_ptr<void> graph_;
};

class GpuRecorder {  // one thread's
 public:
  explicit GpuRecorder(c10::Device device);  // a CUDA device

  // Runs each work, which may not wait for the device, nor hand it numbers of the host but those it is to have at every
  // launch; what it starts is recorded and not done. The graphs, one a work, share their memory, as those do of which
  // one runs at a time: what their works allocate stays where it is, and is written again by every launch. A tensor
  // that outlives its recording is read before the next launch of any of them, unless one graph makes it for another
  // and they are launched in turn. Throws what a work throws; c10::OutOfMemoryError where the device has no room beside
  // what its allocator keeps.
  std::vector<GpuGraph> record(const std::vector<std::function<void()>>& works);

 private:
  c10::Stream stream_;
};

}  // namespace rankwise
