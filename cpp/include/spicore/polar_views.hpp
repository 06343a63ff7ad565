#pragma once

#include <cstdint>

#include "spicore/angular_orders.hpp"
#include "spicore/exec.hpp"

// Prepares the tomograms of views for `correlate`.
//
//   panels     [panels, n_bins, kLanes]  I_v(q, t) of expand with exposure 1; its first
//              Q * A rows are bins q * A + t, radii as in `orders`
//   reference  [Q]  subtracted from every logarithm (log of the radial mean)
//   exposure   [Q, A / 2 + 1, 2]  sum_t e(q, t) exp(-2 pi i m t / A)
//   mirrors    1, or 2 to add the mirror image of each view, I_v(q, -t)
//   logs       [2 panels, n_coefficients, 2 (re, im), 16]
//              sum_t (log I_v(q, t) - reference[q]) exp(-2 pi i m t / A)
//   totals     [2 panels, mirrors, A, 16]  expected photons at fluence 1:
//              u(j) = sum_{q,t} e(q, t) I_v(q, +-(t + j))
SPICORE_OPERATION(polar_views, const Exec &exec, const float *panels,
                  std::int64_t n_panels, std::int64_t n_bins, const AngularOrders &orders,
                  const float *reference, const float *exposure, std::int64_t mirrors,
                  float *logs, float *totals)
