#include "trainer/model/gpu_graph.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <exception>

#include "base/shared_library.h"

namespace rankwise {
namespace {

struct Library {
  decltype(rankwise_graph_pool)* pool;
  decltype(rankwise_graph_begin)* begin;
  decltype(rankwise_graph_end)* end;
  decltype(rankwise_graph_launch)* launch;
  decltype(rankwise_graph_delete)* end_of;
};

const Library& library() {
  static const Library library = {cuda_library_function<decltype(rankwise_graph_pool)>("rankwise_graph_pool"),
                                  cuda_library_function<decltype(rankwise_graph_begin)>("rankwise_graph_begin"),
                                  cuda_library_function<decltype(rankwise_graph_end)>("rankwise_graph_end"),
                                  cuda_library_function<decltype(rankwise_graph_launch)>("rankwise_graph_launch"),
                                  cuda_library_function<decltype(rankwise_graph_delete)>("rankwise_graph_delete")};
  return library;
}

// The stream records until it is told to end.
void end_after_failure(void* graph) noexcept {
  try {
    library().end(graph);
  } catch (const std::exception&) {  // of what was recorded nothing is used
  }
}

}  // namespace

void GpuGraph::launch() const { library().launch(graph_.get()); }

GpuGraphs::GpuGraphs(c10::Device device)
    : stream_(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/false)),
      pool_() {
  library().pool(&pool_);
}

GpuGraph GpuGraphs::record(const std::function<void()>& work) {
  const c10::StreamGuard guard(stream_);
  GpuGraph graph;
  graph.graph_ = std::shared_ptr<void>(library().begin(&pool_), library().end_of);
  try {
    work();
  } catch (...) {
    end_after_failure(graph.graph_.get());
    throw;
  }
  library().end(graph.graph_.get());
  return graph;
}

}  // namespace rankwise
