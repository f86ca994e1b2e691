#include "base/log.h"
#include "comms/world.h"
#include "launcher/commands/commands.h"

namespace rankwise {

ExitCode run_on_world(const std::function<ExitCode(World&)>& part) {
  World world;
  init_log(world.rank(), LogLevel::kInfo);
  ExitCode code = ExitCode::kInternal;
  try {
    code = part(world);
  } catch (const AgreedError& error) {
    if (world.rank() == 0) log_error("{}", error.what());
    code = error.code();
  } catch (const Error& error) {
    log_error("rank {} of {} on {}: {}", world.rank(), world.size(), world.host(), error.what());
    world.abort(error.code());
  } catch (const std::exception& error) {
    log_error("rank {} of {} on {}: {}", world.rank(), world.size(), world.host(), error.what());
    world.abort(ExitCode::kInternal);
  }
  world.finalize();
  return code;
}

}  // namespace rankwise
