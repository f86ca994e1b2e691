#include "trainer/weights/safetensors_header.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/json_events.h"

namespace rankwise {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference reader's limit
constexpr uint64_t kMaxInteger = 1ull << 53;       // beyond it JSON readers disagree
constexpr size_t kMaxTensors = 1 << 18;
constexpr size_t kMaxDimensions = 64;
constexpr size_t kMaxNameBytes = 1024;
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kDtypes = {
    DtypeInfo{Dtype::kBool, "BOOL", 1},      DtypeInfo{Dtype::kU8, "U8", 1},
    DtypeInfo{Dtype::kI8, "I8", 1},          DtypeInfo{Dtype::kF8E5M2, "F8_E5M2", 1},
    DtypeInfo{Dtype::kF8E4M3, "F8_E4M3", 1}, DtypeInfo{Dtype::kI16, "I16", 2},
    DtypeInfo{Dtype::kU16, "U16", 2},        DtypeInfo{Dtype::kF16, "F16", 2},
    DtypeInfo{Dtype::kBF16, "BF16", 2},      DtypeInfo{Dtype::kI32, "I32", 4},
    DtypeInfo{Dtype::kU32, "U32", 4},        DtypeInfo{Dtype::kF32, "F32", 4},
    DtypeInfo{Dtype::kF64, "F64", 8},        DtypeInfo{Dtype::kI64, "I64", 8},
    DtypeInfo{Dtype::kU64, "U64", 8},
};

const DtypeInfo& info(Dtype dtype) { return *std::ranges::find(kDtypes, dtype, &DtypeInfo::dtype); }

// What a message may show of text that nobody has checked.
std::string shown(std::string_view text) {
  std::string clean(text.substr(0, 32));
  std::ranges::replace_if(
      clean, [](char c) { return c < ' ' || c > '~'; }, '?');
  return clean.size() < text.size() ? clean + "..." : clean;
}

// Turns the header's JSON events into entries. One level of nesting each: file, tensor or metadata, list.
class HeaderReceiver final : public JsonReceiver {
 public:
  void begin_object() override {
    if (in_ == In::kNothing) {
      in_ = In::kFile;
    } else if (in_ == In::kFile && key_ == kMetadataKey) {
      if (std::exchange(has_metadata_, true)) throw JsonRefusal{"duplicate key __metadata__"};
      in_ = In::kMetadata;
    } else if (in_ == In::kFile) {
      tensor_ = {};
      in_ = In::kTensor;
    } else {
      refuse("unexpected object");
    }
  }

  void key(std::string&& name) override {
    if (in_ == In::kFile && name != kMetadataKey) {
      if (const auto problem = tensor_name_problem(name)) throw JsonRefusal{*problem};
    }
    (in_ == In::kFile ? key_ : field_) = std::move(name);
    if (in_ == In::kTensor) begin_field();
  }

  void begin_array() override {
    if (in_ != In::kTensor || field_ == "dtype") refuse(in_ == In::kNothing ? "expected an object" : "unexpected list");
    in_ = field_ == "shape" ? In::kShape : In::kOffsets;
  }

  void end_array() override { in_ = In::kTensor; }

  void scalar(json&& value) override {
    switch (in_) {
      case In::kShape:
        if (tensor_.shape.size() == kMaxDimensions) refuse(fmt::format("more than {} dimensions", kMaxDimensions));
        tensor_.shape.push_back(static_cast<int64_t>(integer(value)));
        return;
      case In::kOffsets:
        if (num_offsets_ == 2) refuse("data_offsets needs 2 numbers, has more");
        (num_offsets_++ == 0 ? tensor_.begin : tensor_.end) = integer(value);
        return;
      case In::kMetadata:
        if (!value.is_string()) throw JsonRefusal{"__metadata__ maps strings to strings only"};
        if (!metadata_.try_emplace(std::move(field_), std::move(value.get_ref<std::string&>())).second) {
          throw JsonRefusal{"duplicate key in __metadata__"};
        }
        return;
      case In::kTensor:
        if (field_ != "dtype" || !value.is_string())
          refuse(fmt::format("{} cannot be a {}", field_, value.type_name()));
        tensor_.dtype = dtype(value.get_ref<const std::string&>());
        return;
      default:
        refuse(fmt::format("expected an object, found a {}", value.type_name()));
    }
  }

