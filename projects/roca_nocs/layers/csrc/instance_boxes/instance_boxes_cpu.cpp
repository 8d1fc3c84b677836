#include "instance_boxes.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace roca_nocs {

namespace {

struct Extent {
  int64_t left;
  int64_t top;
  int64_t right = 0;
  int64_t bottom = 0;
  int64_t area = 0;
};

// Runs of equal ids are long, so that the extent is touched once a run instead of once a pixel.
template <typename scalar_t>
void scan_rows(
    const scalar_t* ids,
    int64_t height,
    int64_t width,
    int64_t num_instances,
    std::vector<Extent>& extents) {
  for (int64_t y = 0; y < height; ++y) {
    const scalar_t* row = ids + y * width;
    int64_t x = 0;
    while (x < width) {
      const int64_t id = static_cast<int64_t>(row[x]);
      const int64_t start = x;
      while (x < width && static_cast<int64_t>(row[x]) == id) {
        ++x;
      }
      if (id < 1 || id > num_instances) {
        continue;
      }
      Extent& extent = extents[id - 1];
      extent.left = std::min(extent.left, start);
      extent.top = std::min(extent.top, y);
      extent.right = std::max(extent.right, x);
      extent.bottom = y + 1;
      extent.area += x - start;
    }
  }
}

} // namespace

std::tuple<at::Tensor, at::Tensor> instance_boxes_cpu(
    const at::Tensor& ids,
    int64_t num_instances) {
  check_instance_boxes_arguments(ids, num_instances);
  const at::Tensor map = ids.contiguous();
  const int64_t height = map.size(0);
  const int64_t width = map.size(1);
  std::vector<Extent> extents(num_instances, Extent{width, height});
  AT_DISPATCH_INTEGRAL_TYPES(map.scalar_type(), "instance_boxes", [&] {
    scan_rows(map.const_data_ptr<scalar_t>(), height, width, num_instances, extents);
  });

  at::Tensor boxes = at::zeros({num_instances, 4}, map.options().dtype(at::kFloat));
  at::Tensor areas = at::zeros({num_instances}, map.options().dtype(at::kLong));
  float* box = boxes.mutable_data_ptr<float>();
  int64_t* area = areas.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < num_instances; ++i) {
    const Extent& extent = extents[i];
    if (extent.area == 0) {
      continue;
    }
    box[4 * i + 0] = static_cast<float>(extent.left);
    box[4 * i + 1] = static_cast<float>(extent.top);
    box[4 * i + 2] = static_cast<float>(extent.right);
    box[4 * i + 3] = static_cast<float>(extent.bottom);
    area[i] = extent.area;
  }
  return {boxes, areas};
}

} // namespace roca_nocs
