#include <fmt/format.h>

#include "base/log.h"
#include "comms/world.h"
#include "launcher/commands/commands.h"
#include "trainer/out_of_memory.h"

namespace rankwise {
namespace {

void log_own_error(const World& world, const std::exception& error) {
  const std::string doing = world.doing();
  log_error("rank {} of {} on {}{}: {}", world.rank(), world.size(), world.host(),
            doing.empty() ? "" : fmt::format(" ({})", doing), world.message_of(error));
}

}  // namespace

ExitCode run_on_world(const std::function<ExitCode(World&)>& part) {
  World world;
  init_log(world.rank(), LogLevel::kInfo);
  world.explain_errors_with(&explain_out_of_memory);
  ExitCode code = ExitCode::kInternal;
  try {
    code = part(world);
  } catch (const AgreedError& error) {
    if (world.rank() == 0) log_error("{}", error.what());
    code = error.code();
  } catch (const Error& error) {
    log_own_error(world, error);
    world.abort(error.code());
  } catch (const std::exception& error) {
    log_own_error(world, error);
    world.abort(ExitCode::kInternal);
  }
  world.finalize();
  return code;
}

}  // namespace rankwise
