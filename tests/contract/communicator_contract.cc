#include "tests/contract/communicator_contract.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/support/expect_error.h"

namespace rankwise::testing {
namespace {

using ::testing::HasSubstr;

// Small integers, so that sums are exact in every dtype and in every order.
int64_t value_of(int rank, int64_t index) { return (index * 7 + rank * 13 + index * index % 11) % 101 - 50; }

at::Tensor values(int rank, int64_t count, at::ScalarType dtype) {
  at::Tensor tensor = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i) tensor.data_ptr<int64_t>()[i] = value_of(rank, i);
  return tensor.to(dtype);
}

int64_t expected(Reduce op, int size, int64_t index) {
  int64_t result = value_of(0, index);
  for (int r = 1; r < size; ++r) {
    const int64_t next = value_of(r, index);
    result = op == Reduce::kSum ? result + next : op == Reduce::kMin ? std::min(result, next) : std::max(result, next);
  }
  return result;
}

// Arbitrary bytes, of every pattern (also NaNs), as a tensor of any dtype.
at::Tensor pattern(int rank, int64_t count, at::ScalarType dtype) {
  at::Tensor tensor = at::empty({count}, dtype);
  auto* bytes = static_cast<uint8_t*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i)
    bytes[i] = static_cast<uint8_t>(i * 31 + i / 251 + static_cast<size_t>(rank) * 97);
  return tensor;
}

std::vector<uint8_t> bytes_of(const at::Tensor& tensor) {
  const at::Tensor here = tensor.cpu().contiguous();
  const auto* begin = static_cast<const uint8_t*>(here.const_data_ptr());
  return {begin, begin + here.nbytes()};
}

std::vector<uint8_t> patterns_of_all(int size, int64_t count, at::ScalarType dtype) {
  std::vector<uint8_t> all;
  for (int r = 0; r < size; ++r) {
    const auto one = bytes_of(pattern(r, count, dtype));
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST_P(CommunicatorContract, KnowsItsRanks) {
  GetParam().run([&](Communicator& c) {
    EXPECT_EQ(c.size(), GetParam().size);
    EXPECT_EQ(c.transport(), GetParam().name);
    at::Tensor seen = at::zeros({c.size()}, at::kLong).to(GetParam().device(c));
    seen.select(0, c.rank()).fill_(1);
    c.all_reduce(seen, Reduce::kSum).wait();
    EXPECT_TRUE(seen.cpu().equal(at::ones({c.size()}, at::kLong))) << "each rank once";
  });
}

TEST_P(CommunicatorContract, AllReduceIsExactForEveryDtypeAndOperation) {
  GetParam().run([&](Communicator& c) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kInt, at::kLong}) {
      for (const auto op : {Reduce::kSum, Reduce::kMin, Reduce::kMax}) {
        for (const int64_t count : {1, 7, 1000, 70'001}) {
          at::Tensor tensor = values(c.rank(), count, dtype).to(GetParam().device(c));
          c.all_reduce(tensor, op).wait();
          const at::Tensor result = tensor.cpu().to(at::kLong);
          int64_t wrong = 0;
          for (int64_t i = 0; i < count; ++i) wrong += result.const_data_ptr<int64_t>()[i] != expected(op, c.size(), i);
          EXPECT_EQ(wrong, 0) << c10::toString(dtype) << ", operation " << static_cast<int>(op) << ", " << count
                              << " elements";
        }
      }
    }
  });
}

