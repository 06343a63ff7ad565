#include "spicore/sort_photons.hpp"
#include "operations.hpp"
#include "photon_tensors.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::Photons;
using spicore::bindings::checked;
using spicore::bindings::PhotonTensors;
using spicore::bindings::require;
using spicore::bindings::Tensor;

namespace {

// On a GPU values are not read: the kernel ignores pixels beyond the detector.
inline void check_frames(const Tensor<const std::int64_t, 1> &offset,
                         const Tensor<const std::uint32_t, 1> &pixel,
                         std::int64_t n_pixels) {
  const std::int64_t n = offset.shape[0] - 1, n_lit = pixel.shape[0];
  require(offset.data[0] == 0 && offset.data[n] == n_lit,
          "offset must run from 0 to the number of lit pixels");
  for (std::int64_t d = 0; d < n; ++d)
    require(offset.data[d] <= offset.data[d + 1], "offset must not decrease");
  for (std::int64_t i = 0; i < n_lit; ++i)
    require(pixel.data[i] < std::uint64_t(n_pixels),
            "pixel holds an index beyond the detector");
}

} // namespace

void spicore::bindings::add_sort_photons(py::module_ &m) {
  m.def("sort_photons",
        [](Tensor<const std::int64_t, 1> offset, Tensor<const std::uint32_t, 1> pixel,
           Tensor<const std::uint16_t, 1> count, Tensor<const std::int32_t, 1> row_of,
           std::int32_t n_orient, Tensor<std::int64_t, 1> begin,
           Tensor<std::int64_t, 1> orient_end, Tensor<std::uint32_t, 1> row_out,
           Tensor<std::uint16_t, 1> count_out, Exec exec) {
          const std::int64_t n = orient_end.shape[0], n_lit = pixel.shape[0];
          require(offset.shape[0] == n + 1 && begin.shape[0] == n + 1,
                  "offset and begin must have one element more than orient_end");
          require(count.shape[0] == n_lit && row_out.shape[0] == n_lit &&
                      count_out.shape[0] == n_lit,
                  "pixel, count, row_out and count_out must have one length");
          const std::int64_t n_pixels = row_of.shape[0];
          if constexpr (!kOnGpu)
            check_frames(offset, pixel, n_pixels);
          SPICORE_CALL(sort_photons, exec, offset.data, n, pixel.data, count.data,
                       row_of.data, n_pixels, n_orient, begin.data, orient_end.data,
                       row_out.data, count_out.data);
        });
  m.def("photons_to_dense", [](PhotonTensors photons, Tensor<float, 2> out, Exec exec) {
    constexpr std::int64_t any_row = std::int64_t(1) << 32;
    const Photons block = checked(photons, out.shape[0], any_row, false);
    SPICORE_CALL(photons_to_dense, exec, block, out.shape[1], out.data);
  });
}
