// MANIFEST.json, the last file of a checkpoint: it says which files belong to it, byte for byte, and what it fits.
// The text is canonical (one content, one text) and holds a hash of itself, so that damage to the manifest is found
// like damage to any other file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint/fingerprint.h"

namespace rankwise {

inline constexpr std::string_view kManifestName = "MANIFEST.json";
inline constexpr uint64_t kManifestVersion = 1;

struct ManifestFile {
  std::string path;  // relative to the checkpoint, '/' between components of [A-Za-z0-9._-]
  uint64_t bytes = 0;
  std::string sha256;  // 64 lower-case hex digits
  bool operator==(const ManifestFile&) const = default;
};

struct Manifest {
  std::string run_id;
  uint64_t step = 0;
  Fingerprint fingerprint;
  std::vector<ManifestFile> files;  // sorted by path, no path twice
  bool operator==(const Manifest&) const = default;
};

// True for a path that a manifest may name: relative, at most 4 components, none of them "." or "..".
bool is_manifest_path(std::string_view path);

std::string manifest_to_json(const Manifest& manifest);

// Pure. Throws DataError, beginning with `place`, unless `text` is exactly what manifest_to_json would write.
Manifest manifest_from_json(std::string_view text, std::string_view place);

}  // namespace rankwise
