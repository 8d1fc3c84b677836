// Registers the compiled operators of roca_nocs with PyTorch's dispatcher (torch.ops.roca_nocs.*).
// Importing the Python module runs the registrations below; it holds nothing but WITH_CUDA, whether
// the operators were compiled for CUDA too.
#include <Python.h>
#include <torch/library.h>

#include "instance_boxes/instance_boxes.h"
#include "ms_deform_attn/ms_deform_attn.h"

TORCH_LIBRARY(roca_nocs, m) {
  m.def("instance_boxes(Tensor ids, int num_instances) -> (Tensor, Tensor)");
  m.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(roca_nocs, CPU, m) {
  m.impl("instance_boxes", &roca_nocs::instance_boxes_cpu);
  m.impl("ms_deform_attn", &roca_nocs::ms_deform_attn_cpu);
  m.impl("ms_deform_attn_backward", &roca_nocs::ms_deform_attn_backward_cpu);
}

#ifdef WITH_CUDA
TORCH_LIBRARY_IMPL(roca_nocs, CUDA, m) {
  m.impl("instance_boxes", &roca_nocs::instance_boxes_cuda);
  m.impl("ms_deform_attn", &roca_nocs::ms_deform_attn_cuda);
  m.impl("ms_deform_attn_backward", &roca_nocs::ms_deform_attn_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(roca_nocs, AutocastCPU, m) {
  m.impl("ms_deform_attn", &roca_nocs::ms_deform_attn_autocast_cpu);
}

TORCH_LIBRARY_IMPL(roca_nocs, AutocastCUDA, m) {
  m.impl("ms_deform_attn", &roca_nocs::ms_deform_attn_autocast_cuda);
}

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", "Compiled operators of roca_nocs.", -1, nullptr};
  PyObject* module = PyModule_Create(&definition);
#ifdef WITH_CUDA
  PyObject* with_cuda = Py_True;
#else
  PyObject* with_cuda = Py_False;
#endif
  if (module != nullptr && PyModule_AddObjectRef(module, "WITH_CUDA", with_cuda) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
