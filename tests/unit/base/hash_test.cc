#include "base/hash.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

// Values of FIPS 180-2, appendix B.
TEST(Sha256, MatchesThePublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, IsTheSameInPiecesAndAfterAMove) {
  Sha256 hash;
  hash.update("a");
  Sha256 moved = std::move(hash);
  moved.update("bc");
  EXPECT_EQ(moved.hex(), sha256_hex("abc"));
}

TEST(Sha256, HashesFilesLargerThanItsBuffer) {
  const testing::ScratchDirectory scratch;
  for (const size_t bytes : {0u, 5u, 1u << 20, (3u << 20) + 7}) {
    const std::string content(bytes, 'x');
    const std::string name = std::to_string(bytes);
    EXPECT_EQ(sha256_hex_of_file(scratch.add(name, content)), sha256_hex(content)) << bytes;
  }
  EXPECT_ERROR(sha256_hex_of_file(scratch / "absent"), NoInputError, "absent");
}

// XXH3's empty-input value of the xxHash project's own test; the rest are its properties.
TEST(Hash64, IsXxh3) {
  EXPECT_EQ(hash64(""), 0x2D06800538D394C2u);
  EXPECT_EQ(hash64("abc"), hash64("abc"));
  EXPECT_NE(hash64("abc"), hash64("abd"));
  EXPECT_NE(hash64("abc", 1), hash64("abc", 2));
}

}  // namespace
}  // namespace rankwise
