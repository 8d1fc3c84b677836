// What the CPU kernels of all instruction sets share: the layout of a head's maps.
#pragma once

#include "ms_deform_attn.h"

#include <vector>

namespace roca_nocs {

// A head's channels of all levels are copied to one compact buffer of rows, a row being the
// channels of one token: neighbours then share cache lines and pages, which the (S, H, D) layout
// keeps H * D apart. Each map stands in a frame of zeros that any clamped corner index falls into,
// so that the kernels have no border cases; the right frame of a row is the left one of the next.
struct FramedLevel {
  int32_t height;
  int32_t width;
  int32_t pitch; // rows from a token to the one below
  int32_t origin; // row of the token (0, 0)
};

constexpr int32_t kFrame = 2; // corner indices run from -kFrame to size + kFrame - 1
constexpr int64_t kRowBytes = 64; // rows are padded with zeros to a multiple of it

template <typename T>
struct FramedMaps {
  std::vector<FramedLevel> levels;
  int64_t rows = 0;
  int64_t row_size; // padded channels

  // Of each of the L * P samples of a query, so that loops over samples need no level index.
  std::vector<T> sizes; // width and height of the map in turn
  std::vector<T> limits; // of coordinates from the frame's corner: beyond is nothing but frame
  std::vector<int32_t> corner; // index of the frame's corner
  std::vector<int32_t> pitch; // numbers from a token to the one below

  FramedMaps(const MsDeformAttnSizes& call, at::IntArrayRef spatial_shapes) {
    constexpr int64_t multiple = kRowBytes / sizeof(T);
    row_size = (call.channels + multiple - 1) / multiple * multiple;
    for (int64_t level = 0; level < call.levels; ++level) {
      const int64_t level_height = spatial_shapes[2 * level];
      const int64_t level_width = spatial_shapes[2 * level + 1];
      const int64_t level_pitch = level_width + kFrame;
      const int64_t level_corner = rows;
      const int64_t level_origin = level_corner + kFrame * level_pitch + kFrame;
      rows = level_origin + (level_height + kFrame) * level_pitch;
      TORCH_CHECK_VALUE(
          rows * row_size <= INT32_MAX,
          "the maps of one head must have fewer than 2^31 numbers, spatial_shapes are ",
          spatial_shapes);
      levels.push_back(
          {static_cast<int32_t>(level_height),
           static_cast<int32_t>(level_width),
           static_cast<int32_t>(level_pitch),
           static_cast<int32_t>(level_origin)});
      for (int64_t point = 0; point < call.points; ++point) {
        sizes.push_back(static_cast<T>(level_width));
        sizes.push_back(static_cast<T>(level_height));
        limits.push_back(static_cast<T>(level_width + kFrame));
        limits.push_back(static_cast<T>(level_height + kFrame));
        corner.push_back(static_cast<int32_t>(level_corner * row_size));
        pitch.push_back(static_cast<int32_t>(level_pitch * row_size));
      }
    }
  }
};

// One head of one image: pointers to its first query or token, and the strides to the next.
template <typename scalar_t, typename T>
struct HeadForward {
  const FramedMaps<T>& maps;
  const T* values; // framed
  const T* locations;
  const T* weights;
  scalar_t* output;
  int64_t heads;
  int64_t channels;
};

template <typename scalar_t, typename T>
struct HeadBackward {
  const FramedMaps<T>& maps;
  const T* values; // framed
  const T* locations;
  const T* weights;
  const scalar_t* grad_output;
  T* grad_values; // framed, added to
  T* grad_locations;
  T* grad_weights;
  int64_t heads;
  int64_t channels;
};

} // namespace roca_nocs
