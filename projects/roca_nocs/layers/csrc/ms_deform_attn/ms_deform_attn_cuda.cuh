// What the CUDA kernels of both directions share: the division of the work, and where samples lie.
#pragma once

#include "ms_deform_attn.h"

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace roca_nocs::ms_deform_attn {

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

// What a thread works on: its lane's channels of one pair.
struct Work {
  int pairs; // of the block
  int slot; // of the pair in the block
  int lane;
  int64_t first_pair; // of the block
  int64_t pair;
  int64_t pitch; // numbers from a token to the next
  int64_t map; // offset of the first token

  __device__ __forceinline__ explicit Work(const Sizes& sizes)
      : pairs(blockDim.x / sizes.lanes),
        slot(threadIdx.x / sizes.lanes),
        lane(threadIdx.x % sizes.lanes),
        first_pair(static_cast<int64_t>(blockIdx.x) * pairs),
        pair(first_pair + slot),
        pitch(static_cast<int64_t>(sizes.heads) * sizes.channels) {
    const int64_t image = pair / (sizes.queries * sizes.heads);
    const int head = pair % sizes.heads;
    map = image * sizes.tokens * pitch + head * sizes.channels;
  }
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
    const Work& work,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    int first_sample,
    int tile,
    Corners<T>* __restrict__ placed) {
  for (int i = threadIdx.x; i < work.pairs * tile; i += blockDim.x) {
    const int slot = i / tile;
    const int sample = first_sample + i % tile;
    const int64_t pair = work.first_pair + slot;
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

inline Levels kernel_levels(at::IntArrayRef spatial_shapes) {
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

// Whether rows of channels can be read `count` at a time.
inline bool has_whole_vectors(
    int64_t channels,
    int count,
    std::initializer_list<const void*> pointers) {
  return channels % count == 0 &&
      std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
           return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
         });
}

} // namespace roca_nocs::ms_deform_attn
