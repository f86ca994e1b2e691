# What RANKWISE_SANITIZE adds: flags for our own code, and what each test's process is told.
# LibTorch, Open MPI, the Rust crate and Debian's libraries are not instrumented; what a sanitizer says about them is
# left out by tests/sanitizers/*.supp, with the reason for each line.
set(RANKWISE_SANITIZER_ENVIRONMENT "")
set(RANKWISE_SANITIZER_MPI_ENVIRONMENT "")  # modifications of it, where MPI is called
set(RANKWISE_SANITIZER_SLOWDOWN 1)
if(NOT RANKWISE_SANITIZE)
  return()
endif()

list(JOIN RANKWISE_SANITIZE "," _sanitizers)
target_compile_options(rankwise_flags INTERFACE -fsanitize=${_sanitizers} -fno-sanitize-recover=undefined)
target_link_options(rankwise_flags INTERFACE -fsanitize=${_sanitizers})

# ThreadSanitizer's longest history: without it the stacks that suppressions look at are often lost.
set(_suppressions ${RANKWISE_ROOT}/tests/sanitizers)
# An allocation that no machine has room for fails as it does without a sanitizer: a test asks for one.
set(RANKWISE_SANITIZER_ENVIRONMENT
  "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1"
  "LSAN_OPTIONS=suppressions=${_suppressions}/leak.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=suppressions=${_suppressions}/thread.supp:second_deadlock_stack=1:history_size=7:allocator_may_return_null=1")
# A suppression is found by the libraries on the stack, and Open MPI's have no frame pointers: unwind by their tables. Six
# times slower, so only where MPI is called.
set(RANKWISE_SANITIZER_MPI_ENVIRONMENT "ASAN_OPTIONS=string_append::fast_unwind_on_malloc=0")
set(RANKWISE_SANITIZER_SLOWDOWN 5)
