// Out of memory, in words that help: what was being allocated and how much of it, how full the device or the host is,
// and what to change.
#pragma once

#include <exception>
#include <optional>
#include <string>

namespace rankwise {

// "out of memory on cuda:1 while allocating activations: 512.0 MiB asked for, at most 71.2 GiB in use so far by this
// process's tensors, of 79.1 GiB; lower train.per_device_train_batch_size or ...". nullopt for any other error than
// those of LibTorch's allocators and std::bad_alloc. Called by the thread that caught it, before it begins another
// TensorScope. What is in use is the highest so far: tensors of the failed call are gone by then.
std::optional<std::string> explain_out_of_memory(const std::exception& error);

}  // namespace rankwise
