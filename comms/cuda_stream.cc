#include <c10/cuda/CUDAStream.h>

// For the kernels, which do not know LibTorch: trainer/kernels/gpu_rows.h.
extern "C" void* rankwise_current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
