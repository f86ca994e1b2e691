// A program of one call, whose way out tests look at: main's handling of errors around whatever its argument names.
//   world_probe size          prints the size of the world
//   world_probe stop HOW R    rank R stops making progress after step 5 (HOW: sleep, spin, signal) or by a signal
//                             before it watches (early); the others wait for it
//   world_probe calm          all ranks make progress slowly for longer than the watchdog's patience
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/error.h"
#include "comms/watchdog.h"
#include "comms/world.h"

using namespace rankwise;
using namespace std::chrono_literals;

namespace {

void stop_here(const std::string& how) {
  if (how == "signal" || how == "early") ::raise(SIGSTOP);
  for (volatile bool forever = true; forever;) {
    if (how == "sleep") std::this_thread::sleep_for(1h);
  }
}

void step_until_stopped(World& world, const std::string& how, int culprit) {
  Watchdog watchdog(world);
  if (how == "early" && world.rank() == culprit) stop_here(how);
  watchdog.start(1s);
  const auto communicator = world.make_communicator(&watchdog);
  for (int64_t step = 0; step < 10; ++step) {
    watchdog.beat("forward", step);
    if (step == 5 && world.rank() == culprit) stop_here(how);
    at::Tensor sum = at::ones({8});
    communicator->all_reduce(sum, Reduce::kSum).wait();
  }
}

void step_slowly(World& world) {
  Watchdog watchdog(world);
  watchdog.start(500ms);
  for (int64_t step = 0; step < 8; ++step) {
    watchdog.beat("forward", step);
    std::this_thread::sleep_for(150ms);
  }
  watchdog.stop();
  std::this_thread::sleep_for(1s);  // nobody watches any more
}

void probe(World& world, const std::vector<std::string>& words) {
  if (words[0] == "size") std::printf("%d\n", world.size());
  if (words[0] == "stop") step_until_stopped(world, words[1], std::atoi(words[2].c_str()));
  if (words[0] == "calm") step_slowly(world);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    World world;
    probe(world, {argv + 1, argv + argc});
    world.finalize();
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
