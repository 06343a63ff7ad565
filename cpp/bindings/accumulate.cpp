#include "spicore/accumulate.hpp"
#include "operations.hpp"
#include "order_tensors.hpp"
#include "photon_tensors.hpp"
#include "tensor.hpp"

namespace py = pybind11;
using spicore::Exec;
using spicore::kViewGroup;
using spicore::Photons;
using spicore::PosteriorTerms;
using spicore::bindings::checked;
using spicore::bindings::kOnGpu;
using spicore::bindings::PhotonTensors;
using spicore::bindings::require;
using spicore::bindings::Tensor;

namespace {

// (begin, orientation, frame, probability)
using TermTensors =
    std::tuple<Tensor<const std::int64_t, 2>, Tensor<const std::uint32_t, 1>,
               Tensor<const std::uint32_t, 1>, Tensor<const float, 1>>;

// Every index is checked, at about the cost of reading it: the kernel trusts them all.
void check_terms(const PosteriorTerms &terms, std::int64_t first, std::int64_t last,
                 std::int64_t group, std::int64_t span, std::int64_t n_frames) {
  const auto base = std::uint32_t(group * span);
  bool outside = false, beyond = false;
  for (std::int64_t i = first; i < last; ++i) {
    outside |= std::uint32_t(terms.orientation[i] - base) >= span;
    beyond |= terms.frame[i] >= n_frames;
  }
  require(!outside, "terms: an orientation lies outside its group of views");
  require(!beyond, "terms: a frame lies beyond the block");
}

void check_values(const PosteriorTerms &terms, std::int64_t n, std::int64_t span,
                  std::int64_t n_frames) {
  for (std::int64_t c = 0; c < terms.n_chunks; ++c) {
    const std::int64_t *position = terms.begin + c * (terms.n_groups + 1);
    require(position[0] >= 0, "terms: begin must stay inside the terms");
    for (std::int64_t g = 0; g < terms.n_groups; ++g) {
      require(position[g] <= position[g + 1] && position[g + 1] <= n,
              "terms: begin must not decrease and stay inside the terms");
      check_terms(terms, position[g], position[g + 1], g, span, n_frames);
    }
  }
}

// On a GPU values are not read: the kernel leaves out terms of no view or frame.
PosteriorTerms checked_terms(const TermTensors &tensors, std::int64_t n_frames,
                             std::int64_t span) {
  const auto &[begin, orientation, frame, probability] = tensors;
  const std::int64_t n = orientation.shape[0], n_groups = begin.shape[1] - 1;
  require(n_groups >= 0 && frame.shape[0] == n && probability.shape[0] == n,
          "terms: begin must be [chunks, groups + 1], the others of one length");
  const PosteriorTerms terms{begin.shape[0],   n_groups,   begin.data,
                             orientation.data, frame.data, probability.data};
  if constexpr (!kOnGpu)
    check_values(terms, n, span, n_frames);
  return terms;
}

void check_work(const Tensor<float, 1> &work, std::int64_t n_terms,
                const PosteriorTerms &terms, const Photons &photons,
                std::int64_t n_angles, std::int64_t mirrors, std::int64_t n_bins,
                const Exec &exec) {
  std::int64_t size = 0;
  if constexpr (kOnGpu)
    size = spicore::accumulate_device_workspace(n_angles, n_bins, terms.n_chunks,
                                                terms.n_groups, photons.n_frames, n_terms)
               .size;
  else
    size = spicore::accumulate_workspace(n_angles, mirrors, n_bins, terms.n_groups,
                                         photons.begin[photons.n_frames], exec.threads)
               .size;
  require(work.shape[0] >= size, "work is smaller than accumulate_workspace");
}

} // namespace

void spicore::bindings::add_accumulate(py::module_ &m) {
#ifndef SPICORE_BACKEND_CUDA
  m.def("accumulate_workspace", [](std::int64_t n_angles, std::int64_t mirrors,
                                   std::int64_t n_bins, std::int64_t n_groups,
                                   std::int64_t n_photons, int threads) {
    require(has_transform(n_angles), "no transform for this number of angles");
    return accumulate_workspace(n_angles, mirrors, n_bins, n_groups, n_photons, threads)
        .size;
  });
  m.def("accumulate_device_workspace",
        [](std::int64_t n_angles, std::int64_t n_bins, std::int64_t n_chunks,
           std::int64_t n_groups, std::int64_t n_frames, std::int64_t n_terms) {
          require(has_transform(n_angles), "no transform for this number of angles");
          return accumulate_device_workspace(n_angles, n_bins, n_chunks, n_groups,
                                             n_frames, n_terms)
              .size;
        });
#endif
  m.def("accumulate",
        [](TermTensors terms, PhotonTensors photons, Tensor<const float, 1> fluence,
           std::int64_t n_angles, std::int64_t mirrors, Tensor<float, 1> work,
           Tensor<float, 2> tomograms, Tensor<double, 3> exposures, Exec exec) {
          require(has_transform(n_angles), "no transform for this number of angles");
          require(mirrors == 1 || mirrors == 2, "mirrors must be 1 or 2");
          const std::int64_t n_views = tomograms.shape[0], n_bins = tomograms.shape[1];
          const std::int64_t n_frames = fluence.shape[0];
          require(n_bins % n_angles == 0, "tomograms must have rings of n_angles bins");
          const PosteriorTerms list =
              checked_terms(terms, n_frames, kViewGroup * mirrors * n_angles);
          require(n_views == kViewGroup * list.n_groups &&
                      n_views * mirrors * n_angles <= std::int64_t(UINT32_MAX),
                  "tomograms must have 16 views for each group");
          require(exposures.shape[0] == n_views && exposures.shape[1] == mirrors &&
                      exposures.shape[2] == n_angles,
                  "exposures must be [views, mirrors, angles]");
          checked(photons, n_frames, n_bins, true);
          const Photons block = checked(photons, n_frames, 2 * n_bins, false);
          check_work(work, std::get<1>(terms).shape[0], list, block, n_angles, mirrors,
                     n_bins, exec);
          SPICORE_CALL(accumulate, exec, list, block, fluence.data, n_angles, mirrors,
                       n_bins, work.data, tomograms.data, exposures.data);
        });
}
