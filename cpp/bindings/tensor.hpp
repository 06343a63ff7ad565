// Arrays at the boundary: exact dtype, rank and C order, no conversion, no copy. NumPy
// arrays in the CPU module, DLPack arrays on a GPU in the CUDA module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#ifdef SPICORE_BACKEND_CUDA
#include "dlpack.hpp"
#endif

#include <array>
#include <type_traits>

#include "spicore/exec.hpp"

namespace spicore::bindings {

#ifdef SPICORE_BACKEND_CUDA
constexpr bool kOnGpu = true; // the values of arrays cannot be read here
#else
constexpr bool kOnGpu = false;
#endif

// A borrowed array. `const T` takes read-only arrays, `T` demands writeable ones.
template <class T, int N> struct Tensor {
  T *data = nullptr;
  std::array<std::int64_t, N> shape{};
#ifdef SPICORE_BACKEND_CUDA
  pybind11::object capsule; // keeps the memory until the call returns
#endif
};

// A small array that is NumPy's in both modules: what the calls themselves read.
template <class T, int N> struct HostTensor {
  T *data = nullptr;
  std::array<std::int64_t, N> shape{};
};

inline void require(bool condition, const char *message) {
  if (!condition)
    throw std::invalid_argument(message);
}

template <template <class, int> class Borrowed, class T, int N>
bool borrow_numpy(pybind11::handle source, Borrowed<T, N> &tensor) {
  using Array = pybind11::array_t<std::remove_const_t<T>, pybind11::array::c_style>;
  if (!pybind11::isinstance<Array>(source))
    return false;
  const auto view = pybind11::reinterpret_borrow<pybind11::array>(source);
  if (view.ndim() != N || !(std::is_const_v<T> || view.writeable()))
    return false;
  for (int axis = 0; axis < N; ++axis)
    tensor.shape[axis] = view.shape(axis);
  tensor.data = static_cast<T *>(const_cast<void *>(view.data()));
  return true;
}

template <class T, int N> bool borrow(pybind11::handle source, HostTensor<T, N> &tensor) {
  return borrow_numpy(source, tensor);
}

#ifdef SPICORE_BACKEND_CUDA

template <class T, int N> bool borrow(pybind11::handle source, Tensor<T, N> &tensor) {
  if (!dlpack::on_cuda(source))
    return false;
  tensor.capsule = dlpack::capsule_of(source);
  bool read_only = false;
  const dlpack::Array *array = dlpack::described(tensor.capsule, read_only);
  if (!array || array->rank != N || !dlpack::is_cuda(array->device_type) ||
      !dlpack::has_type<std::remove_const_t<T>>(*array) ||
      !dlpack::is_c_contiguous(*array) || (read_only && !std::is_const_v<T>))
    return false;
  for (int axis = 0; axis < N; ++axis)
    tensor.shape[axis] = array->shape[axis];
  tensor.data =
      reinterpret_cast<T *>(static_cast<char *>(array->data) + array->byte_offset);
  return true;
}

#else

template <class T, int N> bool borrow(pybind11::handle source, Tensor<T, N> &tensor) {
  return borrow_numpy(source, tensor);
}

#endif

// How Python says where a call runs: on the CPU the number of threads, on CUDA a stream.
inline Exec exec_from(std::size_t number) {
#ifdef SPICORE_BACKEND_CUDA
  return Exec{1, reinterpret_cast<void *>(number)};
#else
  return Exec{int(number)};
#endif
}

} // namespace spicore::bindings

namespace pybind11::detail {

template <class T, int N> struct type_caster<spicore::bindings::Tensor<T, N>> {
  using Tensor = spicore::bindings::Tensor<T, N>;
  PYBIND11_TYPE_CASTER(Tensor, const_name("array"));

  bool load(handle source, bool) { return spicore::bindings::borrow(source, value); }
};

template <class T, int N> struct type_caster<spicore::bindings::HostTensor<T, N>> {
  using Tensor = spicore::bindings::HostTensor<T, N>;
  PYBIND11_TYPE_CASTER(Tensor, const_name("array"));

  bool load(handle source, bool) { return spicore::bindings::borrow(source, value); }
};

template <> struct type_caster<spicore::Exec> {
  PYBIND11_TYPE_CASTER(spicore::Exec, const_name("int"));

  bool load(handle source, bool convert) {
    make_caster<std::size_t> number;
    if (!number.load(source, convert))
      return false;
    value = spicore::bindings::exec_from(cast_op<std::size_t>(number));
    return true;
  }
};

} // namespace pybind11::detail
