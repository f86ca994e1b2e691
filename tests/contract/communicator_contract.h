// What every communicator promises (comms/communicator.h), as one suite. A test program of a transport links
// communicator_contract.cc and instantiates the suite with its own ways to get ranks.
// Not covered, for want of memory on small machines: buffers above 2 GiB.
#pragma once

#include <c10/core/Device.h>
#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "comms/communicator.h"

namespace rankwise::testing {

struct Transport {
  std::string name;  // as Communicator::transport() says
  int size;
  // Runs the body on each rank that this process has, and fails where one of them throws.
  std::function<void(const std::function<void(Communicator&)>&)> run;
  // Why it cannot run here; empty: it can.
  std::function<std::string()> unavailable = [] { return std::string(); };
  bool cuda = false;  // tensors of rank r lie on device r

  c10::Device device(const Communicator& communicator) const {
    return cuda ? c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(communicator.rank())) : c10::Device(c10::kCPU);
  }
};

inline std::ostream& operator<<(std::ostream& out, const Transport& transport) {
  return out << transport.name << " of " << transport.size;
}

inline std::string transport_test_name(const ::testing::TestParamInfo<Transport>& info) {
  return info.param.name + "_" + std::to_string(info.param.size);
}

class CommunicatorContract : public ::testing::TestWithParam<Transport> {
 protected:
  void SetUp() override {
    if (const std::string reason = GetParam().unavailable(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

}  // namespace rankwise::testing
