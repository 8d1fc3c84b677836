#include "ms_deform_attn_cuda.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdint>

namespace roca_nocs {

namespace {

using namespace ms_deform_attn;

template <typename scalar_t, typename T, int count>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const scalar_t* __restrict__ values,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    scalar_t* __restrict__ output,
    const Levels levels,
    const Sizes sizes) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* placed = reinterpret_cast<Corners<T>*>(memory);
  const Work work(sizes);
  const scalar_t* map = values + work.map;

  for (int first = 0; first < sizes.channels; first += sizes.lanes * count) {
    const int channel = first + work.lane * count;
    const bool active = work.pair < sizes.pairs && channel < sizes.channels;
    T sum[count] = {};
    for (int sample = 0; sample < sizes.samples; sample += kTile<T>) {
      const int tile = min(kTile<T>, sizes.samples - sample);
      __syncthreads();
      place_tile(levels, sizes, work, locations, weights, sample, tile, placed);
      __syncthreads();
      if (!active) {
        continue;
      }
#pragma unroll 2
      for (int i = 0; i < tile; ++i) {
        const Corners<T> corners = placed[work.slot * kTile<T> + i];
        T weight[4];
        corner_weights(corners, weight);
        // All four reads are on their way before the first is used.
        Channels<scalar_t, count> corner[4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (corners.token[j] >= 0) {
            corner[j] = read<scalar_t, count>(map + corners.token[j] * work.pitch + channel);
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int k = 0; k < count; ++k) {
            sum[k] += weight[j] * static_cast<T>(corner[j].numbers[k]);
          }
        }
      }
    }
    if (active) {
      Channels<scalar_t, count> result;
#pragma unroll
      for (int k = 0; k < count; ++k) {
        result.numbers[k] = static_cast<scalar_t>(sum[k]);
      }
      *reinterpret_cast<Channels<scalar_t, count>*>(
          output + work.pair * sizes.channels + channel) = result;
    }
  }
}

} // namespace

at::Tensor ms_deform_attn_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const MsDeformAttnInputs inputs =
      prepare_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  const Levels levels = kernel_levels(spatial_shapes);
  at::Tensor output = empty_ms_deform_attn_output(inputs);
  if (output.numel() == 0) {
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn", [&] {
        using T = at::opmath_type<scalar_t>;
        constexpr int vector = 16 / sizeof(scalar_t);
        const auto* from = inputs.value.const_data_ptr<scalar_t>();
        auto* to = output.mutable_data_ptr<scalar_t>();
        const bool whole = has_whole_vectors(inputs.sizes.channels, vector, {from, to});
        const Launch launch = plan_launch<T>(inputs.sizes, whole ? vector : 1);
        const auto kernel = whole ? &forward_kernel<scalar_t, T, vector>
                                  : &forward_kernel<scalar_t, T, 1>;
        kernel<<<
            launch.blocks,
            launch.threads,
            launch.shared_bytes,
            at::cuda::getCurrentCUDAStream()>>>(
            from,
            inputs.locations.const_data_ptr<T>(),
            inputs.weights.const_data_ptr<T>(),
            to,
            levels,
            launch.sizes);
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

} // namespace roca_nocs
