// Registers the compiled operators of roca_nocs with PyTorch's dispatcher (torch.ops.roca_nocs.*).
// The Python module itself is empty: importing it runs the registrations below.
#include <Python.h>
#include <torch/library.h>

#include "instance_boxes/instance_boxes.h"

TORCH_LIBRARY(roca_nocs, m) {
  m.def("instance_boxes(Tensor ids, int num_instances) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(roca_nocs, CPU, m) {
  m.impl("instance_boxes", &roca_nocs::instance_boxes_cpu);
}

#ifdef WITH_CUDA
TORCH_LIBRARY_IMPL(roca_nocs, CUDA, m) {
  m.impl("instance_boxes", &roca_nocs::instance_boxes_cuda);
}
#endif

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", "Compiled operators of roca_nocs.", -1, nullptr};
  return PyModule_Create(&module);
}
