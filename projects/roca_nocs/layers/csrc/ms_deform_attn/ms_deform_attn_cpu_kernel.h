// The CPU kernels, included once per instruction set (hence no include guard) with
//   ROCA_INSTRUCTIONS   name of the namespace,
//   ROCA_TARGET         attribute that lets the compiler use the instructions in a function,
//   ROCA_VECTOR_BYTES   size of a register,
//   ROCA_BLOCK_VECTORS  registers of channels that are summed at a time.
namespace roca_nocs::ROCA_INSTRUCTIONS {

#define ROCA_INLINE ROCA_TARGET inline __attribute__((always_inline))

template <typename T, int bytes>
struct Vector {
  typedef T type __attribute__((vector_size(bytes), may_alias));
};

template <typename T>
using Register = typename Vector<T, ROCA_VECTOR_BYTES>::type;

template <typename T>
constexpr int kLanes = ROCA_VECTOR_BYTES / sizeof(T);

// Numbers that are left of a register after adding its halves: 16 bytes.
template <typename T>
constexpr int kPartials = 16 / sizeof(T);

// Where the samples of one query lie, and what their corners weigh.
template <typename T>
struct Samples {
  std::vector<int32_t> pixel; // column and row of the upper left corner in turn, from the frame's
  std::vector<T> position; // x and y between the corners in turn, in [0, 1]
  std::vector<int32_t> upper; // index of the upper left corner in the framed maps
  std::vector<int32_t> lower; // and of the lower left one
  std::vector<T> corner_weights; // 4 per sample, upper before lower and left before right

  explicit Samples(size_t count)
      : pixel(2 * count),
        position(2 * count),
        upper(count),
        lower(count),
        corner_weights(4 * count) {}
};

template <typename T>
ROCA_INLINE void place(
    const FramedMaps<T>& maps,
    const T* __restrict__ locations,
    const T* __restrict__ weights,
    Samples<T>& samples) {
  const int count = static_cast<int>(maps.corner.size());
  const T* __restrict__ sizes = maps.sizes.data();
  const T* __restrict__ limits = maps.limits.data();
  int32_t* __restrict__ pixel = samples.pixel.data();
  T* __restrict__ position = samples.position.data();
  for (int i = 0; i < 2 * count; ++i) {
    // Counted from the frame's corner, so that truncating rounds down; NaN goes to the frame too.
    T coordinate = locations[i] * sizes[i] + (T(kFrame) - T(0.5));
    coordinate = coordinate > T(0) ? coordinate : T(0);
    coordinate = coordinate < limits[i] ? coordinate : limits[i];
    pixel[i] = static_cast<int32_t>(coordinate);
    position[i] = coordinate - static_cast<T>(pixel[i]);
  }
  const int32_t row_size = static_cast<int32_t>(maps.row_size);
  const int32_t* __restrict__ corner = maps.corner.data();
  const int32_t* __restrict__ pitch = maps.pitch.data();
  int32_t* __restrict__ upper = samples.upper.data();
  int32_t* __restrict__ lower = samples.lower.data();
  T* __restrict__ corner_weights = samples.corner_weights.data();
  for (int i = 0; i < count; ++i) {
    upper[i] = corner[i] + pixel[2 * i + 1] * pitch[i] + pixel[2 * i] * row_size;
    lower[i] = upper[i] + pitch[i];
    const T below = weights[i] * position[2 * i + 1];
    const T above = weights[i] - below;
    const T upper_right = above * position[2 * i];
    const T lower_right = below * position[2 * i];
    corner_weights[4 * i] = above - upper_right;
    corner_weights[4 * i + 1] = upper_right;
    corner_weights[4 * i + 2] = below - lower_right;
    corner_weights[4 * i + 3] = lower_right;
  }
}

// A head's part of a query lies too far from the last one's for the processor to foresee it.
template <typename number_t>
ROCA_INLINE void prefetch(const number_t* numbers, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(number_t)) {
    __builtin_prefetch(numbers + i);
  }
}

constexpr int64_t kAhead = 8; // queries

template <typename T>
ROCA_INLINE const Register<T>& register_at(const T* numbers, int index) {
  return reinterpret_cast<const Register<T>*>(numbers)[index];
}

