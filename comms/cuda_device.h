// Private to comms/: what librankwise_cuda.so offers of a device itself, by C names. See comms/cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
int rankwise_num_cuda_devices();
void rankwise_device_bytes(int64_t* free, int64_t* total);
void rankwise_device_uuid(uint8_t bytes[16]);
void rankwise_compute_capability(int* major, int* minor);
int rankwise_pin_host_memory(void* data, size_t bytes);  // both return a cudaError_t
int rankwise_unpin_host_memory(void* data);
}
