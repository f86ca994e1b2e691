#include <ATen/core/Tensor.h>

#include "comms/communicator.h"

namespace rankwise {
namespace {

class GatheredParts final : public SharedParts {
 public:
  GatheredParts(Communicator& group, std::vector<at::Tensor> parts) : group_(group), parts_(std::move(parts)) {}
  std::string_view transport() const noexcept override { return group_.transport(); }
  Work gather(size_t index, at::Tensor& whole) override { return group_.all_gather(parts_[index], whole); }

 private:
  Communicator& group_;
  std::vector<at::Tensor> parts_;
};

}  // namespace

std::unique_ptr<SharedParts> Communicator::share(std::vector<at::Tensor> parts) {
  return std::make_unique<GatheredParts>(*this, std::move(parts));
}

}  // namespace rankwise
