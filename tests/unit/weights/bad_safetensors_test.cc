// Every malformed file is refused with its class, its place and the reason. A few odd ones that are right stand beside.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch_directory.h"
#include "trainer/weights/safetensors.h"

namespace rankwise {
namespace {

using testing::little_endian_u64;
using testing::safetensors_bytes;
using testing::ScratchDirectory;

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors_header(file, file.size(), "m.safetensors");
}

std::string repeated(std::string_view text, size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

// A file of one tensor "t" of 16 bytes with these fields.
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return safetensors_bytes(fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets),
                           16);
}
const std::string kGood = R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})";

// A file of one good tensor with this name, given as it stands in the JSON.
std::string named(std::string_view name) { return safetensors_bytes(fmt::format("{{\"{}\":{}}}", name, kGood), 16); }

// Two tensors of bytes, "a" and "b", of a file with `data_bytes` of data.
std::string two(std::string_view a, std::string_view b, size_t data_bytes) {
  const auto member = [](char name, std::string_view offsets) {
    const size_t comma = offsets.find(',');
    const int begin = std::stoi(std::string(offsets.substr(1, comma - 1)));
    const int end = std::stoi(std::string(offsets.substr(comma + 1)));
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":{}}})", name, end - begin, offsets);
  };
  return safetensors_bytes(fmt::format("{{{},{}}}", member('a', a), member('b', b)), data_bytes);
}

std::string zero_size_tensors(int count) {
  std::string header = "{";
  for (int i = 0; i < count; ++i) {
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i == 0 ? "" : ",", i);
  }
  return safetensors_bytes(header + "}", 0);
}

struct BadFile {
  const char* what;
  std::string bytes;
  const char* message;
};

void expect_refused(std::initializer_list<BadFile> files) {
  for (const BadFile& bad : files) {
    SCOPED_TRACE(bad.what);
    EXPECT_ERROR(parse(bad.bytes), DataError, "m.safetensors:", bad.message);
  }
}

TEST(BadSafetensors, LengthsThatCannotBeTrue) {
  expect_refused({
      {"empty", "", "0 bytes are too few"},
      {"7 bytes", std::string(7, '\0'), "7 bytes are too few"},
      {"n = 0", little_endian_u64(0) + "{}", "a header of 0 bytes"},
      {"n = 1", little_endian_u64(1) + "{}", "a header of 1 bytes"},
      {"n = 2^63", little_endian_u64(1ull << 63) + "{}", "a header of 9223372036854775808 bytes"},
      {"n = 2^64 - 1", little_endian_u64(~0ull) + "{}", "a header of 18446744073709551615 bytes"},
      {"n > file", little_endian_u64(3) + "{}", "a header of 3 bytes in a file of 10"},
      {"a pickle", "\x80\x04\x95" + std::string(20, 'x'), "a pickle, which can run code"},
      {"a small pickle", std::string("\x80\x04\x95\x05\0\0\0\0\0\0\0xxxxx.", 17), "a pickle, which can run code"},
      {"a zip of pickles", std::string("PK\x03\x04\0\0\x08\x08\0\0data.pkl", 18), "a pickle, which can run code"},
      {"GGUF", std::string("GGUF\x03\0\0\0", 8) + std::string(40, '\0'), "GGUF file; import it first"},
  });
}

TEST(BadSafetensors, HeadersAboveTheReferenceLimit) {
  const std::string prefix = little_endian_u64(100'000'001);
  EXPECT_ERROR(parse_safetensors_header(prefix, 1ull << 40, "m"), DataError, "100000001", "limit 100000000");
}

TEST(BadSafetensors, PrefixShorterThanItsHeader) {
  EXPECT_ERROR(parse_safetensors_header(named("t").substr(0, 20), named("t").size(), "m"), DataError, "20 given");
}