  void end_object() override {
    if (in_ == In::kTensor) finish_tensor();
    in_ = In::kFile;
  }

  std::vector<TensorEntry> take_tensors() { return std::move(tensors_); }
  std::map<std::string, std::string> take_metadata() { return std::move(metadata_); }

 private:
  enum class In { kNothing, kFile, kMetadata, kTensor, kShape, kOffsets };

  [[noreturn]] void refuse(std::string_view reason) const {
    if (key_.empty()) throw JsonRefusal{std::string(reason)};
    throw JsonRefusal{fmt::format("tensor \"{}\": {}", key_, reason)};
  }

  void begin_field() {
    bool* seen = field_ == "dtype" ? &has_dtype_ : field_ == "shape" ? &has_shape_ : nullptr;
    if (field_ == "data_offsets") seen = &has_offsets_;
    if (!seen) refuse(fmt::format("unknown key \"{}\"; dtype, shape and data_offsets are all there is", shown(field_)));
    if (std::exchange(*seen, true)) refuse(fmt::format("duplicate key {}", field_));
  }

  uint64_t integer(const json& value) const {
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= kMaxInteger;
    if (!fits) {
      refuse(fmt::format("{} needs integers from 0 to 2^53, found {}", field_,
                         value.is_number() ? value.dump() : std::string(value.type_name())));
    }
    return value.get<uint64_t>();
  }

  Dtype dtype(const std::string& name) const {
    const auto* known = std::ranges::find(kDtypes, name, &DtypeInfo::name);
    if (known == kDtypes.end()) {
      refuse(fmt::format("dtype \"{}\" is not supported; convert the tensor to F32, F16 or BF16", shown(name)));
    }
    return known->dtype;
  }

  void finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) refuse("needs dtype, shape and data_offsets");
    if (num_offsets_ != 2) refuse(fmt::format("data_offsets needs 2 numbers, has {}", num_offsets_));
    if (tensor_.begin > tensor_.end) refuse(fmt::format("begins at {}, ends at {}", tensor_.begin, tensor_.end));
    uint64_t bytes = static_cast<uint64_t>(dtype_bytes(tensor_.dtype));
    for (const int64_t size : tensor_.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) refuse("shape is larger than 2^64 bytes");
    }
    if (bytes != tensor_.end - tensor_.begin) {
      refuse(fmt::format("shape and dtype make {} bytes, data_offsets {}", bytes, tensor_.end - tensor_.begin));
    }
    if (tensors_.size() == kMaxTensors) throw JsonRefusal{fmt::format("more than {} tensors in a file", kMaxTensors)};
    tensor_.name = key_;
    tensors_.push_back(std::move(tensor_));
    has_dtype_ = has_shape_ = has_offsets_ = false;
    num_offsets_ = 0;
  }

  In in_ = In::kNothing;
  std::string key_;    // of the file: tensor name or __metadata__
  std::string field_;  // of the tensor or of the metadata
  TensorEntry tensor_{};
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false, has_metadata_ = false;
  int num_offsets_ = 0;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

void check_names_unique(const std::vector<TensorEntry>& tensors, std::string_view place) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const TensorEntry& tensor : tensors) names.push_back(tensor.name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  RW_CHECK(twice == names.end(), DataError, "{}: tensor \"{}\" is listed twice", place, *twice);
}

