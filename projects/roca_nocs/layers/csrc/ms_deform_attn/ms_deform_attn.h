// Multi-scale deformable attention: weighted bilinear samples of several feature maps.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace roca_nocs {

// value: (B, S, H, D), S tokens of all levels, row by row; spatial_shapes: height and width of each
// level in turn; sampling_locations: (B, Q, H, L, P, 2) normalised x, y; attention_weights:
// (B, Q, H, L, P). Returns (B, Q, H * D) in the dtype of value. Half types accumulate in float;
// locations and weights may then be float too. A location that is not finite lies outside.
at::Tensor ms_deform_attn_cpu(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// Gradients of value, sampling_locations and attention_weights, in their dtypes.
std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

#ifdef WITH_CUDA
at::Tensor ms_deform_attn_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);
#endif

// Autocast: locations and weights are read in float, value keeps its dtype.
at::Tensor ms_deform_attn_autocast_cpu(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

at::Tensor ms_deform_attn_autocast_cuda(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// Checked sizes of a call, named as in the shapes above.
struct MsDeformAttnSizes {
  int64_t batch;
  int64_t tokens;
  int64_t heads;
  int64_t channels;
  int64_t queries;
  int64_t levels;
  int64_t points;

  int64_t samples() const {
    return levels * points;
  }
};

inline MsDeformAttnSizes check_ms_deform_attn_arguments(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  TORCH_CHECK_VALUE(
      value.dim() == 4, "value must have shape (B, S, H, D), got ", value.sizes());
  TORCH_CHECK_VALUE(
      spatial_shapes.size() >= 2 && spatial_shapes.size() % 2 == 0,
      "spatial_shapes must hold the height and width of at least one level, got ",
      spatial_shapes);
  const int64_t levels = static_cast<int64_t>(spatial_shapes.size()) / 2;
  int64_t tokens = 0;
  for (int64_t level = 0; level < levels; ++level) {
    const int64_t height = spatial_shapes[2 * level];
    const int64_t width = spatial_shapes[2 * level + 1];
    TORCH_CHECK_VALUE(
        height > 0 && width > 0, "spatial_shapes must be positive, got ", spatial_shapes);
    tokens += height * width;
  }
  TORCH_CHECK_VALUE(
      tokens == value.size(1),
      "value must hold the ", tokens, " tokens of spatial_shapes ", spatial_shapes,
      ", got ", value.size(1));
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6 && sampling_locations.size(0) == value.size(0) &&
          sampling_locations.size(2) == value.size(2) && sampling_locations.size(3) == levels &&
          sampling_locations.size(5) == 2,
      "sampling_locations must have shape (", value.size(0), ", Q, ", value.size(2), ", ", levels,
      ", P, 2), got ", sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == sampling_locations.sizes().slice(0, 5),
      "attention_weights must have shape ", sampling_locations.sizes().slice(0, 5),
      ", got ", attention_weights.sizes());
  for (const at::Tensor& tensor : {sampling_locations, attention_weights}) {
    const bool half =
        value.scalar_type() == at::kHalf || value.scalar_type() == at::kBFloat16;
    TORCH_CHECK_VALUE(
        tensor.scalar_type() == value.scalar_type() ||
            (half && tensor.scalar_type() == at::kFloat),
        "sampling_locations and attention_weights must have the dtype of value (",
        value.scalar_type(), "), or float32 beside a half one, got ", tensor.scalar_type());
    TORCH_CHECK_VALUE(
        tensor.device() == value.device(),
        "sampling_locations and attention_weights must be on ", value.device(),
        " like value, got ", tensor.device());
  }
  return {
      value.size(0), tokens, value.size(2), value.size(3),
      sampling_locations.size(1), levels, sampling_locations.size(4)};
}

inline void check_ms_deform_attn_gradient(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const MsDeformAttnSizes& sizes) {
  const int64_t expected[] = {sizes.batch, sizes.queries, sizes.heads * sizes.channels};
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(expected) &&
          grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "grad_output must have shape ", at::IntArrayRef(expected),
      ", dtype and device of value, got ", grad_output.sizes(), ", ",
      grad_output.scalar_type(), ", ", grad_output.device());
}

} // namespace roca_nocs