TEST_P(CommunicatorContract, AllReduceGivesTheSameBitsToAllRanks) {
  GetParam().run([&](Communicator& c) {
    at::Tensor tensor = (values(c.rank(), 30'011, at::kFloat) / 7.0 + 1e-3 * c.rank()).exp().to(GetParam().device(c));
    c.all_reduce(tensor, Reduce::kSum).wait();
    at::Tensor all = at::empty({c.size(), tensor.size(0)}, tensor.options());
    c.all_gather(tensor, all).wait();
    for (int r = 0; r < c.size(); ++r)
      EXPECT_EQ(bytes_of(all.select(0, r)), bytes_of(tensor)) << "rank " << r << " beside " << c.rank();
  });
}

TEST_P(CommunicatorContract, AllGatherKeepsEveryByte) {
  GetParam().run([&](Communicator& c) {
    for (const auto dtype : {at::kBFloat16, at::kFloat, at::kByte, at::kHalf}) {
      for (const int64_t count : {1, 3, 1023, 65'537}) {
        const at::Tensor shard = pattern(c.rank(), count, dtype).to(GetParam().device(c));
        at::Tensor whole = at::zeros({c.size() * count}, shard.options());
        c.all_gather(shard, whole).wait();
        EXPECT_EQ(bytes_of(whole), patterns_of_all(c.size(), count, dtype)) << count << " of " << c10::toString(dtype);
      }
    }
  });
}

TEST_P(CommunicatorContract, AShardMayLieInItsPlace) {
  GetParam().run([&](Communicator& parent) {
    const auto c = parent.split(0, parent.rank());
    constexpr int64_t kCount = 4099;
    at::Tensor gathered = at::zeros({c->size() * kCount}, at::kBFloat16).to(GetParam().device(parent));
    at::Tensor shared = at::zeros_like(gathered);
    for (at::Tensor* whole : {&gathered, &shared})
      whole->narrow(0, c->rank() * kCount, kCount).copy_(pattern(c->rank(), kCount, at::kBFloat16));
    c->all_gather(gathered.narrow(0, c->rank() * kCount, kCount), gathered).wait();
    const auto parts = c->share({shared.narrow(0, c->rank() * kCount, kCount)});
    parts->gather(0, shared).wait();
    for (const at::Tensor& whole : {gathered, shared})
      EXPECT_EQ(bytes_of(whole), patterns_of_all(c->size(), kCount, at::kBFloat16));
    c->finalize();
  });
}

TEST_P(CommunicatorContract, BroadcastSendsFromEachRoot) {
  GetParam().run([&](Communicator& c) {
    for (int root = 0; root < c.size(); ++root) {
      at::Tensor tensor = pattern(c.rank(), 1025, at::kBFloat16).to(GetParam().device(c));
      c.broadcast(tensor, root).wait();
      EXPECT_EQ(bytes_of(tensor), bytes_of(pattern(root, 1025, at::kBFloat16))) << "from " << root;
    }
  });
}

TEST_P(CommunicatorContract, NothingToSendIsNoError) {
  GetParam().run([&](Communicator& c) {
    at::Tensor empty = at::empty({0}, at::kFloat).to(GetParam().device(c));
    at::Tensor whole = at::empty_like(empty);
    c.all_reduce(empty, Reduce::kSum).wait();
    c.all_gather(empty, whole).wait();
    c.broadcast(empty, c.size() - 1).wait();
  });
}

TEST_P(CommunicatorContract, ManyOperationsMayBeUnderWay) {
  GetParam().run([&](Communicator& c) {
    constexpr int kOperations = 6;
    std::vector<at::Tensor> shards, wholes;
    std::vector<Work> works;
    for (int k = 0; k < kOperations; ++k) {
      shards.push_back(pattern(c.rank() + 3 * k, 4099, at::kFloat).to(GetParam().device(c)));
      wholes.push_back(at::zeros({c.size(), 4099}, shards.back().options()));
    }
    for (int k = 0; k < kOperations; ++k)
      works.push_back(c.all_gather(shards[static_cast<size_t>(k)], wholes[static_cast<size_t>(k)]));
    for (int k = kOperations - 1; k >= 0; --k) works[static_cast<size_t>(k)].wait();
    for (int k = 0; k < kOperations; ++k) {
      for (int r = 0; r < c.size(); ++r) {
        EXPECT_EQ(bytes_of(wholes[static_cast<size_t>(k)].select(0, r)),
                  bytes_of(pattern(r + 3 * k, 4099, at::kFloat)));
      }
    }
  });
}

// Twice and out of order, several at a time: what is shared stays, and costs what an all_gather costs.
TEST_P(CommunicatorContract, SharedPartsComeTogetherAgainAndAgain) {
  GetParam().run([&](Communicator& parent) {
    const auto c = parent.split(0, parent.rank());
    const auto device = GetParam().device(parent);
    const std::vector<int64_t> counts = {4099, 1, 70'001};
    std::vector<at::Tensor> parts;
    for (size_t p = 0; p < counts.size(); ++p)
      parts.push_back(pattern(c->rank() + 5 * static_cast<int>(p), counts[p], at::kBFloat16).to(device));
    const auto shared = c->share(parts);
    EXPECT_EQ(c->stats().all_gather_bytes, 0u) << "nothing has been gathered yet";
    uint64_t received = 0;
    for (const auto& order : {std::vector<size_t>{0, 1, 2}, std::vector<size_t>{2, 0}}) {
      std::vector<at::Tensor> wholes(counts.size());
      std::vector<Work> works;
      for (const size_t p : order) {
        wholes[p] = at::zeros({c->size() * counts[p]}, parts[p].options());
        works.push_back(shared->gather(p, wholes[p]));
        received += parts[p].nbytes() * static_cast<uint64_t>(c->size() - 1);
      }
      for (auto& work : works) work.wait();
      for (const size_t p : order) {
        for (int r = 0; r < c->size(); ++r) {
          EXPECT_EQ(bytes_of(wholes[p].narrow(0, r * counts[p], counts[p])),
                    bytes_of(pattern(r + 5 * static_cast<int>(p), counts[p], at::kBFloat16)))
              << "part " << p << " of rank " << r;
        }
      }
    }
    EXPECT_EQ(c->stats().all_gather_calls, 5u);
    EXPECT_EQ(c->stats().all_gather_bytes, received);
    c->finalize();
  });
}

// What is sent by later operations carries the abandoned ones along, into memory that nobody else may have by then.
TEST_P(CommunicatorContract, AnAbandonedOperationHarmsNothing) {
  GetParam().run([&](Communicator& c) {
    const auto device = GetParam().device(c);
    constexpr int64_t kCount = 100'003;
    {
      const at::Tensor shard = pattern(c.rank(), kCount, at::kFloat).to(device);
      at::Tensor whole = at::empty({c.size(), kCount}, shard.options());
      c.all_gather(shard, whole);
    }
    const at::Tensor bystander = at::zeros({c.size(), kCount}, at::TensorOptions().device(device));
    for (int k = 0; k < 10; ++k) {
      at::Tensor one = at::ones({1}, at::kLong).to(device);
      c.all_reduce(one, Reduce::kSum).wait();
      EXPECT_EQ(one.cpu().item<int64_t>(), c.size());
    }
    EXPECT_EQ(bystander.cpu().count_nonzero().item<int64_t>(), 0);
  });
}

TEST_P(CommunicatorContract, WorkMayBeWaitedForTwice) {
  GetParam().run([&](Communicator& c) {
    at::Tensor tensor = at::ones({5}, at::kFloat).to(GetParam().device(c));
    Work work = c.all_reduce(tensor, Reduce::kSum);
    work.wait();
    work.wait();
    EXPECT_EQ(tensor.cpu().sum().item<float>(), 5.0f * static_cast<float>(c.size()));
  });
}

TEST_P(CommunicatorContract, SplitsByColorAndOrdersByKey) {
  GetParam().run([&](Communicator& c) {
    const auto part = c.split(c.rank() % 2, -c.rank());
    const int members = (c.size() + (c.rank() % 2 == 0 ? 1 : 0)) / 2;
    EXPECT_EQ(part->size(), members);
    EXPECT_EQ(part->rank(), members - 1 - c.rank() / 2) << "the keys count down";
    at::Tensor sum = at::full({3}, c.rank(), at::kLong).to(GetParam().device(c));
    part->all_reduce(sum, Reduce::kSum).wait();
    int64_t alike = 0;
    for (int r = c.rank() % 2; r < c.size(); r += 2) alike += r;
    EXPECT_TRUE(sum.cpu().equal(at::full({3}, alike, at::kLong)));
    part->finalize();
  });
}

TEST_P(CommunicatorContract, OneColorForAllIsADuplicate) {
  GetParam().run([&](Communicator& c) {
    const auto twin = c.split(0, c.rank());
    EXPECT_EQ(twin->rank(), c.rank());
    EXPECT_EQ(twin->size(), c.size());
    EXPECT_EQ(twin->transport(), c.transport());
    twin->finalize();
  });
}

TEST_P(CommunicatorContract, TwoCommunicatorsDoNotMixTheirOperations) {
  GetParam().run([&](Communicator& gathers) {
    const auto reductions = gathers.split(0, gathers.rank());
    const auto device = GetParam().device(gathers);
    std::vector<at::Tensor> shards, wholes, sums;
    std::vector<Work> works;
    for (int k = 0; k < 4; ++k) {
      shards.push_back(pattern(gathers.rank() + k, 2049, at::kBFloat16).to(device));
      wholes.push_back(at::zeros({gathers.size(), 2049}, shards.back().options()));
      sums.push_back(values(gathers.rank() + k, 513, at::kFloat).to(device));
    }
    for (size_t k = 0; k < 4; ++k) {
      works.push_back(gathers.all_gather(shards[k], wholes[k]));
      works.push_back(reductions->all_reduce(sums[k], Reduce::kSum));
    }
    std::reverse(works.begin(), works.end());
    for (auto& work : works) work.wait();
    for (int k = 0; k < 4; ++k) {
      at::Tensor sum = at::zeros({513}, at::kFloat);
      for (int r = 0; r < gathers.size(); ++r) {
        sum += values(r + k, 513, at::kFloat);
        EXPECT_EQ(bytes_of(wholes[static_cast<size_t>(k)].select(0, r)), bytes_of(pattern(r + k, 2049, at::kBFloat16)));
      }
      EXPECT_TRUE(sums[static_cast<size_t>(k)].cpu().equal(sum)) << "operation " << k;
    }
    reductions->finalize();
  });
}

TEST_P(CommunicatorContract, CountsCallsAndBytesExactly) {
  GetParam().run([&](Communicator& parent) {
    const auto c = parent.split(0, parent.rank());
    const auto device = GetParam().device(parent);
    const auto others = static_cast<uint64_t>(c->size() - 1);
    at::Tensor reduced = at::ones({10}, at::kFloat).to(device);
    at::Tensor shard = at::ones({7}, at::kBFloat16).to(device);
    at::Tensor whole = at::ones({7 * c->size()}, at::kBFloat16).to(device);
    at::Tensor sent = at::ones({3}, at::kLong).to(device);
    EXPECT_EQ(c->stats().all_reduce_calls + c->stats().all_gather_calls + c->stats().broadcast_calls, 0u)
        << "of its own";
    for (int k = 0; k < 3; ++k) c->all_reduce(reduced, Reduce::kMax).wait();
    for (int k = 0; k < 2; ++k) c->all_gather(shard, whole).wait();
    c->broadcast(sent, 0).wait();
    EXPECT_EQ(c->stats().all_reduce_calls, 3u);
    EXPECT_EQ(c->stats().all_reduce_bytes, 3u * 40u);
    EXPECT_EQ(c->stats().all_gather_calls, 2u);
    EXPECT_EQ(c->stats().all_gather_bytes, 2u * 14u * others) << "what came from the others";
    EXPECT_EQ(c->stats().broadcast_calls, 1u);
    EXPECT_EQ(c->stats().broadcast_bytes, 24u);
    c->finalize();
  });
}

// Refused before anything is sent, so that the communicator goes on working.
TEST_P(CommunicatorContract, RefusesWhatDoesNotFit) {
  GetParam().run([&](Communicator& c) {
    const auto device = GetParam().device(c);
    const at::Tensor shard = at::ones({6}, at::kFloat).to(device);
    at::Tensor whole = at::ones({6 * c.size() + 1}, at::kFloat).to(device);
    EXPECT_ERROR(c.all_gather(shard, whole), CommError, "shards of 24 bytes", std::to_string(whole.nbytes()));
    at::Tensor half = at::ones({4}, at::kBFloat16).to(device);
    EXPECT_ERROR(c.all_reduce(half, Reduce::kSum), CommError, "BFloat16", "float32");
    at::Tensor transposed = at::ones({2, 3}, at::kFloat).to(device).t();
    EXPECT_ERROR(c.all_reduce(transposed, Reduce::kSum), CommError, "contiguous");
    EXPECT_ERROR(c.broadcast(transposed, 0), CommError, "contiguous");
    at::Tensor sent = at::ones({4}, at::kFloat).to(device);
    EXPECT_ERROR(c.broadcast(sent, c.size()), CommError, "root " + std::to_string(c.size()));
    EXPECT_EQ(c.stats().all_reduce_calls + c.stats().all_gather_calls + c.stats().broadcast_calls, 0u);

    c.all_reduce(sent, Reduce::kSum).wait();
    EXPECT_EQ(sent.cpu().select(0, 0).item<float>(), static_cast<float>(c.size()));
  });
}

TEST_P(CommunicatorContract, ChecksQuietlyWhileAllIsWell) {
  GetParam().run([&](Communicator& c) {
    c.check();
    at::Tensor tensor = at::ones({100}, at::kFloat).to(GetParam().device(c));
    c.all_reduce(tensor, Reduce::kSum).wait();
    c.check();
  });
}

}  // namespace
}  // namespace rankwise::testing