TEST(BadSafetensors, HeadersThatAreNotOneObject) {
  expect_refused({
      {"a list opened", safetensors_bytes("[ ", 0), ":1:1: expected an object"},
      {"null", safetensors_bytes("null", 0), ":1:4: expected an object"},
      {"a number", safetensors_bytes("12", 0), ":1:2: expected an object"},
      {"a million lists", safetensors_bytes(std::string(1'000'000, '['), 0), ":1:1: expected an object"},
      {"a million objects", safetensors_bytes(repeated(R"({"a":)", 1'000'000), 0), ":1:9: tensor \"a\": unknown key"},
      {"trailing NULs", safetensors_bytes(std::string("{}\0\0\0\0\0\0", 8), 0), ":1:3: NUL byte"},
      {"two values", safetensors_bytes("{}{}", 0), ":1:3: syntax error"},
      {"not UTF-8", named("\xff"), ":1:3: syntax error"},
      {"overlong UTF-8", named("\xc0\xaf"), ":1:3: syntax error"},
      {"a byte-order mark", safetensors_bytes("\xEF\xBB\xBF{}", 0), ":1:1: begins with a byte-order mark"},
      {"cut short", safetensors_bytes("{\"t\":", 0), "syntax error"},
      {"not JSON", safetensors_bytes("safetensors", 0), ":1:1: syntax error"},
  });
}

