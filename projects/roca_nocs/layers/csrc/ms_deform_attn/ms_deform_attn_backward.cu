#include "ms_deform_attn_cuda.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/cuda/Atomic.cuh>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdint>
#include <type_traits>

namespace roca_nocs {

namespace {

using namespace ms_deform_attn;

template <typename T, int count>
__device__ __forceinline__ void atomic_add(T* target, const T (&numbers)[count]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr bool by_fours = std::is_same_v<T, float> && count % 4 == 0;
#else
  constexpr bool by_fours = false;
#endif
  if constexpr (by_fours) {
#pragma unroll
    for (int k = 0; k < count; k += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(target + k),
          make_float4(numbers[k], numbers[k + 1], numbers[k + 2], numbers[k + 3]));
    }
  } else {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      gpuAtomicAddNoReturn(target + k, numbers[k]);
    }
  }
}

// Sum over the lanes of a pair, which are neighbours in a warp.
template <typename T>
__device__ __forceinline__ T sum_over_lanes(T number, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    number += __shfl_xor_sync(kWarp, number, distance);
  }
  return number;
}

// grad_values must be zero.
template <typename scalar_t, typename T, int count>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const scalar_t* __restrict__ grad_output,
    const scalar_t* __restrict__ values,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    T* __restrict__ grad_values,
    T* __restrict__ grad_locations,
    T* __restrict__ grad_weights,
    const Levels levels,
    const Sizes sizes) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* placed = reinterpret_cast<Corners<T>*>(memory);
  const Work work(sizes);
  const scalar_t* of_pair = grad_output + work.pair * sizes.channels;

  // Most heads have no more channels than their lanes read at once: the gradient is read once.
  const int own = work.lane * count;
  Channels<scalar_t, count> own_gradient = {};
  if (work.pair < sizes.pairs && own < sizes.channels) {
    own_gradient = read<scalar_t, count>(of_pair + own);
  }

  for (int sample = 0; sample < sizes.samples; sample += kTile<T>) {
    const int tile = min(kTile<T>, sizes.samples - sample);
    __syncthreads();
    place_tile(levels, sizes, work, locations, weights, sample, tile, placed);
    __syncthreads();
    for (int i = 0; i < tile; ++i) {
      Corners<T>& shared = placed[work.slot * kTile<T> + i];
      const Corners<T> corners = shared;
      T weight[4];
      corner_weights(corners, weight);
      T dot[4] = {}; // of the corners with the gradient
      // The tokens of a pair past the end are all -1.
      for (int channel = own; channel < sizes.channels; channel += sizes.lanes * count) {
        Channels<scalar_t, count> gradient = own_gradient;
        if (channel != own && work.pair < sizes.pairs) {
          gradient = read<scalar_t, count>(of_pair + channel);
        }
        Channels<scalar_t, count> corner[4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (corners.token[j] >= 0) {
            corner[j] = read<scalar_t, count>(
                values + work.map + corners.token[j] * work.pitch + channel);
          }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          T share[count];
#pragma unroll
          for (int k = 0; k < count; ++k) {
            const T number = static_cast<T>(gradient.numbers[k]);
            dot[j] += number * static_cast<T>(corner[j].numbers[k]);
            share[k] = weight[j] * number;
          }
          if (corners.token[j] >= 0) {
            atomic_add<T, count>(
                grad_values + work.map + corners.token[j] * work.pitch + channel, share);
          }
        }
      }
      const T rise_above = dot[1] - dot[0];
      const T rise_below = dot[3] - dot[2];
      const T above = dot[0] + corners.x * rise_above;
      const T below = dot[2] + corners.x * rise_below;
      const T of_weight = sum_over_lanes(above + corners.y * (below - above), sizes.lanes);
      const T of_x = sum_over_lanes(
          corners.weight * (rise_above + corners.y * (rise_below - rise_above)), sizes.lanes);
      const T of_y = sum_over_lanes(corners.weight * (below - above), sizes.lanes);
      __syncwarp();
      // All lanes have read the sample: its place takes the gradients.
      if (work.lane == 0) {
        shared.x = of_x;
        shared.y = of_y;
        shared.weight = of_weight;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < work.pairs * tile; i += blockDim.x) {
      const int of_slot = i / tile;
      const int of_sample = sample + i % tile;
      if (work.first_pair + of_slot >= sizes.pairs) {
        continue;
      }
      const Corners<T>& gradients = placed[of_slot * kTile<T> + i % tile];
      const int level = of_sample / sizes.points;
      const int64_t index = (work.first_pair + of_slot) * sizes.samples + of_sample;
      grad_locations[2 * index] = gradients.x * levels.width[level];
      grad_locations[2 * index + 1] = gradients.y * levels.height[level];
      grad_weights[index] = gradients.weight;
    }
  }
}

} // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const MsDeformAttnInputs inputs =
      prepare_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  const at::Tensor gradient = prepare_ms_deform_attn_gradient(grad_output, inputs);
  const Levels levels = kernel_levels(spatial_shapes);
  at::Tensor grad_values = at::zeros(value.sizes(), inputs.locations.options());
  at::Tensor grad_locations = at::empty_like(inputs.locations);
  at::Tensor grad_weights = at::empty_like(inputs.weights);
  if (inputs.locations.numel() > 0) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward", [&] {
          using T = at::opmath_type<scalar_t>;
          // Gradients of values are added up as T: the lanes of a pair write what lies side by
          // side, also where they read half as many bytes.
          constexpr int vector = 16 / sizeof(T);
          const auto* of_output = gradient.const_data_ptr<scalar_t>();
          const auto* from = inputs.value.const_data_ptr<scalar_t>();
          auto* to = grad_values.mutable_data_ptr<T>();
          const bool whole =
              has_whole_vectors(inputs.sizes.channels, vector, {of_output, from, to});
          const Launch launch = plan_launch<T>(inputs.sizes, whole ? vector : 1);
          const auto kernel = whole ? &backward_kernel<scalar_t, T, vector>
                                    : &backward_kernel<scalar_t, T, 1>;
          kernel<<<
              launch.blocks,
              launch.threads,
              launch.shared_bytes,
              at::cuda::getCurrentCUDAStream()>>>(
              of_output,
              from,
              inputs.locations.const_data_ptr<T>(),
              inputs.weights.const_data_ptr<T>(),
              to,
              grad_locations.mutable_data_ptr<T>(),
              grad_weights.mutable_data_ptr<T>(),
              levels,
              launch.sizes);
        });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {
      grad_values.to(value.scalar_type()),
      grad_locations.to(sampling_locations.scalar_type()),
      grad_weights.to(attention_weights.scalar_type())};
}

} // namespace roca_nocs