template <typename T>
ROCA_INLINE Register<T>& register_at(T* numbers, int index) {
  return reinterpret_cast<Register<T>*>(numbers)[index];
}

template <int vectors, typename T>
ROCA_INLINE void forward_block(
    const T* __restrict__ values,
    int64_t row_size,
    const Samples<T>& samples,
    T* __restrict__ output) {
  // Two sums per register: half as many additions wait for one another.
  Register<T> above[vectors] = {};
  Register<T> below[vectors] = {};
  const int count = static_cast<int>(samples.upper.size());
  const int32_t* upper = samples.upper.data();
  const int32_t* lower = samples.lower.data();
  const T* weight = samples.corner_weights.data();
  for (int i = 0; i < count; ++i, weight += 4) {
    const T* upper_left = values + upper[i];
    const T* lower_left = values + lower[i];
    const T* upper_right = upper_left + row_size;
    const T* lower_right = lower_left + row_size;
    for (int j = 0; j < vectors; ++j) {
      above[j] += weight[0] * register_at(upper_left, j);
      below[j] += weight[2] * register_at(lower_left, j);
      above[j] += weight[1] * register_at(upper_right, j);
      below[j] += weight[3] * register_at(lower_right, j);
    }
  }
  for (int j = 0; j < vectors; ++j) {
    register_at(output, j) = above[j] + below[j];
  }
}

// Adds halves until kPartials numbers are left.
template <typename T, int bytes>
ROCA_INLINE void fold(
    const typename Vector<T, bytes>::type& numbers,
    typename Vector<T, 16>::type& partials) {
  if constexpr (bytes == 16) {
    partials = numbers;
  } else {
    typename Vector<T, bytes / 2>::type halves[2];
    __builtin_memcpy(halves, &numbers, bytes);
    halves[0] += halves[1];
    fold<T, bytes / 2>(halves[0], partials);
  }
}

// Adds to the gradients of the corners, and to dots (count, 4, kPartials) the products of the
// corners with the gradient of the output.
template <int vectors, typename T>
ROCA_INLINE void backward_block(
    const T* __restrict__ values,
    int64_t row_size,
    const Samples<T>& samples,
    const T* __restrict__ grad_output,
    T* __restrict__ grad_values,
    T* __restrict__ dots) {
  Register<T> gradient[vectors];
  for (int j = 0; j < vectors; ++j) {
    gradient[j] = register_at(grad_output, j);
  }
  const int count = static_cast<int>(samples.upper.size());
  const T* weight = samples.corner_weights.data();
  for (int i = 0; i < count; ++i, weight += 4) {
    const int64_t upper = samples.upper[i];
    const int64_t lower = samples.lower[i];
    const int64_t corners[4] = {upper, upper + row_size, lower, lower + row_size};
    for (int corner = 0; corner < 4; ++corner) {
      const T* value = values + corners[corner];
      T* grad_value = grad_values + corners[corner];
      Register<T> product = gradient[0] * register_at(value, 0);
      register_at(grad_value, 0) += weight[corner] * gradient[0];
      for (int j = 1; j < vectors; ++j) {
        product += gradient[j] * register_at(value, j);
        register_at(grad_value, j) += weight[corner] * gradient[j];
      }
      typename Vector<T, 16>::type partials;
      fold<T, ROCA_VECTOR_BYTES>(product, partials);
      auto* dot = reinterpret_cast<typename Vector<T, 16>::type*>(dots);
      dot[4 * i + corner] += partials;
    }
  }
}

// Calls block(number of registers, first channel) for the whole row.
template <typename T, typename Block>
ROCA_INLINE void for_blocks(int64_t row_size, const Block& block) {
  constexpr int64_t whole = ROCA_BLOCK_VECTORS * kLanes<T>;
  int64_t channel = 0;
  for (; channel + whole <= row_size; channel += whole) {
    block.template run<ROCA_BLOCK_VECTORS>(channel);
  }
  if (channel < row_size) {
    block.template run<kRowBytes / ROCA_VECTOR_BYTES>(channel);
  }
}

template <typename T>
struct ForwardBlock {
  const T* values;
  int64_t row_size;
  const Samples<T>& samples;
  T* output;

