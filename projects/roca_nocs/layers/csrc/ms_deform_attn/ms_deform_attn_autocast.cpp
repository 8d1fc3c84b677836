#include "ms_deform_attn.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace roca_nocs {

namespace {

// A position needs more digits than a half type has, while rounding the values costs nothing that
// the projection before them has not cost already, for they are accumulated in float.
at::Tensor with_float_positions(
    c10::DispatchKey key,
    c10::DeviceType device,
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  using Signature = at::Tensor(
      const at::Tensor&, c10::SymIntArrayRef, const at::Tensor&, const at::Tensor&);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("roca_nocs::ms_deform_attn", "")
                             .typed<Signature>();
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(key);
  return op.call(
      value,
      spatial_shapes,
      at::autocast::cached_cast(at::kFloat, sampling_locations, device),
      at::autocast::cached_cast(at::kFloat, attention_weights, device));
}

} // namespace

at::Tensor ms_deform_attn_autocast_cpu(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  return with_float_positions(
      c10::DispatchKey::AutocastCPU, c10::kCPU, value, spatial_shapes, sampling_locations,
      attention_weights);
}

at::Tensor ms_deform_attn_autocast_cuda(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  return with_float_positions(
      c10::DispatchKey::AutocastCUDA, c10::kCUDA, value, spatial_shapes, sampling_locations,
      attention_weights);
}

} // namespace roca_nocs
