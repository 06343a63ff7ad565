#include "spicore/compress.hpp"
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

// `first` is the column of the tile's first orientation in the block's posterior.
struct Tile {
  std::int64_t n_orientations, n_pixels, stride;
  const float *posterior;

  Tile(const Tensor<const float, 2> &p, std::int64_t first,
       const Tensor<float, 3> &scratch, const Tensor<float, 2> &out, const Exec &exec)
      : n_orientations(out.shape[0]), n_pixels(out.shape[1]), stride(p.shape[1]),
        posterior(p.data + first) {
    require(first >= 0 && first + n_orientations <= stride,
            "the tile must lie inside the columns of the posterior");
    require(spicore::bindings::kOnGpu ||
                (scratch.shape[0] >= exec.threads && scratch.shape[1] == n_pixels &&
                 scratch.shape[2] == spicore::kLanes),
            "scratch must be [threads, T, lanes]");
  }
};

} // namespace

void spicore::bindings::add_compress(py::module_ &m) {
  m.def("compress", [](Tensor<const float, 2> posterior, std::int64_t first,
                       PhotonTensors photons, Tensor<float, 3> scratch,
                       Tensor<float, 2> out, Exec exec) {
    const Tile tile(posterior, first, scratch, out, exec);
    const Photons block = checked(photons, posterior.shape[0], tile.n_pixels, false);
    SPICORE_CALL(compress, exec, tile.posterior, tile.stride, tile.n_orientations, block,
                 tile.n_pixels, scratch.data, out.data);
  });
  m.def("compress_dense", [](Tensor<const float, 2> posterior, std::int64_t first,
                             Tensor<const float, 2> values, Tensor<float, 3> scratch,
                             Tensor<float, 2> out, Exec exec) {
    const Tile tile(posterior, first, scratch, out, exec);
    require(values.shape[0] == posterior.shape[0] && values.shape[1] == tile.n_pixels,
            "values must be [D, T]");
    SPICORE_CALL(compress_dense, exec, tile.posterior, tile.stride, tile.n_orientations,
                 values.data, values.shape[0], tile.n_pixels, scratch.data, out.data);
  });
  m.def("compress_background", [](Tensor<const float, 2> posterior, std::int64_t first,
                                  PhotonTensors photons, Tensor<const float, 3> panels,
                                  Tensor<const float, 1> fluence,
                                  Tensor<const float, 1> background,
                                  Tensor<const float, 1> background_scale,
                                  Tensor<float, 3> scratch, Tensor<float, 2> out,
                                  Tensor<double, 2> signal, Exec exec) {
    const Tile tile(posterior, first, scratch, out, exec);
    const Photons block = checked(photons, posterior.shape[0], tile.n_pixels, false);
    require(panels.shape[1] == tile.n_pixels && panels.shape[2] == kLanes &&
                panels.shape[0] * kLanes >= tile.n_orientations &&
                signal.shape[0] == panels.shape[0] && signal.shape[1] == block.n_frames,
            "panels must be [panels, T, lanes], signal [panels, D]");
    require(fluence.shape[0] == block.n_frames &&
                background_scale.shape[0] == block.n_frames &&
                background.shape[0] == tile.n_pixels,
            "fluence and background_scale [D], background [T]");
    SPICORE_CALL(compress_background, exec, tile.posterior, tile.stride,
                 tile.n_orientations, block, tile.n_pixels, panels.data, fluence.data,
                 background.data, background_scale.data, scratch.data, out.data,
                 signal.data);
  });
}
