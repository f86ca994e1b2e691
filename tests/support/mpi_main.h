// main() of a test program that mpirun starts: every rank runs every test. A test that throws ends all ranks.
#pragma once

#include "comms/world.h"

namespace rankwise::testing {

World& world();  // of this process, from before the tests are registered to the end of the last

}  // namespace rankwise::testing
