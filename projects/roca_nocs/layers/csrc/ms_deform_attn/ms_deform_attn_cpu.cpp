#include "ms_deform_attn_cpu.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <string>

namespace roca_nocs {

namespace {

// Zeros on a cache line's border.
template <typename T>
struct AlignedRow {
  explicit AlignedRow(int64_t size)
      : storage(c10::GetCPUAllocator()->allocate(size * sizeof(T))),
        data(static_cast<T*>(storage.get())) {
    std::fill_n(data, size, T(0));
  }

  c10::DataPtr storage;
  T* data;
};

} // namespace

} // namespace roca_nocs

#define ROCA_INSTRUCTIONS generic
#define ROCA_TARGET
#define ROCA_VECTOR_BYTES 16
#define ROCA_BLOCK_VECTORS 4
#include "ms_deform_attn_cpu_kernel.h"
#undef ROCA_INSTRUCTIONS
#undef ROCA_TARGET
#undef ROCA_VECTOR_BYTES
#undef ROCA_BLOCK_VECTORS

#ifdef __x86_64__

#define ROCA_INSTRUCTIONS avx2
#define ROCA_TARGET __attribute__((target("avx2,fma")))
#define ROCA_VECTOR_BYTES 32
#define ROCA_BLOCK_VECTORS 4
#include "ms_deform_attn_cpu_kernel.h"
#undef ROCA_INSTRUCTIONS
#undef ROCA_TARGET
#undef ROCA_VECTOR_BYTES
#undef ROCA_BLOCK_VECTORS

#define ROCA_INSTRUCTIONS avx512
#define ROCA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define ROCA_VECTOR_BYTES 64
#define ROCA_BLOCK_VECTORS 2
#include "ms_deform_attn_cpu_kernel.h"
#undef ROCA_INSTRUCTIONS
#undef ROCA_TARGET
#undef ROCA_VECTOR_BYTES
#undef ROCA_BLOCK_VECTORS

#endif // __x86_64__

namespace roca_nocs {

namespace {

enum class Instructions { generic, avx2, avx512 };

// PyTorch's own choice: it knows the processor and ATEN_CPU_CAPABILITY.
Instructions instructions() {
#ifdef __x86_64__
  static const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") {
    return Instructions::avx512;
  }
  if (capability == "AVX2") {
    return Instructions::avx2;
  }
#endif
  return Instructions::generic;
}

template <typename scalar_t, typename T>
void forward_head(const HeadForward<scalar_t, T>& head, int64_t begin, int64_t end) {
#ifdef __x86_64__
  switch (instructions()) {
    case Instructions::avx512:
      return avx512::forward(head, begin, end);
    case Instructions::avx2:
      return avx2::forward(head, begin, end);
    case Instructions::generic:
      break;
  }
#endif
  generic::forward(head, begin, end);
}

template <typename scalar_t, typename T>
void backward_head(const HeadBackward<scalar_t, T>& head, int64_t queries) {
#ifdef __x86_64__
  switch (instructions()) {
    case Instructions::avx512:
      return avx512::backward(head, queries);
    case Instructions::avx2:
      return avx2::backward(head, queries);
    case Instructions::generic:
      break;
  }
#endif
  generic::backward(head, queries);
}

// Calls visit(framed row, token) for every token.
template <typename T, typename Visit>
void for_tokens(const FramedMaps<T>& maps, const Visit& visit) {
  int64_t token = 0;
  for (const FramedLevel& level : maps.levels) {
    for (int64_t y = 0; y < level.height; ++y) {
      const int64_t row = level.origin + y * level.pitch;
      for (int64_t x = 0; x < level.width; ++x) {
        visit((row + x) * maps.row_size, token++);
      }
    }
  }
}

// In pieces of a fixed size, so that the compiler need not ask how long a row is.
template <typename from_t, typename to_t>
inline void copy_channels(
    const from_t* __restrict__ from,
    int64_t channels,
    to_t* __restrict__ to) {
  constexpr int64_t piece = 16;
  int64_t channel = 0;
  for (; channel + piece <= channels; channel += piece) {
    for (int64_t i = 0; i < piece; ++i) {
      to[channel + i] = static_cast<to_t>(from[channel + i]);
    }
  }
  for (; channel < channels; ++channel) {
    to[channel] = static_cast<to_t>(from[channel]);
  }
}

// values: the head's channels of the first token; the frame is left as it is.
template <typename scalar_t, typename T>
void frame_values(
    const FramedMaps<T>& maps,
    const scalar_t* __restrict__ values,
    const MsDeformAttnSizes& sizes,
    T* __restrict__ framed) {
  for_tokens(maps, [&](int64_t row, int64_t token) {
    copy_channels(values + token * sizes.heads * sizes.channels, sizes.channels, framed + row);
  });
}

template <typename scalar_t, typename T>
void unframe_gradients(
    const FramedMaps<T>& maps,
    const T* __restrict__ framed,
    const MsDeformAttnSizes& sizes,
    scalar_t* __restrict__ gradients) {
  for_tokens(maps, [&](int64_t row, int64_t token) {
    copy_channels(framed + row, sizes.channels, gradients + token * sizes.heads * sizes.channels);
  });
}

// Offsets of the first token's and the first query's channels and of the first query's samples.
struct HeadOffsets {
  int64_t value;
  int64_t output;
  int64_t samples;

