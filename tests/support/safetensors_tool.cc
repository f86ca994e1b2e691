// Lets other programs see a safetensors file through our reader and writer:
//   safetensors_tool list FILE          one JSON object a line: the metadata, then each tensor in order of its data
//   safetensors_tool rewrite FROM TO    reads all and writes it anew
// Exit codes are those of base/error.h; the message goes to stderr.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "trainer/weights/safetensors.h"

namespace rankwise {
namespace {

using nlohmann::json;

std::vector<std::byte> read_whole(const SafetensorsFile& file, const TensorEntry& entry) {
  std::vector<std::byte> data(entry.end - entry.begin);
  file.read(entry, 0, data);
  return data;
}

void print(const json& value) { std::puts(value.dump().c_str()); }

void list(const char* path) {
  const SafetensorsFile file(path);
  print({{"metadata", file.header().metadata}});
  for (const TensorEntry& entry : file.header().tensors) {
    Sha256 hash;
    hash.update(read_whole(file, entry));
    print({{"name", entry.name}, {"dtype", dtype_name(entry.dtype)}, {"shape", entry.shape}, {"sha256", hash.hex()}});
  }
}

void rewrite(const char* from, const char* to) {
  const SafetensorsFile file(from);
  std::vector<std::vector<std::byte>> data;
  std::vector<TensorView> tensors;
  for (const TensorEntry& entry : file.header().tensors) {
    tensors.push_back({entry.name, entry.dtype, entry.shape, data.emplace_back(read_whole(file, entry))});
  }
  write_safetensors(to, tensors, file.header().metadata);
}

int run(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "list" && argc == 3) return list(argv[2]), 0;
  if (command == "rewrite" && argc == 4) return rewrite(argv[2], argv[3]), 0;
  throw UsageError("usage: safetensors_tool list FILE | rewrite FROM TO");
}

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) {
  try {
    return rankwise::run(argc, argv);
  } catch (const rankwise::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return static_cast<int>(e.code());
  }
}
