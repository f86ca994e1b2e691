// Work on a CUDA device that is given to it again and again: recorded once, as a CUDA graph, and then started by one
// call, where its kernels one by one would take the host longer than the device.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>

#include "trainer/model/cuda_graph.h"

namespace rankwise {

class GpuGraph {
 public:
  void launch() const;  // on the current stream

 private:
  friend class GpuGraphs;
  std::shared_ptr<void> graph_;
};

// Graphs that share their memory, as those do of which one runs at a time. What a graph's work allocates stays where it
// is, and is written again by every launch: a tensor that outlives the recording is read before the next launch of any
// of these graphs, unless one graph of a pair makes it for the other and both are launched in turn. One thread.
class GpuGraphs {
 public:
  explicit GpuGraphs(c10::Device device);  // a CUDA device

  // Runs `work`, which may not wait for the device, nor hand it numbers of the host but those it is to have at every
  // launch; what it starts is recorded and not done. Throws what work throws; c10::OutOfMemoryError where the device
  // has no room beside what its allocator keeps.
  GpuGraph record(const std::function<void()>& work);

 private:
  c10::Stream stream_;
  GpuGraphPool pool_;
};

}  // namespace rankwise
