// Tight boxes and pixel counts of the instances in an id map.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace roca_nocs {

// ids: (H, W) uint8, int32 or int64 with ids in 1..num_instances; every other value is ignored.
// Returns boxes (num_instances, 4) float32 XYXY with exclusive right and bottom edges, zeros for an
// absent id, and areas (num_instances) int64.
std::tuple<at::Tensor, at::Tensor> instance_boxes_cpu(
    const at::Tensor& ids,
    int64_t num_instances);

#ifdef WITH_CUDA
std::tuple<at::Tensor, at::Tensor> instance_boxes_cuda(
    const at::Tensor& ids,
    int64_t num_instances);
#endif

inline void check_instance_boxes_arguments(
    const at::Tensor& ids,
    int64_t num_instances) {
  TORCH_CHECK_VALUE(ids.dim() == 2, "ids must have shape (H, W), got ", ids.sizes());
  TORCH_CHECK_VALUE(
      num_instances >= 0, "num_instances must not be negative, got ", num_instances);
}

} // namespace roca_nocs
