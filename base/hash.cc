#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "base/file.h"

namespace rankwise {

struct Sha256::Impl {
  struct Free {
    void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  const bool ready = impl_->context && EVP_DigestInit_ex(impl_->context.get(), EVP_sha256(), nullptr) == 1;
  RW_CHECK(ready, Error, "OpenSSL offers no SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  const bool done = EVP_DigestUpdate(impl_->context.get(), bytes.data(), bytes.size()) == 1;
  RW_CHECK(done, Error, "OpenSSL could not hash {} bytes", bytes.size());
}

void Sha256::update(std::string_view text) { update(std::as_bytes(std::span(text.data(), text.size()))); }

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest{};
  const bool done = EVP_DigestFinal_ex(impl_->context.get(), digest.data(), nullptr) == 1;
  RW_CHECK(done, Error, "OpenSSL could not finish a hash; was hex() called twice?");
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_hex_of_file(const std::filesystem::path& path) {
  constexpr uint64_t kChunkBytes = 1 << 20;
  const InputFile file = open_input(path);
  std::vector<std::byte> buffer(std::min(file.size_bytes, kChunkBytes));
  Sha256 hash;
  for (uint64_t offset = 0; offset < file.size_bytes; offset += kChunkBytes) {
    const std::span chunk(buffer.data(), std::min(file.size_bytes - offset, kChunkBytes));
    read_exactly_at(file.fd.get(), offset, chunk, path);
    hash.update(chunk);
  }
  return hash.hex();
}

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

uint64_t hash64(std::string_view text, uint64_t seed) {
  return hash64(std::as_bytes(std::span(text.data(), text.size())), seed);
}

}  // namespace rankwise
