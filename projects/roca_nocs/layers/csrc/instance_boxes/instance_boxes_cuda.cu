#include "instance_boxes.h"

#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

namespace roca_nocs {

namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 4096;

// extents: (num_instances, 5) int32: left, top, right, bottom, area.
template <typename scalar_t>
__global__ void extents_kernel(
    const scalar_t* __restrict__ ids,
    int64_t pixels,
    int width,
    int64_t num_instances,
    int* __restrict__ extents) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < pixels;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t id = static_cast<int64_t>(ids[i]);
    if (id < 1 || id > num_instances) {
      continue;
    }
    const int x = static_cast<int>(i % width);
    const int y = static_cast<int>(i / width);
    int* extent = extents + 5 * (id - 1);
    atomicMin(extent + 0, x);
    atomicMin(extent + 1, y);
    atomicMax(extent + 2, x + 1);
    atomicMax(extent + 3, y + 1);
    atomicAdd(extent + 4, 1);
  }
}

} // namespace

std::tuple<at::Tensor, at::Tensor> instance_boxes_cuda(
    const at::Tensor& ids,
    int64_t num_instances) {
  check_instance_boxes_arguments(ids, num_instances);
  const c10::cuda::CUDAGuard guard(ids.device());
  const at::Tensor map = ids.contiguous();
  const int64_t pixels = map.numel();
  at::Tensor extents = at::zeros({num_instances, 5}, map.options().dtype(at::kInt));
  extents.select(1, 0).fill_(map.size(1));
  extents.select(1, 1).fill_(map.size(0));
  if (pixels > 0 && num_instances > 0) {
    const int blocks = static_cast<int>(
        std::min<int64_t>((pixels + kThreads - 1) / kThreads, kMaxBlocks));
    AT_DISPATCH_INTEGRAL_TYPES(map.scalar_type(), "instance_boxes", [&] {
      extents_kernel<scalar_t><<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
          map.const_data_ptr<scalar_t>(),
          pixels,
          static_cast<int>(map.size(1)),
          num_instances,
          extents.mutable_data_ptr<int>());
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const at::Tensor areas = extents.select(1, 4);
  const at::Tensor present = areas.gt(0).unsqueeze(1);
  const at::Tensor boxes = extents.slice(1, 0, 4).mul(present).to(at::kFloat);
  return {boxes, areas.to(at::kLong)};
}

} // namespace roca_nocs
