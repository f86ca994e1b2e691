// For the kernels, which do not know LibTorch: trainer/kernels/gpu_rows.h and gpu_gemm.h.
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>
#include <shared_mutex>

extern "C" void* rankwise_current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// LibTorch's own cuBLAS calls use the same workspace: those of one stream follow each other.
extern "C" void* rankwise_blas(void** workspace, size_t* workspace_bytes) {
  void* const handle = at::cuda::getCurrentCUDABlasHandle();  // makes the workspace
  auto& [workspaces, mutex] = at::cuda::cublas_handle_stream_to_workspace();
  const std::shared_lock lock(mutex);
  const auto found = workspaces.find({handle, rankwise_current_stream()});
  *workspace = found == workspaces.end() ? nullptr : found->second.get();
  *workspace_bytes = *workspace == nullptr ? 0 : at::cuda::getChosenWorkspaceSize();
  return handle;
}
