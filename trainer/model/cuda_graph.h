// Private to gpu_graph.h and .cc: LibTorch's CUDA graphs as librankwise_cuda.so has them, by C names. They throw
// c10::Error.
#pragma once

extern "C" {

struct GpuGraphPool {  // of memory; its graphs never run at one time
  unsigned long long first, second;
};
void rankwise_graph_pool(GpuGraphPool* pool);

// Until rankwise_graph_end this thread's current stream, which is not the default one, records what it is given.
void* rankwise_graph_begin(const GpuGraphPool* pool);
void rankwise_graph_end(void* graph);
void rankwise_graph_launch(void* graph);  // on the current stream
void rankwise_graph_delete(void* graph);  // also one that did not come to its end; never throws
}
