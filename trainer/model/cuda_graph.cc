#include "trainer/model/cuda_graph.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAGraph.h>

#include <memory>

using at::cuda::CUDAGraph;

void rankwise_graph_pool(GpuGraphPool* pool) {
  const auto id = at::cuda::graph_pool_handle();
  *pool = {id.first, id.second};
}

void* rankwise_graph_begin(const GpuGraphPool* pool) {
  at::cuda::getCurrentCUDABlasHandle();  // whose workspace of this stream is no graph's
  auto graph = std::make_unique<CUDAGraph>();
  graph->capture_begin({pool->first, pool->second}, cudaStreamCaptureModeThreadLocal);
  return graph.release();
}

void rankwise_graph_end(void* graph) { static_cast<CUDAGraph*>(graph)->capture_end(); }
void rankwise_graph_launch(void* graph) { static_cast<CUDAGraph*>(graph)->replay(); }
void rankwise_graph_delete(void* graph) { delete static_cast<CUDAGraph*>(graph); }
