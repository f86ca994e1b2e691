#include "trainer/model/offloaded_inputs.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>

#include <exception>
#include <utility>

#include "trainer/weights/current_stream.h"
#include "trainer/weights/host_parts.h"

namespace rankwise {
namespace {

// `later` goes on when `earlier` has come to where it is now.
void follow(const c10::Stream& later, const c10::Stream& earlier) {
  c10::Event here(earlier.device_type());
  here.record(earlier);
  here.block(later);
}

}  // namespace

OffloadedInputs::OffloadedInputs(c10::Device device, size_t num_blocks)
    : copies_(copy_stream(device)), here_(num_blocks), num_leaving_(num_offloaded_inputs(num_blocks)) {
  for (size_t block = 0; block < num_blocks; ++block) copied_.emplace_back(device.type());
}

// What was started still reads and writes memory that is about to be freed.
OffloadedInputs::~OffloadedInputs() {
  try {
    copies_.synchronize();
  } catch (const std::exception&) {  // a device at fault, which copies no more
  }
}

void OffloadedInputs::put(size_t block, const at::Tensor& x_NC) {
  if (block == 0) begin(x_NC);
  here_[block] = x_NC;
  if (block < num_leaving_) copy_out(block);
  if (block < kInputsOnDevice) return;
  // This stream's later work uses the memory again, so this stream waits: for a copy that is two blocks old.
  const size_t oldest = block - kInputsOnDevice;
  copied_[oldest].block(current_stream(copies_.device()));
  here_[oldest].reset();
}

at::Tensor OffloadedInputs::take(size_t block) {
  at::Tensor above_NC = block + 1 < here_.size() ? std::exchange(here_[block + 1], {}) : at::Tensor();
  if (block > 0 && block - 1 < num_leaving_) copy_in(block - 1, std::move(above_NC));
  copied_[block].block(current_stream(copies_.device()));
  return block > 0 ? here_[block] : std::exchange(here_[block], {});
}

// An exception may have left copies under way to and from what is dropped here.
void OffloadedInputs::begin(const at::Tensor& x_NC) {
  follow(current_stream(copies_.device()), copies_);
  here_.assign(here_.size(), {});
  const int64_t bytes = static_cast<int64_t>(num_leaving_ * x_NC.nbytes());
  if (host_.defined() ? host_.numel() >= bytes : bytes == 0) return;
  copies_.synchronize();
  host_.reset();
  host_ = pinned_empty({bytes}, at::kByte);
}

void OffloadedInputs::copy_out(size_t block) {
  follow(copies_, current_stream(copies_.device()));
  const c10::StreamGuard guard(copies_);
  on_host(block, here_[block]).copy_(here_[block], /*non_blocking=*/true);
  copied_[block].record(copies_);
}

// Behind the last reader of what the buffer held.
void OffloadedInputs::copy_in(size_t block, at::Tensor buffer_NC) {
  here_[block] = std::move(buffer_NC);
  follow(copies_, current_stream(copies_.device()));
  const c10::StreamGuard guard(copies_);
  here_[block].copy_(on_host(block, here_[block]), /*non_blocking=*/true);
  copied_[block].record(copies_);
}

at::Tensor OffloadedInputs::on_host(size_t block, const at::Tensor& like_NC) const {
  const auto bytes = static_cast<int64_t>(like_NC.nbytes());
  return host_.narrow(0, static_cast<int64_t>(block) * bytes, bytes).view(like_NC.scalar_type()).view(like_NC.sizes());
}

}  // namespace rankwise
