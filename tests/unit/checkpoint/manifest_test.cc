#include "trainer/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "small_checkpoint.h"

namespace rankwise::testing {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Manifest sample() {
  return {.run_id = "devil-1",
          .step = 120,
          .fingerprint = {{"base", "a1b2", FieldRule::kMustMatch},
                          {"data", "na\u00efve \"quoted\"\n", FieldRule::kMayChange}},
          .files = {{"adapter_model.safetensors", 10, sha256_hex("a")},
                    {"trainer_state/state.json", uint64_t{1} << 53, sha256_hex("b")}}};
}

// The text of an attacker or of another program that knows how to seal a manifest.
std::string sealed(ordered_json body) {
  body.erase("manifest_sha256");
  body["manifest_sha256"] = sha256_hex(body.dump());
  return body.dump(2) + "\n";
}

std::string edited(const std::function<void(ordered_json&)>& edit) {
  ordered_json body = ordered_json::parse(manifest_to_json(sample()));
  edit(body);
  return sealed(body);
}

std::string refusal(const std::string& text) {
  const Thrown thrown = error_of([&] { manifest_from_json(text, "MANIFEST.json"); });
  EXPECT_EQ(thrown.code, 65) << thrown.message;
  EXPECT_THAT(thrown.message, StartsWith("MANIFEST.json"));
  return thrown.message;
}

std::string refusal_of_path(const std::string& path) {
  return refusal(edited([&](ordered_json& body) { body["files"][1]["path"] = path; }));
}

TEST(Manifest, ComesBackAsItWas) { EXPECT_EQ(manifest_from_json(manifest_to_json(sample()), "x"), sample()); }

TEST(Manifest, WithoutFilesOrFingerprintComesBackToo) {
  const Manifest empty{.run_id = "", .step = 0, .fingerprint = {}, .files = {}};
  EXPECT_EQ(manifest_from_json(manifest_to_json(empty), "x"), empty);
}

TEST(Manifest, SealedByHandIsAccepted) {
  EXPECT_EQ(manifest_from_json(edited([](ordered_json&) {}), "x"), sample());
}

TEST(Manifest, PathsThatLeaveTheCheckpointAreRefused) {
  for (const std::string path : {"../x", "/etc/passwd", "trainer_state/../../x", "z/./x", "z//x", "z/", "", ".", "..",
                                 "z\\x", "z x", "z\nx", "z/a/b/c/d", "MANIFEST.json"}) {
    EXPECT_THAT(refusal_of_path(path), HasSubstr("is not a path inside the checkpoint")) << path;
  }
  EXPECT_THAT(refusal_of_path("z" + std::string(255, 'x')), HasSubstr("is not a path inside the checkpoint"));
  EXPECT_THAT(refusal_of_path(std::string("z\0x", 3)), StartsWith("MANIFEST.json"));
}

TEST(Manifest, APathTwiceOrOutOfOrderIsRefused) {
  EXPECT_THAT(refusal_of_path("adapter_model.safetensors"), HasSubstr("is there twice or out of order"));
  EXPECT_THAT(refusal_of_path("a"), HasSubstr("is there twice or out of order"));
}

TEST(Manifest, AFieldTwiceIsRefused) {
  EXPECT_THAT(refusal(edited([](ordered_json& body) { body["fingerprint"][1]["name"] = "base"; })),
              HasSubstr("\"base\" is there twice"));
}

TEST(Manifest, WrongTypesAndValuesAreRefused) {
  const std::vector<std::pair<std::function<void(ordered_json&)>, std::string>> cases = {
      {[](auto& b) { b["step"] = -1; }, "step"},
      {[](auto& b) { b["step"] = 1.5; }, "step"},
      {[](auto& b) { b["step"] = "120"; }, "step"},
      {[](auto& b) { b["step"] = UINT64_MAX; }, "step"},
      {[](auto& b) { b["run_id"] = 3; }, "run_id"},
      {[](auto& b) { b["files"] = "all"; }, "files"},
      {[](auto& b) { b["files"][0] = "one"; }, "files"},
      {[](auto& b) { b["files"][0]["bytes"] = true; }, "bytes"},
      {[](auto& b) { b["files"][0]["sha256"] = "abc"; }, "sha256"},
      {[](auto& b) { b["files"][0]["sha256"] = std::string(64, 'G'); }, "sha256"},
      {[](auto& b) { b["files"][0]["mode"] = 7; }, "\"mode\" is not a known key"},
      {[](auto& b) { b["files"][0].erase("bytes"); }, "\"bytes\" is missing"},
      {[](auto& b) { b["fingerprint"] = nullptr; }, "fingerprint"},
      {[](auto& b) { b["fingerprint"][0]["rule"] = "maybe"; }, "unknown rule"},
      {[](auto& b) { b["fingerprint"][0]["value"] = 16; }, "value"},
      {[](auto& b) { b.erase("step"); }, "\"step\" is missing"},
      {[](auto& b) { b["extra"] = 1; }, "\"extra\" is not a known key"},
      {[](auto& b) { b["format"] = "other"; }, "format"},
      {[](auto& b) { b["version"] = 2; }, "format version 2, this program reads version 1"},
      {[](auto& b) { b.erase("version"); }, "\"version\" is missing"}};
  for (const auto& [edit, expected] : cases) EXPECT_THAT(refusal(edited(edit)), HasSubstr(expected));
}

TEST(Manifest, WhatIsNoManifestIsRefused) {
  for (const std::string text : {"", "{", "[]", "null", "{}", "\xff\xfe", "{\"format\": \"rankwise-checkpoint\"}"}) {
    refusal(text);
  }
  refusal(std::string(100'000, '['));
}

TEST(Manifest, ASecondTextForTheSameContentIsRefused) {
  const std::string text = manifest_to_json(sample());
  EXPECT_THAT(refusal(text + " "), HasSubstr("damaged or edited"));
  EXPECT_THAT(refusal(ordered_json::parse(text).dump()), HasSubstr("damaged or edited"));
  std::string duplicated = text;
  duplicated.insert(duplicated.find("\"step\""), "\"step\": 119, ");
  refusal(duplicated);
}

TEST(Manifest, AnEditWithoutANewSealIsRefused) {
  std::string text = manifest_to_json(sample());
  text.replace(text.find("a1b2"), 4, "a1b3");
  EXPECT_THAT(refusal(text), HasSubstr("damaged or edited"));
}

}  // namespace
}  // namespace rankwise::testing
