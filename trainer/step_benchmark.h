// Steps of training without files: a model of a named shape with random weights, the same random tokens in each step,
// all of them learned.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comms/world.h"
#include "configs/run_config.h"
#include "trainer/weights/model_config.h"

namespace rankwise {

// "1b", "8b", "70b": Llama 3.2 and 3.1; "tiny". Throws UsageError for another name.
ModelConfig named_shape(const std::string& name, std::optional<int64_t> num_layers);

struct BenchmarkOptions {
  std::string shape = "8b";
  std::filesystem::path model;        // a Hugging Face directory in place of the shape: its weights are read
  std::optional<int64_t> num_layers;  // fewer than the shape has
  int64_t lora_r = 16, lora_alpha = 32;
  int64_t micro_batch = 4, sequence_length = 2048;
  std::optional<int64_t> shortest;  // samples of drawn lengths up to sequence_length, packed; empty: all of that length
  int64_t steps = 10, warm_up = 5;  // measured, and before them
  std::filesystem::path trace;      // of three more steps of rank 0 (step_trace.h); empty: none
  ModelSection::Dtype dtype = ModelSection::Dtype::kAuto;
  ModelSection::BaseDtype base_dtype = ModelSection::BaseDtype::kSame;
  ParallelSection parallel;
  bool peer_copies = true, deterministic = false, cuda_graphs = true;  // as in comms and train
};

struct BenchmarkResult {
  std::string base, activations, device, gather_transport;
  double tokens_per_second_per_rank = 0;
  double step_seconds = 0;           // mean of those measured
  double load_seconds = 0;           // until the base lies where it stays; with random weights, until it is drawn
  int64_t read_bytes = 0;            // of the model's files, by this rank
  double seconds_to_first_step = 0;  // from the call
  int64_t peak_bytes = 0;            // of this rank's tensors
  int64_t planned_bytes = 0;
  int64_t turn_activation_bytes = 0;  // of this rank, as forward is over and backward begins
  int64_t driver_bytes = 0;           // in use on the whole device at the end; 0 on CPUs
  int64_t planned_driver_bytes = 0;   // what was in use before the plan, and all that it adds
  double exposed_gather_seconds = 0;  // a step, of this rank
  int64_t gathered_bytes_per_micro_batch = 0;
  int64_t planned_gathered_bytes = 0;
  int64_t reduced_bytes_per_step = 0;
  double samples_per_micro_batch = 0;  // in the mean of this rank
  int64_t num_replays = 0;             // of all steps, those that were CUDA graphs
  std::vector<double> losses;          // of all steps
};

// Collective.
BenchmarkResult run_step_benchmark(World& world, const BenchmarkOptions& options);

}  // namespace rankwise
