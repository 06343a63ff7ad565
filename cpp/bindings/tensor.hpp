// Arrays at the boundary: exact dtype, rank and C order, no conversion, no copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <type_traits>

#include "spicore/exec.hpp"

namespace spicore::bindings {

// A borrowed array. `const T` takes read-only arrays, `T` demands writeable ones.
template <class T, int N> struct Tensor {
  T *data = nullptr;
  std::array<std::int64_t, N> shape{};
};

inline void require(bool condition, const char *message) {
  if (!condition)
    throw std::invalid_argument(message);
}

} // namespace spicore::bindings

namespace pybind11::detail {

template <class T, int N> struct type_caster<spicore::bindings::Tensor<T, N>> {
  using Value = std::remove_const_t<T>;
  using Tensor = spicore::bindings::Tensor<T, N>;
  PYBIND11_TYPE_CASTER(Tensor, const_name("numpy.ndarray[") + npy_format_descriptor<Value>::name +
                                   const_name("]"));

  bool load(handle source, bool) {
    if (!isinstance<array_t<Value, array::c_style>>(source))
      return false;
    auto view = reinterpret_borrow<array>(source);
    if (view.ndim() != N || !(std::is_const_v<T> || view.writeable()))
      return false;
    for (int axis = 0; axis < N; ++axis)
      value.shape[axis] = view.shape(axis);
    value.data = static_cast<T *>(const_cast<void *>(view.data()));
    return true;
  }
};

} // namespace pybind11::detail