  template <int vectors>
  ROCA_INLINE void run(int64_t channel) const {
    forward_block<vectors>(values + channel, row_size, samples, output + channel);
  }
};

template <typename T>
struct BackwardBlock {
  const T* values;
  int64_t row_size;
  const Samples<T>& samples;
  const T* grad_output;
  T* grad_values;
  T* dots;

  template <int vectors>
  ROCA_INLINE void run(int64_t channel) const {
    backward_block<vectors>(
        values + channel, row_size, samples, grad_output + channel, grad_values + channel, dots);
  }
};

template <typename scalar_t, typename T>
ROCA_TARGET void forward(const HeadForward<scalar_t, T>& head, int64_t begin, int64_t end) {
  const int64_t row_size = head.maps.row_size;
  const int64_t count = static_cast<int64_t>(head.maps.corner.size());
  Samples<T> samples(count);
  AlignedRow<T> row(row_size);
  for (int64_t query = begin; query < end; ++query) {
    const int64_t first = query * head.heads * count;
    const int64_t later = std::min(query + kAhead, end - 1) * head.heads * count;
    prefetch(head.locations + 2 * later, 2 * count);
    prefetch(head.weights + later, count);
    place(head.maps, head.locations + 2 * first, head.weights + first, samples);
    for_blocks<T>(row_size, ForwardBlock<T>{head.values, row_size, samples, row.data});
    scalar_t* output = head.output + query * head.heads * head.channels;
    for (int64_t channel = 0; channel < head.channels; ++channel) {
      output[channel] = static_cast<scalar_t>(row.data[channel]);
    }
  }
}

template <typename scalar_t, typename T>
ROCA_TARGET void backward(const HeadBackward<scalar_t, T>& head, int64_t queries) {
  const int64_t row_size = head.maps.row_size;
  const int64_t count = static_cast<int64_t>(head.maps.corner.size());
  Samples<T> samples(count);
  AlignedRow<T> gradient(row_size);
  AlignedRow<T> dots(count * 4 * kPartials<T>);
  for (int64_t query = 0; query < queries; ++query) {
    const int64_t first = query * head.heads * count;
    const T* weights = head.weights + first;
    const int64_t later = std::min(query + kAhead, queries - 1) * head.heads;
    prefetch(head.locations + 2 * later * count, 2 * count);
    prefetch(head.weights + later * count, count);
    prefetch(head.grad_output + later * head.channels, head.channels);
    place(head.maps, head.locations + 2 * first, weights, samples);
    const scalar_t* grad_output = head.grad_output + query * head.heads * head.channels;
    for (int64_t channel = 0; channel < head.channels; ++channel) {
      gradient.data[channel] = static_cast<T>(grad_output[channel]);
    }
    for (int64_t i = 0; i < count * 4 * kPartials<T>; ++i) {
      dots.data[i] = 0;
    }
    for_blocks<T>(
        row_size,
        BackwardBlock<T>{
            head.values, row_size, samples, gradient.data, head.grad_values, dots.data});
    T* __restrict__ grad_locations = head.grad_locations + 2 * first;
    T* __restrict__ grad_weights = head.grad_weights + first;
    for (int64_t i = 0; i < count; ++i) {
      T corners[4] = {};
      for (int corner = 0; corner < 4; ++corner) {
        for (int partial = 0; partial < kPartials<T>; ++partial) {
          corners[corner] += dots.data[(4 * i + corner) * kPartials<T> + partial];
        }
      }
      const T x = samples.position[2 * i];
      const T y = samples.position[2 * i + 1];
      const T rise_above = corners[1] - corners[0];
      const T rise_below = corners[3] - corners[2];
      const T above = corners[0] + x * rise_above;
      const T below = corners[2] + x * rise_below;
      grad_weights[i] = above + y * (below - above);
      grad_locations[2 * i] =
          weights[i] * head.maps.sizes[2 * i] * (rise_above + y * (rise_below - rise_above));
      grad_locations[2 * i + 1] = weights[i] * head.maps.sizes[2 * i + 1] * (below - above);
    }
  }
}

#undef ROCA_INLINE

} // namespace roca_nocs::ROCA_INSTRUCTIONS
