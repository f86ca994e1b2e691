#include "comms/cuda_device.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <cstring>

int rankwise_num_cuda_devices() { return c10::cuda::device_count(); }

void rankwise_device_bytes(int64_t* free, int64_t* total) {
  size_t free_bytes = 0, total_bytes = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  *free = static_cast<int64_t>(free_bytes);
  *total = static_cast<int64_t>(total_bytes);
}

void rankwise_device_uuid(uint8_t bytes[16]) {
  int device = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  std::memcpy(bytes, properties.uuid.bytes, 16);
}

void rankwise_compute_capability(int* major, int* minor) {
  int device = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(minor, cudaDevAttrComputeCapabilityMinor, device));
}

int rankwise_pin_host_memory(void* data, size_t bytes) {
  const cudaError_t result = cudaHostRegister(data, bytes, cudaHostRegisterPortable);
  if (result != cudaSuccess) cudaGetLastError();  // not the next call's
  return result;
}

int rankwise_unpin_host_memory(void* data) { return cudaHostUnregister(data); }
