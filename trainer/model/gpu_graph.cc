#include "trainer/model/gpu_graph.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <exception>

#include "base/shared_library.h"
#include "trainer/model/cuda_graph.h"

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

std::shared_ptr<void> recorded(const std::function<void()>& work, const GpuGraphPool& pool) {
  std::shared_ptr<void> graph(library().begin(&pool), library().end_of);
  try {
    work();
  } catch (...) {
    end_after_failure(graph.get());
    throw;
  }
  library().end(graph.get());
  return graph;
}

}  // namespace

void GpuGraph::launch() const { library().launch(graph_.get()); }

GpuRecorder::GpuRecorder(c10::Device device)
    : stream_(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, /*isHighPriority=*/false)) {}

std::vector<GpuGraph> GpuRecorder::record(const std::vector<std::function<void()>>& works) {
  const c10::StreamGuard guard(stream_);
  GpuGraphPool pool{};  // of these graphs alone: LibTorch takes none again that has lost its last
  library().pool(&pool);
  std::vector<GpuGraph> graphs(works.size());
  for (size_t k = 0; k < works.size(); ++k) graphs[k].graph_ = recorded(works[k], pool);
  return graphs;
}

}  // namespace rankwise