TEST(BadSafetensors, NamesTwice) {
  expect_refused({
      {"a tensor, same offsets", safetensors_bytes(fmt::format(R"({{"t":{0},"t":{0}}})", kGood), 16),
       "\"t\" is listed twice"},
      {"an empty tensor",
       safetensors_bytes(R"({"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                         R"("e":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}})",
                         0),
       "\"e\" is listed twice"},
      {"dtype", safetensors_bytes(R"({"t":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4),
       ":1:27: tensor \"t\": duplicate key dtype"},
      {"metadata", safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", 0), "duplicate key __metadata__"},
      {"a key of the metadata", safetensors_bytes(R"({"__metadata__":{"a":"1","a":"2"}})", 0),
       "duplicate key in __metadata__"},
  });
}

TEST(BadSafetensors, MetadataThatIsNotText) {
  expect_refused({
      {"a number", safetensors_bytes(R"({"__metadata__":{"step":1}})", 0),
       ":1:26: __metadata__ maps strings to strings"},
      {"null", safetensors_bytes(R"({"__metadata__":{"step":null}})", 0), "__metadata__ maps strings to strings"},
      {"a list", safetensors_bytes(R"({"__metadata__":{"step":[]}})", 0), "__metadata__\": unexpected list"},
      {"an object", safetensors_bytes(R"({"__metadata__":{"step":{}}})", 0), "__metadata__\": unexpected object"},
      {"no object", safetensors_bytes(R"({"__metadata__":"pt"})", 0), "__metadata__\": expected an object"},
  });
}

TEST(BadSafetensors, FieldsOfATensor) {
  expect_refused({
      {"unknown dtype", one("\"F33\"", "[2,2]", "[0,16]"), "tensor \"t\": dtype \"F33\" is not supported"},
      {"lower-case dtype", one("\"f32\"", "[2,2]", "[0,16]"), "dtype \"f32\" is not supported"},
      {"half-byte dtype", one("\"F4\"", "[33]", "[0,16]"), "dtype \"F4\" is not supported"},
      {"dtype that would move the cursor", one(R"("\u001b[2J")", "[2,2]", "[0,16]"), "dtype \"?[2J\" is not"},
      {"dtype number", one("32", "[2,2]", "[0,16]"), "dtype cannot be a number"},
      {"dtype null", one("null", "[2,2]", "[0,16]"), "dtype cannot be a null"},
      {"dtype list", one("[\"F32\"]", "[2,2]", "[0,16]"), "unexpected list"},
      {"shape null", one("\"F32\"", "null", "[0,16]"), "shape cannot be a null"},
      {"shape object", one("\"F32\"", "{}", "[0,16]"), "unexpected object"},
      {"shape nested", one("\"F32\"", "[[2,2]]", "[0,16]"), "nested deeper than 3 levels"},
      {"shape negative", one("\"F32\"", "[-1,-1]", "[0,16]"), "shape needs integers from 0 to 2^53, found -1"},
      {"shape text", one("\"F32\"", "[\"4\"]", "[0,16]"), "shape needs integers from 0 to 2^53, found string"},
      {"no shape", safetensors_bytes(R"({"t":{"dtype":"F32","data_offsets":[0,4]}})", 4),
       "needs dtype, shape and data_offsets"},
      {"no dtype", safetensors_bytes(R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4),
       "needs dtype, shape and data_offsets"},
      {"no offsets", safetensors_bytes(R"({"t":{"dtype":"F32","shape":[1]}})", 4),
       "needs dtype, shape and data_offsets"},
      {"nothing", safetensors_bytes(R"({"t":{}})", 0), "needs dtype, shape and data_offsets"},
      {"an extra key", safetensors_bytes(R"({"t":{"dtype":"F32","shape":[],"data_offsets":[0,4],"stride":1}})", 4),
       "unknown key \"stride\""},
      {"no object", safetensors_bytes(R"({"t":1})", 0), "tensor \"t\": expected an object, found a number"},
      {"a list", safetensors_bytes(R"({"t":[]})", 0), "tensor \"t\": unexpected list"},
  });
}

TEST(BadSafetensors, OffsetsThatAreNotTwoIntegers) {
  expect_refused({
      {"negative", one("\"F32\"", "[2,2]", "[-1,15]"),
       ":1:53: tensor \"t\": data_offsets needs integers from 0 to 2^53, found -1"},
      {"minus zero", one("\"F32\"", "[2,2]", "[-0,16]"), "data_offsets needs integers"},
      {"fractional", one("\"F32\"", "[2,2]", "[0,16.0]"), "data_offsets needs integers from 0 to 2^53, found 16.0"},
      {"exponent", one("\"F32\"", "[2,2]", "[0,1e3]"), "data_offsets needs integers"},
      {"2^53 + 1", one("\"F32\"", "[2,2]", "[0,9007199254740993]"), "found 9007199254740993"},
      {"2^64", one("\"F32\"", "[2,2]", "[0,18446744073709551616]"), "integer out of range"},
      {"text", one("\"F32\"", "[2,2]", "[0,\"16\"]"), "found string"},
      {"bool", one("\"F32\"", "[2,2]", "[false,16]"), "found boolean"},
      {"null", one("\"F32\"", "[2,2]", "[0,null]"), "found null"},
      {"none", one("\"F32\"", "[2,2]", "[]"), "data_offsets needs 2 numbers, has 0"},
      {"one", one("\"F32\"", "[2,2]", "[16]"), "data_offsets needs 2 numbers, has 1"},
      {"three", one("\"F32\"", "[2,2]", "[0,16,16]"), "data_offsets needs 2 numbers, has more"},
      {"begin > end", one("\"F32\"", "[2,2]", "[16,0]"), "begins at 16, ends at 0"},
  });
}

TEST(BadSafetensors, OffsetsThatDoNotTileTheData) {
  expect_refused({
      {"overlap", two("[0,10]", "[8,16]", 16), "\"b\" begins at byte 8 of the data, inside the one that ends at 10"},
      {"same bytes twice", two("[0,8]", "[0,8]", 8),
       "\"b\" begins at byte 0 of the data, inside the one that ends at 8"},
      {"hole", two("[0,7]", "[8,16]", 16), "\"b\" begins at byte 8 of the data, after a hole from 7"},
      {"hole at the start", two("[1,8]", "[8,16]", 16), "\"a\" begins at byte 1 of the data, after a hole from 0"},
      {"out of the file", two("[0,8]", "[8,17]", 16), "the tensors need 17 bytes, the file has 16; it is cut short"},
      {"a missing last byte", named("t").substr(0, named("t").size() - 1), "need 16 bytes, the file has 15"},
      {"a byte too much", named("t") + "x", "1 bytes follow the last tensor"},
      {"data without tensors", safetensors_bytes("{}", 5), "5 bytes follow the last tensor"},
  });
}

TEST(BadSafetensors, ShapesThatDoNotFitTheirBytes) {
  const std::string many = "[" + repeated("1,", 9'999) + "1]";
  expect_refused({
      {"too few bytes", one("\"F64\"", "[2,2]", "[0,16]"), "shape and dtype make 32 bytes, data_offsets 16"},
      {"too many bytes", one("\"F16\"", "[2,2]", "[0,16]"), "shape and dtype make 8 bytes, data_offsets 16"},
      {"product 2^64", one("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "shape is larger than 2^64 bytes"},
      {"product 2^64 by the dtype", one("\"F32\"", "[4503599627370496,1024]", "[0,0]"), "shape is larger than 2^64"},
      {"overflow before a zero", one("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), "shape is larger than 2^64"},
      {"2^62", one("\"F32\"", "[4611686018427387904,4]", "[0,0]"), "found 4611686018427387904"},
      {"10,000 dimensions", one("\"U8\"", many, "[0,1]"), "more than 64 dimensions"},
  });
}

TEST(BadSafetensors, TensorNames) {
  expect_refused({
      {"empty", named(""), ":1:3: empty tensor name"},
      {"1 MiB", named(std::string(1 << 20, 'n')), "tensor name of 1048576 bytes"},
      {"NUL", named("a\\u0000b"), "control character in a tensor name"},
      {"escape sequence", named("a\\u001b[2J"), "control character in a tensor name"},
      {"path", named("../x"), "path in a tensor name"},
      {"path on Windows", named("..\\\\x"), "path in a tensor name"},
  });
}

TEST(BadSafetensors, AMillionEmptyTensors) {
  expect_refused({{"zero-size tensors", zero_size_tensors(1'000'000), "more than 262144 tensors"}});
}

TEST(OddSafetensors, AreAccepted) {
  EXPECT_TRUE(parse(safetensors_bytes("{}", 0)).tensors.empty());
  EXPECT_EQ(parse(safetensors_bytes(" \t\r\n{}  ", 0)).data_start, 16u);  // padding before the object, as the reference
  EXPECT_EQ(parse(one("\"F64\"", "[2,1]", "[0,16]")).tensors.size(), 1u);
  EXPECT_EQ(parse(named("a/b \xC3\xA9 ..")).tensors[0].name, "a/b \xC3\xA9 ..");
  EXPECT_EQ(
      parse(safetensors_bytes(R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4)).tensors[0].num_elements(),
      1);
  EXPECT_EQ(parse(safetensors_bytes(R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0))
                .tensors[0]
                .num_elements(),
            0);
  EXPECT_EQ(parse(zero_size_tensors(1000)).tensors.size(), 1000u);
}

TEST(OddSafetensors, OfATerabyteOnlyTheHeaderIsRead) {
  const ScratchDirectory scratch;
  constexpr uint64_t kBytes = 1ull << 40;
  const std::string header =
      safetensors_bytes(fmt::format(R"({{"t":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", kBytes), 0);
  const auto path = scratch.add("sparse.safetensors", header);
  std::error_code error;
  std::filesystem::resize_file(path, header.size() + kBytes, error);  // a hole: nothing of it lies on the disk
  if (error) GTEST_SKIP() << "this file system holds no file of a terabyte: " << error.message();
  const SafetensorsFile file(path);
  std::vector<std::byte> last(1);
  file.read(file.entry("t"), kBytes - 1, last);
  EXPECT_EQ(file.bytes_read(), 1u);
  std::filesystem::resize_file(path, header.size() + kBytes - 1);
  EXPECT_ERROR(SafetensorsFile(scratch / "sparse.safetensors"), DataError,
               "the tensors need 1099511627776 bytes, the file has 1099511627775");
}

TEST(BadSafetensors, ThingsThatAreNoFiles) {
  const ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo((scratch / "fifo").c_str(), 0600), 0);
  EXPECT_ERROR(SafetensorsFile(scratch / "fifo"), DataError, "fifo: not a regular file");
  EXPECT_ERROR(SafetensorsFile("/dev/zero"), DataError, "/dev/zero: not a regular file");
  EXPECT_ERROR(SafetensorsFile(scratch.path()), DataError, "not a regular file");
  EXPECT_ERROR(SafetensorsFile(scratch / "absent"), NoInputError, "absent");
  EXPECT_ERROR(SafetensorsFile(scratch.add("empty.safetensors", "")), DataError, "empty.safetensors: 0 bytes");
  const std::string pickle("PK\x03\x04\0\0\x08\x08\0\0", 10);
  EXPECT_ERROR(SafetensorsFile(scratch.add("p.safetensors", pickle)), DataError, "p.safetensors", "save the model as");
}

}  // namespace
}  // namespace rankwise
