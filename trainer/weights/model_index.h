// model.safetensors.index.json: which shard holds which tensor. Untrusted: a name in it must not lead out of the
// model's directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace rankwise {

struct ModelIndex {
  std::map<std::string, std::string, std::less<>> shard_of_tensor;
  std::optional<uint64_t> total_size_bytes;
};

// Pure. Throws DataError with `place` for anything but {"weight_map": {tensor: file name}, "metadata": {...}}, where
// a file name is one path component of letters, digits, '.', '_' and '-' that ends in ".safetensors".
ModelIndex parse_model_index(std::string_view json_text, std::string_view place);

// Follows symbolic links, which must stay inside the directory or lead to the blobs of the Hugging Face cache that the
// directory is a snapshot of (DIR/../../blobs). Throws DataError for one that leads elsewhere, NoInputError if absent.
void check_stays_inside(const std::filesystem::path& directory, const std::string& name);

}  // namespace rankwise
