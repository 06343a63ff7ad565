#pragma once

#include <cstdint>

#include "spicore/angular_orders.hpp"
#include "spicore/exec.hpp"
#include "spicore/photons.hpp"

// Fourier coefficients of sparse polar frames along the in-plane angle:
//
//   out[d, begin[m] + q] = (1 / A) sum_t K[d, q, t] exp(-2 pi i m t / A)
//
//   photons  rows are bins q * A + t; only rows up to orient_end count
//   out      [n_frames, n_coefficients, 2] (re, im)
SPICORE_OPERATION(polar_frames, const Exec &exec, const Photons &photons,
                  const AngularOrders &orders, float *out)
