// Under mpirun with 1, 2 and 4 ranks: what the ranks say to each other before and after the work.
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>

#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace rankwise::testing {
namespace {

int last_rank() { return world().size() - 1; }

std::string place(int rank) { return "rank " + std::to_string(rank) + " on " + world().host() + ": "; }

TEST(World, KnowsTheRanksOfThisHost) {
  EXPECT_GE(world().rank(), 0);
  EXPECT_LT(world().rank(), world().size());
  EXPECT_EQ(world().local_rank(), world().rank());  // mpirun started all of them here
  EXPECT_EQ(world().local_size(), world().size());
  EXPECT_EQ(world().num_hosts(), 1);
  EXPECT_FALSE(world().host().empty());
}

TEST(World, GathersTextsOfAnyLengthInRankOrder) {
  const auto text_of = [](int rank) {
    return std::string(static_cast<size_t>(rank) * 1000, static_cast<char>('a' + rank));
  };
  const auto texts = world().gather_strings(text_of(world().rank()));  // rank 0's is empty
  ASSERT_EQ(static_cast<int>(texts.size()), world().size());
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(texts[static_cast<size_t>(r)], text_of(r));
}

TEST(World, AgreesQuietlyWhenNobodyFails) {
  int ran = 0;
  world().agree("part", [&] { ++ran; });
  EXPECT_EQ(ran, 1);
}

TEST(World, TheSameErrorEverywhereIsToldOnceAndWithoutARank) {
  try {
    world().agree("part", [] { throw DataError("model.json:3: no such field"); });
    FAIL() << "did not throw";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "model.json:3: no such field");
    EXPECT_EQ(error.code(), ExitCode::kBadData);
  }
}

TEST(World, TheErrorOfOneRankReachesAllWithItsRankHostAndCode) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  try {
    world().agree("part", [] {
      if (world().rank() == last_rank()) throw IoError("write x: disk full", ExitCode::kCannotWrite);
    });
    FAIL() << "did not throw";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.what(), place(last_rank()) + "write x: disk full");
    EXPECT_EQ(error.code(), ExitCode::kCannotWrite);
  }
}

TEST(World, OfSeveralErrorsTheLowestRanksIsTold) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  try {
    world().agree("part", [] {
      if (world().rank() > 0) throw ConfigError("mine is " + std::to_string(world().rank()));
    });
    FAIL() << "did not throw";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.what(), place(1) + "mine is 1");
    EXPECT_EQ(error.code(), ExitCode::kBadConfig);
  }
}

TEST(World, AStrangersExceptionIsInternalAndSaysWhere) {
  EXPECT_ERROR(world().agree("loading weights", [] { throw std::runtime_error("out of luck"); }), AgreedError,
               "loading weights: out of luck");
  try {
    world().agree("part", [] { throw std::runtime_error("x"); });
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kInternal);
  }
}

TEST(World, GoesOnWorkingAfterAnAgreedError) {
  for (int k = 0; k < 3; ++k) {
    EXPECT_THROW(world().agree("part",
                               [&] {
                                 if (world().rank() == k % world().size()) throw Error("now and then");
                               }),
                 AgreedError);
  }
  EXPECT_EQ(static_cast<int>(world().gather_strings("here").size()), world().size());
}

TEST(World, NamesTheRanksWhoseTextDiffers) {
  world().require_equal("the configuration", "same");
  if (world().size() == 1) return;
  const std::string mine = world().rank() == last_rank() ? "another" : "same";
  EXPECT_ERROR(world().require_equal("the configuration", mine), AgreedError,
               "the configuration of rank(s) " + std::to_string(last_rank()) + " differs from rank 0's");
}

TEST(World, MostRanksAreRight) {
  if (world().size() < 3) return;
  const std::string mine = world().rank() == 0 ? "another" : "same";
  EXPECT_ERROR(world().require_equal("the configuration", mine), AgreedError,
               "the configuration of rank(s) 0 differs from rank 1's");
}

TEST(World, RefusesAnotherNumberOfRanksThanExpected) {
  world().require_size(world().size());
  EXPECT_ERROR(
      world().require_size(world().size() + 1), ConfigError,
      "comms.expected_world_size is " + std::to_string(world().size() + 1) + " but " + std::to_string(world().size()),
      "-np");
}

TEST(World, SharesMemoryOnTheHost) {
  constexpr size_t kBytes = 100;
  const auto parts = world().share_on_host(kBytes);
  ASSERT_EQ(static_cast<int>(parts.size()), world().local_size());
  std::memset(parts[static_cast<size_t>(world().local_rank())], world().rank() + 1, kBytes);
  world().gather_strings("");  // all have written
  for (int r = 0; r < world().local_size(); ++r) {
    const auto* part = static_cast<const unsigned char*>(parts[static_cast<size_t>(r)]);
    for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(part[i], r + 1) << "byte " << i << " of rank " << r;
  }
  world().gather_strings("");  // all have read
}

}  // namespace
}  // namespace rankwise::testing
