#include "base/shared_library.h"

#include <dlfcn.h>

#include <filesystem>

#include "base/check.h"

namespace rankwise {
namespace {

void* open(const std::string& library) {
  std::error_code unreadable;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", unreadable);
  const auto beside = program.parent_path() / library;
  const bool is_beside = std::filesystem::exists(beside, unreadable);
  return ::dlopen(is_beside ? beside.c_str() : library.c_str(), RTLD_NOW | RTLD_LOCAL);
}

}  // namespace

void* shared_library_symbol(const std::string& library, const std::string& symbol) {
  void* handle = open(library);  // opened once, counted afterwards
  RW_CHECK(handle != nullptr, UnavailableError, "load {}: {}", library, ::dlerror());
  void* address = ::dlsym(handle, symbol.c_str());
  RW_CHECK(address != nullptr, UnavailableError, "{} has no {}: it is of another build than this program", library,
           symbol);
  return address;
}

}  // namespace rankwise
