# The two kinds of target of this project, so that every folder's list stays a few lines long.
#   rankwise_library(<folder> SOURCES a.cc ... [PUBLIC libs...] [PRIVATE libs...] [TORCH])   -> rankwise_<folder>
#   rankwise_test(<name> SOURCES a_test.cc ... LIBS libs... [TORCH] [RANKS n...] [MPI] [GPU] [TIMEOUT seconds])
# RANKS: run under mpirun, once with each number of ranks, as <name>_np<n>; the sources bring tests/support/mpi_main.cc.
# MPI: the test starts programs that call MPI.
# GPU: what only a GPU can show, skipped where there is none. It is put into gpu_tests/, or with RANKS into gpu_tests/ranks/;
# the target gpu_tests builds all of them, and `make test-gpu` runs what lies there. To ctest it has the label gpu.
# TORCH: the sources use LibTorch; they get the precompiled header that keeps a file at seconds instead of half a minute.
cmake_path(GET CMAKE_CURRENT_LIST_DIR PARENT_PATH RANKWISE_ROOT)
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

add_library(rankwise_flags INTERFACE)
target_compile_options(rankwise_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wconversion;-Wshadow;-Werror;-Wno-sign-conversion;-fno-omit-frame-pointer;-fstack-protector-strong>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;-Werror=all-warnings>
  $<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:C,CXX>>:-D_FORTIFY_SOURCE=2>)
include(Sanitizers)
if(RANKWISE_FAULTS)
  target_compile_definitions(rankwise_flags INTERFACE RANKWISE_FAULTS=1)
endif()

function(_rankwise_torch target)
  target_link_libraries(${target} PRIVATE Torch::torch)
  if(NOT TARGET rankwise_pch)
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/pch_anchor.cc CONTENT "")  # an equal file stays as old as it is
    add_library(rankwise_pch OBJECT ${CMAKE_BINARY_DIR}/pch_anchor.cc)
    target_link_libraries(rankwise_pch PRIVATE rankwise_flags Torch::torch)
    # The order matters: custom_function.h first.
    target_precompile_headers(rankwise_pch PRIVATE <torch/csrc/autograd/custom_function.h> <torch/types.h>)
  endif()
  target_precompile_headers(${target} REUSE_FROM rankwise_pch)
endfunction()

function(rankwise_library name)
  cmake_parse_arguments(arg "TORCH" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  set(target rankwise_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  target_include_directories(${target} PUBLIC ${RANKWISE_ROOT})
  target_link_libraries(${target} PUBLIC ${arg_PUBLIC} PRIVATE rankwise_flags ${arg_PRIVATE})
  if(arg_TORCH)
    _rankwise_torch(${target})
  endif()
endfunction()

function(rankwise_test name)
  cmake_parse_arguments(arg "TORCH;MPI;GPU" "TIMEOUT" "SOURCES;LIBS;RANKS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE rankwise_flags ${arg_LIBS} GTest::gmock GTest::gtest_main)
  if(arg_TORCH)
    _rankwise_torch(${name})
  endif()
  target_compile_definitions(${name} PRIVATE RANKWISE_SOURCE_DIR="${RANKWISE_ROOT}" RANKWISE_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(arg_GPU)
    set(folder ${CMAKE_BINARY_DIR}/gpu_tests)
    if(arg_RANKS)
      string(APPEND folder /ranks)
    endif()
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${folder} BUILD_RPATH ${CMAKE_BINARY_DIR})
    add_dependencies(${name} rankwise_cuda)
    add_dependencies(gpu_tests ${name})
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  set(tests ${name})
  if(arg_RANKS)
    list(TRANSFORM arg_RANKS PREPEND ${name}_np OUTPUT_VARIABLE tests)
    foreach(test ranks IN ZIP_LISTS tests arg_RANKS)
      add_test(NAME ${test} COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe -np ${ranks} $<TARGET_FILE:${name}>)
    endforeach()
    set_tests_properties(${tests} PROPERTIES PROCESSORS 2)
  else()
    add_test(NAME ${name} COMMAND ${name})
  endif()
  math(EXPR timeout "${arg_TIMEOUT} * ${RANKWISE_SANITIZER_SLOWDOWN}")
  set(environment OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
      PYTHON=${RANKWISE_ROOT}/.venv/bin/python ${RANKWISE_SANITIZER_ENVIRONMENT})
  set_tests_properties(${tests} PROPERTIES TIMEOUT ${timeout} ENVIRONMENT "${environment}")
  if(arg_GPU)
    set_tests_properties(${tests} PROPERTIES LABELS gpu)
  endif()
  if(arg_RANKS OR arg_MPI)
    set_tests_properties(${tests} PROPERTIES ENVIRONMENT_MODIFICATION "${RANKWISE_SANITIZER_MPI_ENVIRONMENT}")
  endif()
endfunction()
