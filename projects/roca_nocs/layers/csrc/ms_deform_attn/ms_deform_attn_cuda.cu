#include "ms_deform_attn.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/cuda/Atomic.cuh>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace roca_nocs {

namespace {

// A pair is one query of one head. Its channels are shared out over a few lanes of a warp, each of
// which reads 16 bytes of a corner at once, so that a warp works on several pairs. The threads of a
// block first compute, each for its own samples, where all corners lie, and keep that in shared
// memory: otherwise every lane would repeat it.
constexpr int kThreads = 256;
constexpr int kMaxPairs = 64; // of a block
constexpr int kMaxLevels = 32;
constexpr unsigned kWarp = 0xffffffffu;

// Samples of a pair that are placed at a time.
template <typename T>
constexpr int kTile = 64 / sizeof(T);

struct Levels {
  int height[kMaxLevels];
  int width[kMaxLevels];
  int first_token[kMaxLevels];
};

struct Sizes {
  int64_t pairs;
  int tokens;
  int heads;
  int channels;
  int64_t queries;
  int points;
  int samples;
  int lanes; // of a pair, a power of two
};

template <typename scalar_t, int count>
struct alignas(sizeof(scalar_t) * count) Channels {
  scalar_t numbers[count];
};

// A sample's corners, upper before lower and left before right: token, or -1 outside of the map.
template <typename T>
struct Corners {
  int token[4];
  T x; // position between the corners
  T y;
  T weight;
};

template <typename T>
__device__ __forceinline__ Corners<T> place(
    const Levels& levels,
    int level,
    const T* __restrict__ location,
    T weight) {
  const int height = levels.height[level];
  const int width = levels.width[level];
  const T column = location[0] * width - T(0.5);
  const T row = location[1] * height - T(0.5);
  Corners<T> corners{{-1, -1, -1, -1}, T(0), T(0), weight};
  // False for NaN too.
  if (column > T(-1) && column < width && row > T(-1) && row < height) {
    const int left = static_cast<int>(floor(column));
    const int upper = static_cast<int>(floor(row));
    corners.x = column - left;
    corners.y = row - upper;
    const int token = levels.first_token[level] + upper * width + left;
    const bool has_left = left >= 0;
    const bool has_right = left + 1 < width;
    if (upper >= 0) {
      corners.token[0] = has_left ? token : -1;
      corners.token[1] = has_right ? token + 1 : -1;
    }
    if (upper + 1 < height) {
      corners.token[2] = has_left ? token + width : -1;
      corners.token[3] = has_right ? token + width + 1 : -1;
    }
  }
  return corners;
}

// Places samples first_sample .. first_sample + tile - 1 of the block's pairs.
template <typename T>
__device__ __forceinline__ void place_tile(
    const Levels& levels,
    const Sizes& sizes,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    int64_t first_pair,
    int pairs,
    int first_sample,
    int tile,
    Corners<T>* __restrict__ placed) {
  for (int i = threadIdx.x; i < pairs * tile; i += blockDim.x) {
    const int slot = i / tile;
    const int sample = first_sample + i % tile;
    const int64_t pair = first_pair + slot;
    Corners<T>& corners = placed[slot * kTile<T> + i % tile];
    if (pair < sizes.pairs) {
      const int64_t index = pair * sizes.samples + sample;
      corners = place(levels, sample / sizes.points, locations + 2 * index, weights[index]);
    } else {
      corners = {{-1, -1, -1, -1}, T(0), T(0), T(0)};
    }
  }
}

template <typename T>
__device__ __forceinline__ void corner_weights(const Corners<T>& corners, T (&weights)[4]) {
  const T below = corners.weight * corners.y;
  const T above = corners.weight - below;
  weights[1] = above * corners.x;
  weights[0] = above - weights[1];
  weights[3] = below * corners.x;
  weights[2] = below - weights[3];
}

template <typename scalar_t, int count>
__device__ __forceinline__ Channels<scalar_t, count> read(const scalar_t* numbers) {
  return *reinterpret_cast<const Channels<scalar_t, count>*>(numbers);
}

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
  const int pairs = blockDim.x / sizes.lanes;
  const int slot = threadIdx.x / sizes.lanes;
  const int lane = threadIdx.x % sizes.lanes;
  const int64_t first_pair = static_cast<int64_t>(blockIdx.x) * pairs;
  const int64_t pair = first_pair + slot;
  const int64_t image = pair / (sizes.queries * sizes.heads);
  const int head = pair % sizes.heads;
  const int64_t pitch = static_cast<int64_t>(sizes.heads) * sizes.channels;
  const scalar_t* map = values + image * sizes.tokens * pitch + head * sizes.channels;

