#include "spicore/maximize.hpp"
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

using Panels = Tensor<const float, 3>;

// What the three forms share: `first` is the column of the tile's first orientation in
// the block's log-likelihoods.
struct Tile {
  std::int64_t n_pixels, n_orientations, stride;
  float *out;

  Tile(const Panels &panels, const Tensor<const float, 1> &fluence,
       const Tensor<const float, 1> &offset, const Tensor<float, 2> &ll,
       std::int64_t first)
      : n_pixels(panels.shape[1]), n_orientations(offset.shape[0]), stride(ll.shape[1]),
        out(ll.data + first) {
    require(panels.shape[2] == spicore::kLanes &&
                panels.shape[0] ==
                    (n_orientations + spicore::kLanes - 1) / spicore::kLanes,
            "panels must be [ceil(R / lanes), T, lanes]");
    require(fluence.shape[0] == ll.shape[0], "fluence and ll must agree in frames");
    require(first >= 0 && first + n_orientations <= stride,
            "the tile must lie inside the columns of ll");
  }
};

} // namespace

void spicore::bindings::add_maximize(py::module_ &m) {
  m.def("maximize", [](Panels panels, PhotonTensors photons,
                       Tensor<const float, 1> fluence, Tensor<const float, 1> offset,
                       Tensor<float, 2> ll, std::int64_t first, Exec exec) {
    const Tile tile(panels, fluence, offset, ll, first);
    const Photons block = checked(photons, ll.shape[0], tile.n_pixels, true);
    SPICORE_CALL(maximize, exec, panels.data, tile.n_pixels, tile.n_orientations, block,
                 fluence.data, offset.data, tile.out, tile.stride);
  });
  m.def("maximize_dense",
        [](Panels panels, Tensor<const float, 2> values, Tensor<const float, 1> fluence,
           Tensor<const float, 1> offset, Tensor<float, 2> ll, std::int64_t first,
           Exec exec) {
          const Tile tile(panels, fluence, offset, ll, first);
          require(values.shape[0] == ll.shape[0] && values.shape[1] == tile.n_pixels,
                  "values must be [D, T]");
          SPICORE_CALL(maximize_dense, exec, panels.data, tile.n_pixels,
                       tile.n_orientations, values.data, values.shape[0], fluence.data,
                       offset.data, tile.out, tile.stride);
        });
  m.def("maximize_background",
        [](Panels panels, PhotonTensors photons, Tensor<const float, 1> fluence,
           Tensor<const float, 1> offset, Tensor<const float, 1> background,
           Tensor<const float, 1> background_scale, Tensor<const float, 1> reference,
           Tensor<float, 2> ll, std::int64_t first, Exec exec) {
          const Tile tile(panels, fluence, offset, ll, first);
          const Photons block = checked(photons, ll.shape[0], tile.n_pixels, true);
          require(background.shape[0] == tile.n_pixels &&
                      reference.shape[0] == tile.n_pixels,
                  "background and reference must be [T]");
          require(background_scale.shape[0] == ll.shape[0],
                  "background_scale must have one value per frame");
          SPICORE_CALL(maximize_background, exec, panels.data, tile.n_pixels,
                       tile.n_orientations, block, fluence.data, offset.data,
                       background.data, background_scale.data, reference.data, tile.out,
                       tile.stride);
        });
}
