// The parts of the safetensors format that its reader and its writer share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "trainer/weights/safetensors.h"

namespace rankwise {

inline constexpr uint64_t kSafetensorsLengthBytes = 8;

// The JSON header's length out of the file's first 8 bytes (fewer if the file is shorter). Throws DataError when it
// cannot be true, naming the format where the bytes are those of a pickle, a zip archive or a GGUF file.
uint64_t safetensors_header_bytes(std::string_view first_bytes, uint64_t file_bytes, std::string_view place);

// Why a tensor cannot be called that, or nothing. The answer does not quote the name, which may hold anything.
std::optional<std::string> tensor_name_problem(std::string_view name);

// Position of a dtype in the reference implementation's order (Dtype of tensor.rs), by which its writer sorts.
int safetensors_dtype_order(Dtype dtype);

}  // namespace rankwise
