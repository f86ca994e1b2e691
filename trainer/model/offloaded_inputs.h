// The inputs of the blocks, kept from forward for backward in pinned host memory instead of on a CUDA device. They
// leave on a stream of their own beside forward's products and come back one block ahead of backward. The newest two
// stay, and their memory then takes the others by turns: never more than two are on the device. Legend: N tokens, C
// channels, L blocks.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace rankwise {

inline constexpr size_t kInputsOnDevice = 2;  // what backward reads, and what arrives beside it

// Of so many blocks, the inputs that leave the device.
constexpr size_t num_offloaded_inputs(size_t num_blocks) { return num_blocks - std::min(num_blocks, kInputsOnDevice); }

// Everything is queued, and ordered with what the calling thread's current stream is given; it has to be the same
// stream throughout. The host waits where the pinned memory has to grow: it fits the largest batch so far.
// One thread at a time.
class OffloadedInputs {
 public:
  OffloadedInputs(c10::Device device, size_t num_blocks);  // a CUDA device; Error for any other
  ~OffloadedInputs();                                      // waits for the copies
  OffloadedInputs(const OffloadedInputs&) = delete;
  OffloadedInputs& operator=(const OffloadedInputs&) = delete;

  // Of blocks 0 to L - 1 in this order, before the block's work is given to the stream; all of one shape and dtype, in
  // one piece, and never written to. Block 0 begins a batch: what is left of one that was not taken whole is dropped.
  // Throws Error where the memory cannot be pinned.
  void put(size_t block, const at::Tensor& x_NC);

  // The same values, of blocks L - 1 to 0 in this order, once the work of the block above has been given to the stream:
  // what that one read is then written to.
  at::Tensor take(size_t block);

 private:
  void begin(const at::Tensor& x_NC);
  void copy_out(size_t block);
  void copy_in(size_t block, at::Tensor buffer_NC);
  at::Tensor on_host(size_t block, const at::Tensor& like_NC) const;

  at::Tensor host_;  // bytes of all inputs that leave
  c10::Stream copies_;
  std::vector<c10::Event> copied_;  // of each block the last copy, out or in
  std::vector<at::Tensor> here_;    // on the device: [N, C] or undefined
  size_t num_leaving_;
};

}  // namespace rankwise
