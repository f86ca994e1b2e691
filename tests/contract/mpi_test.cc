#include "tests/contract/communicator_contract.h"
#include "tests/support/mpi_main.h"

namespace rankwise::testing {
namespace {

Transport mpi() {
  return {"mpi", world().size(), [](const auto& body) {
            const auto communicator = world().make_communicator(nullptr);
            body(*communicator);
            communicator->finalize();
          }};
}

INSTANTIATE_TEST_SUITE_P(Mpi, CommunicatorContract, ::testing::Values(mpi()), transport_test_name);

}  // namespace
}  // namespace rankwise::testing
