#include "comms/peer_parts.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <string>

#include "comms/tensor_checks.h"

namespace rankwise {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

// Where a part lies, for another process of the same host.
struct Address {
  char host[40] = {};  // what names this boot of this machine
  int64_t offset = 0;
  uint64_t handle_bytes = 0;  // 0: cannot be shared
  char handle[104] = {};
};

// What can be said of every part of this process.
Address on_this_host() {
  Address address;
  std::ifstream("/proc/sys/kernel/random/boot_id").getline(address.host, sizeof(address.host));
  return address;
}

// A part may lie anywhere in its allocation, of which the allocator knows the start alone.
Address address_of(const at::Tensor& part, Address address) {
  try {
    const allocator::ShareableHandle shared = allocator::shareIpcHandle(part.storage().mutable_data());
    if (shared.handle.size() > sizeof(address.handle)) return address;
    address.offset = shared.offset + part.storage_offset() * static_cast<int64_t>(part.element_size());
    address.handle_bytes = shared.handle.size();
    std::memcpy(address.handle, shared.handle.data(), shared.handle.size());
  } catch (const c10::Error&) {  // this driver or runtime has no IPC: nothing to share
  }
  return address;
}

// Every rank's addresses, by rank and part.
std::vector<std::vector<Address>> exchange(Communicator& group, const std::vector<Address>& mine, c10::Device device) {
  const auto bytes = static_cast<int64_t>(mine.size() * sizeof(Address));
  at::Tensor sent = at::empty({bytes}, at::kByte), all = at::empty({group.size() * bytes}, at::kByte);
  std::memcpy(sent.mutable_data_ptr(), mine.data(), sent.nbytes());
  at::Tensor all_there = all.to(device);
  group.all_gather(sent.to(device), all_there).wait();
  all.copy_(all_there);
  std::vector<std::vector<Address>> addresses(static_cast<size_t>(group.size()), mine);
  for (size_t r = 0; r < addresses.size(); ++r) {
    std::memcpy(addresses[r].data(), static_cast<const char*>(all.const_data_ptr()) + r * sent.nbytes(), sent.nbytes());
  }
  return addresses;
}

// A part as this process sees it, and what keeps it mapped.
struct Source {
  std::shared_ptr<void> mapped;
  const char* data = nullptr;
};

std::optional<Source> map(const Address& address, const Address& own) {
  const bool same_host = std::string_view(address.host) == own.host && own.host[0] != 0;
  if (!same_host || address.handle_bytes == 0) return std::nullopt;
  try {
    Source source{allocator::getIpcDevPtr(std::string(address.handle, address.handle_bytes)), nullptr};
    source.data = static_cast<const char*>(source.mapped.get()) + address.offset;
    return source;
  } catch (const c10::Error&) {  // another container's, or no way between the devices
    return std::nullopt;
  }
}

class PeerParts final : public SharedParts {
 public:
  PeerParts(std::vector<at::Tensor> parts, std::vector<std::vector<Source>> sources, CommStats& stats)
      : parts_(std::move(parts)), sources_(std::move(sources)), stats_(stats), device_(parts_.front().get_device()) {
    for (size_t r = 0; r < sources_.size(); ++r) streams_.push_back(c10::cuda::getStreamFromPool(true, device_));
  }
  // What was started may still write into buffers that are about to be freed. A copy waits for nobody, so this ends.
  ~PeerParts() override {
    for (const auto& stream : streams_) cudaStreamSynchronize(stream.stream());
  }

  std::string_view transport() const noexcept override { return "peer"; }
  Work gather(size_t index, at::Tensor& whole) override;

 private:
  std::vector<at::Tensor> parts_;
  std::vector<std::vector<Source>> sources_;  // by rank and part; nothing mapped for our own
  CommStats& stats_;
  const c10::DeviceIndex device_;
  std::vector<c10::cuda::CUDAStream> streams_;  // one a rank: the peers' copies run side by side
};

// Behind what the current stream has been given so far, and beside what it will be given until Work::wait().
Work PeerParts::gather(size_t index, at::Tensor& whole) {
  const at::Tensor& part = parts_[index];
  require_gatherable(part, whole, static_cast<int>(sources_.size()));
  const c10::cuda::CUDAGuard guard(device_);
  c10::cuda::CUDAEvent free_to_write;
  free_to_write.record(c10::cuda::getCurrentCUDAStream(device_));
  auto done = std::make_shared<std::vector<c10::cuda::CUDAEvent>>(sources_.size());
  for (size_t r = 0; r < sources_.size(); ++r) {
    if (is_in_place(part, whole, static_cast<int>(r))) continue;
    free_to_write.block(streams_[r]);
    char* const target = static_cast<char*>(whole.mutable_data_ptr()) + r * part.nbytes();
    C10_CUDA_CHECK(cudaMemcpyAsync(target, sources_[r][index].data, part.nbytes(), cudaMemcpyDeviceToDevice,
                                   streams_[r].stream()));
    (*done)[r].record(streams_[r]);
  }
  ++stats_.all_gather_calls;
  stats_.all_gather_bytes += whole.nbytes() - part.nbytes();
  return Work([done, device = device_] {
    for (auto& event : *done) event.block(c10::cuda::getCurrentCUDAStream(device));
  });
}

std::optional<std::vector<std::vector<Source>>> map_all(Communicator& group, const std::vector<at::Tensor>& parts,
                                                        const std::vector<std::vector<Address>>& addresses) {
  const auto& mine = addresses[static_cast<size_t>(group.rank())];
  std::vector<std::vector<Source>> sources(addresses.size());
  for (size_t r = 0; r < addresses.size(); ++r) {
    for (size_t p = 0; p < parts.size(); ++p) {
      const bool own = static_cast<int>(r) == group.rank();
      const auto source =
          own ? Source{nullptr, static_cast<const char*>(parts[p].const_data_ptr())} : map(addresses[r][p], mine[p]);
      if (!source) return std::nullopt;
      sources[r].push_back(*source);
    }
  }
  return sources;
}

}  // namespace

std::unique_ptr<SharedParts> make_peer_parts(Communicator& group, std::vector<at::Tensor> parts, CommStats& stats) {
  const c10::Device device = parts.front().device();
  const c10::cuda::CUDAGuard guard(device);
  const Address here = on_this_host();
  std::vector<Address> mine;
  for (const auto& part : parts) mine.push_back(address_of(part, here));
  auto sources = map_all(group, parts, exchange(group, mine, device));
  at::Tensor all_can = at::full({1}, sources ? 1 : 0, at::TensorOptions().dtype(at::kInt).device(device));
  group.all_reduce(all_can, Reduce::kMin).wait();
  // Only now, behind the exchange, is every rank's memory written for good.
  if (all_can.cpu().const_data_ptr<int>()[0] == 0) return nullptr;
  return std::make_unique<PeerParts>(std::move(parts), std::move(*sources), stats);
}

}  // namespace rankwise