  for (int first = 0; first < sizes.channels; first += sizes.lanes * count) {
    const int channel = first + lane * count;
    const bool active = pair < sizes.pairs && channel < sizes.channels;
    T sum[count] = {};
    for (int sample = 0; sample < sizes.samples; sample += kTile<T>) {
      const int tile = min(kTile<T>, sizes.samples - sample);
      __syncthreads();
      place_tile(
          levels, sizes, locations, weights, first_pair, pairs, sample, tile, placed);
      __syncthreads();
      if (!active) {
        continue;
      }
#pragma unroll 2
      for (int i = 0; i < tile; ++i) {
        const Corners<T> corners = placed[slot * kTile<T> + i];
        T weight[4];
        corner_weights(corners, weight);
        // All four reads are on their way before the first is used.
        Channels<scalar_t, count> corner[4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (corners.token[j] >= 0) {
            corner[j] = read<scalar_t, count>(map + corners.token[j] * pitch + channel);
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
          output + pair * sizes.channels + channel) = result;
    }
  }
}

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
  const int pairs = blockDim.x / sizes.lanes;
  const int slot = threadIdx.x / sizes.lanes;
  const int lane = threadIdx.x % sizes.lanes;
  const int64_t first_pair = static_cast<int64_t>(blockIdx.x) * pairs;
  const int64_t pair = first_pair + slot;
  const int64_t image = pair / (sizes.queries * sizes.heads);
  const int head = pair % sizes.heads;
  const int64_t pitch = static_cast<int64_t>(sizes.heads) * sizes.channels;
  const int64_t map = image * sizes.tokens * pitch + head * sizes.channels;
  const scalar_t* of_pair = grad_output + pair * sizes.channels;

  // Most heads have no more channels than their lanes read at once: the gradient is read once.
  const int own = lane * count;
  Channels<scalar_t, count> own_gradient = {};
  if (pair < sizes.pairs && own < sizes.channels) {
    own_gradient = read<scalar_t, count>(of_pair + own);
  }

  for (int sample = 0; sample < sizes.samples; sample += kTile<T>) {
    const int tile = min(kTile<T>, sizes.samples - sample);
    __syncthreads();
    place_tile(levels, sizes, locations, weights, first_pair, pairs, sample, tile, placed);
    __syncthreads();
    for (int i = 0; i < tile; ++i) {
      Corners<T>& shared = placed[slot * kTile<T> + i];
      const Corners<T> corners = shared;
      T weight[4];
      corner_weights(corners, weight);
      T dot[4] = {}; // of the corners with the gradient
      // The tokens of a pair past the end are all -1.
      for (int channel = own; channel < sizes.channels; channel += sizes.lanes * count) {
        Channels<scalar_t, count> gradient = own_gradient;
        if (channel != own && pair < sizes.pairs) {
          gradient = read<scalar_t, count>(of_pair + channel);
        }
        Channels<scalar_t, count> corner[4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (corners.token[j] >= 0) {
            corner[j] = read<scalar_t, count>(
                values + map + corners.token[j] * pitch + channel);
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
                grad_values + map + corners.token[j] * pitch + channel, share);
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
      if (lane == 0) {
        shared.x = of_x;
        shared.y = of_y;
        shared.weight = of_weight;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < pairs * tile; i += blockDim.x) {
      const int of_slot = i / tile;
      const int of_sample = sample + i % tile;
      if (first_pair + of_slot >= sizes.pairs) {
        continue;
      }
      const Corners<T>& gradients = placed[of_slot * kTile<T> + i % tile];
      const int level = of_sample / sizes.points;
      const int64_t index = (first_pair + of_slot) * sizes.samples + of_sample;
      grad_locations[2 * index] = gradients.x * levels.width[level];
      grad_locations[2 * index + 1] = gradients.y * levels.height[level];
      grad_weights[index] = gradients.weight;
    }
  }
}

Levels kernel_levels(at::IntArrayRef spatial_shapes) {
  TORCH_CHECK_VALUE(
      spatial_shapes.size() <= 2 * kMaxLevels,
      "spatial_shapes may hold at most ", kMaxLevels, " levels on a GPU, got ", spatial_shapes);
  Levels levels{};
  int token = 0;
  for (size_t level = 0; level < spatial_shapes.size() / 2; ++level) {
    levels.height[level] = static_cast<int>(spatial_shapes[2 * level]);
    levels.width[level] = static_cast<int>(spatial_shapes[2 * level + 1]);
    levels.first_token[level] = token;
    token += levels.height[level] * levels.width[level];
  }
  return levels;
}

struct Launch {
  Sizes sizes;
  int blocks;
  int threads;
  size_t shared_bytes;
};

// count: channels that a lane reads at once.
template <typename T>
Launch plan_launch(const MsDeformAttnSizes& sizes, int count) {
  TORCH_CHECK_VALUE(
      sizes.tokens <= INT32_MAX && sizes.channels <= INT32_MAX,
      "value has more tokens or channels than 2^31 - 1");
  int lanes = 1;
  while (lanes < 32 && lanes * count < sizes.channels) {
    lanes *= 2;
  }
  const int pairs = std::min(kThreads / lanes, kMaxPairs);
  Launch launch;
  launch.sizes = {
      sizes.batch * sizes.queries * sizes.heads,
      static_cast<int>(sizes.tokens),
      static_cast<int>(sizes.heads),
      static_cast<int>(sizes.channels),
      sizes.queries,
      static_cast<int>(sizes.points),
      static_cast<int>(sizes.samples()),
      lanes};
  const int64_t blocks = (launch.sizes.pairs + pairs - 1) / pairs;
  TORCH_CHECK_VALUE(blocks <= INT32_MAX, "too many queries for one call: ", sizes.queries);
  launch.blocks = static_cast<int>(blocks);
  launch.threads = pairs * lanes;
  launch.shared_bytes = sizeof(Corners<T>) * kTile<T> * pairs;
  return launch;
}

// Whether rows of channels can be read 16 bytes at a time.
template <typename scalar_t>
bool has_whole_vectors(int64_t channels, std::initializer_list<const void*> pointers) {
  return channels % (16 / sizeof(scalar_t)) == 0 &&
      std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
           return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
         });
}

} // namespace

at::Tensor ms_deform_attn_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const MsDeformAttnSizes sizes = check_ms_deform_attn_arguments(
      value, spatial_shapes, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const Levels levels = kernel_levels(spatial_shapes);
  const at::Tensor values = value.contiguous();
  const at::ScalarType dtype = at::toOpMathType(value.scalar_type());
  const at::Tensor locations = sampling_locations.to(dtype).contiguous();
  const at::Tensor weights = attention_weights.to(dtype).contiguous();
  at::Tensor output =
      at::empty({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.options());
  if (output.numel() == 0) {
    return output;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn", [&] {
        using T = at::opmath_type<scalar_t>;
        constexpr int vector = 16 / sizeof(scalar_t);
        const auto* from = values.const_data_ptr<scalar_t>();
        auto* to = output.mutable_data_ptr<scalar_t>();
        const bool whole = has_whole_vectors<scalar_t>(sizes.channels, {from, to});
        const Launch launch = plan_launch<T>(sizes, whole ? vector : 1);
        const auto kernel = whole ? &forward_kernel<scalar_t, T, vector>
                                  : &forward_kernel<scalar_t, T, 1>;
        kernel<<<
            launch.blocks,
            launch.threads,
            launch.shared_bytes,
            at::cuda::getCurrentCUDAStream()>>>(
            from,
            locations.const_data_ptr<T>(),
            weights.const_data_ptr<T>(),
            to,
            levels,
            launch.sizes);
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const MsDeformAttnSizes sizes = check_ms_deform_attn_arguments(
      value, spatial_shapes, sampling_locations, attention_weights);
  check_ms_deform_attn_gradient(grad_output, value, sizes);
  const c10::cuda::CUDAGuard guard(value.device());
  const Levels levels = kernel_levels(spatial_shapes);
  const at::Tensor values = value.contiguous();
  const at::Tensor gradient = grad_output.contiguous();
  const at::ScalarType dtype = at::toOpMathType(value.scalar_type());
  const at::Tensor locations = sampling_locations.to(dtype).contiguous();
  const at::Tensor weights = attention_weights.to(dtype).contiguous();
  at::Tensor grad_values = at::zeros(values.sizes(), values.options().dtype(dtype));
  at::Tensor grad_locations = at::empty_like(locations);
  at::Tensor grad_weights = at::empty_like(weights);
  if (locations.numel() > 0) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward", [&] {
          using T = at::opmath_type<scalar_t>;
          constexpr int vector = 16 / sizeof(scalar_t);
          const auto* of_output = gradient.const_data_ptr<scalar_t>();
          const auto* from = values.const_data_ptr<scalar_t>();
          auto* to = grad_values.mutable_data_ptr<T>();
          const bool whole = has_whole_vectors<scalar_t>(sizes.channels, {of_output, from, to});
          const Launch launch = plan_launch<T>(sizes, whole ? vector : 1);
          const auto kernel = whole ? &backward_kernel<scalar_t, T, vector>
                                    : &backward_kernel<scalar_t, T, 1>;
          kernel<<<
              launch.blocks,
              launch.threads,
              launch.shared_bytes,
              at::cuda::getCurrentCUDAStream()>>>(
              of_output,
              from,
              locations.const_data_ptr<T>(),
              weights.const_data_ptr<T>(),
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
