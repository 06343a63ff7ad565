// Reading DLPack capsules (dmlc/dlpack, versions 0.x and 1.x): the part of the ABI that
// is needed, and the checks on it. Field order and widths are the specification's, names
// ours.
#pragma once

#include <pybind11/pybind11.h>

#include <complex>
#include <cstdint>
#include <type_traits>

namespace spicore::dlpack {

enum DeviceType : std::int32_t { kCuda = 2, kCudaManaged = 13 };
enum TypeCode : std::uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kComplex = 5 };

struct Array {
  void *data;
  std::int32_t device_type, device_id;
  std::int32_t rank;
  std::uint8_t type_code, type_bits;
  std::uint16_t type_lanes;
  std::int64_t *shape;
  std::int64_t *strides; // in elements; null: C order
  std::uint64_t byte_offset;
};

// In a capsule named "dltensor". What follows `array` is the producer's.
struct Managed {
  Array array;
};

// In a capsule named "dltensor_versioned".
struct ManagedVersioned {
  std::uint32_t major, minor;
  void *context;
  void (*deleter)(ManagedVersioned *);
  std::uint64_t flags;
  Array array;
};

constexpr std::uint64_t kReadOnly = 1; // in flags

// The layout on the 64-bit platforms that CUDA has.
static_assert(sizeof(Array) == 48 && sizeof(ManagedVersioned) == 80);

inline bool is_cuda(std::int32_t device_type) {
  return device_type == kCuda || device_type == kCudaManaged;
}

// Asked before the capsule, because other producers refuse a stream.
inline bool on_cuda(pybind11::handle source) {
  if (!pybind11::hasattr(source, "__dlpack_device__"))
    return false;
  const pybind11::tuple device = source.attr("__dlpack_device__")();
  return is_cuda(device[0].cast<std::int32_t>());
}

// The array's capsule. It keeps its name, that is, it is never marked as consumed: when
// the last reference goes, its own destructor gives the memory back. Stream -1: nothing
// to wait for, since a call runs on the current stream of the library that owns its
// arrays.
inline pybind11::object capsule_of(pybind11::handle source) {
  const auto export_array = source.attr("__dlpack__");
  const pybind11::int_ stream(-1);
  try {
    return export_array(pybind11::arg("stream") = stream,
                        pybind11::arg("max_version") = pybind11::make_tuple(1, 0));
  } catch (pybind11::error_already_set &error) {
    if (!error.matches(PyExc_TypeError))
      throw;
    return export_array(pybind11::arg("stream") = stream); // older than DLPack 1.0
  }
}

// What a capsule describes; null if it is of another kind or version.
inline const Array *described(pybind11::handle capsule, bool &read_only) {
  PyObject *p = capsule.ptr();
  if (PyCapsule_IsValid(p, "dltensor_versioned")) {
    const auto *managed =
        static_cast<ManagedVersioned *>(PyCapsule_GetPointer(p, "dltensor_versioned"));
    if (managed->major != 1) // the version comes first in all versions, nothing else need
      return nullptr;
    read_only = managed->flags & kReadOnly;
    return &managed->array;
  }
  read_only = false; // version 0 cannot say
  if (!PyCapsule_IsValid(p, "dltensor"))
    return nullptr;
  return &static_cast<Managed *>(PyCapsule_GetPointer(p, "dltensor"))->array;
}

template <class T> constexpr bool is_complex = false;
template <class T> constexpr bool is_complex<std::complex<T>> = true;

template <class T> bool has_type(const Array &array) {
  constexpr TypeCode code = std::is_floating_point_v<T> ? kFloat
                            : is_complex<T>             ? kComplex
                            : std::is_signed_v<T>       ? kInt
                                                        : kUnsigned;
  return array.type_code == code && array.type_bits == 8 * sizeof(T) &&
         array.type_lanes == 1;
}

// Strides of axes of length 1 mean nothing, and none do in an empty array.
inline bool is_c_contiguous(const Array &array) {
  bool contiguous = true;
  std::int64_t stride = 1;
  for (int axis = array.rank - 1; axis >= 0; --axis) {
    const std::int64_t length = array.shape[axis];
    if (length == 0)
      return true;
    if (array.strides && length != 1 && array.strides[axis] != stride)
      contiguous = false;
    stride *= length;
  }
  return contiguous;
}

} // namespace spicore::dlpack