// `tensors` in order of their data: each begins where the one before ends, and the last one ends with the file.
void check_contiguous(const std::vector<TensorEntry>& tensors, uint64_t data_bytes, std::string_view place) {
  uint64_t expected = 0;
  for (const TensorEntry& tensor : tensors) {
    RW_CHECK(tensor.begin == expected, DataError, "{}: tensor \"{}\" begins at byte {} of the data, {} {}", place,
             tensor.name, tensor.begin, tensor.begin < expected ? "inside the one that ends at" : "after a hole from",
             expected);
    expected = tensor.end;
  }
  RW_CHECK(expected <= data_bytes, DataError,
           "{}: the tensors need {} bytes, the file has {}; it is cut short, copy it again", place, expected,
           data_bytes);
  RW_CHECK(expected == data_bytes, DataError, "{}: {} bytes follow the last tensor", place, data_bytes - expected);
}

std::string_view foreign_format(std::string_view first_bytes) {
  if (first_bytes.starts_with("GGUF")) return "a GGUF file; import it first (tools/import_gguf.py)";
  const bool is_zip = first_bytes.starts_with("PK\x03\x04");
  const bool is_pickle =
      first_bytes.size() > 1 && first_bytes[0] == '\x80' && first_bytes[1] >= 2 && first_bytes[1] <= 5;
  if (is_zip || is_pickle) return "a pickle, which can run code and is never read; save the model as safetensors";
  return {};
}

}  // namespace

std::string_view dtype_name(Dtype dtype) { return info(dtype).name; }
int64_t dtype_bytes(Dtype dtype) { return info(dtype).bytes; }
int safetensors_dtype_order(Dtype dtype) { return static_cast<int>(&info(dtype) - kDtypes.data()); }

std::optional<std::string> tensor_name_problem(std::string_view name) {
  if (name.empty()) return "empty tensor name";
  if (name.size() > kMaxNameBytes)
    return fmt::format("tensor name of {} bytes, at most {}", name.size(), kMaxNameBytes);
  const auto is_control = [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; };
  if (std::ranges::any_of(name, is_control)) return "control character in a tensor name";
  if (name.find("../") != name.npos || name.find("..\\") != name.npos) return "path in a tensor name";
  return std::nullopt;
}

int64_t TensorEntry::num_elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

uint64_t safetensors_header_bytes(std::string_view first_bytes, uint64_t file_bytes, std::string_view place) {
  RW_CHECK(file_bytes >= kSafetensorsLengthBytes && first_bytes.size() >= kSafetensorsLengthBytes, DataError,
           "{}: {} bytes are too few for a safetensors file", place, file_bytes);
  uint64_t header_bytes = 0;
  for (size_t i = kSafetensorsLengthBytes; i-- > 0;)
    header_bytes = header_bytes << 8 | static_cast<uint8_t>(first_bytes[i]);
  if (header_bytes >= 2 && header_bytes <= std::min(kMaxHeaderBytes, file_bytes - kSafetensorsLengthBytes))
    return header_bytes;

  const std::string_view foreign = foreign_format(first_bytes);
  RW_CHECK(foreign.empty(), DataError, "{}: this is {}", place, foreign);
  throw DataError(
      fmt::format("{}: not a safetensors file or cut short: a header of {} bytes in a file of {} (limit {})", place,
                  header_bytes, file_bytes, kMaxHeaderBytes));
}

SafetensorsHeader parse_safetensors_header(std::string_view prefix, uint64_t file_bytes, std::string_view place) {
  const uint64_t header_bytes = safetensors_header_bytes(prefix, file_bytes, place);
  const uint64_t data_start = kSafetensorsLengthBytes + header_bytes;
  RW_CHECK(prefix.size() >= data_start, DataError, "{}: header of {} bytes, {} given", place, data_start,
           prefix.size());

  HeaderReceiver receiver;
  const JsonLimits limits{.max_bytes = kMaxHeaderBytes, .max_depth = 3};
  read_json_events(prefix.substr(kSafetensorsLengthBytes, header_bytes), place, limits, receiver);

  SafetensorsHeader header{receiver.take_tensors(), receiver.take_metadata(), data_start};
  const auto order = [](const TensorEntry& t) { return std::tie(t.begin, t.end, t.name); };
  std::ranges::sort(header.tensors, {}, order);
  check_names_unique(header.tensors, place);
  check_contiguous(header.tensors, file_bytes - data_start, place);
  return header;
}

}  // namespace rankwise