  HeadOffsets(const MsDeformAttnSizes& sizes, int64_t index) {
    const int64_t batch = index / sizes.heads;
    const int64_t head = index % sizes.heads;
    value = (batch * sizes.tokens * sizes.heads + head) * sizes.channels;
    const int64_t query = batch * sizes.queries * sizes.heads + head;
    output = query * sizes.channels;
    samples = query * sizes.samples();
  }
};

template <typename scalar_t>
void forward_all(
    const MsDeformAttnInputs& inputs,
    const FramedMaps<at::opmath_type<scalar_t>>& maps,
    at::Tensor& output) {
  using T = at::opmath_type<scalar_t>;
  const MsDeformAttnSizes& sizes = inputs.sizes;
  const int64_t heads = sizes.batch * sizes.heads;
  if (heads == 0 || sizes.queries == 0) {
    return;
  }
  // More threads than heads share the queries of a head, and each frames the values for itself.
  const int64_t parts =
      std::min<int64_t>((at::get_num_threads() + heads - 1) / heads, sizes.queries);
  at::parallel_for(0, heads * parts, 1, [&](int64_t begin, int64_t end) {
    AlignedRow<T> values(maps.rows * maps.row_size);
    int64_t framed = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t index = task / parts;
      const int64_t part = task % parts;
      const HeadOffsets offsets(sizes, index);
      if (framed != index) {
        const scalar_t* of_head = inputs.value.const_data_ptr<scalar_t>() + offsets.value;
        frame_values(maps, of_head, sizes, values.data);
        framed = index;
      }
      const HeadForward<scalar_t, T> head{
          maps,
          values.data,
          inputs.locations.const_data_ptr<T>() + 2 * offsets.samples,
          inputs.weights.const_data_ptr<T>() + offsets.samples,
          output.mutable_data_ptr<scalar_t>() + offsets.output,
          sizes.heads,
          sizes.channels};
      forward_head(
          head, part * sizes.queries / parts, (part + 1) * sizes.queries / parts);
    }
  });
}

// A head's gradients have one writer: the result does not depend on the number of threads.
template <typename scalar_t>
void backward_all(
    const at::Tensor& grad_output,
    const MsDeformAttnInputs& inputs,
    const FramedMaps<at::opmath_type<scalar_t>>& maps,
    at::Tensor& grad_value,
    at::Tensor& grad_locations,
    at::Tensor& grad_weights) {
  using T = at::opmath_type<scalar_t>;
  const MsDeformAttnSizes& sizes = inputs.sizes;
  at::parallel_for(0, sizes.batch * sizes.heads, 1, [&](int64_t begin, int64_t end) {
    const int64_t size = maps.rows * maps.row_size;
    AlignedRow<T> values(size);
    AlignedRow<T> gradients(size);
    for (int64_t index = begin; index < end; ++index) {
      if (index > begin) {
        std::fill_n(gradients.data, size, T(0));
      }
      const HeadOffsets offsets(sizes, index);
      const scalar_t* of_head = inputs.value.const_data_ptr<scalar_t>() + offsets.value;
      frame_values(maps, of_head, sizes, values.data);
      const HeadBackward<scalar_t, T> head{
          maps,
          values.data,
          inputs.locations.const_data_ptr<T>() + 2 * offsets.samples,
          inputs.weights.const_data_ptr<T>() + offsets.samples,
          grad_output.const_data_ptr<scalar_t>() + offsets.output,
          gradients.data,
          grad_locations.mutable_data_ptr<T>() + 2 * offsets.samples,
          grad_weights.mutable_data_ptr<T>() + offsets.samples,
          sizes.heads,
          sizes.channels};
      backward_head(head, sizes.queries);
      unframe_gradients(
          maps, gradients.data, sizes, grad_value.mutable_data_ptr<scalar_t>() + offsets.value);
    }
  });
}

} // namespace

at::Tensor ms_deform_attn_cpu(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const MsDeformAttnInputs inputs =
      prepare_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  at::Tensor output = empty_ms_deform_attn_output(inputs);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn", [&] {
        const FramedMaps<at::opmath_type<scalar_t>> maps(inputs.sizes, spatial_shapes);
        forward_all<scalar_t>(inputs, maps, output);
      });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const MsDeformAttnInputs inputs =
      prepare_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  const at::Tensor gradient = prepare_ms_deform_attn_gradient(grad_output, inputs);
  at::Tensor grad_value = at::empty_like(inputs.value);
  at::Tensor grad_locations = at::empty_like(inputs.locations);
  at::Tensor grad_weights = at::empty_like(inputs.weights);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward", [&] {
        const FramedMaps<at::opmath_type<scalar_t>> maps(inputs.sizes, spatial_shapes);
        backward_all<scalar_t>(gradient, inputs, maps, grad_value, grad_locations, grad_weights);
      });
  return {
      grad_value,
      grad_locations.to(sampling_locations.scalar_type()),
      grad_weights.to(attention_weights.scalar_type())};
}

} // namespace roca_nocs
