#include "ms_deform_attn.h"

#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

namespace roca_nocs {

namespace {

MsDeformAttnSizes check_arguments(
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

} // namespace

MsDeformAttnInputs prepare_ms_deform_attn(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const MsDeformAttnSizes sizes =
      check_arguments(value, spatial_shapes, sampling_locations, attention_weights);
  const at::ScalarType dtype = at::toOpMathType(value.scalar_type());
  return {
      sizes,
      value.contiguous(),
      sampling_locations.to(dtype).contiguous(),
      attention_weights.to(dtype).contiguous()};
}

at::Tensor empty_ms_deform_attn_output(const MsDeformAttnInputs& inputs) {
  const MsDeformAttnSizes& sizes = inputs.sizes;
  return at::empty(
      {sizes.batch, sizes.queries, sizes.heads * sizes.channels}, inputs.value.options());
}

at::Tensor prepare_ms_deform_attn_gradient(
    const at::Tensor& grad_output,
    const MsDeformAttnInputs& inputs) {
  const MsDeformAttnSizes& sizes = inputs.sizes;
  const int64_t expected[] = {sizes.batch, sizes.queries, sizes.heads * sizes.channels};
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(expected) &&
          grad_output.scalar_type() == inputs.value.scalar_type() &&
          grad_output.device() == inputs.value.device(),
      "grad_output must have shape ", at::IntArrayRef(expected),
      ", dtype and device of value, got ", grad_output.sizes(), ", ",
      grad_output.scalar_type(), ", ", grad_output.device());
  return grad_output.contiguous();
}

} // namespace roca_nocs
