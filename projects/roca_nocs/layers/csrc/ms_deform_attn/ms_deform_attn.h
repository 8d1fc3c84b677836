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

// Sizes of a call, named as in the shapes above.
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

// The arguments of a call as kernels read them: checked, contiguous, locations and weights in the
// type that the dtype of value accumulates in.
struct MsDeformAttnInputs {
  MsDeformAttnSizes sizes;
  at::Tensor value;
  at::Tensor locations;
  at::Tensor weights;
};

// Raises ValueError for arguments that do not fit each other.
MsDeformAttnInputs prepare_ms_deform_attn(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// Uninitialised, of the shape, dtype and device of the result.
at::Tensor empty_ms_deform_attn_output(const MsDeformAttnInputs& inputs);

// grad_output, checked and contiguous.
at::Tensor prepare_ms_deform_attn_gradient(
    const at::Tensor& grad_output,
    const MsDeformAttnInputs& inputs);

} // namespace roca_nocs
