#include "trainer/weights/host_parts.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>

#include "comms/cuda.h"
#include "trainer/weights/current_stream.h"

namespace rankwise {
namespace {

class HostParts final : public SharedParts {
 public:
  HostParts(Communicator& group, std::vector<at::Tensor> parts, c10::Device device)
      : group_(group), parts_(std::move(parts)), copies_(copy_stream(device)) {}
  // What was started may still write into buffers that are about to be freed.
  ~HostParts() override { copies_.synchronize(); }

  std::string_view transport() const noexcept override { return group_.transport(); }
  Work gather(size_t index, at::Tensor& whole) override;

 private:
  Communicator& group_;
  std::vector<at::Tensor> parts_;
  c10::Stream copies_;
};

Work HostParts::gather(size_t index, at::Tensor& whole) {
  const at::Tensor& part = parts_[index];
  c10::Event free_to_write(copies_.device_type());
  free_to_write.record(current_stream(copies_.device()));
  const c10::StreamGuard guard(copies_);
  free_to_write.block(copies_);
  at::Tensor mine = whole.narrow(0, group_.rank() * part.numel(), part.numel());
  mine.copy_(part, /*non_blocking=*/true);
  if (group_.size() > 1) return group_.all_gather(mine, whole);  // behind the copy, as this is the current stream
  auto done = std::make_shared<c10::Event>(copies_.device_type());
  done->record(copies_);
  return Work([done, device = copies_.device()] { done->block(current_stream(device)); });
}

}  // namespace

at::Tensor pinned_empty(at::IntArrayRef shape, at::ScalarType dtype) {
  const at::Tensor pages = at::empty(shape, dtype);
  pin_host_memory(pages.mutable_data_ptr(), pages.nbytes());
  return at::from_blob(
      pages.mutable_data_ptr(), shape, [pages](void* data) { unpin_host_memory(data); }, pages.options());
}

at::Tensor pinned_copy(const at::Tensor& on_device) {
  at::Tensor pinned = pinned_empty(on_device.sizes(), on_device.scalar_type());
  pinned.copy_(on_device);
  return pinned;
}

std::unique_ptr<SharedParts> share_from_host(Communicator& group, std::vector<at::Tensor> parts, c10::Device device) {
  return std::make_unique<HostParts>(group, std::move(parts), device);
}

}  // namespace rankwise
